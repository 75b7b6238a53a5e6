package iofilter

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// join adds a disk to the rig's VM while it runs, and returns it.
func (r *rig) join(size int) *disk {
	r.t.Helper()
	r.o.mu.Lock()
	vm := r.o.vms[0]
	r.o.mu.Unlock()
	m := &memDisk{data: make([]byte, size)}
	id := dr.DiskID{UUID: dr.NewUUID()}
	d := r.o.newDisk(dr.Disk{ID: id, VM: vm.ID, Name: fmt.Sprintf("disk%d", len(r.mem)), Size: int64(size)}, m)
	if err := r.o.join(&vm, []*disk{d}); err != nil {
		r.t.Fatal(err)
	}
	r.mem = append(r.mem, m)
	return d
}

// resize gives a disk another size, as Filter.Resize does; nobody uses it.
func (r *rig) resize(old *disk, size int) *disk {
	r.t.Helper()
	old.rest(true)
	old.work.Lock()
	m := old.primary.(*memDisk)
	if size <= len(m.data) {
		m.data = m.data[:size]
	} else {
		m.data = append(bytes.Clone(m.data), make([]byte, size-len(m.data))...)
	}
	old.work.Unlock()
	info := old.info
	info.Size = int64(size)
	d := r.o.newDisk(info, m)
	d.dirty = newDirtyMap(info.Size)
	r.o.replace(old, d)
	return d
}

// on sends an operation down a disk's tap.
func (r *rig) on(d *disk, kind nbd.Kind, off, n int64, data []byte) *call {
	c := &call{done: make(chan struct{})}
	began := time.Now()
	op := nbd.NewOp(func(_ *nbd.Op, err error) {
		c.err, c.took = err, time.Since(began)
		close(c.done)
	})
	op.Kind, op.Offset, op.Length, op.Data = kind, off, n, data
	(&tap{disk: d, primary: d.primary.(*memDisk)}).Submit(op)
	return c
}

// TestDiskJoinsARunningHost: a disk that is added while the host streams is
// copied, and the other does not notice: no tracking, nothing sent again.
func TestDiskJoinsARunningHost(t *testing.T) {
	for _, ack := range []dr.AckRule{dr.Async, dr.Ordered, dr.Sync} {
		t.Run(ack.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, ack, 1<<20).synced()
				defer r.end()
				rnd := source(7)
				var calls []*call
				for i := range 50 {
					calls = append(calls, r.write(0, rnd.Int64N(200)*dr.BlockSize, fill(byte(i+1), dr.BlockSize)))
					if i == 20 {
						d := r.join(2 << 20)
						calls = append(calls, r.on(d, nbd.Write, 4096, 8192, fill(9, 8192)))
					}
					time.Sleep(300 * time.Microsecond)
				}
				r.settle(time.Minute)
				for _, c := range calls {
					if !c.over() || c.err != nil || c.took > ackLimit {
						t.Fatalf("over %v, %v, took %v", c.over(), c.err, c.took)
					}
				}
				r.sameImages()
				if n := r.drva.count(record.TrackBegin, 0); n != 1 {
					t.Errorf("%d TrackBegins of the disk that was there before", n)
				}
				if s := r.status(); s.Stream.Trackings != 0 || s.Link.Connects != 2 || s.State != Streaming || len(s.Disks) != 2 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// TestDiskJoinsWithoutALink: it tracks, and only it.
func TestDiskJoinsWithoutALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.drva.with(func() { r.drva.down = true })
		r.drva.cutLink()
		synctest.Wait()
		d := r.join(1 << 20)
		r.must(r.on(d, nbd.Write, 0, 4096, fill(1, 4096)))
		r.must(r.write(0, 0, fill(2, 4096)))
		s := r.status()
		if s.State != Disconnected || s.Disks[1].State != Tracking || s.Disks[1].Cause != causeJoining || s.Disks[0].DirtyBytes != 0 {
			t.Fatalf("status %+v", s)
		}
		if r.o.str.Next()-r.o.str.Durable() != 2 {
			t.Fatal("a record of a disk the DRVA does not know is in the stream")
		}
		r.drva.with(func() { r.drva.down = false })
		r.settle(time.Minute)
		r.sameImages()
	})
}

