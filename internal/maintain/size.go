package maintain

import (
	"math"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

// Sizes tells how much of the store each retained checkpoint alone still
// needs: Last[i] is the bytes of frames whose newest viewer is point i. Frames
// that only the open head sees count for the newest point. It is exact: it is
// counted frame by frame while runs are merged. The zero value knows nothing.
type Sizes struct {
	At   time.Time         // retention's time when it was counted
	Made time.Time         // when that was, by the maintainer's clock
	IDs  []dr.CheckpointID // of each retained point, oldest first
	Time []time.Time       // of each retained point
	Last []int64           // bytes, one more than Time: the open head's at the end
	// Alone[i] is the bytes of frames that point i sees and no other does.
	Alone []int64
}

// stored is s as a manifest keeps it.
func (s *Sizes) stored() *journal.Counted {
	c := &journal.Counted{At: s.At, Made: s.Made, Head: s.Last[len(s.Time)], Points: make([]journal.CountedPoint, len(s.Time))}
	for i := range c.Points {
		c.Points[i] = journal.CountedPoint{ID: s.IDs[i], Time: s.Time[i], Last: s.Last[i], Alone: s.Alone[i]}
	}
	return c
}

// sizesOf is what a manifest keeps of the last full merge; nil: nothing.
func sizesOf(m *journal.Manifest) *Sizes {
	if m.Counted == nil {
		return nil
	}
	s := &Sizes{At: m.Counted.At, Made: m.Counted.Made}
	for _, p := range m.Counted.Points {
		s.IDs, s.Time = append(s.IDs, p.ID), append(s.Time, p.Time)
		s.Last, s.Alone = append(s.Last, p.Last), append(s.Alone, p.Alone)
	}
	s.Last, s.Alone = append(s.Last, m.Counted.Head), append(s.Alone, 0)
	return s
}

// alone is the bytes only checkpoint id needs; ok is false when they were not
// counted. s may be nil.
func (s *Sizes) alone(id dr.CheckpointID) (bytes int64, ok bool) {
	if s == nil {
		return 0, false
	}
	i, ok := slices.BinarySearch(s.IDs, id)
	if !ok {
		return 0, false
	}
	return s.Alone[i], true
}

// From is the size of the history in bytes when the k oldest points are given
// up. Points that are held keep some of what this leaves out.
func (s *Sizes) From(k int) int64 {
	var n int64
	for _, b := range s.Last[min(max(k, 0), len(s.Last)):] {
		n += b
	}
	return n
}

// Forecast is what a history of a certain size reaches.
type Forecast struct {
	Bytes int64         // of store
	Keeps time.Duration // how far back the history then reaches
	// Measured is true when the history as it is already reaches further, so
	// that Keeps is counted; else it is the growth so far carried on.
	Measured bool
}

// Forecast tells how far back a history of so many bytes reaches. Keeps is 0
// when not even the newest checkpoint fits.
func (s *Sizes) Forecast(bytes int64) Forecast {
	f := Forecast{Bytes: bytes, Measured: true}
	left := bytes
	for k := len(s.Last) - 1; k >= 0; k-- {
		if left -= s.Last[k]; left < 0 {
			return f
		}
		if k < len(s.Time) {
			f.Keeps = max(0, s.At.Sub(s.Time[k]))
		}
	}
	f.Measured = false
	if grown, over := s.growth(); grown > 0 {
		more := float64(left) / float64(grown) * float64(over)
		f.Keeps += time.Duration(math.Min(more, float64(maxSpan)))
	}
	return f
}

// growth is what the older half of the history adds, and over how long: what
// a further stretch at the old end costs.
func (s *Sizes) growth() (bytes int64, over time.Duration) {
	n := len(s.Time)
	if n < 2 {
		return 0, 0
	}
	half := s.At.Sub(s.Time[0]) / 2
	k := 0
	for k < n && s.At.Sub(s.Time[k]) > half {
		bytes += s.Last[k]
		k++
	}
	if k == n {
		k--
	}
	return bytes, s.Time[k].Sub(s.Time[0])
}

// LimitMode says what happens when the history outgrows its limit.
type LimitMode uint8

const (
	// Shorten gives up the oldest checkpoints until the history fits, but
	// never one that something else than the schedule keeps, nor any of the
	// last hour.
	Shorten LimitMode = iota
	// AlarmOnly keeps the history and says so.
	AlarmOnly
)

// Shortened picks the checkpoints to give up so that the history fits into
// limit bytes: the oldest ones that only the schedule keeps and that are older
// than Floor. points and decisions are those sizes was counted for. fits is
// false when what may be given up is not enough.
//
// What held checkpoints share with given-up ones stays, so the history may be
// above the limit after this; counting it again then gives up more. It never
// gives up more than needed.
func Shortened(points []Point, decisions []Decision, sizes *Sizes, now time.Time, limit int64) (drop []bool, fits bool) {
	drop = make([]bool, len(points))
	if len(sizes.Last) != len(points)+1 {
		return drop, true // counted for other points: it says nothing
	}
	size := sizes.From(0)
	for i := range points {
		if size <= limit {
			return drop, true
		}
		if decisions[i].Reason == BySlot && now.Sub(points[i].Time) > Floor {
			drop[i] = true
			size -= sizes.Last[i]
		}
	}
	return drop, size <= limit
}
