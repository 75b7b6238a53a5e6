package fleet

import (
	"cmp"
	"context"
	"slices"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Statuses returns how the protection of all domains of this site stands, by name.
func (f *Fleet) Statuses(ctx context.Context, tx *db.Tx) ([]v1.DomainStatus, error) {
	s, err := f.stand(ctx, tx)
	if err != nil {
		return nil, err
	}
	list := make([]v1.DomainStatus, 0, len(s.domains))
	for _, d := range s.domains {
		x, err := f.status(ctx, tx, s, d)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b v1.DomainStatus) int { return cmp.Compare(a.Domain, b.Domain) })
	return list, nil
}

// Status returns how a domain's protection stands. Kind NotFound: this site has nothing
// to do with it.
func (f *Fleet) Status(ctx context.Context, tx *db.Tx, name site.Name) (v1.DomainStatus, error) {
	s, err := f.stand(ctx, tx)
	if err != nil {
		return v1.DomainStatus{}, err
	}
	for _, d := range s.domains {
		if d.Name == name {
			return f.status(ctx, tx, s, d)
		}
	}
	return v1.DomainStatus{}, errs.New("fleet.Status", errs.NotFound, "domain "+db.Text(string(name), site.MaxName), "this site has no such domain").
		WithRemedy("ask the manager of a site that the domain names")
}

func (f *Fleet) status(ctx context.Context, tx *db.Tx, s *standing, d *site.ProtectedDomain) (v1.DomainStatus, error) {
	at := s.at(d.Name)
	out := v1.DomainStatus{Domain: d.Name, Folder: d.Folder, At: d.From, Failover: string(at.Failover), Reversed: at.Reversed, Target: d.RPOTarget}
	if p := s.places[d.Name]; p != nil {
		out.URL, out.ID = p.url, p.id
	}
	box, report := s.reporter(f.Site, d)
	out.Box = box
	switch away, gone := s.away[d.Name]; {
	case gone && away != f.Site:
		out.At, out.State, out.Cause = away, string(plan.Disconnected), "it was recovered at the other site, which protects it"
	case !gone && d.From != f.Site:
		out.State, out.Cause = string(plan.Disconnected), "the other site protects it: ask its manager"
	default:
		if gone {
			out.At = f.Site
		}
		s.protection(d, report, &out)
	}
	s.storesOf(d, report, &out)
	var err error
	out.VMs, err = f.vms(ctx, tx, s, d)
	if err == nil {
		worst(&out)
	}
	return out, err
}

// reporter is the box that publishes a domain, with what it tells of it; nil: nothing.
func (s *standing) reporter(own site.Name, d *site.ProtectedDomain) (site.Name, *setup.DomainReport) {
	box := site.Name("")
	if p := s.places[d.Name]; p != nil {
		box = p.drva
	}
	for name, t := range s.told {
		if s.away[d.Name] == own && slices.Contains(t.report.Lives, d.Name) {
			box = name
		}
	}
	if t := s.told[box]; t != nil {
		for i := range t.report.Domains {
			if t.report.Domains[i].Name == d.Name {
				return box, &t.report.Domains[i]
			}
		}
	}
	return box, nil
}

// protection says how a domain stands that is protected here.
func (s *standing) protection(d *site.ProtectedDomain, r *setup.DomainReport, out *v1.DomainStatus) {
	p := s.places[d.Name]
	say := func(st plan.Replication, cause, remedy string) {
		out.State, out.Cause, out.Remedy = string(st), cause, remedy
	}
	if r != nil {
		if r.Newest > 0 {
			newest := db.Time(r.Newest).UTC()
			out.Newest, out.RPO = &newest, site.Span(max(0, time.Duration(s.now-r.Newest)*time.Millisecond))
		}
		out.Points = r.Points
	}
	silent := out.Box != "" && s.enrols[out.Box].Health == enrol.Silent
	switch {
	case d.Mode == site.Periodic:
		say(plan.ErrorState, "mode periodic is of no platform of this release: it is not protected", site.PeriodicRemedy)
	case p == nil || p.id == "" && p.words == "":
		say(plan.Created, "its container is being made", "")
	case p.id == "":
		say(plan.ErrorState, p.words, p.remedy)
	case out.Box == "":
		say(plan.Created, "no DRVA of this site has room for it", "enrol a DRVA, or end the draining of one")
	case silent:
		say(plan.Disconnected, "appliance "+string(out.Box)+" says nothing", "see the appliance; the domain is given to another one if there is one")
	case d.Suspended:
		say(plan.PausedUser, "it is suspended", "take `suspended` out of the domain")
	case p.leaving:
		out.Leaving = true
		say(plan.Configuring, "it leaves appliance "+string(out.Box), "")
	case r == nil:
		say(plan.Configuring, "appliance "+string(out.Box)+" is being set up", "")
	case r.State == setup.Fenced:
		say(plan.ErrorState, cmp.Or(r.Cause, "somebody else publishes the domain"), cmp.Or(r.Remedy, "see whether it was recovered elsewhere"))
	default:
		say(plan.Replication(r.State), r.Cause, r.Remedy)
	}
}

