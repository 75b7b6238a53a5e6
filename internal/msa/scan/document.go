package scan

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// format is the version of documents.
const format = 1

// Document is what a manager knows of one domain.
type Document struct {
	Format  int       `json:"format"`
	Domain  site.Name `json:"domain"`
	Site    site.Name `json:"site"` // whose manager wrote it: that of the protected site
	Release string    `json:"release,omitempty"`
	At      time.Time `json:"at"`
	Objects string    `json:"objects"` // as `holdfast export` writes them
	// Inventory is what the site's platform had of the domain: its VMs, and the networks,
	// folders, pools and datastores they use.
	Inventory site.Inventory `json:"inventory"`
}

// Assemble makes the document of a domain, or nil when there is no such domain or
// another site protects it. views are of all sites.
func Assemble(ctx context.Context, tx *db.Tx, name, of site.Name, views map[site.Name]*site.View) (*Document, error) {
	all, err := catalog.All(ctx, tx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(o site.Object) bool { return o.Kind() == site.KindDomain && o.Head().Name == name })
	if i < 0 {
		return nil, nil
	}
	d := all[i].(*site.ProtectedDomain)
	if d.From != of {
		return nil, nil
	}
	var ignored problem.List // what cannot be found is told where domains are checked
	vms := views[of].Members(d, problem.For(&ignored, string(name)))
	objects := needed(all, d, vms)
	text, err := file.Export(objects)
	if err != nil {
		return nil, err
	}
	return &Document{Format: format, Domain: name, Site: of, At: db.Time(tx.Now()), Objects: string(text), Inventory: part(of, vms, views[of])}, nil
}

// needed returns what belongs to a domain, without ids and versions.
func needed(all []site.Object, d *site.ProtectedDomain, vms []*site.VM) (list []site.Object) {
	sites, stores := map[site.Name]bool{d.From: true, d.To: true}, map[site.Name]bool{}
	for _, s := range d.Stores {
		stores[s] = true
	}
	names := map[site.Ref]bool{}
	for _, vm := range vms {
		names[vm.Ref], names[site.Ref(vm.ID.String())] = true, true
	}
	for _, o := range all {
		if p, ok := o.(*plan.Plan); ok && slices.Contains(p.Domains, d.Name) {
			sites[p.From], sites[p.To] = true, true
		}
	}
	for _, o := range all {
		if s, ok := o.(*site.Store); ok && stores[s.Name] && s.Site != "" {
			sites[s.Site] = true
		}
	}
	for _, o := range all {
		keep := false
		switch o := o.(type) {
		case *site.Site:
			keep = sites[o.Name]
		case *site.Store:
			keep = stores[o.Name]
		case *site.ProtectedDomain:
			if keep = o == d; keep {
				c := *d
				c.Appliance = ""
				list = append(list, bare(&c))
				continue
			}
		case *mapping.Mappings:
			keep = o.From == d.From && o.To == d.To || o.From == d.To && o.To == d.From
		case *site.RecoverySettings:
			keep = names[o.VM]
		case *plan.Plan:
			keep = slices.Contains(o.Domains, d.Name)
		}
		if keep {
			list = append(list, bare(o))
		}
	}
	return list
}

// bare takes id and version from an object that nobody else has.
func bare(o site.Object) site.Object {
	h := o.Head()
	h.ID, h.Version = dr.UUID{}, 0
	return o
}

// part is what VMs use of a site.
func part(of site.Name, vms []*site.VM, v *site.View) site.Inventory {
	inv := site.Inventory{Site: of}
	networks, folders, pools, stores := map[site.Ref]bool{}, map[site.Ref]bool{}, map[site.Ref]bool{}, map[site.Ref]bool{}
	once := func(m map[site.Ref]bool, r site.Ref) bool {
		had := m[r]
		m[r] = true
		return r != "" && !had
	}
	for _, vm := range vms {
		c := *vm
		c.Host, c.Disks = "", slices.Clone(vm.Disks)
		for i := range c.Disks { // what changes all the time says nothing later
			c.Disks[i].Protected = false
		}
		inv.VMs = append(inv.VMs, c)
		if once(folders, vm.Folder) && v.Folders[vm.Folder] {
			inv.Folders = append(inv.Folders, site.Folder{Ref: vm.Folder})
		}
		if p := v.Pools[vm.Pool]; once(pools, vm.Pool) && p != nil {
			inv.Pools = append(inv.Pools, *p)
		}
		for _, n := range vm.NICs {
			if net := v.Networks[n.Network]; once(networks, n.Network) && net != nil {
				inv.Networks = append(inv.Networks, *net)
			}
		}
		for _, x := range vm.Disks {
			if ds := v.Datastores[x.Datastore]; once(stores, x.Datastore) && ds != nil {
				c := *ds
				c.Free = 0
				inv.Datastores = append(inv.Datastores, c)
			}
		}
	}
	return inv
}

// digest tells documents apart whatever time they are of.
func (d *Document) digest() (string, error) {
	c := *d
	c.At = time.Time{}
	b, err := json.Marshal(&c)
	if err != nil {
		return "", errs.E("scan.Document", errs.Internal, string(d.Domain), err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Encode renders a document as it is stored. Kind Invalid: it is larger than can be
// read again.
func (d *Document) Encode() ([]byte, error) {
	plain, err := json.Marshal(d)
	if err != nil || len(plain) > maxPlain {
		return nil, errs.New("scan.Encode", errs.Invalid, string(d.Domain), fmt.Sprintf("the document has %d bytes", len(plain)))
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(plain); err != nil {
		return nil, errs.E("scan.Encode", errs.Internal, string(d.Domain), err)
	}
	if err := z.Close(); err != nil {
		return nil, errs.E("scan.Encode", errs.Internal, string(d.Domain), err)
	}
	return b.Bytes(), nil
}

// Decode reads what Encode wrote. Kinds: Corrupt, Invalid (of a newer release).
func Decode(b []byte) (*Document, error) {
	const op = "scan.Decode"
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, "", err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxPlain+1))
	if err == nil && len(plain) > maxPlain {
		err = errors.New("the document unpacks to more than one may have")
	}
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, "", err)
	}
	var d Document
	if err := json.Unmarshal(plain, &d); err != nil {
		return nil, errs.E(op, errs.Corrupt, "", err)
	}
	if d.Format != format {
		return nil, errs.New(op, errs.Invalid, string(d.Domain), fmt.Sprintf("the document has format %d, this release knows %d", d.Format, format)).
			WithRemedy("use the release of Holdfast that wrote it, or a newer one")
	}
	_, err = d.Parse()
	return &d, err
}

// Parse returns the objects. Kind Corrupt: they, or the inventory, are not what a
// manager writes.
func (d *Document) Parse() ([]site.Object, error) {
	const op = "scan.Parse"
	objects, found, err := file.Parse("the container of "+string(d.Domain), []byte(d.Objects))
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, string(d.Domain), err)
	}
	d.Inventory.Check(&found)
	if found.Blocked() {
		return nil, errs.E(op, errs.Corrupt, string(d.Domain), found.Err(op))
	}
	if d.Inventory.Site != d.Site {
		return nil, errs.New(op, errs.Corrupt, string(d.Domain), "its inventory is of another site")
	}
	return objects, nil
}
