package operate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// game is plans that share domains, asked for random operations, with effects that
// fail, and with workers that die and go on acting.
type game struct {
	*rig
	url    string
	mu     sync.Mutex // guards what follows: points and failures come from workers
	rnd    *rand.Rand
	calm   bool // nothing fails or dies any more
	live   []*mortal
	crowd  sync.WaitGroup
	wrong  string
	deaths int
}

// mortal is a worker with a database connection of its own, which is cut when it dies:
// it can store nothing any more, and what it has begun goes on.
type mortal struct {
	d      *db.DB
	cancel context.CancelFunc
}

func (g *game) blame(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wrong == "" {
		g.wrong = fmt.Sprintf(format, args...)
	}
}

func (g *game) chance(one int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.calm && g.rnd.IntN(one) == 0
}

func (g *game) pick(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rnd.IntN(n)
}

func (g *game) spawn() {
	d, err := db.Open(context.Background(), g.url)
	if err != nil {
		g.blame("open: %v", err)
		return
	}
	o := g.options()
	o.Lease, o.Renew, o.Grace = 400*time.Millisecond, 80*time.Millisecond, 10*time.Millisecond
	w, err := runs.NewWorker(d, o)
	if err != nil {
		g.blame("worker: %v", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.crowd.Go(func() { _ = w.Run(ctx) })
	g.mu.Lock()
	g.live = append(g.live, &mortal{d, cancel})
	g.mu.Unlock()
}

// kill ends all workers there are; another takes their place.
func (g *game) kill() {
	g.mu.Lock()
	dead := g.live
	g.live = nil
	g.deaths++
	g.mu.Unlock()
	for _, m := range dead {
		m.d.Close()
		m.cancel()
	}
	g.spawn()
}

// newGame has plans p over d1 and d2, q over d2 and d3.
func newGame(t testing.TB, url string, seed uint64) *game {
	w := newWorld(3, 1)
	p := w.plan("p", "d1", "d2")
	p.VMs = []plan.VM{{VM: "vm1", Priority: 1, Critical: true}}
	p.Callouts = []plan.Callout{{Name: "go", At: plan.Place{Before: plan.PhaseDisks}, Run: plan.Prompt, Ask: "go?"}}
	q := w.plan("q", "d2", "d3")
	q.VMs = []plan.VM{{VM: "vm3", Post: []plan.Callout{{Name: "post", Run: plan.OnManager, Script: plan.Script{Command: []string{"true"}}}}}}
	g := &game{rig: newRig(t, url, w), url: url, rnd: rand.New(rand.NewPCG(seed, 0))}
	g.site.Fail = func(plan.Kind, string, *operate.Act) error {
		switch {
		case g.chance(60):
			return errs.New("x", errs.Invalid, "", "as planned")
		case g.chance(30):
			return errs.New("x", errs.Transient, "", "as planned, for now")
		}
		return nil
	}
	g.site.Point = func(where string, _ plan.Kind, _ *operate.Act) {
		if !g.chance(40) {
			return
		}
		g.kill()
		if where == "held" { // it may act, and does so when others have gone on
			time.Sleep(time.Duration(g.pick(800)) * time.Millisecond) // not proof: weather
		}
	}
	o, err := operate.New(operate.Options{World: w, Pause: time.Millisecond, Note: g.trail})
	if err != nil {
		t.Fatal(err)
	}
	g.o = o
	g.must(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS trail (plan TEXT NOT NULL, n BIGINT NOT NULL, action TEXT NOT NULL, state TEXT NOT NULL, doing TEXT NOT NULL, paused TEXT NOT NULL)`)
		return err
	})
	g.spawn()
	return g
}

// trail notes each change of a plan in the transaction that makes it.
func (g *game) trail(ctx context.Context, tx *db.Tx, p site.Name, action, _ string) error {
	_, err := tx.Exec(ctx, `INSERT INTO trail (plan, n, action, state, doing, paused)
		SELECT plan, (SELECT count(*) FROM trail), $2, state, doing, paused FROM plan_states WHERE plan = $1`, p, action)
	return err
}

var asks = []plan.Operation{plan.Test, plan.Cleanup, plan.ForcedCleanup, plan.Planned, plan.Disaster, plan.ForcedDisaster, plan.CommitRun, plan.Rollback,
	plan.Reprotect, plan.ForcedReprotect, plan.Failback, plan.Rerun, plan.Cancel}

// move does one random thing.
func (g *game) move() {
	p := []site.Name{"p", "q"}[g.pick(2)]
	switch g.pick(8) {
	case 0:
		g.kill()
	case 1:
		if open := g.questions(p); len(open) > 0 {
			g.told(g.answer(p, open[0].Seq))
		}
	case 2:
		e := []plan.Event{plan.PeerReturned, plan.PeerReplaced}[g.pick(2)]
		g.told(g.tx(func(ctx context.Context, tx *db.Tx) error { return g.o.Tell(ctx, tx, p, e, "peer") }))
	case 3:
		g.calmly(p)
	case 4:
		g.told(g.ask(p, asks[g.pick(len(asks))]))
	default: // what the state allows
		if list := plan.LineOf(g.status(p).State).Allowed; len(list) > 0 {
			op := list[g.pick(len(list))].Op
			if op == plan.Answer || op == plan.Delete || op == plan.Edit || op == plan.Cancel && g.pick(3) > 0 {
				return
			}
			g.told(g.ask(p, op))
			if g.pick(3) > 0 {
				g.calmly(p)
			}
		}
	}
}

// told demands that a refusal is one.
func (g *game) told(err error) {
	if err != nil && !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Transient) {
		g.blame("refused: %v", err)
	}
}

// calmly waits until a plan is not under way, answering what it asks.
func (g *game) calmly(p site.Name) operate.Status {
	return g.until(p, "settled", func(s operate.Status) bool {
		if s.State == plan.WaitingForUser {
			for _, q := range g.questions(p) {
				g.told(g.answer(p, q.Seq))
			}
		}
		return !s.State.Running()
	})
}

// look checks what must always hold.
func (g *game) look() {
	g.told(g.d.View(context.Background(), func(tx *db.Tx) error {
		ctx := context.Background()
		holder := map[site.Name]site.Name{}
		for _, name := range []site.Name{"p", "q"} {
			var s plan.State
			var run string
			var active int
			if _, err := tx.Row(ctx, `SELECT state, run FROM plan_states WHERE plan = $1`, []any{name}, &s, &run); err != nil {
				return err
			}
			if _, err := tx.Row(ctx, `SELECT count(*) FROM runs WHERE state = 'active' AND subject = $1`, []any{"plan/" + string(name)}, &active); err != nil {
				return err
			}
			if want := map[bool]int{true: 1}[s.Running()]; active != want {
				g.blame("plan %s is %s, and has %d runs", name, s, active)
			}
			if s == plan.UnknownState {
				g.blame("plan %s is %s", name, s)
			}
			for _, d := range g.w.plans[name].Domains {
				if s.Holds() && holder[d] != "" {
					g.blame("domain %s is run by %s and by %s", d, holder[d], name)
				}
				if s.Holds() {
					holder[d] = name
				}
			}
		}
		return nil
	}))
	if broken, err := g.site.Broken(context.Background()); err != nil || len(broken) > 0 {
		g.blame("%q, %v", broken, err)
	}
}

// finish brings every plan home by what its state allows.
func (g *game) finish() {
	g.mu.Lock()
	g.calm = true
	g.mu.Unlock()
	for _, p := range []site.Name{"p", "q"} {
		for range 12 {
			s := g.calmly(p)
			if s.State == plan.DisasterComplete || s.State == plan.SplitBrain && g.pick(2) == 0 {
				g.told(g.tx(func(ctx context.Context, tx *db.Tx) error { return g.o.Tell(ctx, tx, p, plan.PeerReplaced, "peer") }))
				continue
			}
			if s.State == plan.Ready || s.State == plan.DomainsInUse || s.State == plan.DirectionError || s.State == plan.PartialRecovery {
				break
			}
			for _, op := range []plan.Operation{plan.Cleanup, plan.Rollback, plan.CommitRun, plan.Reprotect, plan.Rerun} {
				if err := g.ask(p, op); err == nil {
					break
				} else if !errs.Is(err, errs.Conflict) {
					g.blame("%s of %s: %v", op, s.State, err)
				}
			}
		}
		if s := g.calmly(p); s.State != plan.Ready && s.State != plan.DomainsInUse && s.State != plan.DirectionError && s.State != plan.PartialRecovery {
			g.blame("plan %s does not come home: it is %s", p, s.State)
		}
	}
}

// checkTrail demands that every change of a plan is one of the tables'.
func (g *game) checkTrail() {
	type step struct {
		p      site.Name
		action string
		s      plan.Standing
	}
	var all []step
	g.must(func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return tx.Rows(ctx, `SELECT plan, action, state, doing, paused FROM trail ORDER BY n`, nil, func(scan func(...any) error) error {
			var x step
			err := scan(&x.p, &x.action, &x.s.State, &x.s.Doing, &x.s.Paused)
			all = append(all, x)
			return err
		})
	})
	at := map[site.Name]plan.Standing{"p": plan.Begin(), "q": plan.Begin()}
	for _, x := range all {
		if !follows(at[x.p], x.s, x.action) {
			g.blame("plan %s went from %v to %v by %s", x.p, at[x.p], x.s, x.action)
		}
		at[x.p] = x.s
	}
}

// follows reports whether the tables lead from one standing to another by an action: an
// operation that was admitted, after what was seen of others; or an event of the run.
func follows(from, to plan.Standing, action string) bool {
	same := func(a plan.Standing) bool { return a.State == to.State && a.Doing == to.Doing && a.Paused == to.Paused }
	start := []plan.Standing{from}
	for i := 0; i < len(start) && i < 20; i++ { // what was seen of others meanwhile
		for _, e := range []plan.Event{plan.SomeRecovered, plan.AllRecovered, plan.NoneRecovered, plan.SomeReprotected, plan.AllReprotected, plan.DirectionsMixed, plan.DomainsTaken, plan.Settled} {
			if n, err := start[i].After(e); err == nil && !start[i].State.Holds() && !slices.Contains(start, n) {
				start = append(start, n)
			}
		}
	}
	for _, s := range start {
		for _, reversed := range []bool{false, true} {
			s.Reversed = reversed
			for _, op := range plan.Operations() {
				if n, does, err := s.Admit(op); err == nil && (same(n) && (string(does) == action || string(op) == action)) {
					return true
				}
			}
			if n, err := s.After(plan.Event(action)); err == nil && same(n) {
				return true
			}
		}
	}
	if from.State == plan.WaitingForUser { // answered, or closed, and then
		n, _, err := from.Admit(plan.Answer)
		return err == nil && (same(n) || follows(n, to, action))
	}
	asked, err := from.After(plan.Asked)
	return action == string(plan.WaitingForUser) && err == nil && same(asked) || action == string(plan.Answer) && from == to
}

// play plays a whole game and returns the first rule that was broken.
func (g *game) play(moves int) string {
	defer g.end()
	for range moves {
		g.move()
		g.look()
		if g.wrong != "" {
			return g.wrong
		}
	}
	g.finish()
	g.look()
	g.checkTrail()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.wrong
}

func (g *game) end() {
	g.mu.Lock()
	g.calm = true
	for _, m := range g.live {
		m.cancel()
	}
	g.mu.Unlock()
	g.crowd.Wait()
	for _, m := range g.live {
		m.d.Close()
	}
}

// TestModel plays games from HOLDFAST_RUNS_SEED on, as many as HOLDFAST_RUNS_GAMES says.
func TestModel(t *testing.T) {
	seed, games := uint64(time.Now().UnixNano()%1e9), 3
	if s := os.Getenv("HOLDFAST_RUNS_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	if s := os.Getenv("HOLDFAST_RUNS_GAMES"); s != "" {
		games, _ = strconv.Atoi(s)
	}
	for i := range games {
		url := dbtest.SQLite(t)
		if i%3 == 2 {
			url = dbtest.Postgres(t)
		}
		g := newGame(t, url, seed+uint64(i))
		if wrong := g.play(25); wrong != "" {
			t.Fatalf("seed %d: %s\n%s\n%s", seed+uint64(i), wrong, g.dump(g.status("p").Run), g.dump(g.status("q").Run))
		}
		t.Logf("seed %d: %d deaths, %d effects", seed+uint64(i), g.deaths, g.state().Effects)
	}
}

// directed plays one death: at a point of the power-on of VM 1, in a disaster. What is
// on the wire there arrives when another worker has gone on.
func (g *game) directed(where string) string {
	defer g.end()
	g.calm = true
	gone := make(chan struct{})
	var once, wire sync.Once
	g.site.Point = func(at string, k plan.Kind, a *operate.Act) {
		if k != plan.KindPowerOn || a.Undoes != "" {
			return
		}
		if a.Attempt == 1 && at == where {
			once.Do(func() {
				g.kill()
				if where == "held" {
					<-gone
				}
			})
		}
		if a.Attempt > 1 && at == "after" {
			wire.Do(func() { close(gone) })
		}
	}
	if err := g.ask("p", plan.ForcedDisaster); err != nil {
		return err.Error()
	}
	g.look()
	if err := g.ask("q", plan.ForcedDisaster); err == nil {
		g.look()
	}
	s := g.calmly("p")
	if s.State != plan.BeforeCommit {
		g.blame("the plan is %s", s.State)
	}
	g.crowdOf(gone)
	g.look()
	return g.wrong
}

// crowdOf waits until the dead worker's call has arrived.
func (g *game) crowdOf(gone chan struct{}) {
	select {
	case <-gone:
	case <-time.After(time.Second): // there was none on the wire
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if g.site.Idle() {
			return
		}
	}
}

// TestModelCatchesBrokenRules breaks one rule at a time, and none.
func TestModelCatchesBrokenRules(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(*testing.T, *game)
		where  string
		want   string
	}{
		"none, dead behind the effect": {func(*testing.T, *game) {}, "after", ""},
		"none, an effect on the wire":  {func(*testing.T, *game) {}, "held", ""},
		"effects that do not look":     {func(_ *testing.T, g *game) { g.site.Blind = true }, "after", "twice"},
		"an older epoch may act":       {func(_ *testing.T, g *game) { g.site.Unfenced = true }, "held", "in epoch"},
		"domains are taken twice":      {func(t *testing.T, _ *game) { t.Cleanup(operate.BreakClaims()) }, "", "is run by"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGame(t, dbtest.SQLite(t), 1)
			g.w.plans["p"].Callouts = nil
			c.breaks(t, g)
			if caught := g.directed(c.where); c.want == "" && caught != "" || !strings.Contains(caught, c.want) {
				t.Errorf("%q", caught)
			}
		})
	}
}
