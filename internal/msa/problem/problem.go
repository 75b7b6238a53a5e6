package problem

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/errs"
)

// Max bounds the problems of one list: a plan of 1,000 VMs with five problems
// each is still told whole. What is more is counted.
const Max = 8000

// Severity says what a problem stops. The zero value is Blocker, so that nothing
// is let pass by omission.
type Severity uint8

// The severities.
const (
	Blocker Severity = iota // it cannot be stored, or cannot be run
	Warning                 // it works, but not as one would expect, or not later
	Note                    // worth knowing
)

var severityNames = []string{"blocker", "warning", "note"}

// String returns the stable name.
func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return "unknown"
}

// MarshalText renders the stable name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts the stable names only.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severityNames, string(b))
	if i < 0 {
		return fmt.Errorf("%q is not a severity", b)
	}
	*s = Severity(i)
	return nil
}

// Code classes a problem. Codes are stable names in lower case with hyphens.
type Code string

// The codes of what any object may have wrong. Packages that find more kinds of
// problems declare their own.
const (
	Missing   Code = "missing"   // a field that is needed is empty
	Range     Code = "range"     // a number or a length is out of bounds
	Form      Code = "form"      // text of another form than asked for
	Duplicate Code = "duplicate" // the same twice
	Unknown   Code = "unknown"   // a name that nothing has
	Ambiguous Code = "ambiguous" // a name that several have
	Contrary  Code = "contrary"  // two fields that contradict each other
)

// Problem is one thing that is wrong. It is immutable once added.
type Problem struct {
	Object   string   `json:"object"`          // as "plan erp"
	Field    string   `json:"field,omitempty"` // path inside the object, as "vms[2].delay"
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Words    string   `json:"words"`  // what is wrong
	Remedy   string   `json:"remedy"` // what to do
}

// String renders "object field: words (remedy)".
func (p Problem) String() string {
	where := p.Object
	if p.Field != "" {
		where += " " + p.Field
	}
	return where + ": " + p.Words + " (" + p.Remedy + ")"
}

// List is problems in the order they were found. The zero value is empty.
type List struct {
	All  []Problem `json:"problems"`
	More int       `json:"more,omitempty"` // found besides Max
}

// Add adds a problem.
func (l *List) Add(p Problem) {
	if len(l.All) >= Max {
		l.More++
		return
	}
	l.All = append(l.All, p)
}

// Merge adds what another list holds.
func (l *List) Merge(o List) {
	for _, p := range o.All {
		l.Add(p)
	}
	l.More += o.More
}

// Blocked reports whether a blocker is among them.
func (l *List) Blocked() bool {
	return l.More > 0 || slices.ContainsFunc(l.All, func(p Problem) bool { return p.Severity == Blocker })
}

// Has reports whether a problem of a code is among them.
func (l *List) Has(c Code) bool {
	return slices.ContainsFunc(l.All, func(p Problem) bool { return p.Code == c })
}

// Sort puts blockers first; those of one severity stay as they were found.
func (l *List) Sort() {
	slices.SortStableFunc(l.All, func(a, b Problem) int { return cmp.Compare(a.Severity, b.Severity) })
}

// Err is nil when nothing blocks, else an error of kind Invalid that tells every
// blocker; its remedy is the first one's.
func (l *List) Err(op string) error {
	if !l.Blocked() {
		return nil
	}
	var words []string
	object, remedy := "", ""
	for _, p := range l.All {
		if p.Severity != Blocker {
			continue
		}
		if words == nil {
			object, remedy = p.Object, p.Remedy
		}
		words = append(words, p.String())
	}
	if l.More > 0 {
		words = append(words, fmt.Sprintf("and %d more", l.More))
	}
	return errs.E(op, errs.Invalid, object, errors.New(strings.Join(words, "; "))).WithRemedy(remedy)
}
