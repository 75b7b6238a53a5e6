package maintain

import (
	"fmt"
	"math"
	"time"
)

const (
	// suspectBefore and suspectAfter are how much of the history around the
	// first suspect checkpoint of an episode is not thinned: an attack is
	// often noticed the next day.
	suspectBefore = 24 * time.Hour
	suspectAfter  = time.Hour

	// suspectVolume is the least that must have been written, in bytes before
	// compression, for a cell to be judged: less is noise.
	suspectVolume = 32 << 20
	// suspectRatio is a compression ratio at or below which data looks
	// encrypted; usualRatio is what it must have been before to be a collapse.
	suspectRatio = 1.08
	usualRatio   = 1.5
	// suspectRate is how many times the usual change rate makes a jump.
	suspectRate = 16.0
	// suspectHalfLife is how long the memory of what is usual is, in bytes
	// written for the ratio and in time for the rate.
	suspectMemory = 1 << 30
	suspectPeriod = time.Hour
	// suspectWarm is how much time must have been seen before anything is
	// judged by its rate.
	suspectWarm = 30 * time.Minute
)

// Cell is what was written between two checkpoints.
type Cell struct {
	From, To time.Time
	Raw      int64 // bytes of frames before compression
	Stored   int64 // bytes of frames in the store
	Zeroed   int64 // bytes zeroed or discarded
}

// Detector tells when what guests write stops looking like what they wrote
// before: data that compressed and does no more, or far more of it. Both are
// how a guest being encrypted shows. It is a hint, never a proof. The zero
// value knows nothing yet and judges nothing. One goroutine uses it at a time.
type Detector struct {
	seen    float64 // bytes the ratio is known from, decayed
	stored  float64 // of them in the store
	rate    float64 // bytes a second
	watched time.Duration
	raw     int64 // since the last judged cell
	out     int64
	from    time.Time
}

// Observe takes the next cell and returns why its checkpoint is suspect, or
// "". What is suspect does not change what is usual.
func (d *Detector) Observe(c Cell) string {
	if c.Raw < 0 || c.Stored < 0 || c.To.Before(c.From) {
		return ""
	}
	if d.raw == 0 {
		d.from = c.From
	}
	d.raw += c.Raw
	d.out += c.Stored
	elapsed := c.To.Sub(d.from)
	if d.raw < suspectVolume && elapsed < suspectPeriod/12 {
		return "" // too little of both to tell
	}
	why := d.judge(elapsed)
	if why == "" {
		d.learn(elapsed)
	}
	d.raw, d.out = 0, 0
	return why
}

func (d *Detector) judge(elapsed time.Duration) string {
	if d.raw < suspectVolume {
		return ""
	}
	ratio := float64(d.raw) / math.Max(float64(d.out), 1)
	if usual := d.seen / math.Max(d.stored, 1); d.seen >= suspectVolume && usual >= usualRatio && ratio <= suspectRatio {
		return fmt.Sprintf("data compresses %.2f to 1, usual is %.2f to 1: it looks encrypted", ratio, usual)
	}
	rate := float64(d.raw) / math.Max(elapsed.Seconds(), 1)
	if d.watched >= suspectWarm && d.rate > 0 && rate >= suspectRate*math.Max(d.rate, suspectVolume/suspectPeriod.Seconds()) {
		return fmt.Sprintf("%.1f MB/s are written, usual is %.1f MB/s", rate/1e6, d.rate/1e6)
	}
	return ""
}

func (d *Detector) learn(elapsed time.Duration) {
	keep := math.Exp2(-float64(d.raw) / suspectMemory)
	d.seen = d.seen*keep + float64(d.raw)
	d.stored = d.stored*keep + float64(d.out)
	s := math.Max(elapsed.Seconds(), 1)
	w := 1 - math.Exp2(-s/suspectPeriod.Seconds())
	if d.watched == 0 {
		w = 1
	}
	d.rate += w * (float64(d.raw)/s - d.rate)
	d.watched += elapsed
}
