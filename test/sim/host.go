package sim

import (
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/iofilter/gate"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// host is a host component: its stream, its gate, its link.
type host struct {
	w     *world
	index int
	rule  dr.AckRule
	gate  *gate.Gate

	nonce   uint64
	next    dr.HostSeq // of the next record
	ring    []entry    // not durable at the DRVA
	waiting map[dr.HostSeq]*write
	held    []*write

	conn      order.ConnID  // 0: none
	live      bool          // replay is over
	up        time.Duration // FIFO: when the last message to the DRVA arrives
	down      time.Duration // and the last one from it
	outside   bool
	since     time.Duration // without connection since
	gen       []int         // of each disk's resync: only the last one ends it
	helloNext dr.HostSeq    // Next of the last Hello
	dirty     []bool        // the disk has writes acknowledged outside the stream
	side      []sidecar     // of each disk
	machine   int           // on which the VMs run; a new one has another identity
	away      time.Duration // until then it does not connect
	forged    dr.HostSeq    // NoTrack: it claims to have kept the records from here on
}

// sidecar is what outlives a run: the runs it continues. Which writes lie in
// open regions, write.landed tells: all that have not.
type sidecar struct {
	runs    []uint64
	durable dr.HostSeq
	settled bool // it names the present run alone; regions are closed for it
	stale   bool // it was left behind by an earlier run: what it calls open is not all
}

// entry is a record in the ring.
type entry struct {
	rec   record.Record
	place dr.Seq // as the DRVA told it
}

func newHost(w *world, index int, rule dr.AckRule) *host {
	return &host{w: w, index: index, rule: rule, gate: gate.New(0), nonce: uint64(index)<<32 + 1, next: 1,
		waiting: map[dr.HostSeq]*write{}, gen: make([]int, w.VMs), dirty: make([]bool, w.VMs), side: make([]sidecar, w.VMs)}
}

// troubles plans what befalls the host.
func (h *host) troubles() {
	w := h.w
	if w.LinkCut > 0 {
		w.every(w.LinkCut, h.disconnect)
	}
	if w.Outside > 0 {
		w.every(w.Outside, func() {
			h.goOutside()
			w.after(w.exp(3*time.Millisecond), h.comeBack)
		})
	}
	if w.HostDies > 0 {
		w.every(w.HostDies, h.die)
	}
}

// write issues a guest write on one of the host's VMs.
func (h *host) write(vm int, finished func()) {
	w := h.w
	w.nextID++
	w.stats.Writes++
	x := &write{id: w.nextID, host: h, vm: vm, issue: w.tick(), finished: finished}
	w.byID[x.id] = x
	w.writes = append(w.writes, x)
	if h.outside {
		x.strayed, h.dirty[vm] = true, true
	} else {
		x.held = h.gate.Holding() && w.Flaw != NoHold
		x.hostSeq = h.append(record.Record{Kind: record.Zero, Disk: uint16(vm), Length: dr.BlockSize, Time: x.id})
		h.waiting[x.hostSeq] = x
		if x.held {
			h.held = append(h.held, x)
		}
	}
	w.trace("host %d: write %d issued, hostSeq %d, held %v, strayed %v", h.index, x.id, x.hostSeq, x.held, x.strayed)
	w.after(w.exp(w.Primary), func() {
		x.primary = true
		h.complete(x, h.rule == dr.Async)
	})
}

// complete acknowledges x if nothing it must wait for is left. enough: the
// ack rule is satisfied.
func (h *host) complete(x *write, enough bool) {
	if x.ack != 0 || !x.primary || x.held || !(enough || x.strayed) {
		return
	}
	x.ack, x.acked = h.w.tick(), h.w.now
	h.w.trace("host %d: write %d acknowledged, hostSeq %d, place %d", h.index, x.id, x.hostSeq, x.seq)
	x.finished()
}

// append puts a record into the stream and sends it when the link is up.
func (h *host) append(r record.Record) dr.HostSeq {
	r.HostSeq = h.next
	h.next++
	h.ring = append(h.ring, entry{rec: r})
	if h.live {
		h.sendRecords(r)
	}
	return r.HostSeq
}

// send delivers do at the DRVA over the current connection, in order.
func (h *host) send(do func(order.ConnID)) {
	conn := h.conn
	h.up = max(h.up, h.w.now+h.w.delay())
	h.w.at(h.up, func() {
		if h.w.drva.conns[conn] == h {
			do(conn)
		}
	})
}

// delay of a message.
func (w *world) delay() time.Duration {
	d := w.exp(w.Delay)
	if w.Late > 0 && w.rng.Float64() < w.Late {
		d += 50 * time.Millisecond
	}
	return d
}

func (h *host) sendRecords(recs ...record.Record) {
	f := &order.Frame{Recs: append([]record.Record(nil), recs...)}
	h.send(func(c order.ConnID) { h.w.drva.frame(c, h, f) })
}

// connect says Hello on a new connection.
func (h *host) connect() {
	w := h.w
	if h.conn != 0 {
		return
	}
	if w.now < h.away {
		w.at(h.away, h.connect)
		return
	}
	if !w.drva.running {
		w.after(w.exp(2*time.Millisecond), h.connect)
		return
	}
	w.conns++
	h.conn, h.live, h.up, h.down = w.conns, false, w.now, w.now
	w.drva.conns[h.conn] = h
	hello := &wire.Hello{Host: dr.HostID{UUID: id('h', h.index, h.machine)}, Name: "host", Nonce: h.nonce, Ack: h.rule.String(), First: h.next, Next: h.next}
	if w.Flaw != NoPlace {
		hello.Features = []string{wire.FeaturePlace}
	}
	if len(h.ring) > 0 {
		hello.First = h.ring[0].rec.HostSeq
	}
	h.helloNext = h.next
	if w.Flaw == NoTrack && h.forged != 0 {
		hello.First = min(hello.First, h.forged)
	}
	for vm := range w.VMs {
		v := dr.VMID{UUID: id('v', h.index, vm)}
		hello.VMs = append(hello.VMs, wire.HelloVM{Config: dr.VMConfig{ID: v}, Disks: []wire.HelloDisk{{
			Index: uint16(vm), Disk: dr.Disk{ID: dr.DiskID{UUID: id('d', h.index, vm)}, VM: v, Size: 1 << 20},
			Resume: h.vouch(vm)}}})
	}
	h.send(func(c order.ConnID) {
		w.drva.core.Attach(c, hello, w.clock())
		w.drva.drain()
	})
}

// disconnect cuts the link; what is under way is lost.
func (h *host) disconnect() {
	if h.conn == 0 {
		return
	}
	w := h.w
	conn := h.conn
	w.trace("host %d: link cut", h.index)
	delete(w.drva.conns, conn)
	if w.drva.running {
		w.drva.core.Detach(conn, w.clock())
		w.drva.drain()
	}
	h.conn, h.live, h.since = 0, false, w.now
	h.gate.Disconnect()
	h.letGo()
	limit := w.Patience
	if limit == 0 {
		limit = time.Duration(5+w.rng.IntN(60)) * time.Millisecond
	}
	w.after(limit, func() {
		if h.conn == 0 && w.now-h.since >= limit {
			h.goOutside()
		}
	})
	w.after(w.exp(15*time.Millisecond), func() {
		h.connect()
	})
}

// letGo completes what was kept back.
func (h *host) letGo() {
	held := h.held
	h.held = nil
	for _, x := range held {
		x.held = false
		h.complete(x, h.rule == dr.Async)
	}
}

// goOutside acknowledges from the primary alone from here on, also what waits
// for the DRVA.
func (h *host) goOutside() {
	if h.outside {
		return
	}
	h.w.trace("host %d: outside", h.index)
	h.w.strays++
	h.gate.Outside()
	h.outside = true
	h.letGo()
	if h.rule == dr.Async {
		return
	}
	for s := dr.HostSeq(1); s < h.next; s++ {
		if x := h.waiting[s]; x != nil && x.ack == 0 {
			x.strayed, h.dirty[x.vm] = true, true
			h.complete(x, true)
		}
	}
}

// comeBack enters the stream again once the link is up: disks that strayed are
// tracked and then synced.
func (h *host) comeBack() {
	if !h.outside || !h.live {
		return
	}
	for vm := range h.dirty {
		if h.dirty[vm] {
			h.append(record.Record{Kind: record.TrackBegin, Disk: uint16(vm)})
			h.resync(vm)
		}
	}
	h.outside = false
	h.gate.Inside()
	h.w.trace("host %d: inside", h.index)
}

// resync reads the disk anew, which takes a while, and says so at its end.
func (h *host) resync(vm int) {
	h.gen[vm]++
	h.dirty[vm] = false
	gen, nonce := h.gen[vm], h.nonce
	var end func()
	end = func() {
		if h.gen[vm] != gen || h.nonce != nonce {
			return
		}
		if !h.live || h.outside || h.straying(vm) {
			h.w.after(time.Millisecond, end)
			return
		}
		h.w.nextID++
		syncID := h.w.nextID
		for _, x := range h.w.writes {
			if x.host == h && x.vm == vm && x.strayed && x.primary {
				h.w.syncs[syncID] = append(h.w.syncs[syncID], x)
			}
		}
		h.append(record.Record{Kind: record.Zero, Flags: record.FromSync, Disk: uint16(vm), Length: dr.BlockSize, Time: syncID})
		h.append(record.Record{Kind: record.SyncEnd, Disk: uint16(vm), Time: syncID})
	}
	h.w.after(h.w.exp(3*time.Millisecond), end)
}

// straying reports whether a write outside the stream has not reached the
// primary: a sync that ended now would not have read it.
func (h *host) straying(vm int) bool {
	for _, x := range h.w.writes {
		if x.host == h && x.vm == vm && x.strayed && !x.primary {
			return true
		}
	}
	return false
}

// die ends the host component, or its machine; another goes on with the VMs,
// here or elsewhere, at once or after a while. The ring is gone; the sidecars
// are not, unless they are lost, or are those of an earlier run.
func (h *host) die() {
	w := h.w
	w.trace("host %d: dies", h.index)
	h.disconnect()
	if w.Patience == 0 && w.rng.IntN(3) == 0 && w.Flaw != NoTrack {
		h.machine++
	}
	if w.Patience == 0 && w.rng.IntN(4) == 0 {
		h.away = w.now + w.exp(w.ReplayFor) // a restart of the DRVA may give it up
	}
	for vm := range h.side {
		h.inherit(vm)
	}
	for s := dr.HostSeq(1); s < h.next; s++ {
		if x := h.waiting[s]; x != nil {
			h.complete(x, true)
		}
	}
	h.held = nil
	if w.Flaw == NoTrack {
		h.forged = h.next // so that the DRVA sees the same run, with nothing to replay
		if len(h.ring) > 0 {
			h.forged = h.ring[0].rec.HostSeq
		}
		h.ring = nil
	} else {
		h.nonce++
		h.next, h.ring = 1, nil
	}
	h.waiting = map[dr.HostSeq]*write{}
	h.outside = false
	h.gate = gate.New(0)
	for vm := range h.dirty {
		h.gen[vm]++
	}
	if w.Flaw == NoTrack {
		for vm := range h.dirty {
			h.resync(vm)
		}
	}
}

// inherit decides what the next run finds of a disk's sidecar. What it calls
// open is copied again: the model's strayed.
func (h *host) inherit(vm int) {
	w, s := h.w, &h.side[vm]
	fate := w.rng.IntN(8)
	was := *s
	switch {
	case w.Flaw == NoTrack:
	case fate == 0: // lost
		*s = sidecar{}
	case s.stale:
	case fate == 1 && s.settled && s.durable > 0:
		// A run before this one left it, and this one kept none, once the log
		// had it. Only the DRVA can know.
		s.stale, s.settled = true, false
		s.runs = []uint64{h.nonce - 1}
		if w.Flaw == AnyRun {
			s.runs = []uint64{h.nonce}
		}
	default:
		s.settled = false
	}
	for _, x := range w.writes {
		if x.host == h && x.vm == vm {
			x.held = false
			// What the primary had not got yet, the guest sends to the next run.
			open := !x.landed && !(s.stale && !was.stale && x.primary)
			x.strayed = x.strayed || len(s.runs) == 0 || open
		}
	}
}

// vouch is what a Hello says of a disk's sidecar.
func (h *host) vouch(vm int) *wire.HelloResume {
	s := &h.side[vm]
	if s.settled || len(s.runs) == 0 || h.w.Flaw == NoTrack {
		return nil
	}
	said := &wire.HelloResume{Runs: append([]uint64(nil), s.runs...), Durable: s.durable}
	if !s.stale && s.runs[len(s.runs)-1] != h.nonce && len(s.runs) < wire.MaxResumeRuns {
		s.runs = append(s.runs, h.nonce)
	}
	return said
}

// settle takes in what the Welcome says of a disk's sidecar. That of a run
// which goes on names it alone only once the log has the run.
func (h *host) settle(vm int, unsynced, resumed bool) {
	s := &h.side[vm]
	switch {
	case unsynced:
		if s.stale {
			h.w.stats.Stale++
		}
		*s = sidecar{runs: []uint64{h.nonce}, settled: true}
	case resumed:
		h.w.stats.Resumed++
		if h.machine > 0 {
			h.w.stats.Moved++
		}
	}
}

// landed notes how far the log has come: from now on regions are closed.
func (h *host) landed(durable dr.HostSeq) {
	for vm := range h.side {
		s := &h.side[vm]
		if !s.settled && !s.stale {
			*s = sidecar{runs: []uint64{h.nonce}, settled: true}
		}
		s.durable = max(s.durable, durable)
	}
}

// receive takes a frame of the DRVA.
func (h *host) receive(m order.Send) {
	switch m.Type {
	case wire.TypeWelcome:
		h.welcome(m.Welcome)
	case wire.TypeRefuse:
		h.disconnect()
	case wire.TypeAck:
		h.acked(m.Span, m.Durable)
	case wire.TypeHold:
		h.hold(m.Round)
	case wire.TypePlace:
		h.sendRecords(record.Record{Kind: record.Marker, Offset: uint64(m.Round)})
	case wire.TypeRelease:
		answer := h.gate.Release(m.Round, h.w.now)
		h.letGo()
		h.confirm(answer)
	case wire.TypeMark:
		h.confirm(h.gate.Mark(m.Round))
	}
}

func (h *host) confirm(m wire.Confirm) {
	h.w.trace("host %d: confirm %+v", h.index, m)
	if h.w.Flaw == IgnoreConfirm {
		m.OK, m.Reason = true, wire.ReasonNone
	}
	h.send(func(c order.ConnID) {
		h.w.drva.core.Confirm(c, m, h.w.clock())
		h.w.drva.drain()
	})
}

func (h *host) hold(round wire.Round) {
	h.w.trace("host %d: hold %d", h.index, round)
	if !h.gate.Hold(round, h.w.now) {
		h.confirm(h.gate.Refusal(round))
		return
	}
	h.sendRecords(record.Record{Kind: record.Marker, Offset: uint64(round)})
	at, _ := h.gate.Deadline()
	g := h.gate
	h.w.at(at, func() {
		if g == h.gate && g.Expire(h.w.now) {
			h.letGo()
		}
	})
}

// welcome replays what the DRVA does not hold and goes live.
func (h *host) welcome(m *wire.Welcome) {
	h.w.trace("host %d: welcome %+v, ring %d, next %d", h.index, *m, len(h.ring), h.next)
	h.forget(m.Durable)
	// What came after the Hello may go before or after the end of the replay.
	old := len(h.ring)
	if h.w.rng.IntN(2) == 0 {
		old -= int(h.next - h.helloNext)
	}
	h.replay(h.ring[:old])
	h.send(func(c order.ConnID) {
		h.w.drva.core.ReplayEnd(c, h.w.clock())
		h.w.drva.drain()
	})
	h.replay(h.ring[old:])
	h.live = true
	for vm := range h.w.VMs {
		unsynced, resumed := slices.Contains(m.Unsynced, uint16(vm)), slices.Contains(m.Resumed, uint16(vm))
		h.settle(vm, unsynced, resumed)
		if unsynced {
			h.strayAll(vm)
		}
		if unsynced || resumed {
			h.resync(vm)
		}
	}
	h.comeBack()
}

func (h *host) replay(ring []entry) {
	for i := 0; i < len(ring); i += 4 {
		var recs []record.Record
		for _, e := range ring[i:min(i+4, len(ring))] {
			e.rec.Flags |= record.Replayed
			e.rec.Seq = e.place
			recs = append(recs, e.rec)
		}
		h.sendRecords(recs...)
	}
}

// strayAll makes the coming sync answer for all of a disk's writes.
func (h *host) strayAll(vm int) {
	for _, x := range h.w.writes {
		if x.host == h && x.vm == vm && x.primary {
			x.strayed = true
		}
	}
}

// acked takes places and durability.
func (h *host) acked(span wire.Span, durable dr.HostSeq) {
	for i := range h.ring {
		s := h.ring[i].rec.HostSeq
		if s >= span.First && s < span.First+dr.HostSeq(span.Count) {
			h.ring[i].place = span.Seq + dr.Seq(s-span.First)
			if x := h.waiting[s]; x != nil && h.w.Flaw == ClosedEarly {
				x.landed = true
			}
			if x := h.waiting[s]; x != nil && h.rule == dr.Ordered {
				h.complete2(x)
			}
		}
	}
	if durable > 0 {
		h.forget(durable)
		h.landed(durable)
	}
}

// complete2 is complete for a write whose DRVA answer may precede the primary.
func (h *host) complete2(x *write) {
	if x.primary {
		h.complete(x, true)
		return
	}
	h.w.after(100*time.Microsecond, func() { h.complete2(x) })
}

// forget drops records the log holds durably.
func (h *host) forget(durable dr.HostSeq) {
	for len(h.ring) > 0 && h.ring[0].rec.HostSeq <= durable {
		s := h.ring[0].rec.HostSeq
		h.ring = h.ring[1:]
		if x := h.waiting[s]; x != nil {
			delete(h.waiting, s)
			x.landed = true
			h.complete2(x)
		}
	}
}
