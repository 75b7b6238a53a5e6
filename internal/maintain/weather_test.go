package maintain

import (
	"context"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/storetest/fault"
)

// climates are the classes of faults, and all of them together.
var climates = map[string]fault.Weather{
	"storms":           {Storm: 0.02},
	"slow calls":       {Slow: 0.05},
	"late requests":    {Late: 0.1},
	"lost answers":     {Lost: 0.1},
	"conflicts":        {Conflict: 0.2},
	"short reads":      {Short: 0.03},
	"flipped bits":     {Flip: 0.03},
	"denied deletions": {Denied: 0.3},
	"everything":       {Storm: 0.004, Slow: 0.02, Late: 0.03, Lost: 0.03, Conflict: 0.05, Short: 0.005, Flip: 0.005, Denied: 0.02},
}

// weathered is a world whose publishers, maintainers and readers reach the
// store through a sky. The oracle reaches it as it is.
type weathered struct {
	*world
	sky     *fault.Sky
	climate fault.Weather
	under   store.Store                                                                       // what actors see of the sky: a variant may stand between
	collect func(*journal.Container, *journal.Image) (map[dr.DiskID]map[uint64][]byte, error) // how readers read

	passes, ended, reads, wrecked, restarts int
}

func newWeathered(t *testing.T, seed uint64, climate fault.Weather, between func(store.Store) store.Store, broken variant) *weathered {
	w := &weathered{world: newWorld(t, seed, testPolicy(), nil), climate: climate}
	w.broken = broken
	w.sky = fault.NewSky(w.back, seed, climate, func() { w.clock.Advance(time.Duration(1+seed%17) * time.Minute) })
	w.under = w.sky
	if between != nil {
		w.under = between(w.sky)
	}
	w.collect = func(c *journal.Container, m *journal.Image) (map[dr.DiskID]map[uint64][]byte, error) {
		return materialize(t.Context(), c, m)
	}
	return w
}

// outside opens the container through the sky. Opening itself is done in calm:
// whoever cannot open does nothing.
//
// What passes is repeated below who does not repeat it himself, and below half
// of those who come again another time: maintainers and readers.
func (w *weathered) outside(patient bool) *journal.Container {
	w.sky.Change(fault.Weather{})
	defer w.sky.Change(w.climate)
	h := &fault.Hooked{}
	c := w.container(h)
	h.Store, h.Before = w.under, w.watch
	if patient || w.rng.IntN(2) == 0 {
		h.Store = retry.New(w.under, retry.Options{First: time.Microsecond, Most: 10 * time.Microsecond, Elapsed: time.Minute})
	}
	return c
}

// restart takes a timeline over, however often that takes; it gives up and
// waits for calm when it takes too often.
func (w *weathered) restart(l *line) {
	if l.pub != nil {
		_ = l.pub.Close() // always nil
	}
	w.restarts++
	for try := 0; ; try++ {
		if try == 20 {
			w.sky.Change(fault.Weather{})
			defer w.sky.Change(w.climate)
		}
		c := w.outside(true)
		p, err := c.OpenPublisher(w.t.Context(), journal.PublisherOptions{Timeline: l.id, Host: "test", Clock: w.clock})
		if err == nil {
			l.pub, l.b = p, c.NewBuilder(segment.BuilderOptions{})
			return
		}
		if try > 40 {
			w.fail("timeline %s cannot be taken over: %v", l.id, err)
			return
		}
	}
}

// publishThrough publishes the cell through the weather: whatever happens, the
// cell is published once.
func (w *weathered) publishThrough(l *line, checkpoint bool) {
	c := w.cut(l, checkpoint)
	for range 30 {
		q, err := w.send(l, c)
		if err == nil {
			err = q.Wait(w.t.Context())
		}
		if err == nil {
			l.published(c)
			return
		}
		if errs.Is(err, errs.Fenced) && w.climate.Flip == 0 && w.climate.Short == 0 {
			w.fail("fenced, and nobody took over: %v", err)
			return
		}
		w.note("publish: %v", err)
		w.restart(l)
		if cp, ok := l.pub.LastCheckpoint(); l.pub.LastSeq() >= c.last && c.last > 0 && (c.cp == nil || ok && cp.ID >= c.cp.ID) {
			l.published(c) // it had landed
			return
		}
	}
	w.fail("a cell could not be published")
}

