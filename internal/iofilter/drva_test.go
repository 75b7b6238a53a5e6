package iofilter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// fakeDRVA is a scripted DRVA with a log in memory. It checks everything a
// real one would, and that replayed records come with the place they had.
type fakeDRVA struct {
	mu       sync.Mutex
	log      []logged // the domain's order
	durable  int      // log[:durable] survives a crash
	runs     map[uint64]*hostRun
	conn     *fakeConn
	sessions dr.Session
	faults   []error
	confirms chan wire.Confirm
	markers  chan wire.Round
	hellos   []wire.Hello
	removed  map[dr.DiskID]string // Disk records of disks that no Hello has named since

	gather bool // connections keep small writes back; set before the first

	// Behaviour, changed by the test.
	down     bool            // refuses to be dialled
	hang     chan struct{}   // not nil: it reads nothing until this is closed
	mute     bool            // reads, but acknowledges nothing
	volatile bool            // acknowledges places, but makes nothing durable
	refuse   *wire.Refuse    // answers Hello so
	markedAt dr.HostSeq      // what had been received when the last marker came
	lieOnce  *wire.Ack       // sent once instead of the next acknowledgement
	unsynced map[uint16]bool // disks without a complete copy
	track    wire.TrackReason
	reports  chan reported
	lies     bool // says that records are durable when they have merely come
	trusting bool // accepts any sidecar

	owner   uint64   // nonce of the last run
	resumed int      // sidecars accepted
	hashes  *hashing // not nil: it answers questions about hashes
	keeps   bool     // offers to keep boot traces
	traces  []wire.BootTrace
}

// reported is a Frozen or Thawed.
type reported struct {
	t wire.Type
	wire.FreezeReport
}

type logged struct {
	nonce uint64
	disk  dr.DiskID     // that rec.Disk meant
	rec   record.Record // with its own payload
}

// hostRun is what is known of one run of the host.
type hostRun struct {
	session  dr.Session
	received dr.HostSeq
	durable  dr.HostSeq
	places   map[dr.HostSeq]dr.Seq // ever given and told
	sequence dr.HostSeq            // told up to here
}

type fakeConn struct {
	net.Conn
	run      *hostRun
	nonce    uint64
	next     dr.HostSeq // Hello.Next
	disks    map[uint16]dr.Disk
	resync   map[uint16]bool // the Welcome said so
	replayed bool
	out      chan []byte
	gone     chan struct{}
	once     sync.Once
}

func (c *fakeConn) kill() { c.once.Do(func() { close(c.gone); c.Conn.Close() }) }

func newFakeDRVA() *fakeDRVA {
	return &fakeDRVA{runs: map[uint64]*hostRun{}, confirms: make(chan wire.Confirm, 1000), markers: make(chan wire.Round, 1000), reports: make(chan reported, 1000),
		unsynced: map[uint16]bool{}, removed: map[dr.DiskID]string{}}
}

// dial is the host's way in.
func (d *fakeDRVA) dial(context.Context) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return nil, errors.New("nobody is there")
	}
	here, there := net.Pipe()
	go d.serve(there)
	if d.gather {
		return &gatherConn{Conn: here, w: bufio.NewWriterSize(here, 1<<18)}, nil
	}
	return here, nil
}

// gatherConn keeps small writes back until Flush, as a link below TLS does.
type gatherConn struct {
	net.Conn
	w *bufio.Writer
}

func (c *gatherConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *gatherConn) Flush() error                { return c.w.Flush() }

func (d *fakeDRVA) fault(format string, a ...any) error {
	err := fmt.Errorf(format, a...)
	d.faults = append(d.faults, err)
	return err
}

