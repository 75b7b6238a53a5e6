package order

import (
	"holdfast/internal/dr"
	"holdfast/internal/record"
)

// Placed tells of a disk that a connected host brings which disk it is, up to
// which of the host's records everything has its place, and the last place
// given out: all records of the disk that any other session ever brought, and
// the host's own up to there, have places up to that one. ok is false while the
// host is not live, the order is not whole after a restart, or the log does not
// say that the disk is this host's.
func (c *Core) Placed(conn ConnID, wire uint16) (d dr.Disk, sequenced dr.HostSeq, last dr.Seq, ok bool) {
	s := c.conns[conn]
	if s == nil || !s.replayed || s.pending != nil || c.merge != nil {
		return d, 0, 0, false
	}
	x := c.state.disks[s.binds[wire]]
	if x == nil || x.owner != s.session || x.ID != s.hello[wire].ID {
		return d, 0, 0, false
	}
	sequenced = s.received
	for _, f := range s.queue {
		if f.next < len(f.Recs) && f.Recs[f.next].Kind != record.Marker {
			sequenced = f.Recs[f.next].HostSeq - 1
			break
		}
	}
	return x.Disk, sequenced, c.state.Last, true
}
