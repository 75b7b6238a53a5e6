package iofilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter/sidecar"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
	"holdfast/internal/store/limit"
)

const (
	primaryFile = "/disk"
	sidecarFile = "/disk.holdfast"
)

// fsDisk is a primary whose writes are lost with the power until it is flushed.
type fsDisk struct {
	f    durable.File
	size int64
	slow func() time.Duration
	wg   sync.WaitGroup
}

func (p *fsDisk) Submit(op *nbd.Op) {
	p.wg.Go(func() {
		if p.slow != nil {
			time.Sleep(p.slow())
		}
		var err error
		switch op.Kind {
		case nbd.Write:
			err = p.f.WriteAtv([][]byte{op.Data}, op.Offset)
		case nbd.WriteZeroes, nbd.Trim:
			err = p.f.WriteAtv([][]byte{make([]byte, op.Length)}, op.Offset)
		case nbd.Flush:
			err = p.f.Sync()
		}
		op.Complete(err)
	})
}

func (p *fsDisk) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	n, err := p.f.ReadAt(b, off)
	if errors.Is(err, io.EOF) && off+int64(len(b)) <= p.size {
		return len(b), nil // a hole at the end
	}
	return n, err
}

func (p *fsDisk) Size() int64 { return p.size }

func (p *fsDisk) NextData(off int64) (int64, int64, error) { return off, p.size, nil }

// machine is a host with one disk and its sidecar on a disk that forgets, and
// a DRVA elsewhere.
type machine struct {
	*rig
	fs   *durabletest.FS
	prim *fsDisk
	rng  *rand.Rand
	id   sidecar.Identity

	forgetFlush bool // flaw: the closer does not flush
	bypass      bool // flaw: writes do not open regions
}

func newMachine(t testing.TB, seed uint64, size int64) *machine {
	t.Helper()
	m := &machine{fs: durabletest.New(durabletest.Config{}), rng: source(seed)}
	m.rig = &rig{t: t, drva: newFakeDRVA()}
	m.id = sidecar.Identity{Disk: dr.DiskID{UUID: dr.NewUUID()}, Size: size}
	f, err := m.fs.OpenFile(primaryFile, durable.Write|durable.Create)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Sync(), m.fs.SyncDir("/"), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// boot starts a host component on what the file system holds.
func (m *machine) boot(slow bool) {
	m.t.Helper()
	cfg := &Config{Domain: dr.DomainID{UUID: dr.NewUUID()}, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "h", RingBytes: MinRing}
	vm := VM{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.UUID{1}}, Name: "vm"}}
	m.o = newOutlet(cfg, slog.New(slog.DiscardHandler))
	f, err := m.fs.OpenFile(primaryFile, durable.Write)
	if err != nil {
		m.t.Fatal(err)
	}
	m.prim = &fsDisk{f: f, size: m.id.Size}
	if slow {
		var mu sync.Mutex
		rng := source(m.rng.Uint64())
		m.prim.slow = func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Duration(rng.IntN(4)) * time.Duration(rng.IntN(4000)) * time.Microsecond
		}
	}
	info := dr.Disk{ID: m.id.Disk, VM: vm.Config.ID, Name: "disk", Size: m.id.Size}
	vm.Disks = append(vm.Disks, Disk{ID: info.ID, Name: info.Name})
	d := m.o.newDisk(info, m.prim)
	m.o.addDisk(d)
	flush := f.Sync
	if m.forgetFlush {
		flush = func() error { return nil }
	}
	d.remember(m.fs, sidecarFile, primaryFile, flush, false)
	m.o.setVMLocked(&vm.Config)
	ctx, cancel := context.WithCancel(m.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.o.watch(ctx) })
	wg.Go(func() { m.o.runLink(ctx, m.drva.dial) })
	wg.Go(func() { m.o.runCursor(ctx, newPacer(limit.Schedule{})) })
	wg.Go(func() { d.keep.runOpener(ctx) })
	wg.Go(func() { d.keep.runCloser(ctx) })
	m.stop = func() { cancel(); wg.Wait(); m.prim.wg.Wait(); d.keep.end(); f.Close() }
}

