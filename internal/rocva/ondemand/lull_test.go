package ondemand

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/nbd"
	"holdfast/internal/store/mem"
)

// TestLull: hydration stands back while a guest boots, which is as long as it
// goes on reading, and never for longer than the window; without a guest it does
// not wait at all.
func TestLull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waited := func(l *lull) time.Duration {
			from := time.Now()
			l.wait(t.Context())
			return time.Since(from)
		}
		l := newLull(bootWindow)
		if d := waited(l); d != 0 {
			t.Errorf("nobody reads, and it waits for %s", d)
		}
		l.touch()
		if d := waited(l); d != bootQuiet {
			t.Errorf("it waits for %s after the last read, want %s", d, bootQuiet)
		}
		ctx, stop := context.WithCancel(t.Context())
		var reads sync.WaitGroup
		reads.Go(func() {
			for ctx.Err() == nil {
				l.touch()
				time.Sleep(bootQuiet / 2) // of a bubble: a guest that reads on and on
			}
		})
		synctest.Wait()
		from := time.Now()
		if d := waited(l); time.Since(from) > bootWindow || d < bootWindow-2*bootQuiet {
			t.Errorf("a guest that reads without an end holds it up for %s, want about %s", d, bootWindow)
		}
		if d := waited(l); d != 0 {
			t.Errorf("the boot has had its time, and it waits for %s", d)
		}
		stop()
		reads.Wait()
		none := newLull(0)
		none.touch()
		if d := waited(none); d != 0 {
			t.Errorf("without a window it waits for %s", d)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		other := newLull(bootWindow)
		other.touch()
		from = time.Now()
		if other.wait(ended); time.Since(from) != 0 {
			t.Error("it waits although it was ended")
		}
	})
}

// TestBootIsLeftAlone: while a guest reads, only what it reads comes; then all. Not in
// a bubble: decoders that were made in one are of no use to the tests after it.
func TestBootIsLeftAlone(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 6, 4<<20)
	for !bootsAlone(t, w) {
		t.Log("the machine left no time to read in: again")
	}
}

// bootsAlone reports whether its verdict counts: no two reads may be so far apart
// that the guest seemed to be quiet.
func bootsAlone(t *testing.T, w *world) (judged bool) {
	t.Helper()
	fs := durabletest.New(durabletest.Config{})
	check(t, durable.MkdirAll(fs, "/d"))
	s := w.open(t, fs, "/d", Options{BootWindow: bootWindow})
	over := make(chan error, 1)
	began := time.Now()
	go func() { over <- s.Run(t.Context()) }()
	dev := s.Device(w.img.Disks[0].ID)
	p := make([]byte, 4096)
	var gap time.Duration
	early := false
	for last := began; time.Since(began) < bootQuiet/4 && !early; last = time.Now() {
		check(t, do(dev, req{Kind: nbd.Read, Length: 4096, Data: p}))
		gap = max(gap, time.Since(last))
		early = s.Progress().Whole
	}
	if judged = gap < bootQuiet/2; judged && early {
		t.Errorf("all was fetched %s after the guest began to read", time.Since(began))
	}
	check(t, <-over)
	if !s.Progress().Whole {
		t.Error("the guest is quiet, and not all was fetched")
	}
	same(t, "the disk", whole(t, dev), w.disks[0])
	check(t, s.Close())
	return judged
}
