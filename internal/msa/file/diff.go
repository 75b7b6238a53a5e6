package file

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

// Action is what applying does to an object. Names are stable.
type Action string

// The actions.
const (
	Create Action = "create"
	Change Action = "change"
	Delete Action = "delete"
)

// FieldChange is one field that is other than before.
type FieldChange struct {
	Field string `json:"field"`         // path, as "vms[erp-db].delay"
	Old   string `json:"old,omitempty"` // empty: it was not there
	New   string `json:"new,omitempty"` // empty: it goes
}

// ObjectChange is one object that is made, changed or deleted.
type ObjectChange struct {
	Action  Action        `json:"action"`
	Kind    site.Kind     `json:"kind"`
	Name    site.Name     `json:"name"`
	ID      dr.UUID       `json:"id,omitzero"`       // of the object there is
	Version site.Version  `json:"version,omitempty"` // that must still hold when it is applied
	Fields  []FieldChange `json:"fields,omitempty"`
	Object  site.Object   `json:"-"` // as it is to be; nil of Delete
}

// Changes is what applying a file does, in the order in which it is done:
// deletions of what refers to others first, then the rest.
type Changes struct {
	All       []ObjectChange `json:"changes"`
	Unchanged int            `json:"unchanged"`
}

// Diff compares wanted objects with those there are. With prune, objects that
// nobody wants are deleted; else they are left alone. Kinds: Invalid (an object is
// wanted twice), Conflict (a wanted object names a version that is not the newest).
func Diff(current, wanted []site.Object, prune bool) (*Changes, error) {
	const op = "file.Diff"
	have := map[string]site.Object{}
	for _, o := range current {
		have[site.Label(o)] = o
	}
	c := &Changes{All: []ObjectChange{}}
	sorted := slices.Clone(wanted)
	site.SortObjects(sorted)
	want := map[string]bool{}
	for _, o := range sorted {
		label := site.Label(o)
		if want[label] {
			return nil, errs.New(op, errs.Invalid, label, "it is described twice").WithRemedy("keep one of the two")
		}
		want[label] = true
		old := have[label]
		if old != nil && o.Head().Version != 0 && o.Head().Version != old.Head().Version {
			return nil, errs.New(op, errs.Conflict, label, fmt.Sprintf("it is of version %d, now it is %d", o.Head().Version, old.Head().Version)).
				WithRemedy("export it again, and make your change there")
		}
		if err := c.compare(old, o); err != nil {
			return nil, err
		}
	}
	if prune {
		c.prune(current, want)
	}
	return c, nil
}

// prune puts deletions first, in the reverse order of kinds.
func (c *Changes) prune(current []site.Object, want map[string]bool) {
	gone := slices.Clone(current)
	site.SortObjects(gone)
	slices.Reverse(gone)
	var deletions []ObjectChange
	for _, o := range gone {
		if !want[site.Label(o)] {
			h := o.Head()
			deletions = append(deletions, ObjectChange{Action: Delete, Kind: o.Kind(), Name: h.Name, ID: h.ID, Version: h.Version})
		}
	}
	c.All = append(deletions, c.All...)
}

func (c *Changes) compare(old, o site.Object) error {
	n, err := tree(o)
	if err != nil {
		return err
	}
	ch := ObjectChange{Action: Create, Kind: o.Kind(), Name: o.Head().Name, Object: o}
	before := &yaml.Node{Kind: yaml.MappingNode}
	if old != nil {
		if before, err = tree(old); err != nil {
			return err
		}
		ch.Action, ch.ID, ch.Version = Change, old.Head().ID, old.Head().Version
	}
	differ(&ch.Fields, "", before, n)
	if old != nil && len(ch.Fields) == 0 {
		c.Unchanged++
		return nil
	}
	c.All = append(c.All, ch)
	return nil
}

// differ adds the fields in which two nodes differ; either may be nil.
func differ(to *[]FieldChange, path string, a, b *yaml.Node) {
	if a == nil || b == nil || a.Kind != b.Kind || a.Kind == yaml.ScalarNode || scalars(a) && scalars(b) {
		kind := b
		if b == nil {
			kind = a
		}
		if kind.Kind != yaml.ScalarNode && !scalars(kind) && (a == nil || b == nil) {
			nothing := &yaml.Node{Kind: kind.Kind}
			if a == nil {
				a = nothing
			} else {
				b = nothing
			}
			differ(to, path, a, b)
			return
		}
		if x, y := show(a), show(b); x != y {
			*to = append(*to, FieldChange{path, x, y})
		}
		return
	}
	ka, xa := parts(path, a)
	kb, xb := parts(path, b)
	for _, k := range ka {
		differ(to, k, xa[k], xb[k])
	}
	for _, k := range kb {
		if xa[k] == nil {
			differ(to, k, nil, xb[k])
		}
	}
	if a.Kind == yaml.SequenceNode && moved(ka, kb, xa, xb) {
		*to = append(*to, FieldChange{path + " order", strings.Join(ka, ", "), strings.Join(kb, ", ")})
	}
}

