package fleet

import (
	"context"
	"slices"

	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
	"holdfast/internal/store"
)

// standing is what is known when it is decided what boxes are to be.
type standing struct {
	now     int64
	own     *site.Site // nil: the site is not configured yet
	domains []*site.ProtectedDomain
	stores  map[site.Name]*site.Store
	boxes   map[site.Name]*site.Appliance // of this site
	enrols  map[site.Name]enrol.Box
	told    map[site.Name]*told
	places  map[site.Name]*place
	states  map[site.Name]operate.DomainStatus // of domains that were ever recovered
	away    map[site.Name]site.Name            // domains that are protected elsewhere: where, as far as it is known
}

// stand reads all of it.
func (f *Fleet) stand(ctx context.Context, tx *db.Tx) (*standing, error) {
	s := &standing{now: tx.Now(), stores: map[site.Name]*site.Store{}, boxes: map[site.Name]*site.Appliance{}, enrols: map[site.Name]enrol.Box{}, away: map[site.Name]site.Name{}}
	own, err := catalog.Find[*site.Site](ctx, tx, f.Site)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	if err == nil {
		s.own = own
	}
	for _, k := range []site.Kind{site.KindStore, site.KindBox, site.KindDomain} {
		all, err := catalog.All(ctx, tx, k)
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			s.add(f.Site, o)
		}
	}
	for after := site.Name(""); ; {
		page, err := enrol.List(ctx, tx, after, 2000)
		if err != nil {
			return nil, err
		}
		for _, b := range page {
			s.enrols[b.Name], after = b, b.Name
		}
		if len(page) < 2000 {
			break
		}
	}
	if s.told, err = allTold(ctx, tx); err != nil {
		return nil, err
	}
	if s.places, err = places(ctx, tx); err != nil {
		return nil, err
	}
	return s, f.seeAway(ctx, tx, s)
}

func (s *standing) add(own site.Name, o site.Object) {
	switch o := o.(type) {
	case *site.Store:
		s.stores[o.Name] = o
	case *site.Appliance:
		if o.Site == own {
			s.boxes[o.Name] = o
		}
	case *site.ProtectedDomain:
		if o.From == own || o.To == own {
			s.domains = append(s.domains, o)
		}
	}
}

// seeAway finds the domains that their home site does not protect now: by what our runs
// did, by what peers say of theirs, and by what is in recovery appliances.
func (f *Fleet) seeAway(ctx context.Context, tx *db.Tx, s *standing) error {
	gone := func(failover plan.Failover, reversed bool) bool {
		return reversed || slices.Contains([]plan.Failover{plan.Promoting, plan.FailedOver, plan.Reversing, plan.DomainSplitBrain}, failover)
	}
	theirs := map[site.Name]bool{}
	if err := tx.Rows(ctx, `SELECT domain, failover, reversed FROM fleet_peer_domains`, nil, func(scan func(...any) error) error {
		var name site.Name
		var failover plan.Failover
		var reversed int64
		err := scan(&name, &failover, &reversed)
		theirs[name] = theirs[name] || gone(failover, reversed != 0)
		return err
	}); err != nil {
		return err
	}
	var err error
	if s.states, err = operate.Domains(ctx, tx); err != nil {
		return err
	}
	for _, d := range s.domains {
		at := s.at(d.Name)
		if gone(at.Failover, at.Reversed) || theirs[d.Name] && d.From == f.Site {
			s.away[d.Name] = d.To
		}
	}
	for _, t := range s.told {
		for _, name := range t.report.Lives {
			s.away[name] = f.Site // it is in a recovery here, which protects it
		}
	}
	return nil
}

// at is where a domain's recovery stands, by our own runs.
func (s *standing) at(domain site.Name) operate.DomainStatus {
	if d, known := s.states[domain]; known {
		return d
	}
	return operate.DomainStatus{Domain: domain, Failover: plan.AtRest}
}

// ours reports whether this site protects a domain with its DRVAs and host components.
func (s *standing) ours(own site.Name, d *site.ProtectedDomain) bool {
	_, away := s.away[d.Name]
	return d.From == own && !away && d.Mode != site.Periodic
}

// container is the address of a domain's container: that of its first store, with the
// domain's name below. Kind NotFound: the store is not configured.
func (s *standing) container(d *site.ProtectedDomain) (string, *site.Store, error) {
	if len(d.Stores) == 0 || s.stores[d.Stores[0]] == nil {
		return "", nil, errs.New("fleet.container", errs.NotFound, site.Label(d), "its store is not configured").WithRemedy("configure the store")
	}
	st := s.stores[d.Stores[0]]
	url, err := ContainerURL(st, d.Name)
	return url, st, err
}

// further is where a copy of a domain's container is.
type further struct {
	store *site.Store
	url   string
}

// copies are those of a domain's container, in the order of its stores. One that is not
// configured, or has no address, is not there.
func (s *standing) copies(d *site.ProtectedDomain) (out []further) {
	for i, name := range d.Stores {
		st := s.stores[name]
		if i == 0 || st == nil {
			continue
		}
		if url, err := ContainerURL(st, d.Name); err == nil {
			out = append(out, further{st, url})
		}
	}
	return out
}

// ContainerURL is where the container of a domain is in a store. Kind Invalid.
func ContainerURL(st *site.Store, domain site.Name) (string, error) {
	u, err := store.ParseURL(st.URL)
	if err != nil {
		return "", err
	}
	return u.Child(string(domain)).String(), nil
}
