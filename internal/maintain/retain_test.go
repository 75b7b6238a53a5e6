package maintain

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/dr"
)

// seed makes random tests repeatable: HOLDFAST_SEED.
func seed(t testing.TB) uint64 {
	v := os.Getenv("HOLDFAST_SEED")
	if v == "" {
		return 1
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pick(points []Point, ds []Decision) (kept []Point) {
	for i, d := range ds {
		if d.Keep() {
			kept = append(kept, points[i])
		}
	}
	return kept
}

func ids(points []Point) (out []dr.CheckpointID) {
	for _, p := range points {
		out = append(out, p.ID)
	}
	return out
}

// evenly makes a point every so often from epoch on.
func evenly(n int, every time.Duration) []Point {
	var points []Point
	for i := range n {
		points = append(points, Point{ID: dr.CheckpointID(i + 1), Time: epoch.Add(time.Duration(i) * every), Offered: true})
	}
	return points
}

func TestRetainedDefault(t *testing.T) {
	points := evenly(3*17280, 5*time.Second) // three days
	now := points[len(points)-1].Time.Add(time.Second)
	kept := pick(points, Retained(points, now, Rules{Schedule: DefaultSchedule()}))
	var young, middle, old int
	for _, p := range kept {
		switch age := now.Sub(p.Time); {
		case age <= time.Hour:
			young++
		case age <= 24*time.Hour:
			middle++
		default:
			old++
			if p.Time.Minute() != 59 || p.Time.Second() != 55 {
				t.Fatalf("%v is not the last of its hour", p.Time)
			}
		}
	}
	if young != 720 || middle < 23*60-1 || middle > 23*60+1 || old != 48 {
		t.Fatalf("kept %d, %d and %d", young, middle, old)
	}
}

func TestRetainedReasons(t *testing.T) {
	points := evenly(48*60, time.Minute) // two days
	now := points[len(points)-1].Time
	points[10].Lasting = true
	points[11].Suspect = true
	r := Rules{
		Schedule: Schedule{{5 * time.Second, time.Hour}},
		TagFor:   47*time.Hour + 50*time.Minute,
		Holds: []Hold{
			{Checkpoint: points[1500].ID, Reason: ByHold, Name: "audit"}, {Checkpoint: points[1501].ID, Reason: ByFork, Name: "test"},
			{Checkpoint: points[1501].ID, Reason: ByRead, Name: "weaker"}, {Checkpoint: 999_999, Reason: ByHold},
		},
	}
	d := Retained(points, now, r)
	want := map[int]Decision{
		10: {Reason: ByTag}, 11: {Reason: BySafety}, 0: {Reason: BySafety}, 71: {Reason: BySafety}, 72: {},
		1500: {Reason: ByHold, Name: "audit"}, 1501: {Reason: ByFork, Name: "test"}, 1502: {},
		len(points) - 1: {Reason: ByNewest}, len(points) - 2: {Reason: BySlot}, len(points) - 62: {},
	}
	want[10] = Decision{Reason: BySafety} // given when several hold
	for i, w := range want {
		if d[i] != w {
			t.Errorf("point %d: got %+v, want %+v", i, d[i], w)
		}
	}
	points[11].Suspect = false
	d = Retained(points, now, r)
	if d[10] != (Decision{Reason: ByTag}) || d[11].Keep() {
		t.Errorf("after clearing: %+v, %+v", d[10], d[11])
	}
	if d := Retained(points, now.Add(time.Hour), r); d[10].Keep() {
		t.Error("a tag stays beyond its time")
	}
}

func TestPartialPoints(t *testing.T) {
	points := evenly(100, 30*time.Minute)
	for i := range points {
		points[i].Offered = i%4 == 0
	}
	now := points[99].Time
	r := Rules{Schedule: Schedule{{2 * time.Hour, 10 * time.Hour}, {4 * time.Hour, 40 * time.Hour}}}
	slots := map[int64]bool{}
	for i, d := range Retained(points, now, r) {
		p := points[i]
		if d.Keep() && !p.Offered && now.Sub(p.Time) > 12*time.Hour {
			t.Errorf("partial point of age %v kept", now.Sub(p.Time))
		}
		if d.Keep() && p.Offered {
			slots[slotOf(p.Time, 4*time.Hour)] = true
		}
	}
	if len(slots) < 10 {
		t.Errorf("offered points kept of only %d slots", len(slots))
	}
	// The newest offered one stays for ever when only partial ones follow.
	points = evenly(1000, time.Hour)
	for i := 1; i < 1000; i++ {
		points[i].Offered = false
	}
	if d := Retained(points, points[999].Time, r); d[0] != (Decision{Reason: ByNewest}) || d[999].Reason != ByNewest || d[500].Keep() {
		t.Errorf("got %+v, %+v, %+v", d[0], d[999], d[500])
	}
}

// life is a random history being thinned as time goes on.
type life struct {
	rng    *rand.Rand
	rules  Rules
	all    []Point // as they were made
	kept   []Point // as thinned
	now    time.Time
	passes int
	most   int
}

func newLife(seed uint64) *life {
	l := &life{rng: rand.New(rand.NewPCG(seed, 7)), now: epoch}
	every, span := time.Duration(0), time.Duration(0)
	for range 1 + l.rng.IntN(3) {
		every += time.Duration(1+l.rng.IntN(400)) * time.Second // not nested on purpose
		span = max(span+time.Duration(1+l.rng.IntN(5))*time.Hour, every+time.Second)
		l.rules.Schedule = append(l.rules.Schedule, Tier{every, span})
	}
	return l
}

func (l *life) live(t *testing.T, steps int) {
	for range steps {
		switch x := l.rng.IntN(20); {
		case x < 14:
			l.now = l.now.Add(time.Duration(l.rng.IntN(300)) * time.Second)
			at := l.now
			if l.rng.IntN(30) == 0 {
				at = at.Add(time.Duration(l.rng.IntN(7200)-3600) * time.Second) // the publisher's clock is off
			}
			p := Point{ID: dr.CheckpointID(len(l.all) + 1), Time: at, Offered: l.rng.IntN(5) > 0, Lasting: l.rng.IntN(50) == 0}
			l.all, l.kept = append(l.all, p), append(l.kept, p)
		case x < 16:
			l.thin(t)
		}
	}
	l.thin(t)
}

func (l *life) thin(t *testing.T) {
	t.Helper()
	fresh := pick(l.all, Retained(l.all, l.now, l.rules))
	l.kept = pick(l.kept, Retained(l.kept, l.now, l.rules))
	if !slices.Equal(ids(fresh), ids(l.kept)) {
		t.Fatalf("thinned often %v, thinned once %v", ids(l.kept), ids(fresh))
	}
	if twice := pick(l.kept, Retained(l.kept, l.now, l.rules)); !slices.Equal(ids(twice), ids(l.kept)) {
		t.Fatalf("thinning twice is not thinning once")
	}
	l.passes++
	l.most = max(l.most, len(l.kept))
}

// TestThinningIsStable: however often a history is thinned on the way, what is
// left is what thinning its whole at the end leaves; so nothing dropped is ever
// missed.
func TestThinningIsStable(t *testing.T) {
	base := seed(t)
	passes, most := 0, 0
	for i := range uint64(300) {
		l := newLife(base + i)
		if !t.Run(fmt.Sprint("seed ", base+i), func(t *testing.T) { l.live(t, 400) }) {
			t.Fatalf("rules %v", l.rules.Schedule)
		}
		passes, most = passes+l.passes, max(most, l.most)
		lasting := 0
		for _, p := range l.kept {
			if p.Lasting {
				lasting++
			}
		}
		if n := len(l.kept) - lasting; n > l.rules.Schedule.Points()+int(l.rules.Schedule[0].For/l.rules.Schedule[0].Every)+4 {
			t.Fatalf("seed %d: %d points are kept by a schedule of %d", base+i, n, l.rules.Schedule.Points())
		}
	}
	t.Logf("%d passes over histories of up to %d kept points", passes, most)
	if passes < 10_000 {
		t.Fatal("too few passes to prove anything")
	}
}

// TestStabilityTestCatches breaks the rule in the ways that suggest themselves.
func TestStabilityTestCatches(t *testing.T) {
	// A window that cuts slots by the age of a point, not of the slot, drops
	// a slot's last while an older one of it would still count.
	caught := false
	for i := range uint64(300) {
		l := newLife(seed(t) + i)
		l.rules.Schedule = l.rules.Schedule[:1]
		for range 300 {
			l.now = l.now.Add(time.Duration(l.rng.IntN(300)) * time.Second)
			at := l.now.Add(time.Duration(l.rng.IntN(600)-300) * time.Second)
			p := Point{ID: dr.CheckpointID(len(l.all) + 1), Time: at, Offered: true}
			l.all, l.kept = append(l.all, p), append(l.kept, p)
			l.kept = pick(l.kept, retainedByAge(l.kept, l.now, l.rules.Schedule[0]))
		}
		if !slices.Equal(ids(l.kept), ids(pick(l.all, retainedByAge(l.all, l.now, l.rules.Schedule[0])))) {
			caught = true
			break
		}
	}
	if !caught {
		t.Fatal("a rule that is not stable passed as one")
	}
}

func retainedByAge(points []Point, now time.Time, tier Tier) []Decision {
	out := make([]Decision, len(points))
	seen := map[int64]bool{}
	for i := len(points) - 1; i >= 0; i-- {
		if n := slotOf(points[i].Time, tier.Every); now.Sub(points[i].Time) < tier.For && !seen[n] {
			seen[n] = true
			out[i] = Decision{Reason: BySlot}
		}
	}
	return out
}

func TestClockBackDropsNothing(t *testing.T) {
	points := evenly(5000, time.Minute)
	now := points[len(points)-1].Time
	r := Rules{Schedule: DefaultSchedule()}
	kept := pick(points, Retained(points, now, r))
	for _, back := range []time.Duration{time.Second, time.Hour, 300 * 24 * time.Hour, 60 * 365 * 24 * time.Hour} {
		if again := pick(kept, Retained(kept, now.Add(-back), r)); len(again) != len(kept) {
			t.Errorf("a clock %v back: %d of %d kept", back, len(again), len(kept))
		}
	}
}

func TestAdvance(t *testing.T) {
	year := 365 * 24 * time.Hour
	points := evenly(10_000, time.Minute) // a week
	end := points[len(points)-1].Time
	jumped := slices.Clone(points)
	for i := 9000; i < len(jumped); i++ {
		jumped[i].Time = jumped[i].Time.Add(year)
	}
	before := points[8999].Time
	for name, c := range map[string]struct {
		clock  Clock
		points []Point
		want   time.Time
		held   bool
	}{
		"all is well":                   {Clock{Own: end.Add(time.Minute), Store: end.Add(time.Second), Last: end.Add(-time.Hour)}, points, end.Add(time.Minute), false},
		"first pass":                    {Clock{Own: end.Add(time.Minute)}, points, end.Add(time.Minute), false},
		"own clock a year ahead":        {Clock{Own: end.Add(year), Store: end, Last: end.Add(-time.Hour)}, points, end.Add(time.Hour), true},
		"no store clock, own ahead":     {Clock{Own: end.Add(year), Last: end.Add(-time.Hour)}, points, end.Add(time.Hour), true},
		"own clock a year back":         {Clock{Own: end.Add(-year), Store: end, Last: end.Add(-time.Hour)}, points, end.Add(-year), false},
		"store a year back":             {Clock{Own: end, Store: end.Add(-year), Last: end.Add(-time.Hour)}, points, end.Add(time.Hour - year), true},
		"store a year ahead":            {Clock{Own: end, Store: end.Add(year), Last: end.Add(-time.Hour)}, points, end, false},
		"publisher ahead":               {Clock{Own: end, Store: end, Last: before}, jumped, end, false},
		"all ahead":                     {Clock{Own: end.Add(year), Store: end.Add(year), Last: before}, jumped, before.Add(24 * time.Hour), true},
		"all ahead, first pass":         {Clock{Own: end.Add(year), Store: end.Add(year)}, jumped, before.Add(24 * time.Hour), true},
		"all ahead, confirmed":          {Clock{Own: end.Add(year), Store: end.Add(year), Last: before, Accepted: end.Add(year)}, jumped, end.Add(year), false},
		"maintenance rested for a week": {Clock{Own: end, Store: end, Last: epoch}, points, end, false},
		"no points":                     {Clock{Own: end, Last: epoch}, nil, epoch, false},
	} {
		got, held := c.clock.Advance(c.points)
		if !got.Equal(c.want) || (held != "") != c.held {
			t.Errorf("%s: got %v (%q), want %v, held %v", name, got, held, c.want, c.held)
		}
	}
	// What a held clock may cost is bounded.
	c := Clock{Own: end.Add(year), Store: end.Add(year), Last: before}
	r := Rules{Schedule: DefaultSchedule()}
	right := pick(points[:9000], Retained(points[:9000], before, r))
	now, _ := c.Advance(jumped)
	after := pick(right, Retained(right, now, r))
	hours := map[int64]bool{}
	for _, p := range after {
		hours[slotOf(p.Time, time.Hour)] = true
	}
	if len(hours) != 9000/60 {
		t.Errorf("of 150 hours %d are left", len(hours))
	}
}
