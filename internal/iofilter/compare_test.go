package iofilter

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
	"holdfast/internal/segment"
	"holdfast/internal/store/limit"
	"holdfast/internal/wire"
)

// hashing is how a scripted DRVA answers questions about hashes: from any state
// of its log between what the question needs and what is durable, after any
// time. The breaches make it a DRVA that breaks a rule.
type hashing struct {
	rng   *rand.Rand
	keys  []wire.HashKey // data key generations: which one a block's frame has depends on when it was written
	asked int
	known int // chunks answered with hashes

	stale       bool // breach: it answers from any earlier state
	unknownZero bool // breach: of what it knows nothing it says that it reads as zeroes
	wrongKey    bool // breach: it names another generation's key
}

func newHashing(rng *rand.Rand) *hashing {
	h := &hashing{rng: rng, keys: make([]wire.HashKey, 3)}
	for i := range h.keys {
		h.keys[i][0] = byte(i)
	}
	return h
}

// welcome announces what is spoken, and the earlier state of disks.
func (h *hashing) welcome(w *wire.Welcome, hello *wire.Hello) {
	w.Features = []string{"other", wire.FeatureHash}
	if w.Known {
		w.Hashed = w.Unsynced
		return
	}
	w.Unsynced = nil
	for _, vm := range hello.VMs {
		for _, d := range vm.Disks {
			w.Unsynced = append(w.Unsynced, d.Index)
		}
	}
	w.Hashed = w.Unsynced
}

// ask answers after a while. The lock is held.
func (d *fakeDRVA) ask(c *fakeConn, m wire.HashAsk) {
	h := d.hashes
	h.asked++
	if c.run.received < m.Need {
		d.fault("record %d is needed, %d have come", m.Need, c.run.received)
	}
	from := len(d.log)
	go func() {
		for {
			d.mu.Lock()
			wait := time.Duration(h.rng.IntN(200)) * time.Millisecond
			if d.conn != c {
				d.mu.Unlock()
				return
			}
			if d.durable >= from {
				at := from + h.rng.IntN(d.durable-from+1)
				if h.stale {
					at = h.rng.IntN(from + 1)
				}
				f := d.answer(m, at).Append(nil)
				d.mu.Unlock()
				if c.rests(wait) {
					select {
					case c.out <- f:
					case <-c.gone:
					}
				}
				return
			}
			d.mu.Unlock()
			if !c.rests(wait) {
				return
			}
		}
	}()
}

// rests waits; false: the connection ended.
func (c *fakeConn) rests(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.gone:
		return false
	}
}

// answer answers from the first n records of the log.
func (d *fakeDRVA) answer(m wire.HashAsk, n int) *wire.HashAnswer {
	h := d.hashes
	a := &wire.HashAnswer{ID: m.ID, Keys: h.keys, States: make([]wire.ChunkState, m.Count)}
	size := int(m.Count) * dr.ChunkSize
	base := int(m.First) * dr.ChunkSize
	img, key := make([]byte, size), make([]int, size/dr.BlockSize)
	for i := range key {
		key[i] = -1
	}
	for i, l := range d.log[:n] {
		r := &l.rec
		lo, hi := max(int(r.Offset)-base, 0), min(int(r.Offset)+int(r.Length)-base, size)
		if r.Disk != m.Disk || lo >= hi {
			continue
		}
		for at := lo; at < hi; at += dr.BlockSize {
			switch r.Kind {
			case record.Data:
				copy(img[at:at+dr.BlockSize], r.Payload[at+base-int(r.Offset):])
				key[at/dr.BlockSize] = i / 50 % len(h.keys)
			case record.Zero, record.Discard:
				clear(img[at : at+dr.BlockSize])
				key[at/dr.BlockSize] = -1
			}
		}
	}
	for i := range a.States {
		if h.rng.IntN(10) == 0 {
			if h.unknownZero {
				a.States[i] = wire.HashZero
			}
			continue
		}
		h.known++
		h.chunk(a, i, img[i*dr.ChunkSize:(i+1)*dr.ChunkSize], key[i*dr.BlocksPerChunk:(i+1)*dr.BlocksPerChunk])
	}
	return a
}

