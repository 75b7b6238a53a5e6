package order

import (
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// admit checks a frame against what its host announced, skips what arrived
// before, and moves the stream's received mark.
func (c *Core) admit(s *stream, f *Frame) *errs.Error {
	f.replay, f.next, f.marker = !s.replayed, 0, false
	received, place := s.received, s.place
	for i := range f.Recs {
		r := &f.Recs[i]
		if r.Kind == record.Marker {
			if i != len(f.Recs)-1 {
				return c.bad(s, r, "a marker is not the last of its frame")
			}
			f.marker = true
			if r.HostSeq == 0 || r.HostSeq <= received && f.replay {
				continue // takes no place in the stream, or was here before
			}
		}
		if r.HostSeq <= received {
			if !f.replay || i != f.next {
				return c.bad(s, r, "its host sequence does not rise")
			}
			f.next++
			continue
		}
		if r.HostSeq != received+1 && !f.replay {
			return c.bad(s, r, fmt.Sprintf("records are missing: host sequence %d follows %d", r.HostSeq, received))
		}
		if f.replay && r.HostSeq >= s.next && r.HostSeq != max(received+1, s.next) {
			return c.bad(s, r, fmt.Sprintf("records are missing before host sequence %d", r.HostSeq))
		}
		received = r.HostSeq
		if err := c.admitRecord(s, f, r, &place); err != nil {
			return err
		}
	}
	if f.marker {
		f.next = min(f.next, len(f.Recs)-1)
	}
	s.received, s.place = received, place
	return nil
}

// admitRecord checks one new record's kind, disk and range, and the place it
// claims to have had.
func (c *Core) admitRecord(s *stream, f *Frame, r *record.Record, place *dr.Seq) *errs.Error {
	switch r.Kind {
	case record.Marker:
		return nil
	case record.Meta:
		if _, err := DecodeMeta(r); err != nil {
			return c.bad(s, r, err.Error())
		}
	case record.Data, record.Zero, record.Discard, record.SyncEnd, record.TrackBegin, record.OpenRegion, record.Disk:
		d, ok := s.hello[r.Disk]
		if !ok {
			return c.bad(s, r, fmt.Sprintf("disk index %d was not announced", r.Disk))
		}
		if r.Kind == record.TrackBegin {
			c.roundStrayed(s, d.ID)
		}
		ranged := r.Kind == record.Data || r.Kind == record.Zero || r.Kind == record.Discard
		end := uint64(d.Size+dr.BlockSize-1) &^ (dr.BlockSize - 1)
		if ranged && (r.Offset > end || r.Offset+uint64(r.Length) > end) {
			return c.bad(s, r, fmt.Sprintf("it ends beyond disk %s of %d bytes", d.ID, d.Size))
		}
		if r.Kind == record.Disk {
			if _, err := decodeHostDisk(r); err != nil {
				return c.bad(s, r, "a host may only release, remove or void a disk")
			}
		}
	default:
		return c.bad(s, r, "a host does not send this kind")
	}
	if !f.replay || !c.merging(s) {
		r.Seq = 0
		return nil
	}
	if r.Seq > c.state.Last+MaxHole {
		return c.bad(s, r, fmt.Sprintf("it claims place %d, far beyond the log's end %d", r.Seq, c.state.Last))
	}
	if r.Seq != 0 && r.Seq <= *place {
		return c.bad(s, r, "the places of its replayed records do not rise")
	}
	*place = max(*place, r.Seq)
	return nil
}

func (c *Core) bad(s *stream, r *record.Record, words string) *errs.Error {
	return errs.New("order.Frame", errs.Invalid, "host "+s.name,
		fmt.Sprintf("%s record %d: %s", r.Kind, r.HostSeq, words)).
		WithRemedy("the host component connects again and replays; if this repeats, restart it")
}

// pump gives out places as far as it may.
func (c *Core) pump() {
	if c.paused {
		return
	}
	if c.merge != nil && !c.mergeStep() {
		return
	}
	for {
		var first *stream
		for _, s := range c.order {
			if len(s.queue) > 0 && (first == nil || s.queue[0].stamp < first.queue[0].stamp) {
				first = s
			}
		}
		if first == nil {
			return
		}
		c.take(first)
	}
}

// take sequences the oldest frame of s.
func (c *Core) take(s *stream) {
	f := s.queue[0]
	s.queue = slices.Delete(s.queue, 0, 1)
	recs := f.Recs[f.next:]
	if f.marker {
		recs = recs[:len(recs)-1]
	}
	if len(recs) > 0 {
		c.sequence(s, f, recs, true)
	} else {
		c.out.Free = append(c.out.Free, f)
	}
	if f.marker && !f.replay {
		c.roundMarker(s, wire.Round(f.Recs[len(f.Recs)-1].Offset))
	}
}

// sequence gives recs the next places of the order.
func (c *Core) sequence(s *stream, f *Frame, recs []record.Record, last bool) {
	var span wire.Span
	for i := range recs {
		r := &recs[i]
		r.Seq, r.Session, r.Flags = c.state.Last+1, s.session, r.Flags&^record.Replayed
		c.translate(s, f, r)
		c.apply(r)
		if span.Count > 0 && r.HostSeq != span.First+dr.HostSeq(span.Count) {
			c.ackSpan(s, span)
			span = wire.Span{}
		}
		if span.Count == 0 {
			span = wire.Span{First: r.HostSeq, Seq: r.Seq}
		}
		span.Count++
	}
	c.ackSpan(s, span)
	end := &recs[len(recs)-1]
	c.out.Appends = append(c.out.Appends, Append{Recs: recs, Frame: f, Last: last})
	c.flight = append(c.flight, flight{seq: end.Seq, stream: s, last: end.HostSeq})
}

// translate turns a record's wire index into the domain's, and takes out what
// must not count.
func (c *Core) translate(s *stream, f *Frame, r *record.Record) {
	if r.Kind == record.Meta {
		r.Disk = 0
		return
	}
	resync := f.replay && s.resync[r.Disk]
	index := s.binds[r.Disk]
	d := c.state.disks[index]
	switch {
	case d == nil || d.owner != s.session:
		// Released or removed before, or never bound in the log's eyes: then
		// the binding that follows takes the disk for unsynced.
		s.unbound[r.Disk] = true
		fallthrough
	case r.Kind == record.SyncEnd && (resync || f.replay && s.resumed[r.Disk]):
		// It ends a sync of which the log misses a part: the host was told to
		// start over, and only the end of that one counts.
		*r = record.Record{Kind: record.Pad, Seq: r.Seq, Session: r.Session, HostSeq: r.HostSeq, Time: r.Time}
		return
	case r.Kind == record.Disk:
		hostDisk(r, d, s.nonce)
	case resync:
		r.Flags &^= record.FromSync
	}
	r.Disk = index
}

// hostDisk turns a host's Disk record into the disk's new entry, or into its
// end: a Disk record without payload. run is the nonce of the host's run.
func hostDisk(r *record.Record, d *disk, run uint64) {
	op, err := decodeHostDisk(r)
	if err != nil {
		panic("order: a record the core admitted does not decode: " + err.Error())
	}
	r.Length, r.CRC, r.Payload = 0, 0, nil
	entry := *d
	switch op {
	case OpRelease:
		entry.own(0)
		entry.clean, entry.run = true, run
	case OpVoid:
		entry.void = true
	case OpRemove:
		return
	}
	e := mustEncode(record.Disk, entry.body())
	r.Length, r.CRC, r.Payload = e.Length, e.CRC, e.Payload
}

func (c *Core) ackSpan(s *stream, span wire.Span) {
	if s.conn != 0 && span.Count > 0 {
		c.send(Send{Conn: s.conn, Type: wire.TypeAck, Span: span})
	}
}

// apply keeps the state in step with the order. Records of hosts were checked
// by admit and the core's own are well formed, so that it cannot fail; data
// takes the short way.
func (c *Core) apply(r *record.Record) {
	switch r.Kind {
	case record.Data, record.Zero, record.Discard, record.OpenRegion, record.Meta, record.Pad:
		c.state.Last = r.Seq
		if se := c.state.sessions[r.Session]; se != nil && r.HostSeq > se.last {
			se.last = r.HostSeq
		}
		if r.Flags&record.FromSync == 0 || r.Kind > record.Discard {
			return
		}
		if d := c.state.disks[r.Disk]; d != nil {
			d.syncing = r.Session
		}
	default:
		if err := c.state.Apply(r); err != nil {
			panic("order: a record the core admitted does not apply: " + err.Error())
		}
	}
}

// own emits a record of the DRVA itself and returns it.
func (c *Core) own(r record.Record) record.Record {
	r.Seq, r.Time = c.state.Last+1, c.now.UnixNano()
	c.apply(&r)
	c.out.Appends = append(c.out.Appends, Append{Recs: []record.Record{r}})
	return r
}

// ownJSON emits a record with a payload.
func (c *Core) ownJSON(kind record.Kind, disk uint16, v any) record.Record {
	r := mustEncode(kind, v)
	r.Disk = disk
	return c.own(r)
}

// mustEncode is encode for payloads whose size the limits of this package
// bound.
func mustEncode(kind record.Kind, v any) record.Record {
	r, err := encode(kind, v)
	if err != nil {
		panic("order: a payload inside the bounds does not encode: " + err.Error())
	}
	return r
}
