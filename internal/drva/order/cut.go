package order

import (
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// round is one try to cut a checkpoint.
type round struct {
	number     wire.Round
	id         dr.CheckpointID
	kind       dr.CheckpointKind
	tag        string
	mode       string
	collecting bool // markers are awaited; else answers
	placing    bool // a marker alone is awaited: the host holds nothing back
	discarded  bool
	deadline   time.Time
	parts      []part
	cp         dr.Checkpoint
	owner      map[dr.DiskID]dr.Session // at the cut
	quiet      *quiet                   // application-consistent: the guests' freeze; else nil
}

// part is one host's share in a round.
type part struct {
	stream   *stream
	marked   bool
	answered bool
	ok       bool
	reason   wire.Reason
	strayed  map[dr.DiskID]bool // disks whose TrackBegin came before the answer
}

// covered reports whether the host's VMs are consistent by themselves at the
// cut: it answered, and not that it writes outside its stream.
func (p *part) covered() bool {
	return p.answered && (p.ok || p.reason == wire.ReasonReleased || p.reason == wire.ReasonBusy)
}

// Write path, step 6: cut a checkpoint into the domain's order.

// Cut starts a round. An AppConsistent one freezes the guests first; it becomes
// UserTagged (with a tag) or CrashConsistent unless all of them were frozen when
// it was cut, which its Result tells. Kind Unavailable when one is open, the
// order is not whole after a restart, the log has no room, or the domain has no
// disk; Invalid for a tag over MaxTag.
func (c *Core) Cut(kind dr.CheckpointKind, tag string, now time.Time) (dr.CheckpointID, error) {
	c.now = now
	if err := c.mayCut(tag); err != nil {
		return 0, err
	}
	r := &round{number: c.state.LastRound + 1, id: c.state.LastCheckpoint + 1, kind: kind, tag: tag, mode: ModeMark}
	c.state.LastRound, c.state.LastCheckpoint = r.number, r.id
	for _, s := range c.order {
		if s.conn != 0 && s.replayed {
			r.parts = append(r.parts, part{stream: s})
		}
	}
	c.round = r
	if kind == dr.AppConsistent {
		c.freeze()
	} else {
		c.beginCut()
	}
	return r.id, nil
}

// mayCut says why no round can begin now; nil: one can.
func (c *Core) mayCut(tag string) error {
	words := ""
	switch {
	case len(tag) > MaxTag:
		return errs.New("order.Cut", errs.Invalid, "checkpoint", "the tag is longer than 256 bytes")
	case c.round != nil:
		words = "another checkpoint is being cut"
	case c.merge != nil:
		words = "hosts are still replaying after a restart"
	case c.paused:
		words = "the replication log has no room"
	case len(c.state.disks) == 0:
		words = "no disk is protected yet"
	default:
		return nil
	}
	return errs.New("order.Cut", errs.Unavailable, "checkpoint", words).WithRemedy("repeat in a few seconds")
}

// beginCut asks for markers, or places the cut at once where every prefix of
// the order will do. Not so after a freeze of an asynchronous host, even of one
// alone: what its guests flushed was acknowledged when it was in the host's
// stream, and may still be on its way here.
func (c *Core) beginCut() {
	r := c.round
	async := false
	for i := range r.parts {
		async = async || r.parts[i].stream.ack == dr.Async
	}
	if async && len(r.parts) == 1 && r.quiet == nil && r.parts[0].stream.places {
		s := r.parts[0].stream
		s.probe, s.probed = r.number, c.now
		r.collecting, r.placing = true, true
		r.deadline = c.now.Add(c.cfg.ConfirmLimit)
		c.ask(wire.TypePlace)
		return
	}
	if async && (len(r.parts) > 1 || r.quiet != nil) && !(r.quiet != nil && c.flaws.noMarker) {
		r.mode, r.collecting = ModeHold, true
		r.deadline = c.now.Add(c.cfg.MarkerLimit)
		c.ask(wire.TypeHold)
		if r.gone() {
			c.discard() // who froze is not there any more to place a marker
		}
		return
	}
	c.cutHere()
	c.ask(wire.TypeMark)
	c.roundSettle()
}

// gone reports whether a host has left the round before its markers were asked
// for.
func (r *round) gone() bool {
	for i := range r.parts {
		if r.parts[i].answered {
			return true
		}
	}
	return false
}

// Open is the checkpoint being cut, 0 for none.
func (c *Core) Open() dr.CheckpointID {
	if c.round == nil {
		return 0
	}
	return c.round.id
}

// ask sends the round to its hosts and starts the wait for their answers.
func (c *Core) ask(t wire.Type) {
	r := c.round
	marks := t == wire.TypeHold || t == wire.TypePlace
	if !marks {
		r.deadline = c.now.Add(c.cfg.ConfirmLimit)
	}
	for i := range r.parts {
		if s := r.parts[i].stream; s.conn != 0 {
			c.send(Send{Conn: s.conn, Type: t, Round: r.number})
		}
	}
	if !marks {
		c.thaw()
	}
}

// cutHere places the Checkpoint record.
func (c *Core) cutHere() {
	r := c.round
	r.collecting = false
	b := CutBody{ID: r.id, Round: r.number, Mode: r.mode, Kind: r.cutKind(), Tag: r.tag}
	c.state.snapshot(&b)
	r.owner = make(map[dr.DiskID]dr.Session, len(b.Disks))
	for i := range b.Disks {
		r.owner[b.Disks[i].ID] = b.Disks[i].Owner
	}
	rec := mustEncode(record.Checkpoint, &b)
	c.lastCut = c.cutTime()
	rec.Seq, rec.Time = c.state.Last+1, c.lastCut.UnixNano()
	c.state.Last = rec.Seq
	c.state.takeCut(&b, &rec) // as Apply would, without decoding
	c.out.Appends = append(c.out.Appends, Append{Recs: []record.Record{rec}})
	r.cp = *c.state.open
}

// cutTime is the time of a checkpoint that is placed now: all that was
// acknowledged before is in it. What an asynchronous host has acknowledged may be
// on its way here, for as long as the link is slow: there it is when a marker was
// asked for that has come. No checkpoint is older than the one before, whose
// promise it keeps too.
func (c *Core) cutTime() time.Time {
	if r := c.round; r == nil || !r.placing || r.discarded || c.flaws.timeOfArrival {
		return c.now
	}
	at := c.round.parts[0].stream.asOf
	if at.Before(c.lastCut) {
		return c.lastCut
	}
	return at
}

// cutAlone places a checkpoint that nobody is asked about, and its result. It
// is partial in all VMs: of each it has what the log holds, which is a prefix
// of that VM's writes. It makes recoverable what hosts wrote that do not come
// back: for writes acknowledged as sync since the checkpoint before, it is the
// only one that has them.
func (c *Core) cutAlone() {
	r := &round{number: c.state.LastRound + 1, id: c.state.LastCheckpoint + 1, mode: ModeMark}
	c.state.LastRound, c.state.LastCheckpoint = r.number, r.id
	c.round = r
	c.cutHere()
	c.round = nil
	c.result(outcome{cp: r.cp, missing: allVMs(&r.cp)})
}

// roundMarker takes a host's marker out of its stream.
func (c *Core) roundMarker(s *stream, number wire.Round) {
	if s.probe == number {
		s.probe, s.asOf = 0, s.probed
	}
	r := c.round
	if r == nil || !r.collecting || r.number != number {
		return // of a round that is over
	}
	p := r.part(s)
	if p == nil {
		return
	}
	p.marked = true
	for i := range r.parts {
		if !r.parts[i].marked {
			return
		}
	}
	c.release()
}

// discard ends the wait for markers: the checkpoint will not be a group's.
func (c *Core) discard() {
	c.round.discarded = true
	c.release()
}

// release cuts and lets the hosts go on.
func (c *Core) release() {
	c.cutHere()
	if c.round.placing {
		c.ask(wire.TypeMark)
		return
	}
	c.ask(wire.TypeRelease)
}

func (r *round) part(s *stream) *part {
	for i := range r.parts {
		if r.parts[i].stream == s {
			return &r.parts[i]
		}
	}
	return nil
}

// Confirm takes a host's answer to a Release or Mark.
func (c *Core) Confirm(conn ConnID, m wire.Confirm, now time.Time) {
	c.now = now
	s, r := c.conns[conn], c.round
	if s == nil || r == nil || r.number != m.Round {
		return
	}
	p := r.part(s)
	if p == nil || p.answered || r.freezing() || r.collecting && m.OK {
		return
	}
	p.answered, p.ok, p.reason = true, m.OK, m.Reason
	if r.collecting {
		c.discard() // it places no marker
	}
	c.roundSettle()
	c.pump()
}

// roundStrayed notes that a host of the open round has acknowledged writes
// outside its stream before now. If it has not answered yet, those writes may
// be older than the cut, while the TrackBegin that tells of them lies behind
// it: its yes, which speaks of the stream as it is when it answers, must then
// not cover the disk.
func (c *Core) roundStrayed(s *stream, id dr.DiskID) {
	if c.round == nil {
		return
	}
	if p := c.round.part(s); p != nil && !p.answered {
		if p.strayed == nil {
			p.strayed = map[dr.DiskID]bool{}
		}
		p.strayed[id] = true
	}
}

// roundLost takes a disconnected host out of the open round. A host that comes
// back on another connection does not take part any more.
func (c *Core) roundLost(s *stream) {
	r := c.round
	if r == nil {
		return
	}
	c.quietLost(s)
	p := r.part(s)
	if p == nil || p.answered && !r.collecting {
		c.roundSettle()
		return
	}
	p.answered, p.ok, p.reason = true, false, wire.ReasonUnknown
	if r.collecting {
		c.discard()
	}
	c.roundSettle()
}

// roundTick lets the round's limits act.
func (c *Core) roundTick() {
	r := c.round
	if r == nil || c.now.Before(r.deadline) {
		return
	}
	switch {
	case r.freezing():
		c.frozen()
	case r.placing && r.collecting && !r.parts[0].stream.asOf.IsZero():
		// What the host had acknowledged when it was asked last has come: the
		// checkpoint is as old as that.
		c.release()
	case r.collecting:
		c.discard()
	default:
		c.resolve()
	}
}

// roundSettle resolves the round once every host has answered.
func (c *Core) roundSettle() {
	r := c.round
	if r == nil || r.collecting || r.freezing() || !r.quiet.thawed() {
		return
	}
	for i := range r.parts {
		if !r.parts[i].answered {
			return
		}
	}
	c.resolve()
}

// resolve decides what the checkpoint is worth, and logs it.
func (c *Core) resolve() {
	r := c.round
	c.round = nil
	group := !r.discarded && len(r.cp.Disks) > 0
	covered := map[dr.Session]*part{}
	for i := range r.parts {
		p := &r.parts[i]
		group = group && p.answered && p.ok
		if p.covered() {
			covered[p.stream.session] = p
		}
	}
	var missing []dr.VMID
	for _, d := range r.cp.Disks {
		p := covered[r.owner[d.ID]]
		if (!d.Synced || p == nil || p.strayed[d.ID]) && !slices.Contains(missing, d.VM) {
			missing = append(missing, d.VM)
		}
	}
	scope := dr.Partial
	if group && len(missing) == 0 {
		scope = dr.Group
	}
	kind, faults := c.kindNow(r, scope)
	c.result(outcome{cp: r.cp, scope: scope, kind: kind, missing: missing, faults: faults})
}

// outcome is what a checkpoint turned out to be.
type outcome struct {
	cp      dr.Checkpoint
	scope   dr.Scope
	kind    dr.CheckpointKind // AppConsistent, or zero: as it was cut
	missing []dr.VMID
	faults  []FreezeFault
}

// result logs the outcome of a checkpoint.
func (c *Core) result(o outcome) {
	cp := o.cp
	cp.Scope, cp.Missing = o.scope, o.missing
	if o.kind == dr.AppConsistent {
		cp.Kind = o.kind
	}
	r := mustEncode(record.CheckpointResult, &ResultBody{ID: cp.ID, Scope: o.scope.String(), Kind: o.kind, Missing: o.missing})
	r.Seq, r.Time = c.state.Last+1, c.now.UnixNano()
	c.state.Last, c.state.open = r.Seq, nil // as Apply would, without decoding
	c.out.Appends = append(c.out.Appends, Append{Recs: []record.Record{r}})
	c.out.Results = append(c.out.Results, Result{cp, r.Seq, o.faults})
}

// allVMs lists the VMs of a checkpoint once each.
func allVMs(cp *dr.Checkpoint) []dr.VMID {
	var vms []dr.VMID
	for _, d := range cp.Disks {
		if !slices.Contains(vms, d.VM) {
			vms = append(vms, d.VM)
		}
	}
	return vms
}
