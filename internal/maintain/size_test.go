package maintain

import (
	"testing"
	"time"
)

// sized makes hourly points of which each alone needs bytes.
func sized(n int, bytes int64) ([]Point, []Decision, *Sizes) {
	points := evenly(n, time.Hour)
	s := &Sizes{At: points[n-1].Time, Last: make([]int64, n+1)}
	ds := make([]Decision, n)
	for i := range points {
		s.Time = append(s.Time, points[i].Time)
		s.Last[i] = bytes
		ds[i] = Decision{Reason: BySlot}
	}
	s.Last[n] = 1000 * bytes // the newest image
	return points, ds, s
}

func TestForecast(t *testing.T) {
	_, _, s := sized(241, 10) // ten days
	for bytes, want := range map[int64]Forecast{
		9999:                  {Keeps: 0, Measured: true},
		10_010:                {Keeps: 0, Measured: true},
		10_020:                {Keeps: time.Hour, Measured: true},
		10_000 + 490:          {Keeps: 48 * time.Hour, Measured: true},
		10_000 + 2410 + 240*5: {Keeps: 240*time.Hour + 120*time.Hour},
	} {
		want.Bytes = bytes
		if got := s.Forecast(bytes); got != want {
			t.Errorf("%d bytes: got %+v, want %+v", bytes, got, want)
		}
	}
	if f := (&Sizes{}).Forecast(5); f.Keeps != 0 {
		t.Errorf("nothing known: %+v", f)
	}
}

func TestShortened(t *testing.T) {
	points, ds, s := sized(100, 10)
	now := points[99].Time
	count := func(drop []bool) (n int) {
		for _, d := range drop {
			if d {
				n++
			}
		}
		return n
	}
	if drop, fits := Shortened(points, ds, s, now, s.From(0)); !fits || count(drop) != 0 {
		t.Errorf("what fits is shortened by %d", count(drop))
	}
	ds[0], ds[3] = Decision{Reason: ByHold}, Decision{Reason: ByTag}
	drop, fits := Shortened(points, ds, s, now, s.From(0)-95)
	if !fits || count(drop) != 10 || drop[0] || drop[3] || !drop[1] || !drop[11] || drop[12] {
		t.Errorf("dropped %d, fits %v: %v", count(drop), fits, drop[:14])
	}
	drop, fits = Shortened(points, ds, s, now, 0)
	if fits || count(drop) != 96 || drop[99] || drop[98] {
		t.Errorf("with no room: dropped %d, fits %v", count(drop), fits)
	}
	if drop, fits := Shortened(points[:50], ds[:50], s, now, 0); !fits || count(drop) != 0 {
		t.Errorf("sizes of other points were believed")
	}
}

func TestDetector(t *testing.T) {
	var d Detector
	at := epoch
	feed := func(n int, raw, stored int64) (marks int) {
		for range n {
			if d.Observe(Cell{From: at, To: at.Add(5 * time.Second), Raw: raw, Stored: stored}) != "" {
				marks++
			}
			at = at.Add(5 * time.Second)
		}
		return marks
	}
	if n := feed(1, 1<<30, 1<<30); n != 0 {
		t.Error("the first thing seen is suspect: a baseline of media files would be")
	}
	d = Detector{}
	if n := feed(2000, 10<<20, 5<<20); n != 0 {
		t.Errorf("%d marks in steady use", n)
	}
	if n := feed(100, 0, 0); n != 0 {
		t.Error("idleness is suspect")
	}
	if n := feed(3, 1<<20, 1<<20); n != 0 {
		t.Error("a little incompressible data is suspect")
	}
	if n := feed(200, 10<<20, 5<<20); n != 0 {
		t.Errorf("%d marks in steady use", n)
	}
	if n := feed(100, 12<<20, 12<<20); n < 10 {
		t.Errorf("encryption gave %d marks", n)
	}
	if n := feed(500, 10<<20, 5<<20); n > 3 {
		t.Errorf("%d marks after it was over", n)
	}
	if n := feed(5, 900<<20, 400<<20); n == 0 {
		t.Error("ninety times the usual rate is not suspect")
	}
	if why := d.Observe(Cell{From: at, To: at.Add(-time.Hour), Raw: -1, Stored: -5}); why != "" {
		t.Error("nonsense is suspect")
	}
	// Data that never compressed does not become suspect for it.
	d = Detector{}
	if n := feed(2000, 10<<20, 10<<20); n != 0 {
		t.Errorf("%d marks on a file server of photographs", n)
	}
}
