package ondemand

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// The model: clients read, write, zero, trim and flush the disks of a Set while
// it hydrates from a store in bad weather. Machine or process stop in the
// middle, again and again. An oracle that knows what was acknowledged judges
// every read and what is there after each stop.

const (
	modelClients = 6
	// impatient is a limit that bad weather often outlasts.
	impatient   = time.Millisecond
	modelStripe = 5 * dr.BlockSize // chunks are shared by clients, blocks are not
)

// model is one run.
type model struct {
	w    *world
	sky  *fault.Sky
	fs   *durabletest.FS
	set  *Set
	boot int
	wrap func(nbd.Disk) nbd.Disk // breaks what clients see
	hurt func(*Set, *rand.Rand)  // breaks the Set between operations

	mu      sync.Mutex
	oracles []*oracle // guarded by mu
	left    int       // guarded by mu; operations until the loss
	lose    func()    // guarded by mu; the loss
	stop    bool      // guarded by mu
	bad     error     // guarded by mu; the first thing that was not as it should be
}

// client works on the stripes of its number until the model stops.
func (m *model) client(n int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	for {
		m.mu.Lock()
		if m.left--; m.left == 0 {
			// Under the lock: all that is acknowledged by now is in the image.
			m.lose()
			m.stop = true
		}
		stop := m.stop
		m.mu.Unlock()
		if stop {
			return
		}
		if m.hurt != nil {
			m.hurt(m.set, rng)
		}
		d := rng.IntN(len(m.w.img.Disks))
		size := int64(len(m.w.disks[d]))
		stripes := (size + modelStripe - 1) / modelStripe
		at := (rng.Int64N(stripes/modelClients)*modelClients + int64(n)) * modelStripe
		lo := at + rng.Int64N(modelStripe/sector)*sector
		hi := min(lo+(1+rng.Int64N(modelStripe/sector))*sector, at+modelStripe, size)
		dev := m.wrap(m.set.Device(m.w.img.Disks[d].ID))
		if lo < hi {
			m.step(rng, dev, d, lo, hi-lo)
		}
	}
}

// step does one operation on a range that is the client's alone.
func (m *model) step(rng *rand.Rand, dev nbd.Disk, d int, off, n int64) {
	r := req{Offset: off, Length: n}
	switch rng.IntN(10) {
	case 0:
		m.flush(dev, d)
		return
	case 1:
		r.Kind = nbd.WriteZeroes
	case 2:
		r.Kind = nbd.Trim
		r.Offset, r.Length = off&^(dr.BlockSize-1), dr.BlockSize
		if r.Offset+r.Length > int64(len(m.w.disks[d])) {
			return
		}
	case 3, 4, 5, 6:
		m.read(dev, d, off, n)
		return
	default:
		r.Kind, r.Data = nbd.Write, make([]byte, n)
		for i := 0; i < len(r.Data); i += 16 {
			r.Data[i] = byte(rng.Uint32()) | 1
		}
		if rng.IntN(8) == 0 {
			r.Flags = nbd.FUA
		}
	}
	b := r.Data
	if b == nil {
		b = make([]byte, r.Length)
	}
	m.mu.Lock()
	acked := m.oracles[d].begin(b, r.Offset)
	m.mu.Unlock()
	if do(dev, r) == nil {
		m.mu.Lock()
		acked()
		m.mu.Unlock()
	}
}

