package drva

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/replog"
)

// account is a kernel's account that grows by part of the time.
type account struct {
	part float64
	from time.Time
}

func (a *account) ReadAt(p []byte, _ int64) (int, error) {
	waited := time.Duration(float64(time.Since(a.from)) * a.part)
	return copy(p, fmt.Sprintf("some avg10=1.00 avg60=2.00 avg300=3.00 total=%d\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n", waited.Microseconds())), nil
}

func TestPressureIsThePartOfTheTimeSomeTaskWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{from: time.Now()}
		p := &pressure{file: a}
		for _, part := range []float64{0, 0.25, 1} {
			a.part, a.from = part, time.Now()
			p.at = time.Time{}
			p.look(time.Now())
			time.Sleep(pressureSpan)
			if got := p.look(time.Now()); got < part-0.01 || got > part+0.01 {
				t.Errorf("pressure %v, want %v", got, part)
			}
		}
		if got := (&pressure{}).look(time.Now()); got != 0 {
			t.Errorf("no account: pressure %v", got)
		}
		for _, text := range []string{"", "some", "some total=x\n", "some total=\n", "full total=-"} {
			p := &pressure{file: bytes.NewReader([]byte(text)), at: time.Now(), part: 1}
			time.Sleep(pressureSpan)
			if got := p.look(time.Now()); got != 0 {
				t.Errorf("account %q: pressure %v", text, got)
			}
		}
	})
}

// TestOnlyABurstOnBusyProcessorsGoesFirst: each condition alone ends the wait.
func TestOnlyABurstOnBusyProcessorsGoesFirst(t *testing.T) {
	if !yields(burstLeast, contended, burstMost-1, burstFill-0.01) {
		t.Fatal("a burst does not go first")
	}
	for name, waits := range map[string]bool{
		"small backlog":   yields(burstLeast-1, contended, 0, 0),
		"free processors": yields(burstLeast, contended-0.01, 0, 0),
		"long burst":      yields(burstLeast, contended, burstMost, 0),
		"full log":        yields(burstLeast, contended, 0, burstFill),
	} {
		if waits {
			t.Errorf("%s: publishing waits", name)
		}
	}
}

// every is a server that takes a checkpoint so often.
func every(interval time.Duration) *Server {
	s := &Server{}
	s.tuning.Store(&Tuning{Interval: interval})
	return s
}

// TestPublishingGivesWayToABurst: contended processors hold publishing back for
// burstMost and no longer; free processors and a small backlog not at all.
func TestPublishingGivesWayToABurst(t *testing.T) {
	rl, err := replog.Open(t.Context(), replog.Options{Dir: t.TempDir(), FS: durable.OS{}, Domain: dr.DomainID{UUID: dr.NewUUID()},
		Timeline: dr.TimelineID{UUID: dr.NewUUID()}, Epoch: 1, Quota: 64 << 20, FileSize: 16 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer rl.Close()
	for _, c := range []struct {
		name string
		part float64
		came uint64
		ago  time.Duration
		want time.Duration
		each time.Duration // between checkpoints
	}{
		{"contended", 1, burstLeast, 0, burstMost, DefaultInterval},
		{"contended, half of the burst is over", 1, burstLeast, burstMost / 2, burstMost / 2, DefaultInterval},
		{"contended, a checkpoint each second", 1, burstLeast, 0, 600 * time.Millisecond, time.Second},
		{"contended, a checkpoint a minute", 1, burstLeast, 0, burstMost, time.Minute},
		{"free", contended / 2, burstLeast, 0, 0, DefaultInterval},
		{"no burst", 1, burstLeast - 1, 0, 0, DefaultInterval},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := &shipper{s: every(c.each), rl: rl, caughtUp: time.Now().Add(-c.ago)}
			h.s.count.bytesIn.Store(c.came)
			h.busy = &pressure{file: &account{part: c.part, from: time.Now()}, part: c.part, at: time.Now()}
			began := time.Now()
			if err := h.giveWay(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d < c.want || d > c.want+2*pressureSpan {
				t.Errorf("%s: waited %v, want %v", c.name, d, c.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &shipper{s: every(DefaultInterval), rl: rl, caughtUp: time.Now(), busy: &pressure{file: &account{part: 1, from: time.Now()}, part: 1, at: time.Now()}}
		h.s.count.bytesIn.Store(burstLeast)
		go cancel()
		if h.giveWay(ctx) == nil {
			t.Error("an end is no reason to go on")
		}
	})
}
