package sim

import (
	"cmp"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/record"
)

// drva is the appliance: the real core over a simulated log.
type drva struct {
	w       *world
	core    *order.Core
	running bool
	life    int // restarts so far
	conns   map[order.ConnID]*host
	out     order.Output
	next    dr.Seq // the place the log continues at
	modes   map[dr.CheckpointID]string
	disks   int                     // most disks a durable group checkpoint saw
	sees    map[dr.CheckpointID]int // disks of group checkpoints
	group   dr.Seq                  // place of the last group checkpoint
	open    dr.Seq                  // the last Checkpoint record without result; 0 none

	tail    []record.Record // in the log, not durable; payloads of data left out
	durable dr.Seq
	writing bool
	inForce map[[2]uint32]record.Record
	heard   map[dr.Session]dr.HostSeq
	whole   *order.State // every durable record applied

	merging bool
}

func newDRVA(w *world) *drva {
	return &drva{w: w, conns: map[order.ConnID]*host{}, inForce: map[[2]uint32]record.Record{},
		heard: map[dr.Session]dr.HostSeq{}, modes: map[dr.CheckpointID]string{}, sees: map[dr.CheckpointID]int{}, next: 1, whole: order.NewState()}
}

// start opens the log and begins.
func (d *drva) start() {
	st := order.NewState()
	recs := make([]record.Record, 0, len(d.inForce))
	for _, r := range d.inForce {
		recs = append(recs, r)
	}
	slices.SortFunc(recs, func(a, b record.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	for i := range recs {
		if err := st.Apply(&recs[i]); err != nil {
			panic(err)
		}
	}
	for n, h := range d.heard {
		st.Heard(n, h)
	}
	st.Last = d.durable
	d.sameState(st)
	d.next = d.durable + 1
	d.core = order.New(order.Config{ReplayLimit: d.w.ReplayFor}, st, d.w.clock())
	d.running = true
	d.drain()
	life := d.life
	d.w.after(d.w.exp(2*time.Millisecond), func() { d.cut(life) })
}

// sameState checks that the records in force tell what the whole log tells.
func (d *drva) sameState(st *order.State) {
	a, b := st.Summary(), d.whole.Summary()
	if !slices.Equal(a, b) {
		d.w.violation("from the records in force:\n%v\nfrom the whole log:\n%v", a, b)
	}
}

// restart kills the process: what is not durable is gone.
func (d *drva) restart() {
	if !d.running {
		return
	}
	w := d.w
	w.trace("drva: dies, durable %d", d.durable)
	d.running, d.life, d.writing = false, d.life+1, false
	w.stats.Restarts++
	for i := range d.tail {
		w.place(&d.tail[i], 0)
	}
	d.tail, d.open = nil, 0
	for _, h := range w.hosts {
		h.disconnect()
	}
	w.after(w.exp(2*time.Millisecond), d.start)
}

// cut asks for the next checkpoint, again and again.
func (d *drva) cut(life int) {
	if d.life != life || !d.running {
		return
	}
	if _, err := d.core.Cut(dr.CrashConsistent, "", d.w.clock()); err == nil {
		d.drain()
		d.deadline()
	}
	d.w.after(500*time.Microsecond+d.w.exp(time.Millisecond), func() { d.cut(life) })
}

// deadline makes the core's time limits act.
func (d *drva) deadline() {
	at, ok := d.core.Deadline()
	if !ok {
		return
	}
	life := d.life
	d.w.at(at.Sub(time.Unix(1_700_000_000, 0)), func() {
		if d.life == life && d.running {
			d.core.Tick(d.w.clock())
			d.drain()
		}
	})
}

// frame takes a host's frame, through the flaw that is on.
func (d *drva) frame(c order.ConnID, h *host, f *order.Frame) {
	switch d.w.Flaw {
	case EarlyCut:
		if f.Recs[0].Kind == record.Marker {
			d.earlyCut(f)
		}
	case HostByHost:
		for i := range f.Recs { // without places, arrival decides
			f.Recs[i].Seq = 0
		}
	}
	d.core.Frame(c, f, d.w.clock())
	d.drain()
	d.deadline()
}

// earlyCut answers the first marker of a round for all hosts.
func (d *drva) earlyCut(f *order.Frame) {
	for _, h := range d.w.hosts {
		if h.live {
			d.core.Frame(h.conn, &order.Frame{Recs: slices.Clone(f.Recs)}, d.w.clock())
		}
	}
}

// drain carries out what the core wants done.
func (d *drva) drain() {
	for {
		d.core.Drain(&d.out)
		o := d.out
		if len(o.Appends)+len(o.Sends)+len(o.Results)+len(o.Events) == 0 {
			break
		}
		d.out = order.Output{}
		for _, e := range o.Events {
			d.w.trace("drva: %s %v %v %d", e.Kind, e.Host, e.Disk, e.Count)
			switch e.Kind {
			case order.HostLost:
				d.w.stats.Lost++
			case order.ReplayDone:
				d.w.stats.Pads += int(e.Count)
			}
		}
		for _, a := range o.Appends {
			d.log(a.Recs)
		}
		for _, r := range o.Results {
			d.result(&r.Checkpoint)
		}
		for _, m := range o.Sends {
			d.send(m)
		}
	}
	d.flush()
	_, d.merging = d.core.Merging()
}

// send delivers a frame at its host, in order.
func (d *drva) send(m order.Send) {
	h := d.conns[m.Conn]
	if h == nil {
		return
	}
	h.down = max(h.down, d.w.now+d.w.delay())
	conn := m.Conn
	d.w.at(h.down, func() {
		if h.conn == conn {
			h.receive(m)
		}
	})
}

// log appends records.
func (d *drva) log(recs []record.Record) {
	w := d.w
	for i := range recs {
		r := &recs[i]
		if r.Seq != d.next {
			w.violation("the order is not dense: %d after %d", r.Seq, d.next-1)
		}
		d.next = r.Seq + 1
		if d.merging && r.Session != 0 {
			w.stats.Replayed++
		}
		w.place(r, r.Seq)
		w.trace("drva: place %d: %v session %d hostSeq %d disk %d write %d", r.Seq, r.Kind, r.Session, r.HostSeq, r.Disk, r.Time)
		d.tail = append(d.tail, *r)
		if r.Kind == record.Checkpoint {
			b, err := order.DecodeCut(r)
			if err != nil {
				w.violation("checkpoint record does not decode: %v", err)
			}
			d.modes[b.ID], d.open = b.Mode, r.Seq
		}
		if w.everyPrefix() && r.Kind == record.Zero {
			w.stats.Prefixes++
			w.checkPrefix(r.Seq+1, "prefix of the order")
		}
	}
}

// everyPrefix reports whether every prefix of the order must be closed: no
// host acknowledges before its write has a place, none has strayed or was given
// up by a restart, and the log durably knows them all.
func (w *world) everyPrefix() bool {
	for _, r := range w.Rules {
		if r == dr.Async {
			return false
		}
	}
	return w.strays == 0 && w.stats.Lost == 0 && w.drva.group != 0 && w.drva.group <= w.drva.durable && w.Outside == 0 && w.HostDies == 0 && w.LinkCut == 0 && w.Late == 0
}

// place notes where the log holds a record; 0: nowhere any more.
func (w *world) place(r *record.Record, at dr.Seq) {
	switch r.Kind {
	case record.Zero:
		if x := w.byID[r.Time]; x != nil {
			x.seq = at
		}
	case record.SyncEnd:
		for _, x := range w.syncs[r.Time] {
			x.cover = at
		}
	}
}

// flush makes the tail durable, a batch at a time.
func (d *drva) flush() {
	if d.writing || len(d.tail) == 0 {
		return
	}
	d.writing = true
	n, life := len(d.tail), d.life
	d.w.after(d.w.exp(d.w.Durable), func() {
		if d.life != life {
			return
		}
		for i := range d.tail[:n] {
			d.keep(&d.tail[i])
		}
		d.tail = slices.Delete(d.tail, 0, n)
		d.writing = false
		d.core.Durable(d.durable)
		if limit := d.durable; d.open == 0 || limit < d.open {
			d.w.absorb(limit)
		} else {
			d.w.absorb(d.open - 1) // the checkpoint that is open will be judged
		}
		d.drain()
	})
}

// keep is the log's memory of records in force.
func (d *drva) keep(r *record.Record) {
	d.durable = r.Seq
	if r.Kind == record.CheckpointResult {
		b, err := order.DecodeResult(r)
		if err != nil {
			d.w.violation("checkpoint result does not decode: %v", err)
		}
		if b.ScopeOf() == dr.Group {
			d.disks = max(d.disks, d.sees[b.ID])
		}
	}
	if err := d.whole.Apply(r); err != nil {
		d.w.violation("the log does not apply: %v", err)
	}
	class := map[record.Kind]uint32{record.Disk: 1, record.Session: 2, record.SyncEnd: 3, record.TrackBegin: 3,
		record.Checkpoint: 4, record.CheckpointResult: 5}[r.Kind]
	key := [2]uint32{class, uint32(r.Disk)}
	if class == 2 {
		key[1] = uint32(r.Session)
	}
	if class != 0 {
		d.inForce[key] = *r
	}
	if r.Session != 0 {
		d.heard[r.Session] = max(d.heard[r.Session], r.HostSeq)
	}
	if r.Length > 0 || class != 1 && class != 2 {
		return
	}
	delete(d.inForce, key)
	if class == 1 {
		delete(d.inForce, [2]uint32{3, uint32(r.Disk)})
	} else {
		delete(d.heard, r.Session)
	}
}

// result judges a checkpoint.
func (d *drva) result(cp *dr.Checkpoint) {
	d.w.stats.Checkpoints++
	d.open = 0
	d.w.trace("drva: checkpoint %d at %d is %v, missing %v", cp.ID, cp.Seq, cp.Scope, cp.Missing)
	if cp.Scope != dr.Group {
		return
	}
	d.w.stats.Group++
	if d.modes[cp.ID] == order.ModeHold {
		d.w.stats.Holds++
	}
	// Hosts that never attached are not of the domain yet; what is known once
	// must never be left out again.
	if len(cp.Disks) < d.disks {
		d.w.violation("group checkpoint %d sees %d of %d disks", cp.ID, len(cp.Disks), d.disks)
	}
	d.sees[cp.ID], d.group = len(cp.Disks), cp.Seq
	if len(cp.Disks) == len(d.w.hosts)*d.w.VMs {
		d.w.checkPrefix(cp.Seq, "group checkpoint")
		d.w.checkTime(cp.Seq, cp.Time)
	}
}
