package fleet

import (
	"context"
	"maps"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/site"
)

// Settle decides anew which DRVA has which domain, and sees to their certificates. It
// may be called at any time, by any replica.
func (f *Fleet) Settle(ctx context.Context) error {
	var s *standing
	if err := f.DB.Tx(ctx, func(tx *db.Tx) (err error) {
		if err := turn(ctx, tx); err != nil {
			return err
		}
		if s, err = f.stand(ctx, tx); err != nil {
			return err
		}
		if err := s.remember(ctx, tx); err != nil {
			return err
		}
		return s.move(ctx, tx, decide(s.wishes(f.Site), s.candidates(), s.spots()))
	}); err != nil {
		return err
	}
	return f.assign(ctx, s)
}

// remember makes the rows that are missing, and removes those of domains that are gone
// and in no box.
func (s *standing) remember(ctx context.Context, tx *db.Tx) error {
	known := map[site.Name]bool{}
	for _, d := range s.domains {
		known[d.Name] = true
		if s.places[d.Name] != nil {
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO fleet_domains (domain, id, url, opens, checked, due_at, tries, error, remedy, kind, drva, leaving, placed_at)
			VALUES ($1, '', '', '', '', 0, 0, '', '', '', '', 0, 0) ON CONFLICT (domain) DO NOTHING`, string(d.Name)); err != nil {
			return err
		}
		s.places[d.Name] = &place{domain: d.Name}
	}
	for _, name := range slices.Sorted(maps.Keys(s.places)) {
		if known[name] || s.places[name].drva != "" {
			continue
		}
		if _, err := tx.Exec(ctx, `DELETE FROM fleet_domains WHERE domain = $1`, string(name)); err != nil {
			return err
		}
		delete(s.places, name)
	}
	return nil
}

// wishes are what is wanted for the domains.
func (s *standing) wishes(own site.Name) (list []wish) {
	for _, d := range s.domains {
		p := s.places[d.Name]
		list = append(list, wish{domain: d.Name, serve: p.id != "" && s.ours(own, d), pinned: d.Appliance, weight: 1 + len(d.VMs)})
	}
	return list
}

// spots are where the domains are.
func (s *standing) spots() map[site.Name]spot {
	now := map[site.Name]spot{}
	for name, p := range s.places {
		now[name] = spot{p.drva, p.leaving}
	}
	return now
}

// candidates are the DRVAs.
func (s *standing) candidates() (list []box) {
	for name, a := range s.boxes {
		if a.Role == site.DRVA {
			e := s.enrols[name]
			alive := e.State == enrol.Enrolled && e.Role == site.DRVA && (e.Health == enrol.Alive || e.Health == enrol.Skewed)
			list = append(list, box{name: name, alive: alive && a.Address != "", draining: a.Draining, gone: !alive && lost(&e, s.now)})
		}
	}
	return list
}

// lost reports whether a box is not waited for any more.
func lost(e *enrol.Box, now int64) bool {
	return e.State != enrol.Enrolled || now-max(e.SeenAt, e.EnrolledAt) > LostAfter.Milliseconds()
}

// move writes what is decided.
func (s *standing) move(ctx context.Context, tx *db.Tx, next map[site.Name]spot) error {
	for _, name := range slices.Sorted(maps.Keys(next)) {
		p, to := s.places[name], next[name]
		if p == nil || p.drva == to.drva && p.leaving == to.leaving {
			continue
		}
		if p.drva != "" && (to.leaving || p.drva != to.drva) {
			if err := nextSerial(ctx, tx, p.drva); err != nil {
				return err
			}
		}
		leaving := 0
		if to.leaving {
			leaving = 1
		}
		if _, err := tx.Exec(ctx, `UPDATE fleet_domains SET drva = $2, leaving = $3, placed_at = $4 WHERE domain = $1`, string(name), string(to.drva), leaving, s.now); err != nil {
			return err
		}
		p.drva, p.leaving = to.drva, to.leaving
	}
	return nil
}

// assign has the certificates of DRVAs stand for the domains they have. It is looked at
// again with the next round, so that whoever was faster does no harm.
func (f *Fleet) assign(ctx context.Context, s *standing) error {
	for _, b := range s.candidates() {
		e := s.enrols[b.name]
		if e.State != enrol.Enrolled || e.Role != site.DRVA {
			continue
		}
		var ids []string
		for _, p := range s.places {
			if p.drva == b.name && p.id != "" {
				ids = append(ids, p.id)
			}
		}
		slices.Sort(ids)
		if slices.Equal(ids, slices.Sorted(slices.Values(e.Domains))) {
			continue
		}
		list := make([]dr.DomainID, 0, len(ids))
		for _, text := range ids {
			id, err := dr.ParseUUID(text)
			if err != nil {
				return errs.E("fleet.assign", errs.Corrupt, "appliance "+string(b.name), err)
			}
			list = append(list, dr.DomainID{UUID: id})
		}
		if err := f.DB.Tx(ctx, func(tx *db.Tx) error { return enrol.Assign(ctx, tx, b.name, list) }); err != nil {
			return err
		}
	}
	return nil
}
