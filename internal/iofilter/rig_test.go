package iofilter

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/store/limit"
)

// memDisk is a primary in memory. It has no lock: under the race detector it
// proves that the range lock keeps overlapping operations apart.
type memDisk struct {
	data   []byte
	slow   func() time.Duration // how long an operation takes; nil: it completes inside Submit
	failOn func(op *nbd.Op) error
	mu     sync.Mutex
	unread error                // what reads fail with
	lag    func() time.Duration // between a read and its return; nil: none
}

func (m *memDisk) Submit(op *nbd.Op) {
	if m.slow == nil {
		m.do(op)
		return
	}
	if d := m.slow(); d > 0 {
		go func() { time.Sleep(d); m.do(op) }()
		return
	}
	m.do(op)
}

func (m *memDisk) do(op *nbd.Op) {
	if m.failOn != nil {
		if err := m.failOn(op); err != nil {
			op.Complete(err)
			return
		}
	}
	switch op.Kind {
	case nbd.Read:
		copy(op.Data, m.data[op.Offset:])
	case nbd.Write:
		copy(m.data[op.Offset:], op.Data)
	case nbd.Trim, nbd.WriteZeroes:
		clear(m.data[op.Offset : op.Offset+op.Length])
	}
	op.Complete(nil)
}

func (m *memDisk) setUnread(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unread = err
}

func (m *memDisk) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	err := m.unread
	m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n := copy(p, m.data[off:])
	if m.lag != nil {
		time.Sleep(m.lag())
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memDisk) Size() int64 { return int64(len(m.data)) }

// NextData knows of no holes: to look for them it would have to read outside
// the range lock.
func (m *memDisk) NextData(off int64) (int64, int64, error) { return off, m.Size(), nil }

// rig is an outlet with memory disks and a fake DRVA.
type rig struct {
	t     testing.TB
	o     *outlet
	drva  *fakeDRVA
	mem   []*memDisk
	start time.Time
	stop  func()
	pace  *pacer // of the cursor
}

// newRig starts an outlet with disks of the given sizes. Inside a synctest
// bubble its time is the bubble's.
func newRig(t testing.TB, ack dr.AckRule, sizes ...int) *rig {
	r := &rig{t: t, drva: newFakeDRVA(), start: time.Now(), pace: newPacer(limit.Schedule{})}
	cfg := &Config{Domain: dr.DomainID{UUID: dr.NewUUID()}, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "h", Ack: ack.String(), RingBytes: MinRing}
	vm := VM{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "vm"}}
	r.o = newOutlet(cfg, slog.New(slog.DiscardHandler))
	for _, size := range sizes {
		m := &memDisk{data: make([]byte, size)}
		info := dr.Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: vm.Config.ID, Name: "disk", Size: int64(size)}
		vm.Disks = append(vm.Disks, Disk{ID: info.ID, Name: info.Name})
		r.o.addDisk(r.o.newDisk(info, m))
		r.mem = append(r.mem, m)
	}
	r.o.setVMLocked(&vm.Config)
	return r
}

// run starts the outlet's goroutines; end stops them.
func (r *rig) run() *rig {
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	r.o.mu.Lock()
	r.o.restateLocked() // as serving a disk does: the first event is how it begins
	r.o.mu.Unlock()
	wg.Go(func() { r.o.watch(ctx) })
	wg.Go(func() { r.o.vigil(ctx) })
	wg.Go(func() { r.o.runLink(ctx, r.drva.dial) })
	wg.Go(func() { r.o.runCursor(ctx, r.pace) })
	r.stop = func() { cancel(); wg.Wait() }
	return r
}

func (r *rig) end() {
	r.t.Helper()
	r.stop()
	if r.drva.conn != nil {
		r.drva.conn.kill()
	}
	if err := r.drva.problems(); err != nil {
		r.t.Errorf("the DRVA saw: %v", err)
	}
}

// synced runs the outlet and waits for the first copies.
func (r *rig) synced() *rig {
	r.t.Helper()
	r.run()
	r.settle(time.Minute)
	return r
}

// settle waits until every disk is synced and everything is durable.
func (r *rig) settle(limit time.Duration) {
	r.t.Helper()
	until := time.Now().Add(limit)
	for !r.settled() {
		if time.Now().After(until) {
			r.t.Fatalf("not settled after %v: %+v", limit, r.status())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (r *rig) settled() bool {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	for _, d := range r.o.disks {
		if d.unsynced || d.dirty.Count() > 0 {
			return false
		}
	}
	return !r.o.mode.tracking && r.o.link.replayed && r.o.str.Durable() == r.o.str.Next()-1
}

func (r *rig) status() (s Status) {
	r.o.fill(&s)
	return s
}

func (r *rig) state() State { return r.status().State }

// sameImages compares what the log rebuilds with the primaries.
func (r *rig) sameImages() {
	r.t.Helper()
	for i, m := range r.mem {
		img := r.drva.image(uint16(i), m.Size())
		want := append(bytes.Clone(m.data), make([]byte, len(img)-len(m.data))...)
		for at := 0; at < len(img); at += dr.BlockSize {
			if !bytes.Equal(img[at:at+dr.BlockSize], want[at:at+dr.BlockSize]) {
				r.t.Fatalf("disk %d differs at block %d (chunk %d)", i, at/dr.BlockSize, at/dr.ChunkSize)
			}
		}
	}
}

// call is an operation on its way.
type call struct {
	done chan struct{}
	err  error
	took time.Duration
}

func (c *call) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// submit sends an operation down a disk's tap, as a connection would.
func (r *rig) submit(disk int, kind nbd.Kind, off, n int64, data []byte) *call {
	c := &call{done: make(chan struct{})}
	began := time.Now()
	op := nbd.NewOp(func(_ *nbd.Op, err error) {
		c.err, c.took = err, time.Since(began)
		close(c.done)
	})
	op.Kind, op.Offset, op.Length, op.Data = kind, off, n, data
	t := &tap{disk: r.o.disks[disk], primary: r.mem[disk]}
	t.Submit(op)
	return c
}

func (r *rig) write(disk int, off int64, data []byte) *call {
	return r.submit(disk, nbd.Write, off, int64(len(data)), data)
}

// fill is n bytes of b.
func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// must fails the test unless c is over without error.
func (r *rig) must(c *call) {
	r.t.Helper()
	synctest.Wait()
	if !c.over() || c.err != nil {
		r.t.Fatalf("operation over: %v, error %v", c.over(), c.err)
	}
}

func (r *rig) mustWait(c *call) {
	r.t.Helper()
	synctest.Wait()
	if c.over() {
		r.t.Fatal("operation completed too early")
	}
}

// errBroken is what a broken primary says.
var errBroken = errs.New("disk", errs.Unavailable, "primary", "medium error")

// source is a reproducible source of randomness.
func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
