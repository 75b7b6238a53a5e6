package model

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
)

const (
	// defaultRuns has every kind of event under every ack rule.
	defaultRuns   = 3
	quiesceLimit  = 3 * time.Minute
	guestsMayWait = 2 * time.Second
)

// knob reads a number from the environment.
func knob(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// tally is what several runs did.
type tally struct {
	events               map[eventKind]int
	kills, fenced        int
	group, partial, torn int
	ops                  int
	slowest, netSlowest  time.Duration
}

// TestPipeline runs the whole pipeline through crashes and checks every
// recoverable checkpoint. HOLDFAST_MODEL_N is the number of runs,
// HOLDFAST_SEED repeats the schedule of one that failed (its moments depend on
// the machine).
func TestPipeline(t *testing.T) {
	sum := &tally{events: map[eventKind]int{}}
	runs := int(knob(t, "HOLDFAST_MODEL_N", defaultRuns))
	seed := knob(t, "HOLDFAST_SEED", uint64(time.Now().UnixNano()))
	for i := range runs {
		ack := dr.AckRule(i % 3)
		t.Run(fmt.Sprintf("%d-%s", i, ack), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			events := slices.Clone(eventKinds)
			rng.Shuffle(len(events), func(a, b int) { events[a], events[b] = events[b], events[a] })
			t.Logf("HOLDFAST_SEED=%d", seed)
			runPipeline(t, rng, ack, events, sum)
		})
	}
	t.Logf("%d kills, %d zombies fenced; %d group and %d partial checkpoints checked, %d operations found half done; %d guest operations, the slowest took %v, %v of it while the machine ran",
		sum.kills, sum.fenced, sum.group, sum.partial, sum.torn, sum.ops, sum.slowest, sum.netSlowest)
	for _, e := range eventKinds {
		if runs >= defaultRuns && sum.events[e] == 0 && !t.Failed() {
			t.Errorf("this never happened: %s", e)
		}
	}
}

func runPipeline(t *testing.T, rng *rand.Rand, ack dr.AckRule, events []eventKind, sum *tally) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	said := func(format string, a ...any) {
		t.Logf("%6.2f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, a...))
	}
	s := newSite(t, ack.String(), lagMost)
	tr := newTruth(rng)
	l := startLoad(ctx, s, tr, rng.Uint64())
	c := &schedule{s: s, rng: rng, done: sum.events, said: said}
	err := s.waitRecoverable(ctx, time.Time{}, calmLimit)
	said("protected")
	if err == nil {
		err = c.run(ctx, events)
	}
	if err != nil {
		cancel() // operations under way would wait for what does not come
	}
	l.finish()
	if err != nil {
		t.Fatal(err)
	}
	said("the load is over: %d operations, %d repeated; %s", l.ops, l.broken, progressOf(tr))
	last, err := s.checkpoint(ctx, "final", quiesceLimit)
	if err != nil {
		t.Fatal(err)
	}
	said("checkpoint %d covers everything", last.ID)
	if err := s.shutDown(); err != nil {
		t.Error(err)
	}
	if err := s.Problems(); err != nil {
		t.Error(err)
	}
	sum.kills, sum.fenced = sum.kills+c.kills, sum.fenced+c.fenced
	judgeLatency(t, l, sum)
	judgeHistory(t, s, tr, last.ID, sum)
	said("checked")
}

// progressOf tells how far the writers came.
func progressOf(tr *truth) string {
	steps, ops := 0, 0
	for _, c := range tr.chains {
		_, n := c.all()
		steps += n
	}
	for _, r := range tr.regions {
		_, n := r.all()
		ops += n
	}
	return fmt.Sprintf("%d steps of chains, %d operations of regions", steps, ops)
}

// judgeLatency: no guest waits longer than promised, but for the machine.
func judgeLatency(t *testing.T, l *load, sum *tally) {
	sum.ops += l.ops
	sum.slowest = max(sum.slowest, l.slowest)
	net := min(l.slowest, slow)
	for _, v := range l.latencies {
		stalled := l.witness.stalled(v.begin, v.begin.Add(v.took))
		net = max(net, v.took-stalled)
		if v.took-stalled > guestsMayWait {
			t.Errorf("a guest's %s took %v; the machine stood still for %v of it", v.what, v.took, stalled)
		}
	}
	sum.netSlowest = max(sum.netSlowest, net)
	t.Logf("slowest operation %v (%v while the machine ran); the machine's worst own write %v", l.slowest, net, l.witness.worst)
}

// judgeHistory restores and checks every recoverable checkpoint.
func judgeHistory(t *testing.T, s *site, tr *truth, last dr.CheckpointID, sum *tally) {
	ctx := t.Context()
	c, err := s.open(ctx)
	must(t, err)
	must(t, c.fsck(ctx))
	want, err := s.primaries()
	must(t, err)
	checks := newChecker(tr)
	group, partial, found := 0, 0, false
	for _, cp := range c.recoverable() {
		img, err := c.restore(ctx, cp)
		must(t, err)
		p := c.pointOf(&cp)
		if wrong := checks.check(p, img); len(wrong) > 0 {
			t.Errorf("taken %v, missing %v:\n%s", cp.Time, cp.Missing, strings.Join(wrong, "\n"))
		}
		if p.group {
			group++
		} else {
			partial++
		}
		if cp.ID == last {
			found = true
			if diff := sameDisks(img, want); diff != "" {
				t.Errorf("the newest checkpoint is not what the disks hold:\n%s", diff)
			}
			mustNotice(t, tr, p, img)
		}
	}
	if !found {
		t.Errorf("checkpoint %d was reported published and is not in the container", last)
	}
	if group < 2 { // the first one was waited for, and the last
		t.Errorf("only %d recoverable group checkpoints", group)
	}
	t.Logf("%d group and %d partial checkpoints of %d checked, %d regions, %d operations found half done",
		group, partial, len(c.history.Checkpoints()), checks.compared, checks.torn)
	sum.group, sum.partial, sum.torn = sum.group+group, sum.partial+partial, sum.torn+checks.torn
}

// mustNotice spoils a sound image and demands that a fresh checker, which has
// seen nothing else, refuses it.
func mustNotice(t *testing.T, tr *truth, p *point, img *image) {
	t.Helper()
	ch := tr.chains[0]
	m, err := ch.prefix(img, func(place) bool { return true })
	must(t, err)
	slot := ch.slots[ch.slotOf(m)]
	ch.encode(slot.cut(img), m-uint64(len(ch.slots)))
	if wrong := newChecker(tr).check(p, img); len(wrong) == 0 {
		t.Error("the checker accepts the image with a step rolled back")
	}
	ch.encode(slot.cut(img), m)
	r := tr.regions[len(tr.regions)-1]
	r.cut(img)[r.n/2] ^= 1
	if wrong := newChecker(tr).check(p, img); len(wrong) == 0 {
		t.Error("the checker accepts the image with one bit turned")
	}
}
