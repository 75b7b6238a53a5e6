package file

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"holdfast/internal/msa/problem"
)

// faults collects what is wrong with a file.
type faults struct {
	file string
	list problem.List
}

func (f *faults) add(n *yaml.Node, path string, code problem.Code, words, remedy string) {
	if len(f.list.All) >= MaxFaults {
		f.list.More++
		return
	}
	f.list.Add(problem.Problem{Object: fmt.Sprintf("%s:%d", f.file, n.Line), Field: path, Code: code, Words: words, Remedy: remedy})
}

// plainNode refuses what makes a document mean other than it says.
func (f *faults) plainNode(n *yaml.Node, path string, depth int) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		f.add(n, path, problem.Form, "anchors and aliases are not read", "write it out")
	case n.Style&yaml.TaggedStyle != 0:
		f.add(n, path, problem.Form, "the tag "+n.Tag+" is not read", "remove it")
	case depth > MaxDepth:
		f.add(n, path, problem.Range, "it is nested too deeply", "no field is so deep")
	default:
		return true
	}
	return false
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// decode reads a node into v, which can be set. Null leaves it as it is.
func (f *faults) decode(n *yaml.Node, v reflect.Value, path string, depth int) {
	if !f.plainNode(n, path, depth) {
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if v.Addr().Type().Implements(textType) {
		f.text(n, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		f.object(n, v, path, depth)
	case reflect.Slice:
		f.sequence(n, v, path, depth)
	case reflect.Map:
		f.mapping(n, v, path, depth)
	default:
		f.scalar(n, v, path)
	}
}

func (f *faults) text(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		f.add(n, path, problem.Form, "it is a list or map", "write one value")
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		f.add(n, path, problem.Form, err.Error(), "correct the value")
	}
}

func (f *faults) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		f.add(n, path, problem.Form, "it is a list or map", "write one value")
		return
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Value != "true" && n.Value != "false" {
			f.add(n, path, problem.Form, fmt.Sprintf("%q is neither true nor false", n.Value), "write true or false")
			return
		}
		v.SetBool(n.Value == "true")
	case reflect.Int, reflect.Int64:
		var i int64
		if i, err = strconv.ParseInt(n.Value, 10, 64); err == nil {
			v.SetInt(i)
		}
	case reflect.Uint64:
		var u uint64
		if u, err = strconv.ParseUint(n.Value, 10, 64); err == nil {
			v.SetUint(u)
		}
	default:
		err = fmt.Errorf("fields of this type are not read from files")
	}
	if err != nil {
		f.add(n, path, problem.Form, fmt.Sprintf("%q is not a number here", n.Value), "write a whole number")
	}
}

func (f *faults) sequence(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.SequenceNode {
		f.add(n, path, problem.Form, "it is no list", "write a list: [a, b], or a line with - for each")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, e := range n.Content {
		f.decode(e, list.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1)
	}
	v.Set(list)
}

func (f *faults) mapping(n *yaml.Node, v reflect.Value, path string, depth int) {
	if !f.isMap(n, path) {
		return
	}
	m := reflect.MakeMap(v.Type())
	for i := 0; i < len(n.Content); i += 2 {
		key := reflect.New(v.Type().Key()).Elem()
		key.SetString(n.Content[i].Value)
		value := reflect.New(v.Type().Elem()).Elem()
		f.decode(n.Content[i+1], value, path+"."+n.Content[i].Value, depth+1)
		m.SetMapIndex(key, value)
	}
	v.Set(m)
}

// isMap reports whether n is a map whose keys are words, each there once.
func (f *faults) isMap(n *yaml.Node, path string) bool {
	if n.Kind != yaml.MappingNode {
		f.add(n, path, problem.Form, "it is no map", "write fields: name: value")
		return false
	}
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || k.Anchor != "" || k.Style&yaml.TaggedStyle != 0 {
			f.add(k, path, problem.Form, "a field's name is a word", "write name: value")
			return false
		}
		if first, twice := seen[k.Value]; twice {
			f.add(k, join(path, k.Value), problem.Duplicate, fmt.Sprintf("the field is there already, in line %d", first), "keep one of the two")
		}
		seen[k.Value] = k.Line
	}
	return true
}

func (f *faults) object(n *yaml.Node, v reflect.Value, path string, depth int) {
	if !f.isMap(n, path) {
		return
	}
	fields := fieldsOf(v.Type())
	for i := 0; i < len(n.Content); i += 2 {
		k, at := n.Content[i], join(path, n.Content[i].Value)
		fd, ok := fields.byName[k.Value]
		if !ok {
			f.add(k, at, problem.Unknown, "there is no such field", guess(k.Value, fields.names))
			continue
		}
		f.decode(n.Content[i+1], v.FieldByIndex(fd.index), at, depth+1)
	}
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// guess says which field was probably meant.
func guess(word string, names []string) string {
	best, near := "", 3
	if len(word) <= 64 {
		for _, n := range names {
			if d := distance(word, n); d < near {
				best, near = n, d
			}
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "the fields are " + strings.Join(names, ", ")
}

// distance is how many letters must be changed, put in or left out.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
