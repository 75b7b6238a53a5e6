package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
)

// judged are the alarms that are this package's to raise and to clear.
var judged = []alarm.Code{
	alarm.ApplianceAway, alarm.ApplianceOld, alarm.CertificateEnds, alarm.PeerAway, alarm.NotProtected, alarm.Unconfigured, alarm.StoreAway, alarm.SplitBrain, alarm.CopyBehind,
	alarm.HistoryShort, alarm.HistoryFull, alarm.UpkeepStuck,
}

const (
	// settledAfter is how long a domain may be on its way before its VMs are missed.
	settledAfter = 2 * time.Minute
	// endsWithin is when the certificate of a box ends that should have renewed it long
	// before: with a third of its thirty days left.
	endsWithin = 7 * 24 * time.Hour
)

// Judge raises and clears the alarms of appliances, peers, stores and domains. Any
// replica may do so at any time.
func (f *Fleet) Judge(ctx context.Context) error {
	return f.DB.Tx(ctx, func(tx *db.Tx) error {
		s, err := f.stand(ctx, tx)
		if err != nil {
			return err
		}
		h := alarm.Held{}
		f.judgeBoxes(s, h)
		if err := f.judgePeers(ctx, tx, h); err != nil {
			return err
		}
		for _, d := range s.domains {
			if err := f.judgeDomain(ctx, tx, s, d, h); err != nil {
				return err
			}
		}
		return alarm.Settle(ctx, tx, judged, h)
	})
}

func (f *Fleet) judgeBoxes(s *standing, h alarm.Held) {
	for _, name := range slices.Sorted(maps.Keys(s.enrols)) {
		e := s.enrols[name]
		if e.State != enrol.Enrolled {
			continue
		}
		object := "appliance " + string(name)
		switch {
		case e.Health == enrol.Silent:
			h.Add(alarm.ApplianceAway, object, "since "+db.Time(e.SeenAt).UTC().Format(time.RFC3339))
		case e.Health == enrol.Unseen && s.now-e.EnrolledAt > settledAfter.Milliseconds():
			h.Add(alarm.ApplianceAway, object, "it has enrolled, and said nothing since")
		}
		if e.Release != "" && f.Release != "" && e.Release != f.Release {
			h.Add(alarm.ApplianceOld, object, fmt.Sprintf("release %s, the manager has %s", e.Release, f.Release))
		}
		if e.CertUntil > 0 && e.CertUntil-s.now < endsWithin.Milliseconds() {
			h.Add(alarm.CertificateEnds, object, "on "+db.Time(e.CertUntil).UTC().Format(time.RFC3339))
		}
		if f.Stats != nil && e.Health != enrol.Silent && e.Health != enrol.Unseen {
			f.Stats.Observe(stats.ClockSkew, object, max(e.SkewMS, -e.SkewMS))
		}
	}
}

func (f *Fleet) judgePeers(ctx context.Context, tx *db.Tx, h alarm.Held) error {
	pairs, err := pair.List(ctx, tx)
	for i := range pairs {
		p := &pairs[i]
		if p.PeerSite != "" && p.Trust == site.Trusted && (p.Status == pair.StatusLost || p.Status == pair.StatusRefused) {
			h.Add(alarm.PeerAway, "site "+string(p.PeerSite), p.OutError)
		}
	}
	return err
}

