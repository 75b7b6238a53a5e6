package iofilter

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/store/limit"
)

// busyDisk makes a disk whose writes take 1 ms, and 8 ms while the cursor reads
// or has just read.
func busyDisk(m *memDisk) {
	var last atomic.Int64
	base := time.Now()
	m.lag = func() time.Duration {
		last.Store(int64(time.Since(base) + 6*time.Millisecond))
		return 5 * time.Millisecond
	}
	m.slow = func() time.Duration {
		if int64(time.Since(base)) < last.Load() {
			return 8 * time.Millisecond
		}
		return time.Millisecond
	}
}

// TestCursorGivesWayToGuests: while the cursor makes guests' writes slow it
// slows down, but never stands still; without a guest it goes at full speed.
// The twin, whose cursor does not hear of the guests, keeps them slow.
func TestCursorGivesWayToGuests(t *testing.T) {
	const size = 40 << 20
	type result struct {
		took time.Duration
		slow int // guests' writes of 1000 that were
	}
	run := func(t *testing.T, guests, deaf bool) (res result) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, dr.Async, size)
			defer r.end()
			busyDisk(r.mem[0])
			for i := range r.mem[0].data { // no holes
				r.mem[0].data[i] = 1
			}
			r.run()
			synctest.Wait()
			if deaf {
				r.o.strain.Store(&strain{})
			}
			began := time.Now()
			writes, slow := 0, 0
			for copying(r.o) && time.Since(began) < 10*time.Minute {
				if !guests {
					time.Sleep(time.Millisecond)
					continue
				}
				c := r.write(0, size-4096, fill(1, 4096))
				<-c.done
				writes++
				if c.took > 3*time.Millisecond {
					slow++
				}
			}
			res.took = time.Since(began)
			if writes > 0 {
				res.slow = 1000 * slow / writes
			}
		})
		return res
	}
	alone, guest, deaf := run(t, false, false), run(t, true, false), run(t, true, true)
	t.Logf("alone %+v, with guests %+v, deaf %+v", alone, guest, deaf)
	if alone.took > time.Second {
		t.Errorf("without guests the copy took %v", alone.took)
	}
	if floor := size / yieldFloor * time.Second; guest.took < 5*alone.took || guest.took > 2*floor {
		t.Errorf("with guests the copy took %v, alone %v; at the floor it takes %v", guest.took, alone.took, floor)
	}
	if guest.slow > 300 {
		t.Errorf("%d of 1000 writes were slow", guest.slow)
	}
	if deaf.slow < 700 {
		t.Errorf("a cursor that does not give way made only %d of 1000 writes slow: the test proves nothing", deaf.slow)
	}
}

func copying(o *outlet) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.disks[0].unsynced
}

// TestPaceFollowsTheSchedule: a rate holds, and another one at once, also for a
// wait that has begun.
func TestPaceFollowsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(mustSchedule(t, "* 1MB/s"))
		began := time.Now()
		for range 10 {
			p.wait(t.Context(), 1e6)
		}
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
			t.Fatalf("10 MB at 1 MB/s took %v", took)
		}
		if s, now := p.get(); s.String() != "* 1MB/s" || now != 1e6 {
			t.Fatalf("%v, %v", s, now)
		}
		done := make(chan struct{})
		go func() { p.wait(t.Context(), 1e9); close(done) }()
		time.Sleep(time.Second)
		began = time.Now()
		p.set(limit.Schedule{})
		<-done
		if took := time.Since(began); took > time.Second {
			t.Fatalf("a limit that was lifted held for %v", took)
		}
		p.set(mustSchedule(t, "* 1kB/s"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		p.wait(ctx, 1e9)
		if took := time.Since(began); took > 2*time.Second {
			t.Fatalf("the end came after %v", took)
		}
	})
}

func mustSchedule(t *testing.T, text string) limit.Schedule {
	t.Helper()
	s, err := limit.ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMedian follows the middle of what is added, not its outliers.
func TestMedian(t *testing.T) {
	var m median
	rnd := source(3)
	for range 5000 {
		v := int64(90_000 + rnd.IntN(20_000))
		if rnd.IntN(10) == 0 {
			v *= 50
		}
		m.add(v)
	}
	if got := m.value(); got < 85_000 || got > 125_000 {
		t.Errorf("median %d of values around 100000", got)
	}
	for range 200 {
		m.add(1_000_000)
	}
	if got := m.value(); got < 900_000 {
		t.Errorf("median %d after values of 1000000", got)
	}
}