// TestWithoutWaitingTheDRVARefuses is the twin of the tests above: if a disk's
// writes entered the stream before the DRVA knew of the disk, it would see
// records it cannot place.
func TestWithoutWaitingTheDRVARefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Ordered, 1<<20).synced()
		if !r.drva.round(wire.TypeHold, 1) { // keeps the connection that does not know the disk
			t.Fatal("no link")
		}
		synctest.Wait()
		d := r.join(1 << 20)
		r.o.mu.Lock()
		r.o.settleLocked(d) // the rule that is broken
		r.o.gate.Hold(2, r.o.now())
		r.o.mu.Unlock()
		r.o.gate.Inside()
		r.o.gate.Hold(2, r.o.now())
		r.on(d, nbd.Write, 0, 4096, fill(1, 4096))
		time.Sleep(time.Second)
		r.stop()
		if err := r.drva.problems(); err == nil || !strings.Contains(err.Error(), "not announced") {
			t.Fatalf("the broken rule was not noticed: %v", err)
		}
	})
}

// TestDiskLeaves: the DRVA hears of it behind everything else of the disk,
// whatever becomes of the connection, and the host forgets it.
func TestDiskLeaves(t *testing.T) {
	for name, trouble := range map[string]func(*fakeDRVA){
		"calm":      func(*fakeDRVA) {},
		"cut":       func(d *fakeDRVA) { d.cutLink() },
		"crash":     func(d *fakeDRVA) { d.crash() },
		"forgotten": func(d *fakeDRVA) { d.forget() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, dr.Async, 1<<20, 1<<20).synced()
				defer r.end()
				d := r.o.disks[1]
				r.drva.with(func() { r.drva.volatile = true })
				r.must(r.write(1, 0, fill(3, 4096)))
				way := r.o.leave(d, leaveRemove)
				time.Sleep(5 * time.Millisecond) // it is on its way, and not durable
				trouble(r.drva)
				r.drva.with(func() { r.drva.volatile = false })
				r.must(r.write(0, 0, fill(4, 4096)))
				select {
				case <-way.done:
				case <-time.After(time.Minute):
					t.Fatal("the DRVA did not hear of it")
				}
				r.settle(time.Minute)
				r.drva.cutLink()
				time.Sleep(time.Second)
				r.drva.with(func() {
					if got := r.drva.removed[d.info.ID]; got != `{"op":"remove"}` {
						t.Errorf("the DRVA was left with %q", got)
					}
					last := r.drva.hellos[len(r.drva.hellos)-1]
					if len(last.VMs) != 1 || len(last.VMs[0].Disks) != 1 {
						t.Errorf("the last Hello was %+v", last.VMs)
					}
				})
				if s := r.status(); len(s.Disks) != 1 {
					t.Errorf("status %+v", s.Disks)
				}
			})
		})
	}
}

// TestRelease: a disk whose copy is complete is handed over clean; one whose
// copy is not says nothing, because that would not be true.
func TestRelease(t *testing.T) {
	for _, clean := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, dr.Async, 1<<20, 1<<20).synced()
			defer r.end()
			d := r.o.disks[1]
			if !clean {
				r.o.pause(Target{Disks: []dr.DiskID{d.info.ID}})
				r.must(r.write(1, 0, fill(3, 4096)))
			}
			way := r.o.leave(d, leaveRelease)
			<-way.done
			time.Sleep(time.Second)
			r.drva.with(func() {
				if _, told := r.drva.removed[d.info.ID]; told != clean {
					t.Errorf("clean %v, the DRVA was told: %v", clean, told)
				}
				if last := r.drva.hellos[len(r.drva.hellos)-1]; !clean && len(last.VMs[0].Disks) != 1 {
					t.Error("the DRVA still takes the disk for this host's")
				}
			})
		})
	}
}

// TestShrinkWaitsForReplays: records that lie beyond the new end may have to be
// replayed; the DRVA must not have been told the new size then.
func TestShrinkWaitsForReplays(t *testing.T) {
	for _, rule := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, dr.Async, 2<<20).synced()
			r.drva.with(func() { r.drva.volatile = true })
			r.must(r.write(0, 1<<20, fill(5, 8192)))
			time.Sleep(5 * time.Millisecond)
			d := r.resize(r.o.disks[0], 1<<20)
			if !rule { // the rule that is broken
				r.o.mu.Lock()
				d.member.before, d.member.edition = nil, r.o.editionLocked()
				r.o.yielding--
				r.o.mu.Unlock()
			}
			r.must(r.on(d, nbd.Write, 0, 4096, fill(6, 4096)))
			r.drva.crash()
			time.Sleep(100 * time.Millisecond)
			r.drva.with(func() { r.drva.volatile = false })
			if !rule {
				time.Sleep(time.Second)
				r.stop()
				if err := r.drva.problems(); err == nil || !strings.Contains(err.Error(), "ends beyond") {
					t.Fatalf("the broken rule was not noticed: %v", err)
				}
				return
			}
			r.drva.crash()
			r.settle(time.Minute)
			r.sameImages()
			if last := r.drva.hellos[len(r.drva.hellos)-1]; last.VMs[0].Disks[0].Disk.Size != 1<<20 {
				t.Errorf("the DRVA was told %+v", last.VMs[0].Disks)
			}
			r.end()
		})
	}
}

