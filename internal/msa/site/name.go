package site

import (
	"fmt"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
)

// Name is the handle of a configured object: 1 to 63 of a-z, 0-9, "-", "." and
// "_", beginning and ending with a letter or digit. It never changes.
type Name string

// Valid reports whether n has the form of a name.
func (n Name) Valid() bool {
	if len(n) == 0 || len(n) > MaxName {
		return false
	}
	for i := range len(n) {
		c := n[i]
		inner := c == '-' || c == '.' || c == '_'
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || inner && i > 0 && i < len(n)-1 {
			continue
		}
		return false
	}
	return true
}

// Ref is a name that a platform gives: of a VM, network, folder, pool, datastore
// or policy. Of a VM it may also be the id. Folders are paths with slashes.
type Ref string

// Version rises by one with each stored change of an object. 0 means: not stored
// yet. A writer names the version they read.
type Version uint64

// Kind says what an object is. Names are stable: files and messages use them.
type Kind string

// The kinds of configured objects, in the order in which they are applied: what
// is referred to comes first.
const (
	KindSite     Kind = "site"
	KindPair     Kind = "site-pair"
	KindStore    Kind = "store"
	KindBox      Kind = "appliance"
	KindDomain   Kind = "domain"
	KindMappings Kind = "mappings"
	KindSettings Kind = "recovery-settings"
	KindPlan     Kind = "plan"
)

// Kinds lists the kinds in the order in which they are applied.
func Kinds() []Kind {
	return []Kind{KindSite, KindPair, KindStore, KindBox, KindDomain, KindMappings, KindSettings, KindPlan}
}

// Meta is what every configured object has.
type Meta struct {
	Name    Name    `json:"name"`
	ID      dr.UUID `json:"id,omitzero"`       // given when it is stored first; zero: not yet
	Version Version `json:"version,omitempty"` // optimistic lock
	Title   string  `json:"title,omitempty"`   // for people
	Folder  Ref     `json:"folder,omitempty"`  // where permissions are given: "erp/prod"; empty: the root
}

// Head returns the meta data; every configured object has it by embedding Meta.
func (m *Meta) Head() *Meta { return m }

// Object is what every configured object does. A type of this package, of mapping
// or of plan.
type Object interface {
	// Head returns the name, id and version that can be changed in place.
	Head() *Meta
	// Kind says what it is.
	Kind() Kind
	// Check adds every problem the object has by itself.
	Check(*problem.List)
}

// Label is how messages call an object: "plan erp".
func Label(o Object) string { return string(o.Kind()) + " " + string(o.Head().Name) }

// CheckHead checks the meta data and returns the checker of the object.
func CheckHead(l *problem.List, o Object) problem.Checker {
	c := problem.For(l, Label(o))
	m := o.Head()
	if !m.Name.Valid() {
		c.At("name").Block(problem.Form, fmt.Sprintf("%q is not a name", m.Name), "use 1 to 63 of a-z, 0-9, '-', '.', '_', with a letter or digit at both ends")
	}
	c.Text("title", m.Title, MaxTitle)
	c.Text("folder", string(m.Folder), MaxRef)
	return c
}

// needName demands a valid name of another object.
func needName(c problem.Checker, field string, n Name, what string) {
	switch {
	case n == "":
		c.At(field).Block(problem.Missing, "no "+what+" is named", "name one")
	case !n.Valid():
		c.At(field).Block(problem.Form, fmt.Sprintf("%q is not a name", n), "use the "+what+"'s name")
	}
}

// Span is a duration with the text form "1h30m", in files, requests and answers.
// The zero value is no time at all; omitzero leaves it out.
type Span time.Duration

// String renders the form of time.Duration, without the zeroes at its end.
func (s Span) String() string {
	text := time.Duration(s).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText renders String.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what time.ParseDuration does, and whole days as "30d".
func (s *Span) UnmarshalText(b []byte) error {
	text := string(b)
	if len(text) > 40 {
		return fmt.Errorf("%q… is not a duration", text[:40])
	}
	days := 0
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if _, err := fmt.Sscanf(n+"\n", "%d\n", &days); err != nil || days < 0 || days > 100000 {
			return fmt.Errorf("%q is not a number of days", text)
		}
		*s = Span(time.Duration(days) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration as 90s, 5m, 12h or 30d", text)
	}
	*s = Span(d)
	return nil
}

// D returns the duration.
func (s Span) D() time.Duration { return time.Duration(s) }

// WithinSpan demands low ≤ s ≤ high; zero is let pass when it means a default.
func WithinSpan(c problem.Checker, field string, s Span, low, high time.Duration, zero bool) {
	if s == 0 && zero {
		return
	}
	problem.Within(c, field, s, Span(low), Span(high))
}