func (h *hashing) chunk(a *wire.HashAnswer, i int, p []byte, key []int) {
	a.States[i] = wire.HashZero
	for k := range h.keys {
		piece := wire.HashPiece{Chunk: uint16(i), Key: uint8(k)}
		if h.wrongKey {
			piece.Key = uint8((k + 1) % len(h.keys))
		}
		for b, of := range key {
			if of == k {
				piece.Mask |= 1 << b
				a.Hashes = append(a.Hashes, segment.HashKey(h.keys[k]).Hasher().Sum(p[b*dr.BlockSize:(b+1)*dr.BlockSize]))
			}
		}
		if piece.Mask != 0 {
			a.States[i] = wire.HashKnown
			a.Pieces = append(a.Pieces, piece)
		}
	}
}

// rival is a guest that writes few different things, so that a disk is often
// what it was before.
func (r *rig) rival(rng *rand.Rand, n int) {
	var flying []*call
	for range n {
		disk := rng.IntN(len(r.mem))
		blocks := int(r.mem[disk].Size()) / dr.BlockSize
		off := rng.IntN(blocks)
		size := min(1+rng.IntN(20), blocks-off) * dr.BlockSize
		kind := nbd.Write
		if rng.IntN(6) == 0 {
			kind = nbd.WriteZeroes
		}
		flying = append(flying, r.submit(disk, kind, int64(off)*dr.BlockSize, int64(size), fill(byte(rng.IntN(3)), size)))
		if len(flying) > rng.IntN(6) {
			for _, c := range flying {
				<-c.done
			}
			flying = nil
		}
		if rng.IntN(3) == 0 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
	}
	for _, c := range flying {
		<-c.done
	}
}

// compareChaos lets guests write while everything goes wrong that makes disks
// be compared, and reports where the log differs from the primaries in the
// end; "" nowhere.
func compareChaos(t *testing.T, seed uint64, breach func(r *rig), cursor func(o *outlet, ctx context.Context)) (wrong string, h *hashing) {
	r := newRig(t, dr.AckRule(seed%3), 1<<20+512, 512<<10)
	r.o.window = 1 + uint32(seed%5)
	h = newHashing(source(seed ^ 0x777))
	r.drva.hashes = h
	if breach != nil {
		breach(r)
	}
	for i, m := range r.mem {
		rng := source(seed + uint64(i)<<32)
		var mu sync.Mutex
		m.slow = func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Duration(rng.IntN(3)) * time.Duration(rng.IntN(3000)) * time.Microsecond
		}
		m.lag = m.slow
		fails := source(seed + 99 + uint64(i))
		m.failOn = func(op *nbd.Op) error {
			mu.Lock()
			bad := op.Kind == nbd.Write && fails.IntN(30) == 0
			mu.Unlock()
			if bad { // the guest is told of a failure, and the disk has changed
				copy(m.data[op.Offset:], op.Data)
				return errBroken
			}
			return nil
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var own sync.WaitGroup
	own.Go(func() { r.o.watch(ctx) })
	own.Go(func() { r.o.runLink(ctx, r.drva.dial) })
	own.Go(func() { cursor(r.o, ctx) })
	r.stop = func() { cancel(); own.Wait() }
	defer r.end()
	stop := make(chan struct{})
	var troubles, guests sync.WaitGroup
	troubles.Go(func() { r.trouble(source(seed^0xabcdef), stop) })
	troubles.Go(func() { r.doubt(source(seed^0x123456), stop) })
	troubles.Go(func() { r.moods(source(seed^0x654321), stop) })
	for g := range 4 {
		guests.Go(func() { r.rival(source(seed*100+uint64(g)), 120) })
	}
	guests.Wait()
	close(stop)
	troubles.Wait()
	r.drva.with(func() {
		if r.drva.hang != nil {
			close(r.drva.hang)
		}
		r.drva.hang, r.drva.down, r.drva.mute, r.drva.volatile = nil, false, false, false
		r.drva.commit()
	})
	r.drva.cutLink()
	r.o.resume(Target{})
	r.o.letGo(Target{})
	r.settle(10 * time.Minute)
	return r.differs(), h
}

// moods has disks paused, held and synced, until it lets everything go.
func (r *rig) moods(rng *rand.Rand, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rng.IntN(1500)) * time.Millisecond):
		}
		t := Target{}
		if rng.IntN(3) > 0 {
			t.Disks = []dr.DiskID{r.o.disks[rng.IntN(len(r.o.disks))].info.ID}
		}
		switch rng.IntN(8) {
		case 0, 1:
			r.o.pause(t)
		case 2, 3:
			r.o.resume(t)
		case 4:
			r.o.hold(t)
		case 5:
			r.o.letGo(t)
		default:
			r.o.forceSync(t, rng.IntN(2) == 0)
		}
	}
}