// submit sends an operation down the disk's tap.
func (m *machine) submit(kind nbd.Kind, off int64, data []byte) *call {
	c := &call{done: make(chan struct{})}
	began := time.Now()
	op := nbd.NewOp(func(_ *nbd.Op, err error) {
		c.err, c.took = err, time.Since(began)
		close(c.done)
	})
	op.Kind, op.Offset, op.Length, op.Data = kind, off, int64(len(data)), data
	d := m.o.disks[0]
	if m.bypass && kind == nbd.Write {
		// As tap.Submit without the part that opens regions; the cursor is
		// never in the way in these tests, and guests do not overlap.
		t := &tap{disk: d, primary: m.prim}
		op.Intercept(t)
		d.locks.acquire(claim{lo: roundDown(off), hi: roundUp(off + op.Length), op: op, via: t})
		m.prim.Submit(op)
		return c
	}
	(&tap{disk: d, primary: m.prim}).Submit(op)
	return c
}

// use lets guests work for a while: bursts in a few places, pauses, flushes.
func (m *machine) use(lasts time.Duration) {
	until := time.Now().Add(lasts)
	zone := m.rng.IntN(int(m.id.Size/sidecar.RegionSize) - 5) // what is left alone can be closed
	for time.Now().Before(until) {
		base, kind := int64(zone+m.rng.IntN(6))*sidecar.RegionSize, nbd.Write
		var flying []*call
		for i := range 1 + m.rng.IntN(6) {
			n := dr.BlockSize * (1 + m.rng.IntN(3))
			off := base + int64(i)*128<<10
			if m.rng.IntN(8) == 0 {
				kind = nbd.WriteZeroes
			}
			flying = append(flying, m.submit(kind, off, fill(byte(1+m.rng.IntN(255)), n)))
		}
		for _, c := range flying {
			if <-c.done; c.err != nil || c.took >= longest {
				m.t.Errorf("an operation took %v, error %v", c.took, c.err)
			}
		}
		if m.rng.IntN(20) == 0 && !m.forgetFlush {
			<-m.submit(nbd.Flush, 0, nil).done
		}
		time.Sleep(time.Duration(m.rng.IntN(1200)) * time.Millisecond)
	}
}

// crash ends the host at once, and returns it as it is found afterwards: its
// disk has what a disk has then, its component has not been started.
func (m *machine) crash(loss durabletest.Loss) {
	m.drva.with(func() { m.drva.down = true })
	m.drva.cutLink()
	image := m.fs.Image(m.rng.Uint64(), loss)
	m.fs.Halt()
	m.stop()
	m.fs = image
	m.drva.with(func() { m.drva.down = false })
}

