package fleet

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// restoredAfter is how long a domain has to be at rest elsewhere before the placeholders
// of its VMs are put back: longer than it takes to hear that a recovery has begun.
const restoredAfter = 2 * time.Minute

// Vacate makes way for a recovered VM that is about to start: its placeholder goes
// first, since it has its name. It is for command.Desk.Before. Kinds: Invalid, those of
// Options.Vacate.
func (f *Fleet) Vacate(ctx context.Context, c *command.Command) error {
	if c.Kind != string(plan.KindPowerOn) || c.VM.IsZero() || f.Options.Vacate == nil {
		return nil
	}
	var in plan.VMInputs
	if err := json.Unmarshal(c.Input, &in); err != nil {
		return errs.E("fleet.Vacate", errs.Invalid, c.Step, err)
	}
	if in.Test { // beside production, and beside its placeholder
		return nil
	}
	there := false
	if err := f.DB.View(ctx, func(tx *db.Tx) (err error) {
		there, err = inventory.Kept(ctx, tx, f.Site, c.Domain, c.VM)
		return err
	}); err != nil || !there {
		return err
	}
	return f.Options.Vacate(ctx, f.Site, c.VM)
}

// Restore puts the placeholders back of VMs that are not here any more: their domain is
// at rest, at its other site, and has been for a while.
func (f *Fleet) Restore(ctx context.Context, now time.Time) error {
	var back []inventory.PlaceRow
	if err := f.DB.View(ctx, func(tx *db.Tx) error {
		s, err := f.stand(ctx, tx)
		if err != nil {
			return err
		}
		back, err = f.vacant(ctx, tx, s)
		return err
	}); err != nil {
		return err
	}
	due := f.restful(back, now)
	if len(due) == 0 {
		return nil
	}
	return f.DB.Tx(ctx, func(tx *db.Tx) error {
		for _, r := range due {
			id, err := dr.ParseUUID(string(r.VM))
			if err != nil {
				continue // no VM's
			}
			if err := inventory.Restore(ctx, tx, f.Site, dr.VMID{UUID: id}); err != nil {
				return err
			}
		}
		return nil
	})
}

// vacant lists the placeholders in whose place nothing should be.
func (f *Fleet) vacant(ctx context.Context, tx *db.Tx, s *standing) (list []inventory.PlaceRow, err error) {
	rows, err := inventory.Placeholders(ctx, tx, f.Site, "")
	rows = slices.DeleteFunc(rows, func(r inventory.PlaceRow) bool { return !r.Used })
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	resting := map[site.Name]bool{}
	for _, d := range s.domains {
		_, away := s.away[d.Name]
		at := s.at(d.Name)
		var theirs string
		if _, err := tx.Row(ctx, `SELECT failover FROM fleet_peer_domains WHERE domain = $1 AND failover <> $2 LIMIT 1`, []any{string(d.Name), string(plan.AtRest)}, &theirs); err != nil {
			return nil, err
		}
		resting[d.Name] = d.To == f.Site && !away && !at.Reversed && at.Failover == plan.AtRest && theirs == ""
	}
	for _, r := range rows {
		if resting[r.Domain] {
			list = append(list, r)
		}
	}
	return list, nil
}

// restful returns those that have been vacant for long enough, and remembers the others.
func (f *Fleet) restful(list []inventory.PlaceRow, now time.Time) (due []inventory.PlaceRow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := map[site.Ref]time.Time{}
	for _, r := range list {
		at, known := f.vacantSince[r.VM]
		if !known {
			at = now
		}
		since[r.VM] = at
		if now.Sub(at) >= restoredAfter {
			due = append(due, r)
		}
	}
	f.vacantSince = since
	return due
}
