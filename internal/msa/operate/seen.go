package operate

import (
	"context"
	"slices"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// facts are what a plan sees of its domains and of other plans.
type facts struct {
	gone      bool // it names no domain, or one that is not there
	taken     bool // another plan has one of them
	mixed     bool // those at rest are protected from different sites
	away      bool // those at rest are protected against the plan's home direction
	all, rest int  // domains in all, and at rest
	recovered int  // that are recovered and committed
	turned    int  // at rest, in the other direction than the plan runs in
}

// look reads the facts of a plan that has its domains not to itself.
func (o *Operator) look(ctx context.Context, tx *db.Tx, p *plan.Plan, s plan.Standing) (facts, error) {
	f := facts{all: len(p.Domains), gone: len(p.Domains) == 0}
	home, far := 0, 0
	for _, name := range p.Domains {
		d, err := o.opts.World.Domain(ctx, tx, name)
		if errs.Is(err, errs.NotFound) {
			f.gone = true
			continue
		}
		if err != nil {
			return f, err
		}
		at, err := Domain(ctx, tx, name)
		if err != nil {
			return f, err
		}
		var has site.Name
		if _, err := tx.Row(ctx, `SELECT plan FROM plan_claims WHERE domain = $1`, []any{name}, &has); err != nil {
			return f, err
		}
		f.taken = f.taken || has != "" && has != p.Name
		from := d.From
		if at.Reversed {
			from = d.To
		}
		switch at.Failover {
		case plan.FailedOver, plan.DomainSplitBrain:
			f.recovered++
		case plan.AtRest, plan.Warming, plan.WarmStandby:
			f.rest++
			against := from != p.From
			if against {
				far++
			} else {
				home++
			}
			if against != s.Reversed {
				f.turned++
			}
		}
	}
	f.mixed, f.away = home > 0 && far > 0, far > 0
	return f, nil
}

// event is what the facts mean for a plan in a state; "": nothing.
func (f facts) event(s plan.State) plan.Event {
	switch s {
	case plan.Ready:
		switch {
		case f.gone:
			return plan.DomainsGone
		case f.taken:
			return plan.DomainsTaken
		case f.recovered == f.all, f.turned == f.all: // the latter: and reprotected since
			return plan.AllRecovered
		case f.recovered > 0:
			return plan.SomeRecovered
		case f.mixed:
			return plan.DirectionsMixed
		}
	case plan.NoDomains:
		if !f.gone {
			return plan.Settled
		}
	case plan.DomainsInUse:
		if !f.taken {
			return plan.Settled
		}
	case plan.DirectionError:
		if !f.mixed || f.recovered > 0 || f.gone {
			return plan.Settled
		}
	case plan.PartialRecovery:
		switch {
		case f.recovered == f.all || f.turned == f.all:
			return plan.AllRecovered
		case f.recovered == 0 && !f.taken:
			return plan.NoneRecovered
		}
	case plan.RecoveryComplete, plan.PartialReprotect:
		switch {
		case f.turned == f.all:
			return plan.AllReprotected
		case f.turned > 0 && f.recovered > 0 && s == plan.RecoveryComplete:
			return plan.SomeReprotected
		}
	}
	return ""
}

// see has a plan follow what others did since it was looked at last.
func (o *Operator) see(ctx context.Context, tx *db.Tx, p *plan.Plan, r *row) error {
	for range maxSeen {
		if r.State.Holds() {
			return nil
		}
		f, err := o.look(ctx, tx, p, r.Standing)
		if err != nil {
			return err
		}
		e := f.event(r.State)
		if e == "" {
			return nil
		}
		if r.Standing, err = r.After(e); err != nil {
			return err
		}
	}
	return nil
}

// Look returns where a plan stands, by its own runs and by what others did with its
// domains. Kind NotFound: there is no such plan.
func (o *Operator) Look(ctx context.Context, tx *db.Tx, name site.Name) (Status, error) {
	p, err := o.opts.World.Plan(ctx, tx, name)
	if err != nil {
		return Status{}, err
	}
	r, err := read(ctx, tx, name)
	if err != nil {
		return Status{}, err
	}
	err = o.see(ctx, tx, p, r)
	return r.Status, err
}

// peerEvents are those that Tell takes.
var peerEvents = []plan.Event{plan.PeerReturned, plan.PeerReplaced, plan.PeerRecovering, plan.PeerRecovered, plan.BothEdited, plan.Settled}

// Tell tells a plan what was seen of the peer: that it has returned with its old VMs,
// say. Kinds: NotFound, Invalid (no such event), Conflict (it does not fit the plan's
// state; nothing has changed).
func (o *Operator) Tell(ctx context.Context, tx *db.Tx, name site.Name, e plan.Event, by string) error {
	if !slices.Contains(peerEvents, e) {
		return errs.New("operate.Tell", errs.Invalid, string(e), "this is nothing the peer does").WithRemedy("report this")
	}
	p, err := o.opts.World.Plan(ctx, tx, name)
	if err != nil {
		return err
	}
	r, err := lock(ctx, tx, name)
	if err != nil {
		return err
	}
	if err := o.see(ctx, tx, p, r); err != nil {
		return err
	}
	if r.Standing, err = r.After(e); err != nil {
		return err
	}
	if r.State.Holds() {
		if err := take(ctx, tx, name, p.Domains); err != nil {
			return err
		}
	} else if err := release(ctx, tx, name); err != nil {
		return err
	}
	if err := o.tellDomains(ctx, tx, p, e); err != nil {
		return err
	}
	if err := r.save(ctx, tx); err != nil {
		return err
	}
	return o.note(ctx, tx, name, string(e), by)
}

func (o *Operator) tellDomains(ctx context.Context, tx *db.Tx, p *plan.Plan, e plan.Event) error {
	event := map[plan.Event]string{plan.PeerReturned: "peer-returned", plan.PeerReplaced: "clean-old-site"}[e]
	if event == "" {
		return nil
	}
	for _, name := range p.Domains {
		d, err := Domain(ctx, tx, name)
		if err != nil {
			return err
		}
		if to := follow(d.Failover, event); to != d.Failover {
			d.Failover, d.Plan = to, p.Name
			if err := d.save(ctx, tx); err != nil {
				return err
			}
		}
	}
	return nil
}
