package order

import (
	"slices"

	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// A host that keeps a sidecar beside a disk knows, through its own end and that
// of its machine, where the disk and the log's copy may differ. The rules by
// which the next run of a host component, on any host, goes on from there:
//
//   - The run whose stream the sidecar continues owns the disk in the log: by
//     its nonce, not by the host's name. Whoever took the disk over in between
//     made the sidecar stale.
//   - The log is not behind what the sidecar relied on when it closed regions.
//   - A log that begins at a checkpoint knows, until something of a disk comes
//     into its order, the sidecar of a disk that was rebuilt from just that.
//   - The disk is unsynced from the binding of the new run until its SyncEnd:
//     writes that guests were told of may be missing until then. Only a disk
//     that was released, and is said to be clean, stays synced.

// resumable reports whether what the log's copy of the disk lacks is known to
// the host of the session that owns it.
func (d *disk) resumable() bool {
	return !d.void && d.owner != 0 && (d.synced || d.syncing == d.owner || d.suspended)
}

// resumes reports whether s goes on with a disk that another run left.
func (c *Core) resumes(s *stream, d *disk, w uint16) bool {
	r := s.resume[w]
	switch {
	case r == nil || d.Size != s.hello[w].Size || d.ID != s.hello[w].ID:
		return false
	case d.owner == 0 && d.origin != 0:
		return slices.Contains(r.Runs, d.origin)
	case d.owner == 0:
		return d.clean && d.synced && !d.void && slices.Contains(r.Runs, d.run)
	case !d.resumable():
		return false
	}
	se := c.state.sessions[d.owner]
	if se == nil {
		return false
	}
	// A run that only announced itself has closed no region; when it was bound
	// the first one was judged.
	i := slices.Index(r.Runs, se.nonce)
	return i > 0 || i == 0 && se.last >= r.Durable
}

// staysSynced reports whether a disk that needs no sync from the start is
// complete as it is.
func (s *stream) staysSynced(d *disk, w uint16) bool {
	r := s.resume[w]
	return d.synced && (d.owner == s.session || d.owner == 0 && r != nil && r.Clean)
}

// suspend takes a disk's content for incomplete, yet known to whoever has the
// sidecar; by is the session that goes on, 0: nobody yet.
func (c *Core) suspend(d *disk, by *stream) {
	changed := *d
	changed.synced, changed.syncing, changed.suspended = false, 0, true
	if by != nil {
		changed.syncing = by.session
	}
	c.ownJSON(record.Disk, d.index, changed.body())
	c.event(Event{Kind: DiskSuspended, Disk: d.ID})
}

// resumesOf lists what a Hello says of sidecars, by wire index.
func resumesOf(h *wire.Hello) map[uint16]*wire.HelloResume {
	out := map[uint16]*wire.HelloResume{}
	for i := range h.VMs {
		for j := range h.VMs[i].Disks {
			if d := &h.VMs[i].Disks[j]; d.Resume != nil && len(d.Resume.Runs) <= wire.MaxResumeRuns {
				out[d.Index] = d.Resume
			}
		}
	}
	return out
}
