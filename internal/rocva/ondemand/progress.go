package ondemand

import (
	"sync"
	"time"
)

// rateSamples is how many samples a rate is taken of.
const rateSamples = 10

// rate is how fast something grows lately. The zero value is ready.
type rate struct {
	mu      sync.Mutex
	samples []sample // guarded by mu; at most rateSamples+1, oldest first
}

type sample struct {
	at time.Time
	n  int64
}

func (r *rate) add(at time.Time, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) > rateSamples {
		r.samples = append(r.samples[:0], r.samples[1:]...)
	}
	r.samples = append(r.samples, sample{at, n})
}

// now is the rate per second from the oldest sample to n; 0 when not known.
func (r *rate) now(at time.Time, n int64) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) == 0 || !at.After(r.samples[0].at) {
		return 0
	}
	return float64(n-r.samples[0].n) / at.Sub(r.samples[0].at).Seconds()
}

// presentBytes is how much content is there, of all disks.
func (s *Set) presentBytes() (n int64) {
	for _, d := range s.disks {
		n += diskBytes(d.present.Load())
	}
	return n
}

// Progress tells how far the Set has come.
func (s *Set) Progress() Progress {
	p := Progress{Fetched: s.fetch.fetched.Load()}
	left := int64(0)
	for _, d := range s.disks {
		q := DiskProgress{Disk: d.disk.ID, Path: d.path, Size: d.size, Content: diskBytes(d.blocks),
			Present: diskBytes(d.present.Load()), Written: diskBytes(d.wrote.Load())}
		left += q.Content - q.Present
		p.Disks = append(p.Disks, q)
	}
	p.Whole = left == 0
	p.Rate = s.rate.now(time.Now(), s.presentBytes())
	if p.Rate > 0 {
		p.ETA = time.Duration(float64(left) / p.Rate * float64(time.Second))
	}
	p.Stalled, p.Why = s.fetch.stall.now()
	return p
}
