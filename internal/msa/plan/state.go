package plan

import (
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

// Standing is all the state machine remembers of a plan. The zero value is not
// one: a new plan begins at Begin. It is plain data.
type Standing struct {
	State    State     `json:"state"`
	Doing    Operation `json:"doing,omitempty"`    // what runs, or ran last
	Paused   State     `json:"paused,omitempty"`   // of WaitingForUser: where an answer leads back to
	Reversed bool      `json:"reversed,omitempty"` // it runs against its home direction
}

// Begin is the standing of a plan nobody has run.
func Begin() Standing { return Standing{State: Ready} }

var lines = func() map[State]*Line {
	m := map[State]*Line{}
	for _, l := range Table() {
		m[l.State] = &l
	}
	return m
}()

// LineOf returns what the table says of a state; nil: there is no such state.
func LineOf(s State) *Line { return lines[s] }

// Holds reports whether a plan in this state has its domains to itself.
func (s State) Holds() bool { l := lines[s]; return l != nil && l.Holds }

// Running reports whether a run is under way in this state.
func (s State) Running() bool { l := lines[s]; return l != nil && l.Running }

// Admit reports what an operation leads to: the standing while it is done, and
// what is done. Refusals are of kind Conflict and say what to do instead.
func (s Standing) Admit(op Operation) (next Standing, runs Operation, err error) {
	const at = "plan.Admit"
	l := lines[s.State]
	if l == nil {
		return s, "", errs.New(at, errs.Internal, string(s.State), "no such state of a plan")
	}
	i := slices.IndexFunc(l.Allowed, func(g Go) bool { return g.Op == op })
	if i < 0 {
		return s, "", errs.New(at, errs.Conflict, string(op), "the plan is "+string(s.State)).WithRemedy(l.Else)
	}
	g := l.Allowed[i]
	if g.Reversed && !s.Reversed {
		return s, "", errs.New(at, errs.Conflict, string(op), "the domains are at home").
			WithRemedy("there is nowhere to go back to: failback follows a recovery and a reprotect")
	}
	next = s
	switch op {
	case Answer:
		next.State, next.Paused = s.Paused, ""
		return next, "", nil
	case Cancel:
		next.State, next.Paused = g.Next, ""
		return next, "", nil
	case Edit:
		return next, "", nil
	case Delete:
		next.State = g.Next
		return next, "", nil
	}
	runs = op
	switch g.Runs {
	case "":
	case Rerun:
		runs = s.Doing
	default:
		runs = g.Runs
	}
	if _, ok := StoryOf(runs); !ok {
		return s, "", errs.New(at, errs.Internal, string(runs), "what was begun last is not known").WithRemedy("name the operation instead of rerun")
	}
	next.State, next.Doing = g.Next, runs
	return next, runs, nil
}

// After returns the standing after an event. One that does not fit the state is
// refused with kind Conflict, and changes nothing.
func (s Standing) After(e Event) (Standing, error) {
	for _, m := range Moves() {
		if m.From != s.State || m.Event != e || len(m.Of) > 0 && !slices.Contains(m.Of, s.Doing) {
			continue
		}
		next := s
		next.State, next.Paused = m.To, ""
		if m.To == WaitingForUser {
			next.Paused = s.State
		}
		if m.Flips {
			next.Reversed = !s.Reversed
		}
		if m.To == Ready {
			next.Doing = ""
		}
		return next, nil
	}
	return s, errs.New("plan.After", errs.Conflict, string(e), "the plan is "+string(s.State))
}

// Claims says which plan has which domain to itself. The zero value is none; it
// is changed by Take alone, under its owner's lock or transaction.
type Claims map[site.Name]site.Name

// Take gives domains to a plan. If another has one of them, nothing is taken: kind
// Conflict, with the plan and the domain.
func (c Claims) Take(plan site.Name, domains []site.Name) error {
	for _, d := range domains {
		if o, taken := c[d]; taken && o != plan {
			return errs.New("plan.Take", errs.Conflict, "domain "+string(d), fmt.Sprintf("plan %s runs it", o)).
				WithRemedy("wait until that plan has ended, or clean up there")
		}
	}
	for _, d := range domains {
		c[d] = plan
	}
	return nil
}

// Release takes all domains from a plan.
func (c Claims) Release(plan site.Name) {
	maps.DeleteFunc(c, func(_, o site.Name) bool { return o == plan })
}
