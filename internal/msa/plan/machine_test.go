package plan

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/msa/site"
)

// fleet is plans that share domains, run by random people, with faults.
type fleet struct {
	plans  []site.Name
	stand  map[site.Name]Standing
	own    map[site.Name][]site.Name
	claims Claims
	// broken lets a run begin without asking for its domains, which must be caught.
	broken bool
}

func newFleet(r *rapid.T) *fleet {
	f := &fleet{stand: map[site.Name]Standing{}, own: map[site.Name][]site.Name{}, claims: Claims{}}
	domains := []site.Name{"d1", "d2", "d3", "d4"}
	for i := range 4 {
		name := site.Name(fmt.Sprintf("p%d", i))
		f.plans = append(f.plans, name)
		f.stand[name] = Begin()
		f.own[name] = rapid.SliceOfNDistinct(rapid.SampledFrom(domains), 1, 3, rapid.ID[site.Name]).Draw(r, "domains")
	}
	return f
}

// ask is what the manager does when somebody asks for an operation.
func (f *fleet) ask(p site.Name, op Operation) {
	next, _, err := f.stand[p].Admit(op)
	if err != nil {
		return
	}
	if next.State.Holds() && !f.broken {
		if f.claims.Take(p, f.own[p]) != nil {
			return
		}
	}
	f.enter(p, next)
}

func (f *fleet) happen(p site.Name, e Event) {
	next, err := f.stand[p].After(e)
	if err != nil {
		return
	}
	if next.State.Holds() && !f.broken && f.claims.Take(p, f.own[p]) != nil {
		return
	}
	f.enter(p, next)
}

func (f *fleet) enter(p site.Name, next Standing) {
	f.stand[p] = next
	if !next.State.Holds() {
		f.claims.Release(p)
	}
	if next.State == Deleting {
		f.stand[p] = Begin() // another one takes its place
	}
}

// twice returns a domain that two plans run at once, or "".
func (f *fleet) twice() site.Name {
	runs := map[site.Name]site.Name{}
	for _, p := range f.plans {
		if !f.stand[p].State.Holds() {
			continue
		}
		for _, d := range f.own[p] {
			if _, taken := runs[d]; taken {
				return d
			}
			runs[d] = p
		}
	}
	return ""
}

var allEvents = []Event{Succeeded, SucceededAlone, Failed, Unwound, Interrupted, Cancelled, Asked, SomeRecovered, AllRecovered,
	NoneRecovered, SomeReprotected, AllReprotected, DomainsGone, DirectionsMixed, DomainsTaken, BothEdited, Settled,
	PeerReturned, PeerReplaced, PeerRecovering, PeerRecovered}

// step does one random thing and returns what it did.
func (f *fleet) step(r *rapid.T) {
	p := rapid.SampledFrom(f.plans).Draw(r, "plan")
	if rapid.Bool().Draw(r, "asked") {
		f.ask(p, rapid.SampledFrom(Operations()).Draw(r, "operation"))
		return
	}
	f.happen(p, rapid.SampledFrom(allEvents).Draw(r, "event"))
}

// TestRandomOperations: whatever is asked and whatever fails, no transition is made
// that the specification forbids, and no domain is in two running plans.
func TestRandomOperations(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := newFleet(r)
		for range rapid.IntRange(1, 120).Draw(r, "steps") {
			before := map[site.Name]Standing{}
			for p, s := range f.stand {
				before[p] = s
			}
			f.step(r)
			for _, p := range f.plans {
				a, b := before[p], f.stand[p]
				if LineOf(b.State) == nil {
					r.Fatalf("%s is in %q", p, b.State)
				}
				if a.State == TestComplete && b.State != TestComplete && b.State != CleanupInProgress {
					r.Fatalf("a test that was not cleaned up became %s", b.State)
				}
				if b.State == BeforeCommit && a.State != BeforeCommit && a.State != RecoveryInProgress {
					r.Fatalf("%s became before-commit", a.State)
				}
				if b.State == ReprotectInProgress && !(a.State == RecoveryComplete || a.State == PartialReprotect || a.State == IncompleteReprotect || a.State == ReprotectInterrupted || a.State == b.State) {
					r.Fatalf("%s became reprotect-in-progress", a.State)
				}
				if (a.State == CommitInProgress || a.State == CommitIncomplete) && (b.State == Ready || b.State == RollbackInProgress) {
					r.Fatal("what was committed was undone")
				}
				if a.Reversed != b.Reversed && a.State != ReprotectInProgress && a.State != RecoveryComplete && a.State != PartialReprotect && b != Begin() {
					r.Fatalf("the direction changed from %s to %s", a.State, b.State)
				}
			}
			if d := f.twice(); d != "" {
				r.Fatalf("domain %s is in two running plans", d)
			}
		}
	})
}

// TestRandomOperationsCatches: without claims, the same walk finds a domain that is
// in two running plans.
func TestRandomOperationsCatches(t *testing.T) {
	caught := false
	rapid.Check(t, func(r *rapid.T) {
		f := newFleet(r)
		f.broken = true
		for range 60 {
			f.step(r)
			caught = caught || f.twice() != ""
		}
	})
	if !caught {
		t.Error("two running plans with one domain were not noticed")
	}
}

func TestClaims(t *testing.T) {
	c := Claims{}
	if err := c.Take("a", []site.Name{"x", "y"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Take("b", []site.Name{"z", "y"}); err == nil {
		t.Fatal("y was given twice")
	}
	if _, taken := c["z"]; taken {
		t.Fatal("z was taken although y was refused")
	}
	c.Release("a")
	if err := c.Take("b", []site.Name{"z", "y"}); err != nil {
		t.Fatal(err)
	}
}
