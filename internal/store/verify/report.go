package verify

import (
	"fmt"
	"time"

	"holdfast/internal/errs"
)

// Verdict is what the trial says of one property.
type Verdict string

// The verdicts.
const (
	Pass         Verdict = "pass"          // tried, and as it must be
	Fail         Verdict = "fail"          // seen to be broken
	Warn         Verdict = "warn"          // works, and somebody should look at it
	Unknown      Verdict = "unknown"       // could not be tried, or cannot be seen from outside; the detail says which
	NotPermitted Verdict = "not-permitted" // the credentials may not do it
)

// Property is one promise or right, and what was found.
type Property struct {
	Name    string        `json:"name"`
	Verdict Verdict       `json:"verdict"`
	Detail  string        `json:"detail"`
	Remedy  string        `json:"remedy,omitempty"` // what to do when the verdict is not Pass
	Took    time.Duration `json:"took_ns"`
}

// Latency is the duration of one kind of request, one at a time.
type Latency struct {
	Op    string        `json:"op"` // "put", "get", "list"
	Count int           `json:"count"`
	Bytes int64         `json:"bytes"` // moved by each
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"` // of few requests the slowest
}

// Throughput is bytes per second of several parallel transfers.
type Throughput struct {
	Up   float64 `json:"up_bytes_per_s"`
	Down float64 `json:"down_bytes_per_s"`
}

// Budget is what a trial asks of a store at most, repeats by package retry
// aside.
type Budget struct {
	Requests uint64 `json:"requests"`
	Up       int64  `json:"up_bytes"`
	Down     int64  `json:"down_bytes"`
}

func (b Budget) plus(o Budget) Budget {
	return Budget{b.Requests + o.Requests, b.Up + o.Up, b.Down + o.Down}
}

// Report is the outcome of a trial.
type Report struct {
	Store       string        `json:"store"`  // as the driver names it
	Prefix      string        `json:"prefix"` // what was written lay below it
	Quick       bool          `json:"quick"`
	Connections int           `json:"connections"`
	Began       time.Time     `json:"began"`
	Took        time.Duration `json:"took_ns"`
	Properties  []Property    `json:"properties"` // in the order they were tried
	Latency     []Latency     `json:"latency,omitempty"`
	Throughput  Throughput    `json:"throughput"`
	Used        Budget        `json:"used"`
	Allowed     Budget        `json:"allowed"`
	// Left are the objects that are still there, at most 100 of them, and
	// LeftCount is how many there are. LeftWhy says why.
	Left      []string `json:"left,omitempty"`
	LeftCount int      `json:"left_count"`
	LeftWhy   string   `json:"left_why,omitempty"`
}

// Property returns the property of that name; false when it was not tried.
func (r *Report) Property(name string) (Property, bool) {
	for _, p := range r.Properties {
		if p.Name == name {
			return p, true
		}
	}
	return Property{}, false
}

// Refused returns the properties that keep role from using the store, worst
// first: those seen to be broken, then missing rights, then what could not be
// found out.
func (r *Report) Refused(role Role) (refused []Property) {
	for _, v := range []Verdict{Fail, NotPermitted, Unknown} {
		for _, p := range r.Properties {
			if p.Verdict == v && !demands[p.Name].accepts(role, v) {
				refused = append(refused, p)
			}
		}
	}
	return refused
}

// Usable returns nil when role can work with the store, otherwise an error
// that names the first property in the way: kind Invalid when the store is
// not fit, Denied when a right is missing, Unavailable when the trial could
// not find out.
func (r *Report) Usable(role Role) error {
	refused := r.Refused(role)
	if len(refused) == 0 {
		return nil
	}
	first := refused[0]
	words := first.Detail
	if n := len(refused) - 1; n > 0 {
		words += fmt.Sprintf(" (and %d more)", n)
	}
	kind := errs.Invalid
	switch first.Verdict {
	case NotPermitted:
		kind = errs.Denied
	case Unknown:
		kind = errs.Unavailable
	case Pass, Fail, Warn:
	}
	return errs.New("verify.Run", kind, "store property "+first.Name, "not usable for "+string(role)+": "+words).WithRemedy(first.Remedy)
}