// missed lists blocks where disk and log differ outside what the sidecar calls
// open. vouches is false when it says nothing, or the DRVA would not believe.
func (m *machine) missed(judge bool) (list []int64, open int, vouches bool) {
	s, err := sidecar.Open(m.fs.Image(1, durabletest.ProcessDeath), sidecarFile, m.id, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.End()
	v := s.Vouch()
	known := false
	m.drva.with(func() {
		run := m.drva.runs[m.drva.owner]
		known = len(v.Runs) > 0 && run != nil && (v.Runs[0] != m.drva.owner || run.durable >= v.Durable)
	})
	if len(v.Runs) == 0 || judge && !known {
		return nil, 0, false
	}
	at := map[int]bool{}
	s.Regions(func(r int) { at[r] = true })
	img := m.drva.image(0, m.id.Size)
	disk := make([]byte, m.id.Size)
	if err := m.fs.Peek(primaryFile, disk, 0); err != nil {
		m.t.Fatal(err)
	}
	for b := int64(0); b < m.id.Size; b += dr.BlockSize {
		if !bytes.Equal(disk[b:b+dr.BlockSize], img[b:b+dr.BlockSize]) && !at[int(b/sidecar.RegionSize)] {
			list = append(list, b)
		}
	}
	return list, len(at), true
}

// sound compares the disk with the log, which must be the same.
func (m *machine) sound() {
	m.t.Helper()
	disk := make([]byte, m.id.Size)
	if err := m.fs.Peek(primaryFile, disk, 0); err != nil {
		m.t.Fatal(err)
	}
	img := m.drva.image(0, m.id.Size)
	for b := int64(0); b < m.id.Size; b += dr.BlockSize {
		if !bytes.Equal(disk[b:b+dr.BlockSize], img[b:b+dr.BlockSize]) {
			m.t.Fatalf("block %d (region %d) differs", b/dr.BlockSize, b/sidecar.RegionSize)
		}
	}
}

// lives plays several lives that end suddenly, and returns the first thing
// that is wrong with a sidecar; "" if nothing is.
func (m *machine) lives(n int, judge bool) (wrong string) {
	for life := range n {
		m.drva.with(func() {
			if m.drva.volatile = m.drva.lies; !m.drva.lies {
				m.drva.commit()
			}
		})
		m.boot(life%2 == 1)
		m.settle(time.Minute)
		if life > 0 || m.o.status().syncedBytes == m.id.Size {
			m.sound()
		}
		m.trouble(10 * time.Second)
		loss := durabletest.Loss(m.rng.IntN(2))
		m.crash(loss)
		if m.rng.IntN(2) == 0 || m.drva.lies {
			m.drva.crash()
		}
		list, open, vouches := m.missed(judge)
		if len(list) > 0 {
			return fmt.Sprintf("life %d, loss %d: %d blocks differ outside the %d open regions, the first in region %d",
				life, loss, len(list), open, list[0]/sidecar.RegionSize)
		}
		if !vouches && !m.drva.lies {
			return fmt.Sprintf("life %d: the sidecar is worth nothing", life)
		}
	}
	return ""
}

// trouble lets guests work while the DRVA does not always keep up.
func (m *machine) trouble(step time.Duration) {
	for range 8 {
		d := m.drva
		switch m.rng.IntN(5) {
		case 0:
			d.cutLink()
		case 1:
			d.with(func() { d.volatile = !d.volatile })
		case 2:
			d.with(func() { d.down = !d.down && m.rng.IntN(2) == 0 })
		case 3:
			if !d.lies {
				d.crash()
			}
		}
		m.use(step)
	}
	m.drva.with(func() { m.drva.down = false })
}

type counters struct{ syncedBytes, syncs int64 }

func (o *outlet) status() counters {
	o.mu.Lock()
	defer o.mu.Unlock()
	return counters{int64(o.stats.syncedBytes), int64(o.disks[0].keep.side.Stats().Syncs)}
}

// TestSidecarCoversEverySuddenEnd: whatever ends the host, and whenever, disk
// and log differ in open regions only; and the next run makes them the same.
func TestSidecarCoversEverySuddenEnd(t *testing.T) {
	first := knob("HOLDFAST_FILTER_SEED", 1)
	for seed := first; seed < first+knob("HOLDFAST_FILTER_N", 8); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := newMachine(t, uint64(seed), 24<<20)
				if wrong := m.lives(5, true); wrong != "" {
					t.Fatal(wrong)
				}
				m.drva.with(func() { m.drva.volatile = false; m.drva.commit() })
				m.boot(false)
				m.settle(time.Minute)
				m.sound()
				m.end()
				if m.drva.resumed == 0 {
					t.Error("no run went on by its sidecar")
				}
			})
		})
	}
}

// TestBrokenKeepersAreNoticed: each rule left out is found out by the same
// lives.
func TestBrokenKeepersAreNoticed(t *testing.T) {
	for name, spoil := range map[string]func(m *machine){
		"closed without a flush":               func(m *machine) { m.forgetFlush = true },
		"closed before the log has it":         func(m *machine) { m.drva.lies, m.drva.volatile = true, true },
		"written without opening":              func(m *machine) { m.bypass = true },
		"none, so that the lives are the same": nil,
	} {
		t.Run(name, func(t *testing.T) {
			found := ""
			seeds := uint64(12)
			if spoil == nil {
				seeds = 4
			}
			for seed := uint64(1); seed <= seeds && found == ""; seed++ {
				bubble(t, func(t *testing.T) {
					m := newMachine(t, seed, 24<<20)
					if spoil == nil {
						found = m.lives(2, true)
						return
					}
					spoil(m)
					m.spoiled()
					found = m.lives(1, false)
				})
			}
			if (found == "") != (spoil == nil) {
				t.Errorf("found: %q", found)
			}
			t.Log(found)
		})
	}
}

// spoiled makes the first copy durable, so that only what follows is judged.
func (m *machine) spoiled() {
	lies, bypass := m.drva.lies, m.bypass
	m.drva.lies, m.drva.volatile, m.bypass = false, false, false
	m.boot(false)
	m.settle(time.Minute)
	time.Sleep(3 * roundEvery)
	m.crash(durabletest.ProcessDeath)
	m.drva.lies, m.drva.volatile, m.bypass = lies, lies, bypass
}