func (d *fakeDRVA) serve(nc net.Conn) {
	c := &fakeConn{Conn: nc, out: make(chan []byte, 4096), gone: make(chan struct{})}
	defer c.kill()
	go func() {
		for {
			select {
			case <-c.gone:
				return
			case b := <-c.out:
				if _, err := nc.Write(b); err != nil {
					return
				}
			}
		}
	}()
	r := bufio.NewReaderSize(nc, 1<<16)
	head := make([]byte, wire.HeadSize)
	for {
		d.mu.Lock()
		hang := d.hang
		d.mu.Unlock()
		if hang != nil {
			select {
			case <-hang:
			case <-c.gone:
				return
			}
		}
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		var h wire.Head
		if err := h.Parse(head); err != nil {
			d.mu.Lock()
			d.fault("head: %v", err)
			d.mu.Unlock()
			return
		}
		buf := make([]byte, int(h.Body)+int(h.Payload))
		if _, err := io.ReadFull(r, buf); err != nil {
			return
		}
		if err := d.frame(c, &h, buf[:h.Body], buf[h.Body:]); err != nil {
			return
		}
	}
}

func (d *fakeDRVA) frame(c *fakeConn, h *wire.Head, body, payload []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.run == nil && h.Type != wire.TypeHello || c.run != nil && d.conn != c {
		return errors.New("stale")
	}
	switch h.Type {
	case wire.TypeHello:
		return d.hello(c, body)
	case wire.TypeReplayEnd:
		if c.replayed {
			return d.fault("second ReplayEnd")
		}
		c.replayed = true
		c.run.received = max(c.run.received, c.next-1)
		return nil
	case wire.TypeRecords:
		recs, err := h.Records(body, payload, make([]record.Record, 0, wire.MaxRecords))
		if err != nil {
			return d.fault("records: %v", err)
		}
		return d.records(c, recs)
	case wire.TypeConfirm:
		m, err := wire.ParseConfirm(body)
		if err != nil {
			return d.fault("confirm: %v", err)
		}
		d.confirms <- m
		return nil
	case wire.TypeFrozen, wire.TypeThawed:
		m, err := wire.ParseFreezeReport(body)
		if err != nil {
			return d.fault("report: %v", err)
		}
		d.reports <- reported{h.Type, m}
		return nil
	case wire.TypeBootTrace:
		m, err := wire.ParseBootTrace(body)
		if err != nil || !d.keeps {
			return d.fault("boot trace: %v", err)
		}
		d.traces = append(d.traces, m)
		return nil
	case wire.TypeHashAsk:
		m, err := wire.ParseHashAsk(body)
		if err != nil || d.hashes == nil {
			return d.fault("question %+v: %v", m, err)
		}
		d.ask(c, m)
		return nil
	case wire.TypePing:
		c.out <- wire.Encode(wire.TypePing, nil)
		return nil
	}
	return d.fault("frame of type %d", h.Type)
}

func (d *fakeDRVA) hello(c *fakeConn, body []byte) error {
	var h wire.Hello
	if err := wire.DecodeJSON(body, &h); err != nil {
		return d.fault("hello: %v", err)
	}
	d.hellos = append(d.hellos, h)
	if d.refuse != nil {
		f, _ := wire.EncodeJSON(wire.TypeRefuse, d.refuse)
		c.Write(f)
		return errors.New("refused")
	}
	if d.conn != nil {
		d.conn.kill()
	}
	run := d.runs[h.Nonce]
	w := wire.Welcome{Known: run != nil}
	if run == nil {
		d.sessions++
		run = &hostRun{session: d.sessions, received: h.First - 1, durable: h.First - 1, places: map[dr.HostSeq]dr.Seq{}}
		for _, vm := range h.VMs {
			for _, x := range vm.Disks {
				if x.Resume != nil && d.accepts(x.Resume) {
					d.resumed++
					w.Resumed = append(w.Resumed, x.Index)
				} else {
					d.unsynced[x.Index] = true
				}
			}
		}
		d.runs[h.Nonce], d.owner = run, h.Nonce
	} else {
		w.Durable = run.durable
		if h.First > run.received+1 {
			return d.fault("the host kept records from %d, %d were received", h.First, run.received)
		}
	}
	c.disks, c.resync = map[uint16]dr.Disk{}, map[uint16]bool{}
	for _, vm := range h.VMs {
		for _, hd := range vm.Disks {
			if _, twice := c.disks[hd.Index]; twice {
				return d.fault("index %d is announced twice", hd.Index)
			}
			c.disks[hd.Index] = hd.Disk
			if d.unsynced[hd.Index] || d.incomplete(hd.Disk.ID, h.Nonce) {
				w.Unsynced = append(w.Unsynced, hd.Index)
				c.resync[hd.Index] = true
			}
			delete(d.removed, hd.Disk.ID) // its again
		}
	}
	clear(d.unsynced)
	if d.hashes != nil {
		d.hashes.welcome(&w, &h)
	}
	if d.keeps {
		w.Features = append(w.Features, wire.FeatureBoot)
	}
	w.Session, w.Track = run.session, d.track
	c.run, c.nonce, c.next = run, h.Nonce, h.Next
	d.conn = c
	f, err := wire.EncodeJSON(wire.TypeWelcome, w)
	if err != nil {
		return d.fault("welcome: %v", err)
	}
	c.out <- f
	return nil
}

