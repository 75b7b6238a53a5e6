package file

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"holdfast/internal/errs"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// makers make an empty object of each kind.
var makers = map[site.Kind]func() site.Object{
	site.KindSite:     func() site.Object { return &site.Site{} },
	site.KindPair:     func() site.Object { return &site.SitePair{} },
	site.KindStore:    func() site.Object { return &site.Store{} },
	site.KindBox:      func() site.Object { return &site.Appliance{} },
	site.KindDomain:   func() site.Object { return &site.ProtectedDomain{} },
	site.KindMappings: func() site.Object { return &mapping.Mappings{} },
	site.KindSettings: func() site.Object { return &site.RecoverySettings{} },
	site.KindPlan:     func() site.Object { return &plan.Plan{} },
}

// New returns an empty object of a kind; nil: there is no such kind.
func New(k site.Kind) site.Object {
	if m := makers[k]; m != nil {
		return m()
	}
	return nil
}

// Parse reads the objects of a file; name is what errors call it. Problems are
// those of the file's form, each with its line; what the objects mean is checked by
// their own Check and by site.CheckSet. With a problem, no object is returned.
// Kinds: Invalid, Full.
func Parse(name string, b []byte) ([]site.Object, problem.List, error) {
	const op = "file.Parse"
	f := &faults{file: name}
	if len(b) > MaxBytes {
		return nil, f.list, errs.New(op, errs.Full, name, "the file is larger than any may be").WithRemedy("split it")
	}
	var objects []site.Object
	d := yaml.NewDecoder(bytes.NewReader(b))
	for i := 0; ; i++ {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.list.Add(problem.Problem{Object: name, Code: problem.Form, Words: strings.TrimPrefix(err.Error(), "yaml: "), Remedy: "correct the YAML"})
			break
		}
		if i >= MaxDocuments {
			return nil, f.list, errs.New(op, errs.Full, name, "the file has more documents than any may have").WithRemedy("split it")
		}
		if o := f.document(&doc); o != nil {
			objects = append(objects, o)
		}
	}
	if f.list.Blocked() {
		return nil, f.list, f.list.Err(op)
	}
	return objects, f.list, nil
}

// document reads one document; nil: it is empty, or wrong.
func (f *faults) document(doc *yaml.Node) site.Object {
	if len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].Tag == "!!null" {
		return nil
	}
	n := doc.Content[0]
	if !f.plainNode(n, "", 0) || !f.isMap(n, "") {
		return nil
	}
	var version, kind *yaml.Node
	rest := *n
	rest.Content = nil
	for i := 0; i < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case "apiVersion":
			version = n.Content[i+1]
		case "kind":
			kind = n.Content[i+1]
		default:
			rest.Content = append(rest.Content, n.Content[i], n.Content[i+1])
		}
	}
	if version == nil || version.Value != APIVersion {
		f.add(or(version, n), "apiVersion", problem.Form, "the version of the document is not "+APIVersion, "write apiVersion: "+APIVersion)
		return nil
	}
	if kind == nil || New(site.Kind(kind.Value)) == nil {
		var words []string
		for _, k := range site.Kinds() {
			words = append(words, string(k))
		}
		f.add(or(kind, n), "kind", problem.Unknown, "it is not said what the document is of", "write kind: one of "+strings.Join(words, ", "))
		return nil
	}
	o := New(site.Kind(kind.Value))
	f.object(&rest, reflect.ValueOf(o).Elem(), "", 1)
	return o
}

func or(n, other *yaml.Node) *yaml.Node {
	if n != nil {
		return n
	}
	return other
}

// tree is an object as a node, without id and version.
func tree(o site.Object) (*yaml.Node, error) {
	n, err := encode(reflect.ValueOf(o))
	if err != nil {
		return nil, errs.E("file.Export", errs.Invalid, site.Label(o), err)
	}
	kept := n.Content[:0]
	for i := 0; i < len(n.Content); i += 2 {
		if k := n.Content[i].Value; k != "id" && k != "version" {
			kept = append(kept, n.Content[i], n.Content[i+1])
		}
	}
	n.Content = kept
	return n, nil
}

// Export writes objects as one file, in the order in which they are applied: to
// parse it, and to apply what comes out, changes nothing. Kinds: Invalid, of an
// object that cannot be written (a time beyond year 9999).
func Export(objects []site.Object) ([]byte, error) {
	const op = "file.Export"
	if len(objects) == 0 {
		return nil, nil // the encoder cannot write nothing
	}
	sorted := append([]site.Object(nil), objects...)
	site.SortObjects(sorted)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	for _, o := range sorted {
		n, err := tree(o)
		if err != nil {
			return nil, err
		}
		n.Content = append([]*yaml.Node{word("apiVersion"), word(APIVersion), word("kind"), word(string(o.Kind()))}, n.Content...)
		if err := e.Encode(n); err != nil {
			return nil, errs.E(op, errs.Invalid, site.Label(o), err)
		}
	}
	if err := e.Close(); err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	return out.Bytes(), nil
}
