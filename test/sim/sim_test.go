package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
)

// perWorld is the number of checkpoints one world lives for.
const perWorld = 200

func envInt(t *testing.T, name string, def int) int {
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a positive number", name, s)
	}
	return n
}

// explain runs a world again and shows what led to its first violation.
func explain(t *testing.T, p Params) {
	t.Helper()
	const lines = 80
	var last []string
	done := false
	p.Trace = func(format string, args ...any) {
		if done {
			return
		}
		last = append(last, fmt.Sprintf(format, args...))
		if len(last) > lines {
			last = last[1:]
		}
		done = strings.Contains(format, "VIOLATION")
	}
	Run(p)
	t.Logf("%+v\n%s", p, strings.Join(last, "\n"))
}

// TestGroupCheckpointsAreClosed plays random worlds until HOLDFAST_SIM_N
// (100,000) checkpoints have ended as Group; HOLDFAST_SIM_SEED (1) is the
// first world.
func TestGroupCheckpointsAreClosed(t *testing.T) {
	want := envInt(t, "HOLDFAST_SIM_N", 100_000)
	seed := uint64(envInt(t, "HOLDFAST_SIM_SEED", 1))
	t.Logf("first seed %d", seed)
	var all Stats
	start := time.Now()
	for ; all.Group < want; seed++ {
		p := Random(seed, perWorld)
		s := Run(p)
		all.Add(s)
		if s.Violations > 0 {
			t.Errorf("seed %d: %d violations: %s", seed, s.Violations, s.First)
			explain(t, p)
			return
		}
	}
	t.Logf("%+v in %v, last seed %d", all, time.Since(start).Round(time.Millisecond), seed-1)
	// A world in which nothing goes wrong proves little.
	for what, n := range map[string]int{
		"hold rounds": all.Holds, "other prefixes": all.Prefixes, "partial checkpoints": all.Checkpoints - all.Group,
		"restarts": all.Restarts, "replayed records": all.Replayed, "filled holes": all.Pads, "lost hosts": all.Lost,
		"disks resumed by sidecar": all.Resumed, "of them on another host": all.Moved, "stale sidecars": all.Stale,
	} {
		if n < want/1000 {
			t.Errorf("only %d %s: the worlds are too tame", n, what)
		}
	}
}

// TestBrokenRulesAreNoticed shows that the check can fail: each rule of the
// protocol, left out, lets inconsistent checkpoints through.
func TestBrokenRulesAreNoticed(t *testing.T) {
	async := func(r *Params) {
		for i := range r.Rules {
			r.Rules[i] = dr.Async
		}
	}
	ordered := func(r *Params) {
		for i := range r.Rules {
			r.Rules[i] = dr.Ordered
		}
		r.LinkCut, r.Outside, r.HostDies, r.Late = 0, 0, 0, 0
		r.Restart, r.Patience, r.ReplayFor = 30*time.Millisecond, 10*time.Second, 10*time.Second
	}
	dying := func(r *Params) {
		async(r)
		r.HostDies, r.Restart, r.Durable = 30*time.Millisecond, 100*time.Millisecond, 3*time.Millisecond
		r.Outside, r.Patience, r.ReplayFor, r.Late = 0, 0, 20*time.Millisecond, 0
	}
	for _, x := range []struct {
		name  string
		flaw  Flaw
		shape func(*Params)
	}{
		{"completions are not held", NoHold, async},
		{"markers are not awaited", EarlyCut, async},
		{"answers are ignored", IgnoreConfirm, func(p *Params) { async(p); p.Late, p.Think = 0.05, time.Millisecond }},
		{"replay host by host", HostByHost, ordered},
		{"a resumed disk stays synced", NoTrack, dying},
		{"a sidecar of any run is accepted", AnyRun, dying},
		{"regions are closed before the log has them", ClosedEarly, dying},
	} {
		t.Run(x.name, func(t *testing.T) {
			var broken, sound Stats
			for seed := uint64(1); seed <= 20; seed++ {
				p := Random(seed, 100)
				if len(p.Rules) == 1 {
					continue
				}
				x.shape(&p)
				sound.Add(Run(p))
				p.Flaw = x.flaw
				broken.Add(Run(p))
			}
			t.Logf("broken: %+v", broken)
			if broken.Violations == 0 {
				t.Error("no violation: the check is blind to this flaw")
			}
			if sound.Violations > 0 {
				t.Errorf("the same worlds without the flaw: %d violations: %s", sound.Violations, sound.First)
			}
		})
	}
}

// TestRunsAreReproducible: a seed says everything about a run.
func TestRunsAreReproducible(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := Run(Random(seed, 50)), Run(Random(seed, 50))
		if a != b {
			t.Fatalf("seed %d: two runs differ:\n%+v\n%+v", seed, a, b)
		}
	}
}

// TestTimesOfPointsAreKept: without a marker the time of a point of one asynchronous
// host is later than what it holds, and that is noticed.
func TestTimesOfPointsAreKept(t *testing.T) {
	var broken, sound Stats
	for seed := uint64(1); seed <= 10; seed++ {
		p := Random(seed, 100)
		p.Rules = []dr.AckRule{dr.Async}
		sound.Add(Run(p))
		p.Flaw = NoPlace
		broken.Add(Run(p))
	}
	t.Logf("broken: %+v", broken)
	if broken.Violations == 0 {
		t.Error("no violation: the check is blind to the time of a point")
	}
	if sound.Violations > 0 || sound.Group < 100 {
		t.Errorf("the same worlds with markers: %+v", sound)
	}
}