// abandon lets a publisher die with objects on the way, which land when
// another has taken over.
func (w *weathered) abandon(l *line) {
	seq, cp := l.seq, l.cp
	c := w.cut(l, true)
	w.sky.Hold(true)
	sent, before := 0, w.rng.IntN(3) == 0 // before: the first lands while nobody publishes
	for range 1 + w.rng.IntN(3) {
		l.b = w.c.NewBuilder(segment.BuilderOptions{})
		if _, err := w.send(l, c); err != nil {
			break // it has stopped before
		}
		if sent++; before {
			break
		}
	}
	w.sky.AwaitHeld(sent)
	_ = l.pub.Close() // always nil
	w.sky.Hold(false)
	if before && sent > 0 {
		w.sky.Land()
		w.restart(l)
		l.published(c)
		if last, ok := l.pub.LastCheckpoint(); !ok || last.ID != c.cp.ID {
			w.fail("an object that landed before the takeover is not published")
		}
		return
	}
	l.seq, l.cp = seq, cp
	w.restart(l)
	w.sky.Land()
}

// zombie lets a publisher go on after another took over: it must find out
// before anything of it counts.
func (w *weathered) zombie(l *line) {
	old, b := l.pub, l.b
	l.pub = nil
	w.restart(l)
	if w.failed() {
		return
	}
	seq, cp, living, its := l.seq, l.cp, l.pub, l.b
	l.pub, l.b = old, b
	q, err := w.send(l, w.cut(l, true))
	if err == nil {
		err = q.Wait(w.t.Context())
	}
	if err == nil {
		w.fail("a zombie published")
	}
	_ = old.Close() // always nil
	l.seq, l.cp, l.pub, l.b = seq, cp, living, its
}

// passThrough makes a pass; it may fail, and says so.
func (w *weathered) passThrough(l *line) {
	for len(l.crew) < 2 {
		c := w.outside(false)
		w.sky.Change(fault.Weather{})
		l.crew = append(l.crew, w.maintainer(c, l, w.clock))
		w.sky.Change(w.climate)
	}
	m := l.crew[w.rng.IntN(2)]
	if w.rng.IntN(4) == 0 {
		m.Compact()
	}
	before := w.sky.Count("deleted")
	r, err := m.Pass(w.t.Context())
	w.passes++
	if err != nil {
		w.ended++
		w.note("pass: %v", err)
		return
	}
	w.note("pass: %+v", *r)
	if gone := w.sky.Count("deleted") - before; r.Deleted > gone {
		w.fail("a pass says it deleted %d objects, and the store deleted %d", r.Deleted, gone)
	}
}

// readThrough reads a checkpoint through the weather: what a reader gets is
// right, or it gets an error.
func (w *weathered) readThrough(l *line) {
	ctx, c := w.t.Context(), w.outside(false)
	w.reads++
	h, err := c.History(ctx, journal.HistoryOptions{Timeline: l.id})
	if err != nil {
		w.wrecked++
		return
	}
	all := h.Checkpoints()
	if len(all) == 0 {
		return
	}
	cp := all[w.rng.IntN(len(all))]
	tr := l.truthOf(cp.ID)
	if tr == nil || tr.cp.Seq != cp.Seq {
		w.fail("a reader sees checkpoint #%d, which was never taken", cp.ID)
		return
	}
	if !cp.Recoverable {
		return
	}
	m, err := h.Resolve(ctx, cp)
	if err == nil {
		var got map[dr.DiskID]map[uint64][]byte
		if got, err = w.collect(c, m); err == nil {
			if diff := compare(tr, got); diff != "" {
				w.fail("a reader of checkpoint #%d: %s", cp.ID, diff)
			}
		}
	}
	if err != nil {
		w.wrecked++
	}
}

func (w *weathered) step() {
	lines := w.live()
	l := lines[w.rng.IntN(len(lines))]
	switch x := w.rng.IntN(100); {
	case x < 45:
		w.write(l, w.rng.IntN(6))
		w.publishThrough(l, w.rng.IntN(6) > 0)
		w.advance()
	case x < 47:
		w.change(l)
	case x < 72:
		w.passThrough(l)
	case x < 82:
		w.readThrough(l)
	case x < 86:
		w.pin(l)
	case x < 88:
		w.unpin()
	case x < 90:
		w.branch(l)
		w.restart(w.lines[len(w.lines)-1])
	case x < 92:
		w.drop(l)
	case x < 94:
		l.crew = nil
	case x < 95:
		w.zombie(l)
	case x < 97:
		w.abandon(l)
	default:
		w.sky.Skew(time.Duration(w.rng.IntN(140)-70) * time.Hour)
	}
}

// play is one history in the weather, and what is left of it in calm: all that
// must be there is, byte for byte, and nothing else stays.
func (w *weathered) play(steps int) string {
	defer w.close()
	w.restart(w.lines[0])
	for range steps {
		w.step()
		if w.failed() {
			return w.fault
		}
	}
	w.sky.Change(fault.Weather{})
	w.sky.Land()
	w.checkAll()
	for _, l := range w.lines {
		l.crew = nil
		if !l.dropped {
			w.restart(l)
		}
	}
	if !w.failed() {
		w.drain()
	}
	if !w.failed() {
		w.settle()
	}
	return w.fault
}

