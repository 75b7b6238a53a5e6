package command

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// near is a desk that is called without a network.
type near struct {
	*Desk
	box site.Name
	// refuse, if not nil, answers in the desk's place.
	refuse func(path string) error
}

func (n near) Post(ctx context.Context, path string, in, out any) (err error) {
	if n.refuse != nil {
		if err := n.refuse(path); err != nil {
			return err
		}
	}
	var answer any
	switch in := in.(type) {
	case *Exchange:
		answer, err = n.Exchange(ctx, n.box, "proof", in)
	case *Told:
		err = n.Tell(ctx, n.box, "proof", in)
	}
	if err != nil || out == nil {
		return err
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// agent runs one until stop is called.
func (r *rig) agent(a *Agent) (stop func()) {
	r.t.Helper()
	if a.Dir == "" {
		a.Dir = r.t.TempDir()
	}
	if a.Manager == nil {
		a.Manager = near{Desk: r.Desk, box: "rocva-1"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// ends waits for the end of a command.
func (r *rig) ends(c *Command) Outcome {
	r.t.Helper()
	s, err := r.Ask(r.t.Context(), c, 3*time.Minute)
	if err != nil || !s.Done {
		r.t.Fatalf("%s: %+v %v", c.Key, s, err)
	}
	return s.Outcome
}

// about is a command of a number, of a domain and VM.
func about(n int, domain site.Name, vm int) *Command {
	c := fenceOf(1, 1)
	c.Key, c.StepKey, c.Seq, c.Domain = fmt.Sprintf("run/%d/fence", n), fmt.Sprintf("run/%d", n), n, domain
	if vm > 0 {
		c.VM.UUID[15] = byte(vm)
	}
	return c
}

// TestAgent: what a handler is told, and what it tells, gets through; jobs are looked at
// again by the box; a panic is one command's.
func TestAgent(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	r.agent(&Agent{Handler: HandlerFunc(func(ctx context.Context, c *Command, call *runs.Call) Outcome {
		switch c.Seq {
		case 2:
			panic("at the disco")
		case 3:
			return Fail(errs.New("x", errs.Full, "disk", "no room").WithRemedy("make some"))
		}
		n := 0
		if len(call.Memory) > 0 {
			if err := json.Unmarshal(call.Memory, &n); err != nil {
				return Fail(err)
			}
		}
		call.Progress(int64(n), 5)
		call.Warn("slowly")
		fmt.Fprintf(call.Output(), "%d ", n)
		if n < 5 {
			return Outcome{Again: time.Millisecond, Memory: json.RawMessage(fmt.Sprint(n + 1))}
		}
		if err := call.Hold(ctx); err != nil || call.Key != "run/1" || call.Epoch != 1 || call.Attempt != 1 || call.Step.Name != "fence/erp" {
			return Fail(fmt.Errorf("%v %+v", err, call.Step))
		}
		return Outcome{Note: "well", Memory: json.RawMessage(`{"n":5}`)}
	})})
	o := r.ends(about(1, "erp", 0))
	if o.Failure != nil || o.Note != "well" || o.Output != "0 1 2 3 4 5 " || !slices.Equal(o.Warnings, []string{"slowly"}) || string(o.Memory) != `{"n":5}` {
		t.Errorf("%+v %v", o, o.Failure.Err())
	}
	if o := r.ends(about(2, "erp", 0)); !errs.Is(o.Failure.Err(), errs.Internal) || !strings.Contains(o.Output, "at the disco") {
		t.Errorf("%+v", o)
	}
	if o := r.ends(about(3, "erp", 0)); !errs.Is(o.Failure.Err(), errs.Full) || errs.RemedyOf(o.Failure.Err()) != "make some" {
		t.Errorf("%+v", o)
	}
}

// watched is a handler whose calls stay until they are let go; it notes which were there
// at once.
type watched struct {
	mu    sync.Mutex
	there map[string]*Command
	met   []string // pairs that were at once and must not be
	most  int
	began chan *Command
	let   map[string]chan struct{}
}

func newWatched() *watched {
	return &watched{there: map[string]*Command{}, began: make(chan *Command, 1000), let: map[string]chan struct{}{}}
}

func (w *watched) gate(key string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.let[key] == nil {
		w.let[key] = make(chan struct{})
	}
	return w.let[key]
}

func (w *watched) Do(ctx context.Context, c *Command, call *runs.Call) Outcome {
	w.mu.Lock()
	for _, o := range w.there {
		if o.Domain == c.Domain && (o.VM == c.VM || o.VM.IsZero() || c.VM.IsZero()) && !o.Question() && !c.Question() {
			w.met = append(w.met, o.Key+" and "+c.Key)
		}
	}
	w.there[c.Key] = c
	w.most = max(w.most, len(w.there))
	w.mu.Unlock()
	w.began <- c
	select {
	case <-w.gate(c.Key):
	case <-ctx.Done():
	}
	w.mu.Lock()
	delete(w.there, c.Key)
	w.mu.Unlock()
	if err := call.Hold(ctx); err != nil {
		return Fail(err)
	}
	return Outcome{}
}

// TestOneAfterTheOther: of one domain, commands about all of it or about one VM go on
// one at a time, in their order; others beside them; questions always; no more than the
// bound in all.
func TestOneAfterTheOther(t *testing.T) {
	w := newWatched()
	lanes(t, w, meet)
	if len(w.met) > 0 {
		t.Errorf("at once: %q", w.met)
	}
}

// TestLanesAreMissed: without the rule, that is noticed.
func TestLanesAreMissed(t *testing.T) {
	w := newWatched()
	lanes(t, w, func(*held, *held) bool { return false })
	if len(w.met) == 0 {
		t.Error("commands of one domain at once are not noticed")
	}
}

func lanes(t *testing.T, w *watched, meets func(a, b *held) bool) {
	l := &line{ctx: t.Context(), handler: w, changed: func() {}, meets: meets}
	var err error
	if l.fence, err = openFence(durable.OS{}, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	var all []Command
	add := func(c *Command) { c.ID = c.Key; all = append(all, *c) }
	add(about(1, "erp", 1))
	add(about(2, "erp", 2))
	add(about(3, "erp", 1))
	add(about(4, "erp", 0))
	add(about(5, "erp", 3))
	add(about(6, "crm", 0))
	for i := range 3 * atOnce {
		add(about(10+i, site.Name(fmt.Sprintf("d%d", i)), 0))
	}
	ask := about(7, "erp", 1)
	ask.Kind = Running
	add(ask)
	l.take(&Reply{Commands: all})
	l.mu.Lock()
	first := 0 // that have begun together: none goes on before all are there
	for _, h := range l.all {
		if h.stage == active {
			first++
		}
	}
	l.mu.Unlock()
	var together []*Command
	for range first {
		together = append(together, <-w.began)
	}
	for _, c := range together {
		close(w.gate(c.Key))
	}
	for range len(all) - first {
		close(w.gate((<-w.began).Key))
	}
	l.wait()
	if w.most > 2*atOnce {
		t.Errorf("%d at once", w.most)
	}
	for _, h := range l.all {
		if h.stage != settled || h.outcome.Failure != nil {
			t.Errorf("%s: %+v", h.c.Key, h.outcome)
		}
	}
}

// TestCancelledReturnsFirst: what is cancelled has returned before what follows begins,
// and what was not begun does not begin.
func TestCancelledReturnsFirst(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	w := newWatched()
	r.agent(&Agent{Handler: w})
	r.ask(about(1, "erp", 0))
	<-w.began
	r.ask(about(2, "erp", 0)) // waits behind it
	undo := about(3, "erp", 0)
	undo.Undoes = "run/1"
	r.ask(undo)
	if c := <-w.began; c.Seq != 2 {
		t.Errorf("%s began", c.Key)
	}
	close(w.gate("run/2/fence"))
	<-w.began
	close(w.gate("run/3/fence"))
	if o := r.ends(undo); o.Failure != nil {
		t.Errorf("%+v", o.Failure)
	}
	if len(w.met) > 0 {
		t.Errorf("at once: %q", w.met)
	}
}

// TestBoxDies: a box that ends in the middle does its commands again in its next life,
// with what it had left; outcomes that nobody has taken are told again.
func TestBoxDies(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		dir := t.TempDir()
		began := make(chan struct{})
		stop := r.agent(&Agent{Dir: dir, Handler: HandlerFunc(func(ctx context.Context, _ *Command, call *runs.Call) Outcome {
			if len(call.Memory) == 0 {
				return Outcome{Again: time.Millisecond, Memory: json.RawMessage(`{"begun":true}`)}
			}
			select {
			case began <- struct{}{}:
			case <-ctx.Done():
			}
			<-ctx.Done()
			return Fail(ctx.Err())
		})})
		r.ask(about(1, "erp", 0))
		<-began
		for string(r.ask(about(1, "erp", 0)).Progress.Memory) == "" {
			time.Sleep(time.Millisecond) // between questions; the answer decides
		}
		stop()
		if s := r.ask(about(1, "erp", 0)); s.Done {
			t.Fatalf("a box that ends has ended its command: %+v", s)
		}
		lost := 0
		next := &Agent{Dir: dir, Manager: near{Desk: r.Desk, box: "rocva-1", refuse: func(path string) error {
			if lost++; path == TellPath && lost < 6 {
				return errs.New("x", errs.Unavailable, "", "the manager is away")
			}
			return nil
		}}, Handler: HandlerFunc(func(_ context.Context, _ *Command, call *runs.Call) Outcome {
			return Outcome{AlreadyDone: true, Memory: call.Memory}
		})}
		r.agent(next)
		if o := r.ends(about(1, "erp", 0)); !o.AlreadyDone || string(o.Memory) != `{"begun":true}` {
			t.Errorf("%+v", o)
		}
	})
}

// TestFence: who comes with an older epoch than one that was seen is refused, also by a
// later life of the box; what is under way goes on under a newer one.
func TestFence(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	dir := t.TempDir()
	w := newWatched()
	stop := r.agent(&Agent{Dir: dir, Handler: w})
	goesOn := about(1, "crm", 0)
	r.ask(goesOn)
	<-w.began
	newer := about(2, "erp", 0)
	newer.Epoch = 7
	goesOn.Epoch, goesOn.Attempt = 7, 2
	r.ask(goesOn)
	close(w.gate(newer.Key))
	if o := r.ends(newer); o.Failure != nil {
		t.Errorf("%+v", o)
	}
	close(w.gate(goesOn.Key))
	if o := r.ends(goesOn); o.Failure != nil {
		t.Errorf("what was under way was not taken over: %+v", o.Failure)
	}
	stop()
	older := about(3, "erp", 0)
	older.Epoch = 6
	other := about(4, "erp", 0)
	other.Epoch, other.Origin = 1, "another manager's"
	for c, kind := range map[*Command]errs.Kind{older: errs.Fenced, other: errs.Internal} {
		close(w.gate(c.Key))
		stop := r.agent(&Agent{Dir: dir, Handler: w})
		if o := r.ends(c); errs.KindOf(o.Failure.Err()) != kind || kind == errs.Internal && o.Failure != nil {
			t.Errorf("epoch %d of %q: %+v", c.Epoch, c.Origin, o.Failure)
		}
		stop()
	}
	// A box that forgets does what it should not: so this test would notice.
	forgets := about(5, "erp", 0)
	forgets.Epoch = 6
	close(w.gate(forgets.Key))
	r.agent(&Agent{Handler: w})
	if o := r.ends(forgets); o.Failure != nil {
		t.Errorf("a box without its file refuses: %+v", o.Failure)
	}
}

// full is a file system that takes nothing any more.
type full struct{ durable.OS }

func (full) OpenFile(path string, mode durable.Mode) (durable.File, error) {
	return nil, errs.New("x", errs.Full, path, "no space left")
}

// TestFenceFile: an epoch that cannot be kept is not acted under; damage is told; the
// file is bounded.
func TestFenceFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFence(full{}, dir); !errs.Is(err, errs.Full) {
		t.Fatalf("a file that cannot be read is none: %v", err)
	}
	f := &fence{fs: full{}, path: filepath.Join(dir, fenceFile), plans: map[planKey]seenEpoch{}}
	w := newWatched()
	l := &line{ctx: t.Context(), handler: w, changed: func() {}, meets: meet, fence: f}
	c := about(1, "erp", 0)
	c.ID = "1"
	l.take(&Reply{Commands: []Command{*c}})
	if h := l.find("1"); h.stage != settled || h.outcome.Failure == nil || len(w.began) > 0 {
		t.Errorf("%+v", h.outcome)
	}
	f, err := openFence(durable.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	many := map[planKey]int64{}
	for i := range maxPlans + 10 {
		many[planKey{"o", site.Name(fmt.Sprint("p", i))}] = 1
	}
	if err := f.see(many); err != nil {
		t.Fatal(err)
	}
	if f, err = openFence(durable.OS{}, dir); err != nil || len(f.plans) != maxPlans {
		t.Errorf("%d plans, %v", len(f.plans), err)
	}
	if err := os.WriteFile(filepath.Join(dir, fenceFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openFence(durable.OS{}, dir); !errs.Is(err, errs.Corrupt) || errs.RemedyOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// TestQuestions: a guest that is not up is asked again within one question; a question
// that nobody waits for any more is not begun.
func TestQuestions(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	n := 0
	r.agent(&Agent{Handler: HandlerFunc(func(context.Context, *Command, *runs.Call) Outcome {
		n++
		return Outcome{Answer: n == 2}
	})})
	ask := about(1, "erp", 1)
	ask.Kind, ask.Deadline = AgentUp, time.Now().Add(answerFor).UnixMilli()
	if o := r.ends(ask); !o.Answer || n != 2 {
		t.Errorf("%+v after %d", o, n)
	}
	late := about(2, "erp", 1)
	late.Kind, late.Deadline = PortUp, 1
	if o := r.ends(late); !errs.Is(o.Failure.Err(), errs.Canceled) || n != 2 {
		t.Errorf("%+v after %d", o, n)
	}
}

// TestNoBoxAnyMore: a box that its manager refuses stops what it does.
func TestNoBoxAnyMore(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	w := newWatched()
	var mu sync.Mutex
	out := false
	r.agent(&Agent{Handler: w, Manager: near{Desk: r.Desk, box: "rocva-1", refuse: func(path string) error {
		mu.Lock()
		defer mu.Unlock()
		if out {
			return errs.New("call.Post", errs.Denied, "appliance", "its certificate does not count any more")
		}
		return nil
	}}})
	r.ask(about(1, "erp", 0))
	<-w.began
	mu.Lock()
	out = true
	mu.Unlock()
	r.bells.ring(bellOf("rocva-1")) // the exchange under way ends with what comes next
	r.ask(about(2, "crm", 0))
	for there := 1; there > 0; {
		w.mu.Lock()
		there = len(w.there)
		if w.there["run/2/fence"] != nil {
			there-- // it came with the last answer
		}
		w.mu.Unlock()
		time.Sleep(time.Millisecond) // between questions; the answer decides
	}
}

// TestSetups: a box is told what it is to be when that changes, and tries it until it is.
func TestSetups(t *testing.T) {
	a := &Agent{setups: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler), line: line{ctx: t.Context(), meets: meet, changed: func() {}}}
	a.line.fence = &fence{fs: durable.OS{}, path: filepath.Join(t.TempDir(), fenceFile)}
	got := make(chan string, 10)
	fails := 2
	a.Setup = func(_ context.Context, s *setup.Setup) error {
		got <- s.Generation
		if fails--; fails >= 0 {
			return errs.New("x", errs.Unavailable, "", "not yet")
		}
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { a.makes(ctx); close(done) }()
	a.took(&Reply{Setup: &setup.Setup{Generation: "1"}})
	for range 3 {
		if g := <-got; g != "1" {
			t.Errorf("generation %s", g)
		}
	}
	a.took(&Reply{Setup: &setup.Setup{Generation: "2"}})
	if g := <-got; g != "2" {
		t.Errorf("generation %s", g)
	}
	stop()
	<-done
}

// TestAlone: one process serves a box.
func TestAlone(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	dir := t.TempDir()
	ready := make(chan struct{}, 100)
	m := near{Desk: r.Desk, box: "rocva-1", refuse: func(string) error { ready <- struct{}{}; return nil }}
	r.agent(&Agent{Dir: dir, Manager: m})
	<-ready
	if err := (&Agent{Dir: dir, Manager: m}).Run(t.Context()); err == nil {
		t.Error("two serve one box")
	}
	if err := (&Agent{Dir: t.TempDir()}).Run(t.Context()); !errs.Is(err, errs.NotFound) {
		t.Errorf("a box that has not joined: %v", err)
	}
	if o := r.ends(about(1, "erp", 0)); !errs.Is(o.Failure.Err(), errs.Invalid) {
		t.Errorf("a box without a handler: %+v", o.Failure)
	}
}

// partly has one method of operate.Effects.
type partly struct{ *fakesite.Site }

// onlySync has no other method.
type onlySync interface {
	Sync(context.Context, *operate.Act, *plan.DomainInputs, bool) (runs.Result, error)
}

// TestSteps: every kind of command has a method and a box; a box does what it has
// methods for, and refuses what is not readable.
func TestSteps(t *testing.T) {
	for kind := range methods {
		if _, ok := classes[kind]; !ok && kind != string(plan.KindScript) {
			t.Errorf("%s goes to no box", kind)
		}
	}
	for kind := range classes {
		if methods[kind] == nil {
			t.Errorf("%s has no method", kind)
		}
	}
	world := &fakesite.Site{Store: &fakesite.Memory{}}
	all, some := Steps(world), Steps(struct{ onlySync }{partly{world}})
	do := func(h Handler, kind, input string) error {
		c := fenceOf(1, 1)
		c.Kind, c.Input = kind, json.RawMessage(input)
		call := runs.NewCall(nil)
		call.Key = kind
		return h.Do(t.Context(), c, call).Failure.Err()
	}
	for kind := range methods {
		if err := do(all, kind, `{"nobody knows this":1}`); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", kind, err)
		}
		err := do(some, kind, `{}`)
		if sync := kind == "sync" || kind == "final-sync"; sync && err != nil || !sync && !errs.Is(err, errs.Invalid) {
			t.Errorf("%s of a box that syncs alone: %v", kind, err)
		}
		if err := do(all, kind, `{}`); kind != "configure-vm" && err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if err := do(all, "dance", `{}`); !errs.Is(err, errs.Invalid) {
		t.Error(err)
	}
}

// FuzzSteps: whatever a command says, a box does not panic.
func FuzzSteps(f *testing.F) {
	for kind := range methods {
		f.Add(kind, []byte(`{"domain":"erp","vm":"00000001-0000-0000-0000-000000000000"}`))
	}
	f.Fuzz(func(t *testing.T, kind string, input []byte) {
		c := fenceOf(1, 1)
		c.Kind, c.Input = kind, input
		Steps(&fakesite.Site{Store: &fakesite.Memory{}}).Do(t.Context(), c, runs.NewCall(nil))
	})
}

// FuzzTale: whatever a box tells fits a row.
func FuzzTale(f *testing.F) {
	f.Add([]byte(`{"id":"1","done":true,"outcome":{"note":"x","memory":{"a":1}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x Tale
		if json.Unmarshal(b, &x) != nil {
			return
		}
		x.Progress.fit()
		x.Outcome.fit()
		if len(x.Outcome.Note) > maxWords || len(x.Progress.Output) > maxOutput || len(x.Outcome.Memory) > maxMemory || strings.ContainsRune(x.Outcome.Note, 0) {
			t.Errorf("%+v", x)
		}
		if _, err := json.Marshal(&x); err != nil {
			t.Error(err)
		}
	})
}

// TestAgentBegins: while a box looks for what an earlier agent left in it, it takes no
// commands; then it is given them.
func TestAgentBegins(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	var up atomic.Bool
	var began atomic.Int64
	asks := make(chan struct{}, 3) // the agent's first questions
	r.agent(&Agent{
		Handler: HandlerFunc(func(context.Context, *Command, *runs.Call) Outcome {
			if !up.Load() {
				t.Error("a command was done before the box was up")
			}
			began.Add(1)
			return Outcome{}
		}),
		Report: func() *setup.Report {
			if up.Load() {
				return &setup.Report{Generation: "1"}
			}
			return &setup.Report{}
		},
		Manager: near{Desk: r.Desk, box: "rocva-1", refuse: func(path string) error {
			if path == ExchangePath {
				select {
				case asks <- struct{}{}:
				default:
				}
			}
			return nil
		}},
	})
	c := about(1, "erp", 0)
	r.ask(c)
	for range 3 { // the first waits for the command; so it was given twice before the third
		<-asks
	}
	up.Store(true)
	if o := r.ends(c); o.Failure != nil || began.Load() != 1 {
		t.Errorf("%+v, begun %d times", o, began.Load())
	}
}

// TestEndTellsWhatIsThere: when a step has ended, the next one finds what it made.
func TestEndTellsWhatIsThere(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	var lives atomic.Bool
	r.agent(&Agent{
		Handler: HandlerFunc(func(context.Context, *Command, *runs.Call) Outcome { lives.Store(true); return Outcome{} }),
		Report: func() *setup.Report {
			rep := &setup.Report{Generation: "1"}
			if lives.Load() {
				rep.Lives = []site.Name{"erp"}
			}
			return rep
		},
	})
	c := about(1, "erp", 0)
	r.ask(c)
	if o := r.ends(c); o.Failure != nil {
		t.Fatal(o.Failure)
	}
	next := about(2, "erp", 0)
	next.Kind = string(plan.KindSync)
	r.must(func(tx *db.Tx) error {
		got, err := r.Router.Route(t.Context(), tx, next)
		if err != nil || !slices.Equal(got, []site.Name{"rocva-1"}) {
			t.Errorf("%v: %v", got, err)
		}
		return nil
	})
}