// TestGrow: what is added is copied, and nothing else.
func TestGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		before := r.status().Stream.SyncBytes
		d := r.resize(r.o.disks[0], 1<<20+300<<10)
		r.must(r.on(d, nbd.Write, 1<<20+100<<10, 8192, fill(7, 8192)))
		r.settle(time.Minute)
		r.sameImages()
		if copied := r.status().Stream.SyncBytes - before; copied != 300<<10 {
			t.Errorf("%d bytes were copied", copied)
		}
	})
}

// TestReconfigure: a VM's configuration goes into the stream at its place, and
// into the next Hello.
func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		cfg := r.o.vms[0]
		cfg.Name, cfg.CPUs = "renamed", 8
		if err := r.o.reconfigure(&cfg); err != nil {
			t.Fatal(err)
		}
		r.settle(time.Minute)
		if n := r.drva.count(record.Meta, 0); n != 1 {
			t.Fatalf("%d Meta records", n)
		}
		r.drva.cutLink()
		synctest.Wait()
		r.settle(time.Minute)
		if last := r.drva.hellos[len(r.drva.hellos)-1]; last.VMs[0].Config.Name != "renamed" {
			t.Errorf("Hello %+v", last.VMs[0].Config)
		}
		if err := r.o.reconfigure(&dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}}); err == nil {
			t.Error("a VM that is not there was reconfigured")
		}
	})
}

// TestMembersChaos: disks come, go, grow, shrink and pause at random while
// links break and DRVAs crash; in the end the log rebuilds what is there.
func TestMembersChaos(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { membersChaos(t, seed) })
		})
	}
}

func membersChaos(t *testing.T, seed uint64) {
	rnd := source(seed)
	r := newRig(t, dr.AckRule(rnd.IntN(3)), 1<<20, 300<<10)
	r.run()
	defer r.end()
	gone := map[dr.DiskID]bool{}
	disks := func() []*disk {
		r.o.mu.Lock()
		defer r.o.mu.Unlock()
		var out []*disk
		for _, d := range r.o.disks {
			if d.member.leave == nil {
				out = append(out, d)
			}
		}
		return out
	}
	for range 150 {
		time.Sleep(time.Duration(rnd.IntN(4000)) * time.Microsecond)
		all := disks()
		d := all[rnd.IntN(len(all))]
		switch rnd.IntN(20) {
		case 0:
			r.join(rnd.IntN(10)<<16 + 4096)
		case 1:
			if len(all) > 1 {
				gone[d.info.ID] = true
				synctest.Wait()
				r.o.leave(d, leaveRemove)
			}
		case 2:
			synctest.Wait() // no operation of the disk is under way
			r.resize(d, rnd.IntN(10)<<16+4096)
		case 3:
			r.o.pause(Target{Disks: []dr.DiskID{d.info.ID}})
		case 4:
			r.o.resume(Target{})
		case 5:
			r.o.forceSync(Target{Disks: []dr.DiskID{d.info.ID}}, rnd.IntN(2) == 0)
		case 6:
			r.drva.cutLink()
		case 7:
			r.drva.crash()
		case 8:
			r.drva.with(func() { r.drva.volatile = !r.drva.volatile })
		case 9:
			if rnd.IntN(5) == 0 {
				r.drva.forget()
			}
		default:
			n := min(int64(rnd.IntN(3)+1)*2048, d.size)
			r.on(d, nbd.Write, rnd.Int64N(d.size-n+1), n, fill(byte(rnd.IntN(255)+1), int(n)))
			synctest.Wait()
		}
	}
	r.drva.with(func() { r.drva.volatile = false })
	r.drva.crash()
	r.o.resume(Target{})
	r.settle(10 * time.Minute)
	for _, d := range disks() {
		img := r.drva.image(d.index, d.size)
		if want := d.primary.(*memDisk).data; !bytes.Equal(img[:len(want)], want) {
			t.Errorf("seed %d: disk %d of %d bytes differs", seed, d.index, d.size)
		}
	}
	r.drva.with(func() {
		for id := range gone {
			if got := r.drva.removed[id]; !strings.Contains(got, leaveRemove) {
				t.Errorf("seed %d: a disk that left is still with the DRVA: %q", seed, got)
			}
		}
	})
}