// storesOf says how each store of a domain stands. A copy that somebody recovered from
// makes two lives of the domain.
func (s *standing) storesOf(d *site.ProtectedDomain, r *setup.DomainReport, out *v1.DomainStatus) {
	for i, name := range d.Stores {
		x := v1.DomainStore{Store: name, Copy: i > 0}
		if i == 0 || r != nil {
			x.State = string(setup.CopyMaking)
		}
		if i == 0 {
			x.Newest = out.Newest
			if p := s.places[d.Name]; p != nil && p.id != "" {
				x.State = string(setup.CopyCurrent)
				if p.kind == errs.Unavailable.String() || p.kind == errs.Transient.String() {
					x.State, x.Cause, x.Remedy = string(setup.CopyAway), p.words, p.remedy
				}
			}
		}
		if c := r.Copy(name); i > 0 && c != nil {
			x.State, x.Cause, x.Remedy, x.Lag = string(c.State), c.Cause, c.Remedy, site.Span(time.Duration(c.Lag)*time.Millisecond)
			if c.Newest > 0 {
				newest := db.Time(c.Newest).UTC()
				x.Newest = &newest
			}
			if c.State == setup.CopyFenced {
				out.State, out.Cause, out.Remedy = string(plan.ErrorState), "it was recovered from its copy in store "+string(name)+", and is published to store "+string(d.Stores[0])+" as well", c.Remedy
			}
		}
		out.Stores = append(out.Stores, x)
	}
}

// vms says how each VM of a domain stands, by what the host components tell.
func (f *Fleet) vms(ctx context.Context, tx *db.Tx, s *standing, d *site.ProtectedDomain) (list []v1.VMStatus, err error) {
	view, err := f.Inventory.View(ctx, tx, d.From)
	if err != nil {
		return nil, err
	}
	told := s.toldVMs(d.Name)
	for _, ref := range d.VMs {
		x := v1.VMStatus{VM: string(ref), Name: ref}
		vm, _, why := view.VM(ref)
		switch {
		case vm == nil && view != nil:
			x.Cause = why
		case vm != nil:
			x.VM, x.Name, x.Host = vm.ID.String(), vm.Ref, vm.Host
			if r := told[vm.ID]; r != nil {
				x.State, x.Cause, x.Remedy, x.Bare = string(r.State), r.Cause, r.Remedy, r.Bare
			} else if !vm.Running {
				x.Cause = "it does not run"
			}
		}
		list = append(list, x)
	}
	return list, nil
}

// toldVMs is what boxes that are heard of tell of a domain's VMs.
func (s *standing) toldVMs(domain site.Name) map[dr.VMID]*setup.VMReport {
	all := map[dr.VMID]*setup.VMReport{}
	for name, t := range s.told {
		if s.enrols[name].Health == enrol.Silent {
			continue
		}
		for i := range t.report.Domains {
			if t.report.Domains[i].Name != domain {
				continue
			}
			for j := range t.report.Domains[i].VMs {
				vm := &t.report.Domains[i].VMs[j]
				all[vm.ID] = vm
			}
		}
	}
	return all
}

// badness orders states that a VM may have under a domain that is protected.
var badness = []setup.State{setup.Protected, setup.DeltaSync, setup.BackPressure, setup.InitialSync, setup.Tracking, setup.Disconnected, setup.Failing}

// worst has a domain that its DRVA calls protected be no better than its VMs.
func worst(out *v1.DomainStatus) {
	if out.State != string(plan.Protected) {
		return
	}
	at := 0
	for _, vm := range out.VMs {
		if n := slices.Index(badness, setup.State(vm.State)); n > at {
			at, out.State, out.Cause, out.Remedy = n, vm.State, "VM "+string(vm.Name)+": "+vm.Cause, vm.Remedy
		}
	}
}

// Facts completes what is known of the world for the readiness of a plan: package
// operate asks for it.
func (f *Fleet) Facts(ctx context.Context, tx *db.Tx, p *plan.Plan, out *plan.Facts) error {
	s, err := f.stand(ctx, tx)
	if err != nil {
		return err
	}
	out.Domains, out.StoresUp, out.AppliancesUp = map[site.Name]plan.DomainFacts{}, map[site.Name]bool{}, map[site.Name]bool{}
	for _, d := range s.domains {
		if !slices.Contains(p.Domains, d.Name) {
			continue
		}
		x, err := f.status(ctx, tx, s, d)
		if err != nil {
			return err
		}
		if d.From != f.Site && x.At == d.From { // its manager has told
			if x, err = f.theirs(ctx, tx, d, x); err != nil {
				return err
			}
		}
		facts := plan.DomainFacts{State: plan.Replication(x.State)}
		if x.Newest != nil {
			facts.Newest = *x.Newest
		}
		out.Domains[d.Name] = facts
	}
	for name, e := range s.enrols {
		out.AppliancesUp[name] = e.State == enrol.Enrolled && (e.Health == enrol.Alive || e.Health == enrol.Skewed)
	}
	for name, st := range s.stores {
		out.StoresUp[name] = true
		for _, d := range s.domains {
			if place := s.places[d.Name]; place != nil && len(d.Stores) > 0 && d.Stores[0] == st.Name && place.kind == errs.Unavailable.String() {
				out.StoresUp[name] = false
			}
			if _, r := s.reporter(f.Site, d); r.Copy(name) != nil && r.Copy(name).State == setup.CopyAway {
				out.StoresUp[name] = false
			}
		}
	}
	out.PeerUp, err = f.peerUp(ctx, tx, p)
	return err
}