// doubt has disks compared now and then.
func (r *rig) doubt(rng *rand.Rand, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rng.IntN(3000)) * time.Millisecond):
			r.compareAgain(r.o.disks[rng.IntN(len(r.o.disks))])
		}
	}
}

// differs is sameImages as a report.
func (r *rig) differs() string {
	for i, m := range r.mem {
		img := r.drva.image(uint16(i), m.Size())
		want := append(bytes.Clone(m.data), make([]byte, len(img)-len(m.data))...)
		for at := 0; at < len(img); at += dr.BlockSize {
			if !bytes.Equal(img[at:at+dr.BlockSize], want[at:at+dr.BlockSize]) {
				return fmt.Sprintf("disk %d differs at block %d: %d in the log, %d on the primary", i, at/dr.BlockSize, img[at], want[at])
			}
		}
	}
	return ""
}

func honest(o *outlet, ctx context.Context) { o.runCursor(ctx, newPacer(limit.Schedule{})) }

// TestCompareChaos: whatever goes wrong, in the end the log rebuilds every
// disk, though blocks that compared equal were not shipped.
// HOLDFAST_FILTER_N runs and HOLDFAST_FILTER_SEED begins elsewhere.
func TestCompareChaos(t *testing.T) {
	first := knob("HOLDFAST_FILTER_SEED", 1)
	var mu sync.Mutex
	asked, known := 0, 0
	for seed := first; seed < first+knob("HOLDFAST_FILTER_N", 24); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				wrong, h := compareChaos(t, uint64(seed), nil, honest)
				if wrong != "" {
					t.Error(wrong)
				}
				mu.Lock()
				defer mu.Unlock()
				asked, known = asked+h.asked, known+h.known
			})
		})
	}
	if t.Logf("%d questions, %d chunks known", asked, known); known < 1000 {
		t.Error("hardly anything was compared: this test proves nothing")
	}
}

// TestCompareCatchesBrokenRules: each rule that a comparison rests on, broken,
// is noticed by the same test.
func TestCompareCatchesBrokenRules(t *testing.T) {
	for name, breach := range map[string]struct {
		drva   func(r *rig)
		cursor func(o *outlet, ctx context.Context)
	}{
		"answers from a state that the log has changed since": {drva: func(r *rig) { r.drva.hashes.stale = true }, cursor: honest},
		"unknown is taken for zero":                           {drva: func(r *rig) { r.drva.hashes.unknownZero = true }, cursor: honest},
		"compares without the range lock":                     {cursor: unlocked},
		"an answer is used whatever has bypassed the stream":  {cursor: credulous},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 300; seed++ {
				wrong := ""
				bubble(t, func(t *testing.T) { wrong, _ = compareChaos(t, seed, breach.drva, breach.cursor) })
				if wrong != "" {
					t.Logf("seed %d: %s", seed, wrong)
					return
				}
			}
			t.Error("not noticed")
		})
	}
}

// broken runs a cursor that compares in another way.
func broken(o *outlet, ctx context.Context, compare func(c *cursor, d *disk, q *question, lo, hi int64)) {
	c := &cursor{o: o, buf: make([]byte, syncWindow), ready: make(chan struct{}, 1)}
	for ctx.Err() == nil {
		d, wait := c.pick()
		for d != nil && c.mayGo(d) && ctx.Err() == nil {
			chunk, ok := d.dirty.Next(0)
			if !ok {
				break
			}
			q, err := c.answerFor(ctx, d, chunk)
			if err != nil {
				if _, err := c.copyFrom(ctx, d, chunk); err != nil {
					break
				}
			} else if q != nil {
				lo := int64(chunk) * dr.ChunkSize
				compare(c, d, q, lo, min(lo+dr.ChunkSize, roundUp(d.size)))
			}
			wait = 0
		}
		if d != nil && wait == 0 {
			wait = time.Millisecond
		}
		if wait != 0 {
			sleepUntil(ctx, o.syncKick, wait)
		}
	}
}

// unlocked reads and compares beside the guests' writes.
func unlocked(o *outlet, ctx context.Context) {
	broken(o, ctx, func(c *cursor, d *disk, q *question, lo, hi int64) {
		p := c.buf[:hi-lo]
		if d.readBlocks(p, lo) != nil {
			return
		}
		time.Sleep(5 * time.Millisecond) // hashing takes a while
		if !c.clearFresh(d, q, lo, hi) {
			return
		}
		c.verdicts = append(c.verdicts[:0], make([]verdict, len(p)/dr.BlockSize)...)
		c.judgeAll(q, p, uint32(lo/dr.ChunkSize))
		c.record(d, p, lo)
	})
}

