package order

import (
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Seed gives records of a disk that no host has their places: content taken
// from an image at the DRVA's side, with which the host will compare its disk
// when it comes. The records' Disk is filled in; they come back as the core's
// own Append, and their memory belongs to the core until that is durable. Until
// a host brings the disk no checkpoint speaks of it.
//
// Kinds: Unavailable while places are not given out, Conflict when a host has
// the disk or it is synced, Full when the domain has no room for it.
func (c *Core) Seed(d dr.Disk, recs []record.Record) error {
	const op = "order.Seed"
	if c.merge != nil || c.paused {
		return errs.New(op, errs.Unavailable, "disk "+d.ID.String(), "the order is not whole, or the log has no room")
	}
	for _, s := range c.order {
		for _, h := range s.hello {
			if h.ID == d.ID {
				return errs.New(op, errs.Conflict, "disk "+d.ID.String(), "host "+s.name+" has the disk").
					WithRemedy("nothing to do: the host ships what is missing")
			}
		}
	}
	x := c.state.disks[c.state.byID[d.ID]]
	switch {
	case x != nil && (x.owner != 0 || x.synced || x.clean):
		return errs.New(op, errs.Conflict, "disk "+d.ID.String(), "the disk is protected, or was handed over with its copy complete").
			WithRemedy("seed a disk before it is protected")
	case x == nil && (len(c.state.disks) >= MaxDisks || c.state.lastIndex >= MaxIndex):
		return errs.New(op, errs.Full, "disk "+d.ID.String(), fmt.Sprintf("a domain has at most %d disks", MaxDisks))
	case x == nil:
		x = &disk{Disk: d, index: c.state.lastIndex + 1, seed: true}
		c.ownJSON(record.Disk, x.index, x.body())
	case x.Size < d.Size || x.origin != 0:
		grown := *x
		grown.Size, grown.origin = max(x.Size, d.Size), 0
		c.ownJSON(record.Disk, x.index, grown.body())
	}
	for i := range recs {
		recs[i].Disk, recs[i].Flags = x.index, record.FromSync
		c.own(recs[i])
	}
	return nil
}

// withoutSeeds leaves out disks that no host has brought yet.
func withoutSeeds(disks []DiskBody) []DiskBody {
	if !slices.ContainsFunc(disks, func(d DiskBody) bool { return d.Seed }) {
		return disks
	}
	return slices.DeleteFunc(slices.Clone(disks), func(d DiskBody) bool { return d.Seed })
}
