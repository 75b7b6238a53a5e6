package order

import (
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
)

// merge is the state of a restart: the k-way merge of what hosts replay.
type merge struct {
	deadline time.Time
	known    map[dr.Session]bool // sessions whose replays have their old places
	ended    map[dr.Session]bool // known and completely here
	lost     map[dr.Session]bool // given up
	pads     uint64
}

// newMerge waits for every session that owns a disk.
func newMerge(st *State, deadline time.Time) *merge {
	return &merge{deadline: deadline, known: st.owners(), ended: map[dr.Session]bool{}, lost: map[dr.Session]bool{}}
}

// over reports whether hosts that are not there are given up.
func (m *merge) over(now time.Time) bool { return !now.Before(m.deadline) }

// merging reports whether the places in s's replays count.
func (c *Core) merging(s *stream) bool { return c.merge != nil && c.merge.known[s.session] }

// Merging reports whether the core still waits for replays after a restart,
// and for how many hosts.
func (c *Core) Merging() (waiting int, ok bool) {
	if c.merge == nil {
		return 0, false
	}
	for n := range c.merge.known {
		if !c.merge.ended[n] {
			waiting++
		}
	}
	return waiting, true
}

// mergeStep puts replayed records in their old places as far as the heads of
// all known streams are there to compare, and reports whether the order is
// whole.
func (c *Core) mergeStep() bool {
	for {
		first, limit, ready := c.mergeHeads()
		if !ready {
			return false
		}
		if first == nil {
			c.mergeEnd()
			return true
		}
		c.mergeRun(first, limit)
	}
}

// mergeHeads finds the stream with the lowest place, and the lowest place of
// any other. It is not ready while a known stream may still bring a lower one.
func (c *Core) mergeHeads() (first *stream, limit dr.Seq, ready bool) {
	const none = ^dr.Seq(0)
	low := none
	limit, ready = none, true
	for _, s := range c.order {
		if !c.merge.known[s.session] {
			continue
		}
		at, here := s.headPlace()
		switch {
		case here && at == 0: // it brings no more places
		case here && at < low:
			first, low, limit = s, at, low
		case here:
			limit = min(limit, at)
		case c.merge.ended[s.session]:
		case s.conn == 0 && (c.merge.over(c.now) || c.superseded(s)):
			delete(c.merge.known, s.session)
			c.merge.lost[s.session] = true
			c.event(Event{Kind: HostLost, Host: s.host})
		default:
			ready = false
		}
	}
	return first, limit, ready
}

// headPlace is the place the stream's first waiting record had; here is false
// when nothing waits. Frames with nothing but a marker say nothing and count
// as having no place.
func (s *stream) headPlace() (at dr.Seq, here bool) {
	for _, f := range s.queue {
		if f.next < len(f.Recs) && f.Recs[f.next].Kind != record.Marker {
			return f.Recs[f.next].Seq, true
		}
		if !f.replay {
			return 0, true
		}
	}
	return 0, false
}

// superseded reports whether the run of s is over: its host has started a newer
// one, or another host brings the sidecar that it left. What the old one had in
// memory is gone.
func (c *Core) superseded(s *stream) bool {
	for _, o := range c.order {
		if o.session > s.session && (o.host == s.host || o.follows(s)) {
			return true
		}
	}
	return false
}

// follows reports whether s brings a sidecar that old left.
func (s *stream) follows(old *stream) bool {
	for _, r := range s.resume {
		if slices.Contains(r.Runs, old.nonce) {
			return true
		}
	}
	return false
}

// mergeRun sequences records of s's first frame below limit at their old
// places.
func (c *Core) mergeRun(s *stream, limit dr.Seq) {
	for len(s.queue[0].Recs) == s.queue[0].next || s.queue[0].Recs[s.queue[0].next].Kind == record.Marker {
		c.mergePop(s) // a replayed marker between frames
	}
	f := s.queue[0]
	at := f.Recs[f.next].Seq
	if at <= c.state.Last {
		c.disordered(s)
		return
	}
	c.pad(at)
	end := f.next + 1
	for end < len(f.Recs) && f.Recs[end].Kind != record.Marker && f.Recs[end].Seq < limit &&
		f.Recs[end].Seq == f.Recs[end-1].Seq+1 {
		end++
	}
	recs := f.Recs[f.next:end]
	f.next = end
	done := end == len(f.Recs) || f.Recs[end].Kind == record.Marker
	c.sequence(s, f, recs, done)
	if done {
		s.queue = s.queue[1:]
	}
}

// mergePop drops a frame that holds nothing for the log.
func (c *Core) mergePop(s *stream) {
	c.out.Free = append(c.out.Free, s.queue[0])
	s.queue = s.queue[1:]
}

// pad fills the places up to the one before seq.
func (c *Core) pad(seq dr.Seq) {
	const batch = 256
	for c.state.Last+1 < seq {
		n := min(uint64(seq-c.state.Last-1), batch)
		recs := make([]record.Record, n)
		for i := range recs {
			recs[i] = record.Record{Kind: record.Pad, Seq: c.state.Last + 1, Time: c.now.UnixNano()}
			c.apply(&recs[i])
		}
		c.merge.pads += n
		c.out.Appends = append(c.out.Appends, Append{Recs: recs})
	}
}

// disordered gives up the places of s: one of them is taken. Its records are
// sequenced after the merge, in stream order, and its disks need a resync.
func (c *Core) disordered(s *stream) {
	delete(c.merge.known, s.session)
	c.merge.lost[s.session] = true
	c.event(Event{Kind: Disordered, Host: s.host})
	c.reconnect(s, "records it replayed have lost their place in the order")
}

// mergeEnd declares the order whole: a checkpoint without result becomes
// partial, hosts that did not come lose their sync, and hosts that came are
// bound.
func (c *Core) mergeEnd() {
	m := c.merge
	c.merge = nil
	if open := c.state.open; open != nil {
		c.result(outcome{cp: *open, missing: allVMs(open)})
	}
	var lost []*disk
	rescue := false
	for i := range int(c.state.lastIndex) + 1 {
		if d := c.state.disks[uint16(i)]; d != nil && m.lost[d.owner] && (d.synced || d.syncing != 0) {
			lost = append(lost, d)
			rescue = rescue || d.synced
		}
	}
	if rescue {
		c.cutAlone()
	}
	for _, d := range lost {
		if d.resumable() {
			c.suspend(d, nil)
		} else {
			c.unsync(d)
		}
	}
	for _, s := range slices.Clone(c.order) {
		if s.pending != nil {
			c.bind(s)
		}
	}
	if len(m.ended)+len(m.lost) > 0 {
		c.event(Event{Kind: ReplayDone, Count: m.pads})
	}
}
