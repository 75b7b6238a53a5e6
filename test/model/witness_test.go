package model

import (
	"os"
	"sync"
	"time"
)

// witness notices when the machine itself stands still: it does, beside the
// guests and on the same file system, a small durable write now and then, and
// notes how long it took. What a guest waited while the machine stood still is
// not the pipeline's doing.
type witness struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	stalls []stall // guarded by mu
	worst  time.Duration
}

// stall is a stretch in which the machine did not do its work.
type stall struct{ begin, end time.Time }

const (
	witnessEvery = 50 * time.Millisecond
	// witnessFair is what a small durable write and a wake-up may take.
	witnessFair = 30 * time.Millisecond
)

func startWitness(s *site) *witness {
	s.T.Helper()
	f, err := os.Create(s.Path("witness"))
	must(s.T, err)
	w := &witness{stop: make(chan struct{})}
	w.wg.Go(func() {
		defer f.Close()
		tick := time.NewTimer(witnessEvery)
		for {
			begin := time.Now()
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
				s.Note("witness: %v", err)
				return
			}
			if err := f.Sync(); err != nil {
				s.Note("witness: %v", err)
				return
			}
			w.saw(begin.Add(witnessEvery), time.Now())
			tick.Reset(witnessEvery)
		}
	})
	return w
}

func (w *witness) saw(begin, end time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	took := end.Sub(begin)
	w.worst = max(w.worst, took)
	if took > witnessFair {
		w.stalls = append(w.stalls, stall{begin, end})
	}
}

func (w *witness) finish() {
	close(w.stop)
	w.wg.Wait()
}

// stalled returns for how long, between two moments, the machine stood still.
func (w *witness) stalled(from, to time.Time) (sum time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.stalls {
		begin, end := s.begin, s.end
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		sum += max(0, end.Sub(begin))
	}
	return sum
}
