package maintain

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store/storetest/fault"
)

func envInt(t testing.TB, name string, def int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// testPolicy is small enough for a history of days to be interesting.
func testPolicy() Policy {
	return Policy{
		Schedule: Schedule{{5 * time.Second, time.Hour}, {time.Minute, 6 * time.Hour}, {time.Hour, 5 * day}},
		TagFor:   3 * day, Grace: 2 * time.Hour,
	}.full()
}

// advance lets time pass.
func (w *world) advance() {
	switch x := w.rng.IntN(20); {
	case x < 10:
		w.clock.Advance(time.Duration(1+w.rng.IntN(60)) * time.Second)
	case x < 15:
		w.clock.Advance(time.Duration(1+w.rng.IntN(60)) * time.Minute)
	case x < 19:
		w.clock.Advance(time.Duration(1+w.rng.IntN(12)) * time.Hour)
	default:
		w.clock.Advance(20 * time.Hour)
	}
}

func (w *world) live() (out []*line) {
	for _, l := range w.lines {
		if !l.dropped {
			out = append(out, l)
		}
	}
	return out
}

// crewOf is a timeline's maintainers: two, so that each finds that the other
// went on meanwhile.
func (w *world) crewOf(l *line) *Maintainer {
	for len(l.crew) < 2 {
		l.crew = append(l.crew, w.maintainer(w.container(&fault.Hooked{Before: w.watch}), l, w.clock))
	}
	return l.crew[w.rng.IntN(len(l.crew))]
}

// maintain makes one pass.
func (w *world) maintain(l *line, m *Maintainer, compact bool) {
	if compact {
		m.Compact()
	}
	r, err := m.Pass(w.t.Context())
	if err != nil {
		l.last = &Report{}
		w.fail("pass on %s: %v", l.id, err)
		return
	}
	w.note("pass: %+v", *r)
	l.last = r
}

// step is one random event.
func (w *world) step() {
	lines := w.live()
	l := lines[w.rng.IntN(len(lines))]
	switch x := w.rng.IntN(100); {
	case x < 42:
		w.write(l, w.rng.IntN(6))
		w.publish(l, w.rng.IntN(6) > 0)
		w.advance()
	case x < 45:
		w.change(l)
	case x < 66:
		w.maintain(l, w.crewOf(l), w.rng.IntN(4) == 0)
	case x < 71:
		w.pin(l)
	case x < 75:
		w.unpin()
	case x < 78:
		w.branch(l)
	case x < 80:
		w.drop(l)
	case x < 83:
		w.open(l) // the publisher is taken over
	case x < 86:
		l.crew = nil // maintainers restart
	case x < 91:
		w.startReading(l)
		if w.rng.IntN(2) == 0 { // and a pass goes over what is read
			w.maintain(l, w.crewOf(l), true)
			w.clock.Advance(time.Duration(w.rng.IntN(60)) * time.Minute)
			w.maintain(l, w.crewOf(l), true)
			w.finishReading()
		}
	case x < 96:
		w.finishReading()
	default:
		w.check(l)
	}
}

// pick is a random checkpoint that a timeline offers.
func (w *world) pick(l *line) (journal.CheckpointInfo, *journal.History, bool) {
	h, err := w.c.History(w.t.Context(), journal.HistoryOptions{Timeline: l.id})
	if err != nil {
		w.fail("history of %s: %v", l.id, err)
		return journal.CheckpointInfo{}, nil, false
	}
	points := slices.DeleteFunc(h.Checkpoints(), func(cp journal.CheckpointInfo) bool { return !cp.Recoverable || cp.Inherited })
	if len(points) == 0 {
		return journal.CheckpointInfo{}, nil, false
	}
	return points[w.rng.IntN(len(points))], h, true
}

func (w *world) pin(l *line) {
	cp, _, ok := w.pick(l)
	if !ok || len(w.pins) > 6 {
		return
	}
	opts := journal.PinOptions{Kind: journal.PinHold, Timeline: l.id, Checkpoint: cp.ID, Label: "audit", By: "test"}
	switch w.rng.IntN(3) {
	case 0:
		opts.Kind, opts.Expires = journal.PinRead, w.clock.Wall().Add(time.Duration(1+w.rng.IntN(48))*time.Hour)
	case 1:
		opts.Kind = journal.PinTag
	}
	info, err := w.c.Pin(w.t.Context(), opts)
	if err != nil {
		w.fail("pin: %v", err)
		return
	}
	w.pins = append(w.pins, pinned{info, l})
}

func (w *world) unpin() {
	if len(w.pins) == 0 {
		return
	}
	i := w.rng.IntN(len(w.pins))
	if w.rng.IntN(4) == 0 { // before it goes, what it holds is looked at
		w.check(w.pins[i].line)
	}
	if err := w.c.Unpin(w.t.Context(), w.pins[i].info.ID, "test"); err != nil && !errs.Is(err, errs.NotFound) {
		w.fail("unpin: %v", err)
	}
	w.pins = slices.Delete(w.pins, i, i+1)
}

// branch forks a timeline and takes the branch over.
func (w *world) branch(l *line) {
	cp, _, ok := w.pick(l)
	if !ok || len(w.live()) > 3 {
		return
	}
	id, err := w.c.Fork(w.t.Context(), journal.ForkOptions{Parent: l.id, Checkpoint: cp.ID, By: "test", Test: true})
	if err != nil {
		w.fail("fork: %v", err)
		return
	}
	w.adopt(l, id, cp.ID)
}

func (w *world) adopt(l *line, id dr.TimelineID, cp dr.CheckpointID) {
	tr := l.truthOf(cp)
	child := &line{
		id: id, parent: l, fork: cp, seq: tr.cp.Seq, cp: tr.cp.ID, disks: slices.Clone(tr.cp.Disks), head: tr.image.clone(),
		cell: map[dr.DiskID]map[uint64]state{}, first: tr.cp.Seq + 1,
	}
	for i := range child.disks {
		child.disks[i].Synced = true
		cutOff(child.head[child.disks[i].ID], child.disks[i].Size)
	}
	w.lines = append(w.lines, child)
	w.open(child)
}

// cutOff forgets blocks beyond a disk's end.
func cutOff(blocks map[uint64]uint32, size int64) {
	for b := range blocks {
		if b >= uint64(size/dr.BlockSize) {
			delete(blocks, b)
		}
	}
}

func (w *world) drop(l *line) {
	if l.parent == nil {
		return
	}
	for _, p := range w.pins {
		if p.line == l {
			return
		}
	}
	for _, child := range w.lines {
		if child.parent == l && !child.dropped {
			return // it would be needed on
		}
	}
	if err := w.c.DropTimeline(w.t.Context(), l.id, "test"); err != nil {
		w.fail("drop: %v", err)
		return
	}
	l.dropped = true
	w.reads = slices.DeleteFunc(w.reads, func(r reading) bool { return r.line == l })
}

func (w *world) startReading(l *line) {
	cp, h, ok := w.pick(l)
	if !ok || len(w.reads) > 4 {
		return
	}
	r := reading{line: l, cp: cp.ID, from: h, point: cp, until: w.clock.Wall().Add(w.policy.Grace - time.Minute)}
	if w.rng.IntN(2) == 0 {
		var err error
		if r.image, err = h.Resolve(w.t.Context(), cp); err != nil {
			w.fail("resolve: %v", err)
			return
		}
	}
	w.reads = append(w.reads, r)
}

func (w *world) finishReading() {
	if len(w.reads) == 0 {
		return
	}
	r := w.reads[0]
	w.reads = w.reads[1:]
	if !w.clock.Wall().After(r.until) {
		w.read(&r)
	}
}

// drain lets all that is due happen.
func (w *world) drain() {
	w.reads = nil
	for range 8 {
		w.clock.Advance(13 * time.Hour)
		for _, l := range w.live() {
			w.publish(l, true) // time passes only where there are checkpoints
			w.maintain(l, w.crewOf(l), true)
			if w.failed() {
				return
			}
		}
	}
}

// play is one history of the given length.
func (w *world) play(steps int) string {
	defer w.close()
	for range steps {
		w.step()
		if w.failed() {
			return w.fault
		}
	}
	w.checkAll()
	w.drain()
	if !w.failed() {
		w.settle()
	}
	return w.fault
}

// settle compares what is left with the rules.
func (w *world) settle() {
	w.checkAll()
	for _, l := range w.live() {
		m := w.crewOf(l) // one from here on: each new one merges all once, to count
		l.crew = []*Maintainer{m, m}
		for range 6 { // what a pass drops the next one merges away
			if w.maintain(l, m, true); l.last.Dropped == 0 && !l.last.Full {
				break
			}
		}
		w.checkExact(l)
	}
	w.clock.Advance(50 * time.Hour)
	for range 5 {
		for _, l := range w.live() {
			w.maintain(l, w.crewOf(l), true)
		}
		w.clock.Advance(3 * time.Hour)
	}
	w.checkDrained()
	w.checkAll()
}

// TestModel plays random histories against an oracle that forgets nothing.
func TestModel(t *testing.T) {
	n, base := max(1, envInt(t, "HOLDFAST_SIM_N", 12)*2/3), seed(t)
	passes, dropped, packed, deleted := 0, 0, 0, 0
	for i := range uint64(n) {
		w := newWorld(t, base+i, testPolicy(), nil)
		if why := w.play(120); why != "" {
			t.Fatalf("HOLDFAST_SEED=%d: %s", base+i, why)
		}
		for _, l := range w.log {
			passes++
			dropped += count(l, "Dropped:")
			packed += count(l, "Packed:")
			deleted += count(l, "Deleted:")
		}
	}
	t.Logf("%d histories from seed %d: %d passes, %d checkpoints dropped, %d objects packed, %d deleted", n, base, passes, dropped, packed, deleted)
	if dropped < 20*n || packed < 10*n || deleted < 50*n {
		t.Fatal("too little happened to prove anything")
	}
}

func tail(log []string, n int) []string { return log[max(0, len(log)-n):] }

// count finds a number in a printed report.
func count(line, field string) int {
	_, rest, ok := strings.Cut(line, " "+field)
	if !ok {
		return 0
	}
	digits, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}