// read compares what a client reads with what it wrote last; of a write that
// failed either may be there.
func (m *model) read(dev nbd.Disk, d int, off, n int64) {
	p := bytes.Repeat([]byte{0x55}, int(n))
	if do(dev, req{Kind: nbd.Read, Offset: off, Length: n, Data: p}) != nil {
		return // bad weather
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := int64(0); i < n; i += sector {
		h := m.oracles[d].past[(off+i)/sector]
		ok := false
		for _, v := range h[h.now():] {
			ok = ok || bytes.Equal(v.b, p[i:min(i+sector, n)])
		}
		if !ok && m.bad == nil {
			m.bad = errs.New("model", errs.Corrupt, "", "a read: "+describe(int((off+i)/sector), p[i:min(i+sector, n)], h))
			m.stop = true
		}
	}
}

func (m *model) flush(dev nbd.Disk, d int) {
	m.mu.Lock()
	acked := m.oracles[d].flush()
	m.mu.Unlock()
	if do(dev, req{Kind: nbd.Flush}) == nil {
		m.mu.Lock()
		acked()
		m.mu.Unlock()
	}
}

// life runs clients and hydration until so many operations were begun, and
// takes an image of the file system in their middle.
func (m *model) life(rng *rand.Rand, ops int, loss durabletest.Loss) {
	m.sky.Change(fault.Weather{Storm: 0.02, Flip: 0.02, Short: 0.02, Lost: 0.02})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if rng.IntN(3) > 0 {
		wg.Go(func() {
			for ctx.Err() == nil && m.set.Run(ctx) != nil {
			}
		})
	}
	var image *durabletest.FS
	oracles := make([]*oracle, len(m.oracles))
	m.left, m.stop = ops, false
	m.lose = func() {
		image = m.fs.Image(rng.Uint64(), loss)
		// What the oracle learns while the rest ends is of a world that is no more.
		for i, o := range m.oracles {
			oracles[i] = o.clone()
		}
	}
	var clients sync.WaitGroup
	for n := range modelClients {
		seed := rng.Uint64()
		clients.Go(func() { m.client(n, seed) })
	}
	clients.Wait()
	if loss == durabletest.PowerLoss {
		m.boot++
	}
	cancel()
	wg.Wait()
	m.set.stop()
	m.set.shut()
	if image != nil { // else something is wrong already
		m.fs, m.oracles = image, oracles
	}
}

func (o *oracle) clone() *oracle {
	c := &oracle{image: o.image, since: map[int]struct{}{}, wrote: map[int]struct{}{}}
	for _, h := range o.past {
		c.past = append(c.past, append(history(nil), h...))
	}
	for s := range o.since {
		c.since[s] = struct{}{}
	}
	for b := range o.wrote {
		c.wrote[b] = struct{}{}
	}
	return c
}

func (m *model) open(wrap func(durable.FS) durable.FS) error {
	set, err := Open(context.Background(), m.w.c, m.w.img, m.w.targets("/d"),
		Options{FS: wrap(m.fs), BootID: itoa(m.boot), SaveEvery: 1e6, Parallel: 2, BootWindow: -1})
	m.set = set
	return err
}

// look opens what a loss left and compares it with what may be there.
func (m *model) look(wrap func(durable.FS) durable.FS, loss durabletest.Loss, exact bool) error {
	m.sky.Change(fault.Weather{})
	// On a copy: reading all of it would leave nothing to be fetched.
	real := m.fs
	m.fs = real.Image(0, durabletest.ProcessDeath)
	err := m.open(wrap)
	if err == nil {
		err = m.judge(loss, exact)
	}
	if m.set != nil {
		m.set.stop()
		m.set.shut()
	}
	m.fs = real
	if err == nil {
		err = m.open(wrap)
	}
	return err
}

// judge compares what the Set holds with what it may hold.
func (m *model) judge(loss durabletest.Loss, exact bool) error {
	for d, o := range m.oracles {
		id := m.w.img.Disks[d].ID
		dev := m.set.Device(id)
		got := make([]byte, dev.Size())
		if _, err := dev.ReadAt(got, 0); err != nil {
			return err
		}
		if err := o.settle(got, loss); err != nil {
			return err
		}
		if err := o.checkWritten(m.set, id, got, exact); err != nil {
			return err
		}
	}
	return nil
}

// breaks are what a broken twin changes.
type breaks struct {
	fs    func(durable.FS) durable.FS
	wrap  func(nbd.Disk) nbd.Disk
	hurt  func(*Set, *rand.Rand)
	limit time.Duration // of a stall; 0: the default
}

// runModel lives through some losses and then to the end; it returns the first thing that
// was wrong.
func runModel(t *testing.T, rng *rand.Rand, losses, ops int, b breaks) error {
	t.Helper()
	if b.fs == nil {
		b.fs = func(fs durable.FS) durable.FS { return fs }
	}
	if b.wrap == nil {
		b.wrap = func(d nbd.Disk) nbd.Disk { return d }
	}
	sky := fault.NewSky(mem.New(), rng.Uint64(), fault.Weather{}, nil)
	m := &model{w: newWorld(t, sky, rng, 8, 2<<20, 1<<20+sector), sky: sky, fs: durabletest.New(durabletest.Config{}), wrap: b.wrap, hurt: b.hurt}
	check(t, durable.MkdirAll(m.fs, "/d"))
	for _, d := range m.w.disks {
		m.oracles = append(m.oracles, newOracle(d))
	}
	if err := m.open(b.fs); err != nil {
		return err
	}
	exact := true
	for range losses {
		loss := durabletest.Loss(rng.IntN(2))
		exact = exact && loss == durabletest.ProcessDeath
		if b.limit > 0 {
			m.set.fetch.limit = b.limit
		}
		m.life(rng, 20+rng.IntN(ops), loss)
		if m.bad != nil {
			return m.bad
		}
		if err := m.look(b.fs, loss, exact); err != nil {
			return err
		}
	}
	defer m.set.shut()
	defer m.set.stop()
	if err := errors.Join(m.set.Run(t.Context()), m.set.Finish(t.Context())); err != nil {
		return err
	}
	for d, target := range m.w.targets("/d") {
		got, err := durable.ReadFile(m.fs.Image(rng.Uint64(), durabletest.PowerLoss), target.Path, 1<<30)
		if err == nil {
			err = m.oracles[d].settle(got, durabletest.ProcessDeath)
		}
		if err != nil {
			return err
		}
	}
	left, err := m.fs.ReadDir("/d")
	check(t, err)
	for _, e := range left {
		if isMap(e.Name) {
			t.Errorf("left: %s", e.Name)
		}
	}
	return nil
}

// TestModel: whatever happens, clients see what they wrote, and of the rest what
// the checkpoint had.
func TestModel(t *testing.T) {
	rng := seeded(t)
	for i := range 4 {
		check(t, runModel(t, rng, 5, 700, breaks{limit: time.Duration(i%2) * impatient}))
	}
}

// zeroes answers a failed read with zeroes.
type zeroes struct{ nbd.Disk }

func (z zeroes) Submit(op *nbd.Op) {
	if op.Kind != nbd.Read {
		z.Disk.Submit(op)
		return
	}
	if n, err := z.Disk.ReadAt(op.Data, op.Offset); err != nil {
		clear(op.Data[n:])
	}
	op.Complete(nil)
}

// TestModelCatchesBrokenRules: each of the rules broken is seen by the model.
func TestModelCatchesBrokenRules(t *testing.T) {
	rng := seeded(t)
	all := map[string]breaks{
		"a store that fails reads as zeroes": {limit: impatient, wrap: func(d nbd.Disk) nbd.Disk { return zeroes{d} }},
		// A block that is forgotten to be here is fetched again, over what the guest wrote.
		"a fetch overwrites the guest's write": {hurt: func(s *Set, rng *rand.Rand) {
			d := s.disks[0]
			d.state[rng.IntN(len(d.state))].And(^uint32(1 << rng.IntN(dr.BlocksPerChunk)))
		}},
		"a write is not told as written": {hurt: func(s *Set, rng *rand.Rand) {
			d := s.disks[0]
			d.ledger.mu.Lock()
			clear(d.ledger.written)
			d.ledger.mu.Unlock()
		}, fs: func(fs durable.FS) durable.FS { return &brokenFS{FS: fs, drop: isKind(kindWriting)} }},
	}
	for what, fs := range broken() {
		all[what] = breaks{fs: func(inner durable.FS) durable.FS {
			b := *fs
			b.FS = inner
			return &b
		}}
	}
	for what, b := range all {
		var caught error
		for range 8 {
			if caught = runModel(t, rng, 5, 700, b); caught != nil {
				break
			}
		}
		if caught == nil {
			t.Errorf("%s: not noticed", what)
		}
		t.Logf("%s: %v", what, caught)
	}
}
