package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/site"
)

func (s *server) registerInventory() {
	// A platform's folders are not those of permissions: whoever may read an inventory
	// somewhere sees all of it, or they could not choose VMs.
	op := operation{Tag: "inventory", May: auth.InventoryRead, Scoped: true, Method: http.MethodGet}
	with := func(id, path, summary string) operation {
		o := op
		o.ID, o.Path, o.Summary = id, path, summary
		return o
	}
	add(s, with("list-inventories", "/inventories", "How every site's inventory stands"), s.listInventories)
	add(s, with("get-inventory", "/inventories/{name}", "What a site has besides VMs: hosts, networks, folders, pools, datastores"), s.getInventory)
	add(s, with("list-vms", "/inventories/{name}/vms", "List a site's VMs, by name"), s.listVMs)
	add(s, with("get-vm", "/inventories/{name}/vms/{vm}", "Read a VM, by name or id"), s.getVM)
	add(s, with("list-placeholders", "/placeholders", "List placeholders, by site and VM"), s.listPlaceholders)
	add(s, operation{
		ID: "repair-placeholders", Method: http.MethodPost, Path: "/placeholders/repair", Tag: "inventory", May: auth.PlaceholdWork, Change: true,
		Summary: "Have placeholders that failed tried again at once", Detail: "They are made, repaired and removed by themselves; this only spares waiting.",
	}, s.repairPlaceholders)
	add(s, operation{
		ID: "import", Method: http.MethodPost, Path: "/imports", Tag: "inventory", May: auth.SystemAdmin, Change: true, Body: maxImport,
		Summary: "Import what managers have stored in containers",
		Detail:  "Objects that are not there are made; what is there stays as it is, and is told. It may be done again.",
	}, s.importDocuments)
}

// timeIf is a time that may be missing.
func timeIf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s *server) listInventories(ctx context.Context, _ *none) (*every[v1.InventoryState], error) {
	var list []v1.InventoryState
	err := s.view(ctx, func(tx *db.Tx) error {
		all, err := inventory.Sites(ctx, tx)
		for _, x := range all {
			list = append(list, v1.InventoryState{
				Site: x.Site, Seen: timeIf(x.Seen), Away: timeIf(x.Away), Words: x.Words, VMs: x.VMs, Running: x.Running, Placeholders: x.Placeholders, Generation: x.Generation,
			})
		}
		return err
	})
	return everyOf(list), err
}

func (s *server) getInventory(ctx context.Context, in *NameIn) (*item[*site.Inventory], error) {
	return read(ctx, s, func(tx *db.Tx) (*site.Inventory, error) { return inventory.Places(ctx, tx, site.Name(in.Name)) })
}

type vmsIn struct {
	NameIn
	Paging
	Folder  string `query:"folder" maxLength:"255" doc:"Of the platform: VMs filed there or below"`
	Match   string `query:"name" maxLength:"255" doc:"VMs whose name contains this"`
	Running string `query:"running" enum:"yes,no"`
}

func (s *server) listVMs(ctx context.Context, in *vmsIn) (*listOut[site.VM], error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	q := inventory.Query{Site: site.Name(in.Name), Folder: site.Ref(in.Folder), Name: in.Match, Limit: in.Limit}
	if err := placeIn(after, &q.After); err != nil {
		return nil, err
	}
	if in.Running != "" {
		yes := in.Running == "yes"
		q.Running = &yes
	}
	out := &listOut[site.VM]{v1.Page[site.VM]{Items: []site.VM{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		page, next, err := inventory.VMs(ctx, tx, q)
		out.Body.Items = append(out.Body.Items, page...)
		out.Body.Next = placeOf(next)
		return err
	})
}

// placeOf is the cursor of a place of several parts; of a zero place: none.
func placeOf[T comparable](place T) string {
	var zero T
	b, err := json.Marshal(place)
	if place == zero || err != nil {
		return ""
	}
	return cursor(string(b))
}

// placeIn reads what placeOf wrote. Kind Invalid.
func placeIn[T any](text string, place *T) error {
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), place); err != nil {
		return errs.New("api", errs.Invalid, "cursor", "it is none of this list").WithRemedy("send next of the page before, as it is")
	}
	return nil
}

type vmIn struct {
	NameIn
	VM string `path:"vm" maxLength:"255" doc:"Its name or id"`
}

func (s *server) getVM(ctx context.Context, in *vmIn) (*item[site.VM], error) {
	return read(ctx, s, func(tx *db.Tx) (site.VM, error) { return inventory.Find(ctx, tx, site.Name(in.Name), site.Ref(in.VM)) })
}

type placeholdersIn struct {
	Site   string `query:"site" maxLength:"63"`
	Domain string `query:"domain" maxLength:"63"`
}

func (s *server) listPlaceholders(ctx context.Context, in *placeholdersIn) (*every[v1.Placeholder], error) {
	var list []v1.Placeholder
	err := s.view(ctx, func(tx *db.Tx) error {
		rows, err := inventory.Placeholders(ctx, tx, site.Name(in.Site), site.Name(in.Domain))
		for _, r := range rows {
			state := string(r.State)
			if state == "" {
				state = "planned"
			}
			list = append(list, v1.Placeholder{
				Site: r.Site, VM: r.VM, Domain: r.Domain, Name: r.Ref, Folder: r.Folder, State: state, Error: r.Error, Due: timeIf(r.Due),
			})
		}
		return err
	})
	return everyOf(list), err
}

type repairIn struct{ Body v1.Repair }

func (s *server) repairPlaceholders(ctx context.Context, in *repairIn) (*item[v1.Repaired], error) {
	return change(ctx, s, "placeholders at "+db.Text(string(in.Body.Site), site.MaxName), func(tx *db.Tx) (*item[v1.Repaired], error) {
		n, err := inventory.Repair(ctx, tx, in.Body.Site, in.Body.Domain)
		return &item[v1.Repaired]{v1.Repaired{Placeholders: n}}, err
	})
}

type importIn struct{ Body v1.Import }

func (s *server) importDocuments(ctx context.Context, in *importIn) (*item[v1.Imported], error) {
	if len(in.Body.Documents) == 0 {
		return nil, errs.New("api.import", errs.Invalid, "documents", "there are none").WithRemedy("send what is in the containers")
	}
	var docs []*scan.Document
	for _, b := range in.Body.Documents {
		d, err := scan.Decode(b)
		if errs.Is(err, errs.Corrupt) { // of the container, or of who sent it: it is no document
			err = errs.E("api.import", errs.Invalid, "documents", err).WithRemedy("send what was in the container, as it is")
		}
		if err != nil {
			return nil, err
		}
		docs = append(docs, d)
	}
	return change(ctx, s, "import", func(tx *db.Tx) (*item[v1.Imported], error) {
		got, err := scan.Import(ctx, tx, s.Catalog, docs, by(ctx))
		if err != nil {
			if got != nil {
				err = explain(err, got.Found)
			}
			return nil, err
		}
		out := &item[v1.Imported]{v1.Imported{Changes: *got.Changes, Left: []v1.LeftOut{}, Sites: append([]site.Name{}, got.Sites...), Faults: append([]problem.Problem{}, got.Found.All...)}}
		for _, l := range got.Left {
			out.Body.Left = append(out.Body.Left, v1.LeftOut(l))
		}
		return out, nil
	})
}
