package file

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"go.yaml.in/yaml/v3"

	"holdfast/internal/errs"
)

// field is a field of a struct as the json tags name it.
type field struct {
	name             string
	index            []int
	omitEmpty, omitZ bool
}

type fieldSet struct {
	list   []field
	names  []string
	byName map[string]field
}

var fieldCache sync.Map // reflect.Type → *fieldSet

// fieldsOf returns the fields of a struct, those of embedded structs among them.
func fieldsOf(t reflect.Type) *fieldSet {
	if s, ok := fieldCache.Load(t); ok {
		return s.(*fieldSet)
	}
	s := &fieldSet{byName: map[string]field{}}
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if sf.Anonymous && tag == "" {
			for _, f := range fieldsOf(sf.Type).list {
				f.index = append([]int{i}, f.index...)
				s.add(f)
			}
			continue
		}
		if !sf.IsExported() || tag == "-" || tag == "" {
			continue
		}
		s.add(field{tag, []int{i}, strings.Contains(options, "omitempty"), strings.Contains(options, "omitzero")})
	}
	fieldCache.Store(t, s)
	return s
}

func (s *fieldSet) add(f field) {
	s.list, s.names, s.byName[f.name] = append(s.list, f), append(s.names, f.name), f
}

// encode makes a node of a value; nil of what says nothing. Kinds of values that
// no object has are an error.
func encode(v reflect.Value) (*yaml.Node, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil, nil
		}
		v = v.Elem()
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		if err != nil {
			return nil, err
		}
		return word(string(b)), nil
	}
	switch v.Kind() {
	case reflect.Struct:
		return encodeStruct(v)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			e, err := encode(v.Index(i))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, e)
		}
		if flat(n) {
			n.Style = yaml.FlowStyle
		}
		return n, nil
	case reflect.Map:
		return encodeMap(v)
	case reflect.String:
		return word(v.String()), nil
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}, nil
	case reflect.Int, reflect.Int64:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v.Int(), 10)}, nil
	case reflect.Uint64:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatUint(v.Uint(), 10)}, nil
	default:
		return nil, fmt.Errorf("values of kind %s are not written to files", v.Kind())
	}
}

// word is text. What YAML takes for a merge, YAML 1.1 for true or false, and what
// is more than plain words is quoted: the module writes some blocks that it does
// not read.
func word(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "<<":
		n.Style = yaml.DoubleQuotedStyle
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// flat reports whether a list is of short words, which read best in one line.
func flat(n *yaml.Node) bool {
	size := 0
	for _, e := range n.Content {
		size += len(e.Value) + 2
		if e.Kind != yaml.ScalarNode {
			return false
		}
	}
	return size <= 70
}

func encodeStruct(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fieldsOf(v.Type()).list {
		fv := v.FieldByIndex(f.index)
		if f.omitEmpty && empty(fv) || f.omitZ && zero(fv) {
			continue
		}
		e, err := encode(fv)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		if e != nil {
			n.Content = append(n.Content, word(f.name), e)
		}
	}
	return n, nil
}

// empty is what encoding/json leaves out by omitempty.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	default:
		return v.IsZero() && v.Kind() != reflect.Struct
	}
}

// zero is what encoding/json leaves out by omitzero; of a struct that writes no
// field, too.
func zero(v reflect.Value) bool {
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok {
		return z.IsZero()
	}
	if v.IsZero() || v.Kind() != reflect.Struct {
		return v.IsZero()
	}
	if v.CanAddr() {
		if z, ok := v.Addr().Interface().(interface{ IsZero() bool }); ok {
			return z.IsZero()
		}
	}
	n, err := encodeStruct(v)
	return err == nil && len(n.Content) == 0
}

func encodeMap(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range keys {
		e, err := encode(v.MapIndex(k))
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, word(k.String()), e)
	}
	return n, nil
}

// Render writes any value that has a JSON form as YAML, its fields in their order:
// for people who look at it, not to be applied. Kind Invalid.
func Render(v any) ([]byte, error) {
	const op = "file.Render"
	b, err := json.Marshal(v)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, "", err)
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil { // JSON is YAML
		return nil, errs.E(op, errs.Invalid, "", err)
	}
	plainStyle(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return nil, errs.E(op, errs.Invalid, "", err)
	}
	return out.Bytes(), nil
}

// plainStyle has a tree written as people write YAML, not as JSON was.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = word(n.Value).Style
	}
	if n.Kind == yaml.SequenceNode && flat(n) {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		plainStyle(c)
	}
}