// credulous does not ask whether an answer has become stale.
func credulous(o *outlet, ctx context.Context) {
	broken(o, ctx, func(c *cursor, d *disk, q *question, lo, hi int64) {
		time.Sleep(40 * time.Millisecond) // what was asked ahead grows old
		if !c.lock(ctx, d, lo, hi) {
			return
		}
		defer c.unlock(d)
		d.clearDirty(lo, hi)
		_ = c.compareContent(d, q, c.buf[:hi-lo], lo)
	})
}

// TestWrongKeyShipsAll: hashes under another generation's key compare to
// nothing, so that everything is shipped: safe, and seen in the figures.
func TestWrongKeyShipsAll(t *testing.T) {
	for _, wrong := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, dr.Async, 4<<20)
			copy(r.mem[0].data, fill(7, 4<<20))
			r.drva.hashes = newHashing(source(5))
			r.synced()
			defer r.end()
			r.drva.with(func() { r.drva.hashes.wrongKey, r.drva.hashes.rng = wrong, source(6) })
			before := r.status().Stream
			r.compareAgain(r.o.disks[0])
			r.settle(time.Minute)
			r.sameImages()
			s := r.status().Stream
			compared, shipped := s.Compared-before.Compared, s.Shipped-before.Shipped
			if compared != 4<<20 || wrong && shipped != 4<<20 || !wrong && shipped > 1<<20 {
				t.Fatalf("wrong key %v: compared %d, shipped %d", wrong, compared, shipped)
			}
		})
	}
}

// TestNoAnswerShips: a DRVA that never answers does not keep a sync from
// ending; nor does one that speaks no hashes.
func TestNoAnswerShips(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 4<<20).synced()
		defer r.end()
		r.compareAgain(r.o.disks[0])
		r.settle(10 * time.Second)
		if s := r.status().Stream; s.Compared != 0 {
			t.Fatalf("compared %d with a DRVA that has no hashes", s.Compared)
		}
		r.sameImages()
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 4<<20)
		r.o.window = 16
		r.drva.hashes = newHashing(source(7))
		r.synced()
		defer r.end()
		r.must(r.write(0, 0, fill(1, 4<<20)))
		r.settle(time.Minute)
		r.drva.with(func() { r.drva.volatile = true }) // nothing becomes durable, so nothing is answered
		r.must(r.write(0, 0, fill(2, 4096)))
		time.Sleep(time.Second)
		r.compareAgain(r.o.disks[0])
		time.Sleep(answerLimit / 2)
		if r.o.disks[0].dirty.Count() == 0 {
			t.Fatal("shipped without waiting for an answer")
		}
		r.must(r.write(0, 65536, fill(3, 4096))) // guests go on
		time.Sleep(answerLimit)
		if s := r.status(); s.Disks[0].DirtyBytes == 4<<20 {
			t.Fatalf("still waits: %+v", s)
		}
		r.drva.with(func() { r.drva.volatile = false; r.drva.commit() })
		r.drva.cutLink()
		r.settle(10 * time.Minute)
		r.sameImages()
	})
}

// TestHostileAnswers: an answer of another size ends the connection; one that
// nobody asked for is nothing.
func TestHostileAnswers(t *testing.T) {
	o := newOutlet(&Config{RingBytes: MinRing}, slog.New(slog.DiscardHandler))
	d := o.newDisk(dr.Disk{Size: 1 << 20}, &memDisk{data: make([]byte, 1<<20)})
	o.addDisk(d)
	o.hash = hashLink{on: true, open: map[uint32]*question{}}
	q := o.askLocked(d, 0)
	if err := o.onHashAnswer(&wire.HashAnswer{ID: 99, States: make([]wire.ChunkState, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := o.onHashAnswer(&wire.HashAnswer{ID: 1, States: make([]wire.ChunkState, 3)}); err == nil || q.answer != nil {
		t.Fatal("taken for an answer")
	}
}

// compareAgain has all of a disk compared, as Filter.Sync does.
func (r *rig) compareAgain(d *disk) {
	r.o.forceSync(Target{Disks: []dr.DiskID{d.info.ID}}, true)
}