// judgeDomain says what is wrong with a domain.
func (f *Fleet) judgeDomain(ctx context.Context, tx *db.Tx, s *standing, d *site.ProtectedDomain, h alarm.Held) error {
	if d.Mode == site.Periodic && d.From == f.Site {
		h.Add(alarm.NotProtected, "domain "+string(d.Name), "mode periodic is of no platform of this release: "+site.PeriodicRemedy)
	}
	p := s.places[d.Name]
	if p == nil {
		return nil
	}
	if p.kind == errs.Unavailable.String() || p.kind == errs.Transient.String() {
		h.Add(alarm.StoreAway, "store "+string(d.Stores[0]), p.words)
	}
	f.judgeCopies(s, d, h)
	view, err := f.Inventory.View(ctx, tx, d.From)
	if err != nil {
		return err
	}
	away, gone := s.away[d.Name]
	if gone && d.From == f.Site && away != f.Site {
		if n := running(view, d); n > 0 {
			h.Add(alarm.SplitBrain, "domain "+string(d.Name), fmt.Sprintf("%d of its VMs run here, and it was recovered at site %s", n, away))
		}
	}
	if gone && d.From != f.Site {
		return f.returned(ctx, tx, s, d, view, h)
	}
	if !s.ours(f.Site, d) || d.Suspended || p.id != "" && s.now-p.placed < settledAfter.Milliseconds() {
		return nil
	}
	f.judgeHistory(s, d, h)
	if p.id == "" {
		if p.words != "" {
			h.Add(alarm.NotProtected, "domain "+string(d.Name), p.words)
		}
		return nil
	}
	if p.drva == "" {
		h.Add(alarm.NotProtected, "domain "+string(d.Name), "no DRVA has room for it")
	}
	told := s.toldVMs(d.Name)
	for _, ref := range d.VMs {
		vm, _, _ := view.VM(ref)
		if vm == nil || !vm.Running {
			continue
		}
		object := string(d.Name) + "/" + string(vm.Ref)
		switch r := told[vm.ID]; {
		case r == nil:
			h.Add(alarm.NotProtected, object, "no host component of its host protects it")
		case r.State == setup.Failing || r.State == setup.Disconnected:
			h.Add(alarm.NotProtected, object, r.Cause)
		case len(r.Bare) > 0:
			h.Add(alarm.Unconfigured, object, fmt.Sprintf("%q", r.Bare))
		}
	}
	return nil
}

// judgeCopies says what is wrong with the copies of a domain's container.
func (f *Fleet) judgeCopies(s *standing, d *site.ProtectedDomain, h alarm.Held) {
	box, r := s.reporter(f.Site, d)
	if r == nil || s.enrols[box].Health == enrol.Silent {
		return
	}
	for i := range r.Copies {
		switch c := &r.Copies[i]; c.State {
		case setup.CopyAway:
			h.Add(alarm.StoreAway, "store "+string(c.Store), c.Cause)
		case setup.CopyFull, setup.CopyFailing:
			h.Add(alarm.CopyBehind, "domain "+string(d.Name), "store "+string(c.Store)+": "+c.Cause)
		case setup.CopyFenced:
			h.Add(alarm.SplitBrain, "domain "+string(d.Name), "it was recovered from its copy in store "+string(c.Store))
		case setup.CopyMaking, setup.CopyBehind, setup.CopyCurrent:
		}
	}
}

// running counts the VMs of a domain that run.
func running(view *site.View, d *site.ProtectedDomain) (n int) {
	for _, ref := range d.VMs {
		if vm, _, _ := view.VM(ref); vm != nil && vm.Running {
			n++
		}
	}
	return n
}

// returned looks whether the old site of a domain that was recovered here is back with
// its VMs, and tells the plan.
func (f *Fleet) returned(ctx context.Context, tx *db.Tx, s *standing, d *site.ProtectedDomain, view *site.View, h alarm.Held) error {
	at := s.at(d.Name)
	if at.Failover != plan.FailedOver && at.Failover != plan.DomainSplitBrain || at.Reversed {
		return nil
	}
	var since int64
	if _, err := tx.Row(ctx, `SELECT changed_at FROM domain_states WHERE domain = $1`, []any{string(d.Name)}, &since); err != nil {
		return err
	}
	sites, err := inventory.Sites(ctx, tx)
	if err != nil {
		return err
	}
	fresh := slices.ContainsFunc(sites, func(x inventory.Standing) bool {
		return x.Site == d.From && x.Away.IsZero() && x.Seen.UnixMilli() > since // what was known before says nothing
	})
	n := running(view, d)
	if !fresh || n == 0 {
		return nil
	}
	h.Add(alarm.SplitBrain, "domain "+string(d.Name), fmt.Sprintf("%d of its old VMs run at site %s", n, d.From))
	if at.Failover == plan.DomainSplitBrain || f.Tell == nil || at.Plan == "" {
		return nil
	}
	err = f.Tell(ctx, tx, at.Plan, plan.PeerReturned, "")
	if errs.Is(err, errs.Conflict) || errs.Is(err, errs.NotFound) {
		return nil // the plan is elsewhere by now
	}
	return err
}
