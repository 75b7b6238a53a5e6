package operate

import (
	"context"
	"slices"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// DomainStatus is where a domain's recovery stands.
type DomainStatus struct {
	Domain   site.Name     `json:"domain"`
	Failover plan.Failover `json:"failover"`
	// Reversed is set while it is protected against its home direction.
	Reversed bool      `json:"reversed,omitempty"`
	Plan     site.Name `json:"plan,omitempty"` // the one that changed it last
}

// Domain returns where a domain's recovery stands; one nobody has recovered is at rest.
func Domain(ctx context.Context, tx *db.Tx, name site.Name) (DomainStatus, error) {
	d := DomainStatus{Domain: name, Failover: plan.AtRest}
	var reversed int64
	_, err := tx.Row(ctx, `SELECT failover, reversed, plan FROM domain_states WHERE domain = $1`, []any{name}, &d.Failover, &reversed, &d.Plan)
	d.Reversed = reversed != 0
	return d, err
}

// Domains returns where the recoveries of all domains stand of which anything is known,
// by name: what is not there is at rest.
func Domains(ctx context.Context, tx *db.Tx) (map[site.Name]DomainStatus, error) {
	all := map[site.Name]DomainStatus{}
	err := tx.Rows(ctx, `SELECT domain, failover, reversed, plan FROM domain_states`, nil, func(scan func(...any) error) error {
		var d DomainStatus
		var reversed int64
		err := scan(&d.Domain, &d.Failover, &reversed, &d.Plan)
		d.Reversed = reversed != 0
		all[d.Domain] = d
		return err
	})
	return all, err
}

func (d *DomainStatus) save(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `INSERT INTO domain_states (domain, failover, reversed, plan, changed_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (domain) DO UPDATE SET failover = excluded.failover, reversed = excluded.reversed, plan = excluded.plan, changed_at = excluded.changed_at`,
		d.Domain, d.Failover, number(d.Reversed), d.Plan, tx.Now())
	return err
}

// follow goes along arrows as far as they lead.
func follow(from plan.Failover, events ...string) plan.Failover {
	for _, e := range events {
		if to, ok := plan.Follow(plan.FailoverArrows(), from, e); ok {
			from = to
		}
	}
	return from
}

// begins returns where an operation puts a domain at once; ok is false when it has no
// part in it, as one that another plan has recovered already.
func begins(op plan.Operation, from plan.Failover) (to plan.Failover, ok bool) {
	var events []string
	switch op {
	case plan.Test:
		events = []string{"test"}
	case plan.Planned, plan.Failback:
		events = []string{"planned"}
	case plan.Disaster, plan.ForcedDisaster:
		events = []string{"disaster"}
	case plan.CommitRun:
		events = []string{"commit"}
	case plan.Rollback:
		events = []string{"rollback"}
	case plan.Reprotect, plan.ForcedReprotect:
		events = []string{"reprotect"}
	case plan.Cleanup, plan.ForcedCleanup:
		events = []string{"cleanup"}
	case plan.CleanOldSite:
		return from, from == plan.DomainSplitBrain
	}
	switch from {
	case plan.AtRest, plan.Warming, plan.WarmStandby:
		if !recovers(op) && op != plan.Test {
			return from, false
		}
		return follow(from, append([]string{"start", "complete"}, events...)...), true
	case plan.FailedIncomplete:
		if recovers(op) {
			events = []string{"again"}
		}
	case plan.Promoting, plan.RollingBack, plan.Reversing, plan.Cleaning: // it is gone on with
		return from, true
	case plan.DomainUndecided:
		if recovers(op) { // it is there; the plan's others were not
			return from, true
		}
	}
	to = follow(from, events...)
	return to, to != from
}

// recovers reports whether an operation is a recovery.
func recovers(op plan.Operation) bool {
	return slices.Contains([]plan.Operation{plan.Planned, plan.Failback, plan.Disaster, plan.ForcedDisaster}, op)
}

// tally is how the steps of one domain of one run stand.
type tally struct {
	begun, ended, failed, steps map[plan.Kind]int
}

