package catalog

import (
	"context"
	"fmt"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// PlanView returns what a plan is compiled against: the domains, mappings, settings
// and sites that it names, and what is known of the sites' platforms. Hosts that
// sleep are not in it: views do not know hosts. What is named and missing is left
// out; compiling tells it. Kind Conflict: several mappings lead between its sites
// and it names none.
func (c *Catalog) PlanView(ctx context.Context, tx *db.Tx, p *plan.Plan) (*plan.View, error) {
	v := &plan.View{Domains: map[site.Name]*site.ProtectedDomain{}}
	for _, n := range p.Domains {
		d, err := Find[*site.ProtectedDomain](ctx, tx, n)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v.Domains[n] = d
	}
	to, err := Find[*site.Site](ctx, tx, p.To)
	if err == nil {
		v.Site = to
	} else if !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	if v.Mappings, err = mappingsOf(ctx, tx, p); err != nil {
		return nil, err
	}
	back := plan.Plan{Meta: p.Meta, From: p.To, To: p.From}
	if v.Back, err = mappingsOf(ctx, tx, &back); err != nil && !errs.Is(err, errs.Conflict) { // of several, none is the one
		return nil, err
	}
	settings, err := All(ctx, tx, site.KindSettings)
	if err != nil {
		return nil, err
	}
	for _, o := range settings {
		if s := o.(*site.RecoverySettings); s.Site == p.To {
			v.Settings = append(v.Settings, s)
		}
	}
	if c.Views == nil {
		return v, nil
	}
	views, err := c.Views(ctx, tx)
	v.Protected, v.Recovery = views[p.From], views[p.To]
	return v, err
}

// mappingsOf finds the mappings a plan names, or the only ones between its sites.
func mappingsOf(ctx context.Context, tx *db.Tx, p *plan.Plan) (*mapping.Mappings, error) {
	if p.Mappings != "" {
		m, err := Find[*mapping.Mappings](ctx, tx, p.Mappings)
		if errs.Is(err, errs.NotFound) {
			return nil, nil
		}
		return m, err
	}
	all, err := All(ctx, tx, site.KindMappings)
	if err != nil {
		return nil, err
	}
	var found *mapping.Mappings
	for _, o := range all {
		m := o.(*mapping.Mappings)
		if m.From != p.From || m.To != p.To {
			continue
		}
		if found != nil {
			return nil, errs.New("catalog.PlanView", errs.Conflict, site.Label(p), fmt.Sprintf("mappings %s and %s both lead from %s to %s", found.Name, m.Name, p.From, p.To)).
				WithRemedy("name one of them in the plan's mappings")
		}
		found = m
	}
	return found, nil
}