// TestModelInBadWeather plays histories under each class of faults against the
// oracle: what goes wrong is detected, and when it has cleared up everything
// promised is there.
func TestModelInBadWeather(t *testing.T) {
	n, base := max(1, envInt(t, "HOLDFAST_SIM_N", 12)/12), seed(t)
	for name, climate := range climates {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			met := 0
			for i := range uint64(n) {
				w := newWeathered(t, base+i, climate, nil, variant{})
				if why := w.play(100); why != "" {
					t.Fatalf("HOLDFAST_SEED=%d: %s\n%s", base+i, why, strings.Join(tail(w.log, 30), "\n"))
				}
				for _, what := range []string{"Storm", "Slow", "Late", "Lost", "Conflict", "Short", "Flip", "Denied"} {
					met += w.sky.Count(what)
				}
				t.Logf("seed %d: %d faults so far; %d of %d passes and %d of %d readers got an error; %d restarts of publishers",
					base+i, met, w.ended, w.passes, w.wrecked, w.reads, w.restarts)
			}
			if met == 0 {
				t.Error("nothing happened")
			}
		})
	}
}

// twisted is a store between the weather and who works, that makes of an
// answer what it is not.
type twisted struct {
	store.Store
	create func(key string, err error) error
	remove func(err error) error
	list   func(page []store.Info, err error) ([]store.Info, error)
}

func (s *twisted) Create(ctx context.Context, key string, body []byte) error {
	err := s.Store.Create(ctx, key, body)
	if s.create != nil {
		err = s.create(key, err)
	}
	return err
}

func (s *twisted) Delete(ctx context.Context, key string) error {
	err := s.Store.Delete(ctx, key)
	if s.remove != nil {
		err = s.remove(err)
	}
	return err
}

func (s *twisted) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	page, err := s.Store.List(ctx, prefix, after, limit)
	if s.list != nil {
		page, err = s.list(page, err)
	}
	return page, err
}

// TestWeatherCatchesBrokenRules breaks what is made of each class of faults,
// one at a time; the same harness has to notice.
func TestWeatherCatchesBrokenRules(t *testing.T) {
	most, base := 6*envInt(t, "HOLDFAST_SIM_N", 12), seed(t)
	twist := func(s twisted) func(store.Store) store.Store {
		return func(under store.Store) store.Store { s.Store = under; return &s }
	}
	blind := func(w *weathered) {
		w.collect = func(c *journal.Container, m *journal.Image) (map[dr.DiskID]map[uint64][]byte, error) {
			return blocksOf(w.t.Context(), c, m, true)
		}
	}
	for name, c := range map[string]struct {
		climate string
		between func(store.Store) store.Store
		broken  variant
		change  func(*weathered)
	}{
		"a taken name is a lost race, though the answer to the try before was lost": {"lost answers", twist(twisted{create: func(key string, err error) error {
			if errs.Is(err, errs.Exists) {
				return errs.New("twisted", errs.Fenced, key, "lost the race")
			}
			return err
		}}), variant{}, nil},
		"409 is success": {"conflicts", twist(twisted{create: func(_ string, err error) error {
			if err != nil && strings.Contains(err.Error(), "409") {
				return nil
			}
			return err
		}}), variant{}, nil},
		"412 is success": {"late requests", twist(twisted{create: func(_ string, err error) error {
			if errs.Is(err, errs.Exists) {
				return nil
			}
			return err
		}}), variant{}, nil},
		"a request that is stuck has landed": {"late requests", twist(twisted{create: func(_ string, err error) error {
			if err != nil && strings.Contains(err.Error(), "stuck") {
				return nil
			}
			return err
		}}), variant{}, nil},
		"no answer to a list is an empty list": {"storms", twist(twisted{list: func(page []store.Info, err error) ([]store.Info, error) {
			if errs.Is(err, errs.Transient) {
				return nil, nil
			}
			return page, err
		}}), variant{}, nil},
		"a denied deletion has deleted": {"denied deletions", twist(twisted{remove: func(err error) error {
			if errs.Is(err, errs.Denied) {
				return nil
			}
			return err
		}}), variant{}, nil},
		"what a short read lacks is zeroes":    {"short reads", nil, variant{}, blind},
		"a frame that does not open is zeroes": {"flipped bits", nil, variant{}, blind},
		"the store's clock alone tells an age": {"slow calls", nil, variant{storeClock: true}, nil},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			for i := range uint64(most) {
				w := newWeathered(t, base+i, climates[c.climate], c.between, c.broken)
				if c.change != nil {
					c.change(w)
				}
				if caught := w.play(60); caught != "" {
					t.Logf("caught with seed %d: %s", base+i, caught[:min(len(caught), 200)])
					return
				}
			}
			t.Errorf("not caught in %d histories", most)
		})
	}
}