// tallies counts the steps of each domain.
func tallies(h *head, steps []runs.StepState) map[site.Name]*tally {
	all := map[site.Name]*tally{}
	for _, d := range h.Domains {
		all[d] = &tally{map[plan.Kind]int{}, map[plan.Kind]int{}, map[plan.Kind]int{}, map[plan.Kind]int{}}
	}
	for i := range steps {
		st := &steps[i]
		_, d := h.about(&st.Step)
		t := all[d]
		if st.Phase != runs.Forward || t == nil {
			continue
		}
		k := plan.Kind(st.Step.Kind)
		t.steps[k]++
		if !st.Begun.IsZero() {
			t.begun[k]++
		}
		if st.Status.Ended() {
			t.ended[k]++
		}
		if st.Missed {
			t.failed[k]++
		}
	}
	return all
}

// done reports whether all steps of some kinds were done, as far as there are any.
func (t *tally) done(kinds ...plan.Kind) bool {
	for _, k := range kinds {
		if t.ended[k] < t.steps[k] || t.failed[k] > 0 {
			return false
		}
	}
	return true
}

func (t *tally) all() (kinds []plan.Kind) {
	for k := range t.steps {
		kinds = append(kinds, k)
	}
	return kinds
}

// outcome is what a run has come to, as far as its domains go.
type outcome struct {
	op      plan.Operation
	over    bool // ended, or parked: nothing goes on
	unwound bool
}

// stands returns where a domain stands that began at from, by its steps.
func stands(from plan.Failover, o outcome, t *tally) (to plan.Failover, flips bool) {
	switch o.op {
	case plan.Test:
		if !t.done(plan.KindPin, plan.KindDisks) {
			return ends(from, o.over, "fault-test"), false
		}
		return ends(follow(from, "bootable-test"), o.over, "ok"), false
	case plan.Planned, plan.Failback, plan.Disaster, plan.ForcedDisaster:
		return recovering(from, o, t), false
	case plan.CommitRun, plan.CleanOldSite, plan.Rollback:
		if o.op == plan.CleanOldSite {
			if o.over && t.done(t.all()...) {
				return follow(from, "clean-old-site"), false
			}
			return from, false
		}
		if o.over && t.done(t.all()...) {
			return follow(from, "ok"), false
		}
	case plan.Reprotect, plan.ForcedReprotect:
		if o.over && t.done(t.all()...) && from == plan.Reversing {
			return follow(from, "ok"), true
		}
	case plan.Cleanup, plan.ForcedCleanup:
		if !o.over {
			return from, false
		}
		if t.done(t.all()...) {
			return follow(from, "ok"), false
		}
		return follow(from, "fault"), false
	}
	return from, false
}

func ends(at plan.Failover, over bool, event string) plan.Failover {
	if !over {
		return at
	}
	return follow(at, event)
}

// recovering follows a recovery.
func recovering(from plan.Failover, o outcome, t *tally) plan.Failover {
	at := from
	fenced := t.begun[plan.KindFence] > 0 || t.steps[plan.KindFence] > 0 && t.done(plan.KindFence)
	for _, p := range []struct {
		in    plan.Failover
		kinds []plan.Kind
	}{
		{plan.PreSyncing, []plan.Kind{plan.KindSync}}, {plan.SourceShutdown, []plan.Kind{plan.KindShutdownVM, plan.KindSourceOff}},
	} {
		if at == p.in && t.done(p.kinds...) {
			at = follow(at, "ok")
		}
	}
	if at == plan.FinalSync && fenced {
		at = follow(at, "ok")
	}
	if at == plan.Fencing && t.done(plan.KindFence) && fenced {
		at = follow(at, "ok")
	}
	if at == plan.Hydrating && t.done(plan.KindPin, plan.KindDisks) && t.ended[plan.KindDisks] > 0 {
		at = follow(at, "bootable")
	}
	if !o.over {
		return at
	}
	switch {
	case at == plan.DomainUndecided:
		return at
	case at == plan.Booting && t.done(t.all()...):
		return follow(at, "ok")
	}
	at = follow(at, "fault")
	if at == plan.Unwinding && o.unwound {
		at = follow(at, "ok")
	}
	return at
}
