package scan

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// LeftOut is an object that was not imported, and why.
type LeftOut struct {
	Kind site.Kind `json:"kind"`
	Name site.Name `json:"name"`
	Why  string    `json:"why"`
}

// Imported is what an import has done.
type Imported struct {
	Changes *file.Changes
	Left    []LeftOut
	Sites   []site.Name // whose inventory was taken over
	Found   problem.List
}

// Import brings documents in: objects that are not there, and what is known of sites
// that nobody here looks at. Of two documents that have the same object the newer
// counts. It may be repeated. Kinds: Invalid (what is imported contradicts what is
// there), Corrupt, Full.
func Import(ctx context.Context, tx *db.Tx, cat *catalog.Catalog, docs []*Document, by string) (*Imported, error) {
	const op = "scan.Import"
	if len(docs) > MaxDocuments {
		return nil, errs.New(op, errs.Invalid, "", fmt.Sprintf("%d documents at once", len(docs))).WithRemedy(fmt.Sprintf("import at most %d", MaxDocuments))
	}
	if err := catalog.Turn(ctx, tx); err != nil {
		return nil, err
	}
	current, err := catalog.All(ctx, tx)
	if err != nil {
		return nil, err
	}
	docs = slices.Clone(docs)
	slices.SortStableFunc(docs, func(a, b *Document) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Domain, b.Domain)) })
	out := &Imported{}
	wanted, err := out.gather(docs, current)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		took, err := inventory.Import(ctx, tx, &d.Inventory)
		if err != nil {
			return nil, err
		}
		if took && !slices.Contains(out.Sites, d.Site) {
			out.Sites = append(out.Sites, d.Site)
		}
	}
	if out.Changes, err = file.Diff(current, wanted, false); err != nil {
		return nil, err
	}
	out.Found, err = cat.Apply(ctx, tx, out.Changes, by)
	return out, err
}

// gather returns the objects to make, each once, and notes those that are left out.
func (out *Imported) gather(docs []*Document, current []site.Object) (wanted []site.Object, err error) {
	there := map[string]site.Object{}
	for _, o := range current {
		there[site.Label(o)] = o
	}
	taken := map[string]bool{}
	for _, d := range docs {
		objects, err := d.Parse()
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			label := site.Label(o)
			if taken[label] {
				continue
			}
			taken[label] = true
			if there[label] != nil {
				if diff, err := file.Diff(current, []site.Object{o}, false); err != nil || len(diff.All) > 0 {
					out.leave(o, "there is one of this name, which is different: it stays as it is")
				}
				continue
			}
			wanted = append(wanted, o)
		}
	}
	for again := true; again; { // what names something that is left out is left out as well
		again = false
		has := map[string]bool{}
		for _, o := range wanted {
			has[site.Label(o)] = true
		}
		wanted = slices.DeleteFunc(wanted, func(o site.Object) bool {
			for _, r := range site.References(o) {
				label := string(r.Kind) + " " + string(r.Name)
				if r.Name != "" && !has[label] && there[label] == nil {
					out.leave(o, fmt.Sprintf("it needs %s, which is neither here nor imported", label))
					again = true
					return true
				}
			}
			return false
		})
	}
	return wanted, nil
}

func (out *Imported) leave(o site.Object, why string) {
	out.Left = append(out.Left, LeftOut{o.Kind(), o.Head().Name, why})
}