// TestKilledHostCopiesOpenRegionsOnly counts what is read.
func TestKilledHostCopiesOpenRegionsOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newMachine(t, 1, 128<<20)
		m.boot(false)
		m.settle(time.Minute)
		time.Sleep(4 * roundEvery)
		if n := m.o.disks[0].keep.openBytes(); n != 0 {
			t.Fatalf("%d bytes open in a calm host", n)
		}
		before := m.o.status().syncs
		for i := range 40 { // all over the disk, and no two in one region
			c := m.submit(nbd.Write, int64(i)*3<<20, fill(byte(i+1), 4096))
			if <-c.done; c.err != nil {
				t.Fatal(c.err)
			}
		}
		t.Logf("%d synchronous writes for 40 writes to as many regions, one at a time", m.o.status().syncs-before)
		m.crash(durabletest.ProcessDeath)
		m.boot(false)
		m.settle(time.Minute)
		m.sound()
		if n := m.o.status().syncedBytes; n != 40<<20 {
			t.Errorf("%d bytes were read for 40 open regions", n)
		}
		m.end()
	})
}

// TestConcurrentOpensShareAWrite: what waits while one write to the file is
// under way is opened by the next.
func TestConcurrentOpensShareAWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newMachine(t, 1, 256<<20)
		m.boot(false)
		m.settle(time.Minute)
		time.Sleep(4 * roundEvery)
		m.fs.SetHook(func(o durabletest.Op) error {
			if o.Kind == durabletest.Write && o.Path == sidecarFile && o.Phase == durabletest.During {
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		before := m.o.status().syncs
		var calls []*call
		for i := range 64 {
			calls = append(calls, m.submit(nbd.Write, int64(i)*3<<20, fill(1, 4096)))
		}
		for _, c := range calls {
			<-c.done
		}
		if n := m.o.status().syncs - before; n > 3 {
			t.Errorf("%d synchronous writes for 64 concurrent writes", n)
		}
		m.end()
	})
}

// TestUnwritableSidecar: the guest goes on, the state says so, and a later run
// finds nothing to trust; when the disk is well again the sidecar is, too.
func TestUnwritableSidecar(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newMachine(t, 1, 64<<20)
		m.boot(false)
		m.settle(time.Minute)
		time.Sleep(4 * roundEvery)
		m.fs.SetHook(func(o durabletest.Op) error {
			if o.Kind == durabletest.Write && o.Path != primaryFile {
				return errs.New("disk", errs.Full, o.Path, "no space")
			}
			return nil
		})
		c := m.submit(nbd.Write, 5<<20, fill(9, 4096))
		if <-c.done; c.err != nil || c.took > time.Second {
			t.Fatalf("the guest's write took %v, error %v", c.took, c.err)
		}
		if s := m.rig.status(); !s.Disks[0].NoSidecar || s.State != Streaming {
			t.Errorf("status %+v", s.Disks[0])
		}
		if list, open, vouches := m.missed(true); vouches {
			t.Errorf("a later run would trust it: %d open, %v", open, list)
		}
		m.fs.SetHook(nil)
		time.Sleep(2 * sidecarRetry)
		if s := m.rig.status(); s.Disks[0].NoSidecar {
			t.Error("not taken up again")
		}
		<-m.submit(nbd.Write, 9<<20, fill(9, 4096)).done
		if list, _, vouches := m.missed(true); !vouches || len(list) > 0 {
			t.Errorf("vouches %v, missed %v", vouches, list)
		}
		m.end()
	})
}

// TestStaleSidecarIsToldToTheDRVA: if the file can be neither written nor
// removed, a write that needs it waits until the DRVA knows, or for a while.
func TestStaleSidecarIsToldToTheDRVA(t *testing.T) {
	for _, cut := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			m := newMachine(t, 1, 64<<20)
			m.boot(false)
			m.settle(time.Minute)
			time.Sleep(4 * roundEvery)
			m.fs.SetHook(func(o durabletest.Op) error {
				if o.Kind.Mutates() && o.Path != primaryFile {
					return errs.New("disk", errs.Unavailable, o.Path, "medium error")
				}
				return nil
			})
			if cut {
				m.drva.with(func() { m.drva.down = true })
				m.drva.cutLink()
				synctest.Wait()
			}
			c := m.submit(nbd.Write, 5<<20, fill(9, 4096))
			if <-c.done; c.err != nil || c.took >= longest || cut != (c.took >= voidLimit) {
				t.Errorf("link cut %v: the write took %v, error %v", cut, c.took, c.err)
			}
			m.drva.with(func() { m.drva.down = false })
			m.settle(time.Minute)
			if n := m.drva.count(record.Disk, 0); n != 1 {
				t.Errorf("link cut %v: %d Disk records", cut, n)
			}
			m.fs.SetHook(nil)
			m.end()
		})
	}
}