// accepts judges a sidecar as a DRVA does. Caller holds mu.
func (d *fakeDRVA) accepts(r *wire.HelloResume) bool {
	i := slices.Index(r.Runs, d.owner)
	run := d.runs[d.owner]
	return run != nil && (d.trusting || i > 0 || i == 0 && run.durable >= r.Durable)
}

// incomplete reports whether the log does not hold all of a disk, and it is
// not that run of the host which is completing it.
func (d *fakeDRVA) incomplete(id dr.DiskID, nonce uint64) bool {
	synced, syncing := false, uint64(0)
	for _, l := range d.log {
		switch {
		case l.disk != id:
		case l.rec.Kind == record.Disk:
			if bytes.Contains(l.rec.Payload, []byte(leaveRemove)) {
				synced, syncing = false, 0
			}
		case l.rec.Kind == record.SyncEnd:
			synced = true
		case l.rec.Kind == record.TrackBegin:
			synced, syncing = false, l.nonce
		case l.rec.Flags&record.FromSync != 0:
			syncing = l.nonce
		}
	}
	return !synced && syncing != nonce
}

// announced checks that a record is of a disk that the connection's Hello
// named, and inside of it.
func (d *fakeDRVA) announced(c *fakeConn, r *record.Record) (id dr.DiskID, err error) {
	if r.Kind == record.Meta {
		return id, nil
	}
	disk, ok := c.disks[r.Disk]
	switch {
	case !ok:
		return id, d.fault("%v record %d of disk %d, which was not announced", r.Kind, r.HostSeq, r.Disk)
	case r.Kind == record.Disk:
		d.removed[disk.ID] = string(r.Payload[:r.Length])
	case r.Kind <= record.Discard && r.Offset+uint64(r.Length) > uint64(disk.Size):
		return id, d.fault("%v record %d ends beyond %d", r.Kind, r.HostSeq, disk.Size)
	}
	return disk.ID, nil
}

