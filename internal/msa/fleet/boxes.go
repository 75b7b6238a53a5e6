package fleet

import (
	"context"
	"slices"

	v1 "holdfast/api"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// BoxStatus returns how a box stands to what it is to be. Kind NotFound: it is no
// appliance of this site.
func (f *Fleet) BoxStatus(ctx context.Context, tx *db.Tx, name site.Name) (v1.BoxStatus, error) {
	s, err := f.stand(ctx, tx)
	if err != nil {
		return v1.BoxStatus{}, err
	}
	wanted, err := f.setup(ctx, tx, s, name)
	if err != nil {
		return v1.BoxStatus{}, err
	}
	a := s.boxes[name]
	out := v1.BoxStatus{Name: name, Role: string(a.Role), Draining: a.Draining, Domains: domainsOf(wanted)}
	if e := s.enrols[name]; e.State == enrol.Enrolled {
		out.Health = string(e.Health)
	}
	for _, p := range s.places {
		if p.drva == name && p.leaving {
			out.Leaving = append(out.Leaving, p.domain)
		}
	}
	slices.Sort(out.Leaving)
	t := s.told[name]
	if t == nil || t.heard == 0 {
		return out, nil
	}
	heard := db.Time(t.heard).UTC()
	out.Told, out.Lives, out.Ready = &heard, t.report.Lives, t.generation == wanted.Generation && len(t.report.Problems) == 0
	if t.started > 0 {
		started := db.Time(t.started).UTC()
		out.Started = &started
	}
	for _, p := range t.report.Problems {
		out.Problems = append(out.Problems, v1.BoxProblem{Object: p.Object, Words: p.Words, Remedy: p.Remedy})
	}
	return out, nil
}

// domainsOf lists the domains of a setup.
func domainsOf(s *setup.Setup) (list []site.Name) {
	add := func(domains []setup.Domain) {
		for i := range domains {
			list = append(list, domains[i].Name)
		}
	}
	switch {
	case s.DRVA != nil:
		add(s.DRVA.Domains)
	case s.RocVA != nil:
		add(s.RocVA.Domains)
	case s.Host != nil:
		for i := range s.Host.Domains {
			list = append(list, s.Host.Domains[i].Name)
		}
	}
	return list
}