// TestCleanStopCopiesNothing: what was drained is released, and the next run
// reads nothing; a guest that writes before the link is up is no exception to
// what is copied.
func TestCleanStopCopiesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newMachine(t, 1, 64<<20)
		m.boot(false)
		m.settle(time.Minute)
		m.use(5 * time.Second)
		if !m.o.drain(drainLimit) {
			t.Fatal("not drained")
		}
		m.o.releaseDisks(drainLimit)
		m.crash(durabletest.PowerLoss)
		if n := m.drva.count(record.Disk, 0); n != 1 {
			t.Fatalf("%d Disk records", n)
		}
		s, err := sidecar.Open(m.fs.Image(1, durabletest.ProcessDeath), sidecarFile, m.id, 0)
		if err != nil || !s.Vouch().Clean {
			t.Fatalf("%v, %+v", err, s.Vouch())
		}
		s.End()
		m.boot(false)
		if d := m.o.disks[0]; d.dirty.Count() != 0 || d.unsynced {
			t.Fatalf("%d dirty chunks, unsynced %v", d.dirty.Count(), d.unsynced)
		}
		<-m.submit(nbd.Write, 8<<20, fill(3, 4096)).done
		m.settle(time.Minute)
		m.sound()
		if n := m.o.status().syncedBytes; n > dr.ChunkSize {
			t.Errorf("%d bytes were read for one chunk", n)
		}
		m.end()
	})
}

// TestLostStreamReopensEverything: a DRVA without memory makes the sidecar
// worthless until all has been copied to it.
func TestLostStreamReopensEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newMachine(t, 1, 24<<20)
		m.boot(false)
		m.settle(time.Minute)
		time.Sleep(4 * roundEvery)
		m.drva.forget()
		m.drva.with(func() { m.drva.log, m.drva.durable = nil, 0 })
		synctest.Wait()
		m.settle(time.Minute)
		m.sound()
		if n := m.o.status().syncedBytes; n != 2*m.id.Size {
			t.Errorf("%d bytes copied", n)
		}
		if list, open, vouches := m.missed(true); !vouches || len(list) > 0 || open != 24 {
			t.Errorf("%d open, vouches %v, %v", open, vouches, list)
		}
		m.end()
	})
}

// BenchmarkStart is what a write to an open region pays for its sidecar.
func BenchmarkStart(b *testing.B) {
	fs := durabletest.New(durabletest.Config{})
	o := newOutlet(&Config{RingBytes: MinRing}, slog.New(slog.DiscardHandler))
	d := o.newDisk(dr.Disk{ID: dr.DiskID{UUID: dr.UUID{1}}, Size: 1 << 30}, nil)
	o.addDisk(d)
	d.remember(fs, sidecarFile, primaryFile, nil, false)
	if err := d.keep.side.OpenRegions([]sidecar.Range{{Off: 0, N: 1 << 30}}); err != nil {
		b.Fatal(err)
	}
	t := &tap{disk: d, primary: nothing{}}
	op := nbd.NewOp(nil)
	op.Kind, op.Length = nbd.Write, 4096
	b.ReportAllocs()
	for b.Loop() {
		op.Offset = (op.Offset + 7919*4096) & (1<<30 - 1)
		t.start(op)
	}
}

// nothing is a primary that does nothing.
type nothing struct{}

func (nothing) Submit(*nbd.Op) {}

// TestMarksAreCountedInTime: while one goroutine marks a chunk, another does as
// a round does that is to close its region: it must see the mark, or that there
// was one.
func TestMarksAreCountedInTime(t *testing.T) {
	m := newDirtyMap(sidecar.RegionSize)
	begin, over := make(chan struct{}), make(chan struct{})
	defer close(begin)
	go func() {
		for range begin {
			m.Set(0, 1)
			over <- struct{}{}
		}
	}()
	for range 300_000 {
		m.ClearChunk(0)
		begin <- struct{}{}
		marks := m.marks.Load()
		dirty := m.region(0)
		<-over // the range lock is quiet
		if !dirty && m.marks.Load() == marks {
			t.Fatal("a region with a dirty chunk would have been closed")
		}
	}
}