// moved reports whether what both lists have is in another order.
func moved(ka, kb []string, xa, xb map[string]*yaml.Node) bool {
	both := func(keys []string, in map[string]*yaml.Node) (kept []string) {
		for _, k := range keys {
			if in[k] != nil {
				kept = append(kept, k)
			}
		}
		return kept
	}
	return !slices.Equal(both(ka, xb), both(kb, xa))
}

// scalars reports whether n is a list of plain values, which is shown as a whole.
func scalars(n *yaml.Node) bool {
	return n.Kind == yaml.SequenceNode && !slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return e.Kind != yaml.ScalarNode })
}

// parts names the parts of a map or list: of a list of things by what they are
// called, if each has another name, else by place.
func parts(path string, n *yaml.Node) (keys []string, by map[string]*yaml.Node) {
	by = map[string]*yaml.Node{}
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			k := join(path, n.Content[i].Value)
			keys, by[k] = append(keys, k), n.Content[i+1]
		}
		return keys, by
	}
	for i, e := range n.Content {
		k := fmt.Sprintf("%s[%s]", path, called(e, i))
		if by[k] != nil {
			return numbered(path, n)
		}
		keys, by[k] = append(keys, k), e
	}
	return keys, by
}

func numbered(path string, n *yaml.Node) (keys []string, by map[string]*yaml.Node) {
	by = map[string]*yaml.Node{}
	for i, e := range n.Content {
		k := fmt.Sprintf("%s[%d]", path, i)
		keys, by[k] = append(keys, k), e
	}
	return keys, by
}

// called is the name of an element of a list.
func called(n *yaml.Node, i int) string {
	if n.Kind == yaml.MappingNode {
		for j := 0; j < len(n.Content); j += 2 {
			switch n.Content[j].Value {
			case "name", "vm", "from", "nic":
				if v := n.Content[j+1]; v.Kind == yaml.ScalarNode {
					return v.Value
				}
			}
		}
	}
	return strconv.Itoa(i)
}

// show is a plain value, or a list of them, on one line; "" of nothing.
func show(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	if n.Kind == yaml.ScalarNode {
		if n.Tag == "!!str" && (n.Value == "" || strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == '"' || r == 0x7f })) {
			return strconv.Quote(n.Value)
		}
		return n.Value
	}
	words := make([]string, len(n.Content))
	for i, e := range n.Content {
		words[i] = show(e)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// marks stand before a change, for people.
var marks = map[Action]string{Create: "+", Change: "~", Delete: "-"}

// Print writes the changes for people.
func (c *Changes) Print(out io.Writer) error {
	var b strings.Builder
	for _, ch := range c.All {
		fmt.Fprintf(&b, "%s %s %s\n", marks[ch.Action], ch.Kind, ch.Name)
		for _, f := range ch.Fields {
			switch {
			case f.Old == "":
				fmt.Fprintf(&b, "    + %s: %s\n", f.Field, f.New)
			case f.New == "":
				fmt.Fprintf(&b, "    - %s: %s\n", f.Field, f.Old)
			default:
				fmt.Fprintf(&b, "    ~ %s: %s → %s\n", f.Field, f.Old, f.New)
			}
		}
	}
	counts := map[Action]int{}
	for _, ch := range c.All {
		counts[ch.Action]++
	}
	fmt.Fprintf(&b, "%d to create, %d to change, %d to delete, %d as they are\n", counts[Create], counts[Change], counts[Delete], c.Unchanged)
	if _, err := io.WriteString(out, b.String()); err != nil {
		return errs.E("file.Print", errs.Unavailable, "", err)
	}
	return nil
}

// Apply returns current as the changes leave it: new objects get ids from newID,
// changed ones keep theirs, and versions rise. It is what a database does, and
// lets a dry run check the outcome by site.CheckSet.
func Apply(current []site.Object, c *Changes, newID func() dr.UUID) []site.Object {
	changed := map[string]*ObjectChange{}
	for i := range c.All {
		ch := &c.All[i]
		changed[string(ch.Kind)+" "+string(ch.Name)] = ch
	}
	var after []site.Object
	for _, o := range current {
		ch := changed[site.Label(o)]
		switch {
		case ch == nil:
			after = append(after, o)
		case ch.Action == Change:
			h := ch.Object.Head()
			h.ID, h.Version = o.Head().ID, o.Head().Version+1
			after = append(after, ch.Object)
		}
	}
	for i := range c.All {
		if ch := &c.All[i]; ch.Action == Create {
			h := ch.Object.Head()
			h.ID, h.Version = newID(), 1
			after = append(after, ch.Object)
		}
	}
	return after
}