func (d *fakeDRVA) records(c *fakeConn, recs []record.Record) error {
	run := c.run
	var span wire.Span
	for _, r := range recs {
		if r.Kind == record.Marker {
			d.markers <- wire.Round(r.Offset)
			d.markedAt = run.received
			continue
		}
		if got := r.Flags&record.Replayed != 0; got == c.replayed || r.Session != run.session {
			return d.fault("record %d: replayed %v, session %d of %d", r.HostSeq, got, r.Session, run.session)
		}
		if !c.replayed && r.HostSeq >= c.next {
			return d.fault("record %d replayed, announced up to %d", r.HostSeq, c.next)
		}
		if r.HostSeq <= run.received {
			if c.replayed {
				return d.fault("record %d came twice", r.HostSeq)
			}
			continue
		}
		if r.HostSeq != run.received+1 {
			return d.fault("record %d follows %d", r.HostSeq, run.received)
		}
		if want := run.places[r.HostSeq]; r.Seq != want && r.HostSeq <= run.sequence {
			return d.fault("record %d is replayed with place %d, had %d", r.HostSeq, r.Seq, want)
		}
		disk, err := d.announced(c, &r)
		if err != nil {
			return err
		}
		if !c.replayed && c.resync[r.Disk] { // the end of a copy of which a part may be missing
			r.Flags &^= record.FromSync
			if r.Kind == record.SyncEnd {
				r.Kind = record.Pad
			}
		}
		run.received = r.HostSeq
		r.Seq = dr.Seq(len(d.log) + 1)
		d.log = append(d.log, logged{c.nonce, disk, r})
		if span.Count == 0 {
			span = wire.Span{First: r.HostSeq, Seq: r.Seq}
		}
		span.Count++
	}
	if span.Count == 0 || d.mute {
		return nil
	}
	if d.lieOnce != nil {
		c.out <- d.lieOnce.Append(nil)
		d.lieOnce = nil
		return nil
	}
	a := wire.Ack{Spans: []wire.Span{span}}
	if !d.volatile {
		d.commit()
	}
	if a.Durable = run.durable; d.lies {
		a.Durable = run.received
	}
	c.out <- a.Append(nil)
	for i := range span.Count {
		run.places[span.First+dr.HostSeq(i)] = span.Seq + dr.Seq(i)
	}
	return nil
}

// commit makes the log durable.
func (d *fakeDRVA) commit() {
	for _, l := range d.log[d.durable:] {
		if run := d.runs[l.nonce]; run != nil { // else it was forgotten
			run.durable = l.rec.HostSeq
		}
	}
	d.durable = len(d.log)
}

// with changes behaviour.
func (d *fakeDRVA) with(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// tell sends frames on the present connection, if there is one.
func (d *fakeDRVA) tell(frame []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil || !d.conn.replayed {
		return false
	}
	select {
	case <-d.conn.gone:
		return false
	case d.conn.out <- frame:
		return true
	}
}

func (d *fakeDRVA) round(t wire.Type, r wire.Round) bool {
	var b [wire.RoundSize]byte
	r.Put(b[:])
	return d.tell(wire.Encode(t, b[:]))
}

// cutLink breaks the connection.
func (d *fakeDRVA) cutLink() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.kill()
	}
}

// crash loses what is not durable, and the connection.
func (d *fakeDRVA) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.kill()
	}
	for _, l := range d.log[d.durable:] {
		run := d.runs[l.nonce]
		run.received = min(run.received, l.rec.HostSeq-1)
	}
	d.log = d.log[:d.durable]
}

// forget loses all memory of hosts; what was logged stays.
func (d *fakeDRVA) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.kill()
	}
	d.runs = map[uint64]*hostRun{}
	d.durable = len(d.log)
}

// image rebuilds a disk from the log.
func (d *fakeDRVA) image(index uint16, size int64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	img := make([]byte, roundUp(size))
	for _, l := range d.log {
		r := &l.rec
		if r.Disk != index || r.Kind <= record.Discard && r.Offset >= uint64(len(img)) {
			continue // of another disk, or written before this one shrank
		}
		switch r.Kind {
		case record.Data:
			copy(img[r.Offset:], r.Payload[:r.Length])
		case record.Zero, record.Discard:
			clear(img[r.Offset:min(r.Offset+uint64(r.Length), uint64(len(img)))])
		}
	}
	return img
}

// count counts the records of a kind on a disk.
func (d *fakeDRVA) count(kind record.Kind, index uint16) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.log {
		if l.rec.Kind == kind && l.rec.Disk == index {
			n++
		}
	}
	return n
}

func (d *fakeDRVA) problems() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.faults...)
}
