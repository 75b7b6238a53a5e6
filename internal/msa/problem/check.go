package problem

import (
	"cmp"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Checker adds problems of one object, with the path to the field it looks at.
// It is made by For and, for parts of the object, by At.
type Checker struct {
	list   *List
	object string
	path   string
}

// For returns the checker of an object, which adds to l.
func For(l *List, object string) Checker { return Checker{l, object, ""} }

// At returns the checker of a part: a field's name, or "[3]".
func (c Checker) At(part string) Checker {
	if c.path != "" && !strings.HasPrefix(part, "[") {
		part = "." + part
	}
	c.path += part
	return c
}

// Index returns the checker of an element of a list that is a field.
func (c Checker) Index(field string, i int) Checker { return c.At(fmt.Sprintf("%s[%d]", field, i)) }

// Object returns what the checker is of.
func (c Checker) Object() string { return c.object }

// Add adds a problem at the checker's place.
func (c Checker) Add(s Severity, code Code, words, remedy string) {
	c.list.Add(Problem{c.object, c.path, code, s, words, remedy})
}

// Block adds a blocker.
func (c Checker) Block(code Code, words, remedy string) { c.Add(Blocker, code, words, remedy) }

// Warn adds a warning.
func (c Checker) Warn(code Code, words, remedy string) { c.Add(Warning, code, words, remedy) }

// Count demands that a list has at most most elements.
func (c Checker) Count(field string, n, most int) {
	if n > most {
		c.At(field).Block(Range, fmt.Sprintf("it has %d entries", n), fmt.Sprintf("at most %d are possible", most))
	}
}

// Text demands that text is valid, on one line and at most most bytes long.
func (c Checker) Text(field, s string, most int) { c.text(field, s, most, false) }

// Lines is Text for text that may have several lines.
func (c Checker) Lines(field, s string, most int) { c.text(field, s, most, true) }

// NeedText is Text for what must not be empty.
func (c Checker) NeedText(field, s string, most int) {
	if s == "" {
		c.At(field).Block(Missing, "it is empty", "fill it in")
		return
	}
	c.Text(field, s, most)
}

func (c Checker) text(field, s string, most int, lines bool) {
	at := c.At(field)
	if len(s) > most {
		at.Block(Range, fmt.Sprintf("it has %d bytes", len(s)), fmt.Sprintf("use at most %d", most))
		return
	}
	if !utf8.ValidString(s) {
		at.Block(Form, "it is not valid UTF-8", "write it in UTF-8")
		return
	}
	for _, r := range s {
		if unicode.IsControl(r) && (!lines || r != '\n' && r != '\t') {
			at.Block(Form, fmt.Sprintf("it holds the control character %U", r), "remove it")
			return
		}
	}
}

// OneOf demands that a word is one of some; the empty word is one where it has a
// meaning of its own, which the caller says by listing it.
func OneOf[T ~string](c Checker, field string, v T, words ...T) {
	var names []string
	for _, w := range words {
		if v == w {
			return
		}
		if w != "" {
			names = append(names, string(w))
		}
	}
	c.At(field).Block(Form, fmt.Sprintf("%q is not known here", string(v)), "use one of "+strings.Join(names, ", "))
}

// Within demands low ≤ v ≤ high.
func Within[T cmp.Ordered](c Checker, field string, v, low, high T) {
	if v < low || v > high {
		c.At(field).Block(Range, fmt.Sprintf("%v is out of range", v), fmt.Sprintf("choose %v to %v", low, high))
	}
}

// Unique demands that no two elements have the same key; empty keys do not count.
func Unique[T any](c Checker, field string, list []T, key func(T) string) {
	seen := map[string]int{}
	for i, v := range list {
		k := key(v)
		if k == "" {
			continue
		}
		if first, ok := seen[k]; ok {
			c.Index(field, i).Block(Duplicate, fmt.Sprintf("%q is there already, as number %d", k, first+1), "keep one of the two")
			continue
		}
		seen[k] = i
	}
}
