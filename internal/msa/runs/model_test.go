package runs

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// game plays one run: workers that claim, crash, sleep and wake, steps that act in any
// order, people who cancel, answer and skip. It looks at the rows after every move.
type game struct {
	t       *rapid.T
	d       *db.DB
	id      string
	kinds   Kinds
	careful bool // doers look before they act, and ask Hold

	workers []*player
	acts    map[string]int // effects by key
	fence   int64          // the newest epoch the world has seen
	answers map[int]int    // accepted
	room    map[int]int    // the snapshot's
	told    State          // what who joined saw last, if it was committed
	wrong   string         // the first rule that was broken
}

// player is a worker: awake, or a zombie that thinks it holds the run.
type player struct {
	held     *held
	attempts []*try
	reports  []report
}

// try is an attempt under way.
type try struct {
	launch
	looked, there bool
}

func (g *game) blame(format string, args ...any) {
	if g.wrong == "" {
		g.wrong = fmt.Sprintf(format, args...)
	}
}

var ctxGame = context.Background()

func (g *game) tx(f func(x *db.Tx) error) error { return g.d.Tx(ctxGame, f) }

// drawSnapshot makes a small run with some of everything.
func drawSnapshot(t *rapid.T) Snapshot {
	var s Snapshot
	s.Parallel = rapid.IntRange(1, 3).Draw(t, "parallel")
	n := rapid.IntRange(2, 6).Draw(t, "steps")
	group := 0
	for i := range n {
		group += rapid.IntRange(0, 1).Draw(t, "group")
		st := do(fmt.Sprintf("s%d", i))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			p := Prompt{Question: "?", Within: time.Hour, Default: "d"}
			st = prompt(st.Name, p)
		case 1:
			st = timer(st.Name, time.Hour)
		default:
			st.OnError = rapid.SampledFrom([]OnError{Continue, Warn, Gate, Stop}).Draw(t, "on error")
			st.NoReturn = rapid.IntRange(0, 5).Draw(t, "no return") == 0
			st.Retry = Retry{Attempts: rapid.IntRange(0, 2).Draw(t, "attempts"), First: time.Hour}
			if rapid.Bool().Draw(t, "undo") {
				st.Undo = &Undo{Kind: "do", Version: 1}
			}
		}
		st.Group = group
		for j := range i {
			switch rapid.IntRange(0, 5).Draw(t, "after") {
			case 0:
				st.After = append(st.After, fmt.Sprintf("s%d", j))
			case 1:
				st.Behind = append(st.Behind, fmt.Sprintf("s%d", j))
			}
		}
		s.Steps = append(s.Steps, st)
	}
	if rapid.Bool().Draw(t, "room") {
		s.Room = map[int]int{rapid.IntRange(0, group).Draw(t, "of"): rapid.IntRange(1, 2).Draw(t, "places")}
	}
	end := do("end")
	end.Finally = true
	s.Steps = append(s.Steps, end)
	return s
}

func (g *game) claim(p *player) {
	var until, now, epoch int64
	var owner string
	var state State
	if err := g.tx(func(x *db.Tx) error {
		now = x.Now()
		_, err := x.Row(ctxGame, "SELECT lease_until, epoch, owner, state FROM runs WHERE id = $1", []any{g.id}, &until, &epoch, &owner, &state)
		return err
	}); err != nil || state != Active {
		return
	}
	c, err := claim(ctxGame, g.d, candidate{g.id, epoch}, fmt.Sprintf("%p-%d", p, len(g.workers)), &Options{Lease: time.Hour, Crashes: 1000})
	if err != nil {
		g.blame("claim: %v", err)
	}
	if c == nil {
		return
	}
	if until > now {
		g.blame("claimed while another's lease lasts")
	}
	p.held = &held{db: g.d, kinds: g.kinds, id: g.id, owner: fmt.Sprintf("%p-%d", p, len(g.workers)), epoch: c.epoch, live: map[int]int{}, join: g.join}
}

func (g *game) join(ctx context.Context, x *db.Tx, id string) error {
	r, err := Get(ctx, x, id)
	g.told = r.State
	return err
}

func (g *game) pass(p *player, leave bool) {
	if p.held == nil {
		return
	}
	var epoch int64
	_ = g.tx(func(x *db.Tx) error {
		_, err := x.Row(ctxGame, "SELECT epoch FROM runs WHERE id = $1", []any{g.id}, &epoch)
		return err
	})
	t := &turn{reports: p.reports, leave: leave, grab: func() bool { return true }}
	switch err := p.held.pass(ctxGame, t); {
	case errs.Is(err, errs.Fenced):
		p.held, p.reports = nil, nil
	case err != nil:
		g.blame("pass: %v", err)
	default:
		if epoch != p.held.epoch {
			g.blame("epoch %d wrote in the reign of %d", p.held.epoch, epoch)
		}
		p.reports = nil
		for _, l := range t.launches {
			p.attempts = append(p.attempts, &try{launch: l})
		}
		if t.gone {
			p.held = nil
		}
	}
}

// step moves one attempt on: it looks, it acts, it returns.
func (g *game) step(p *player, how int) {
	if len(p.attempts) == 0 {
		return
	}
	i := how % len(p.attempts)
	a := p.attempts[i]
	if !a.looked {
		a.looked, a.there = true, g.acts[a.key] > 0 && g.careful
		return
	}
	r := report{seq: a.step.seq, attempt: a.attempt}
	switch {
	case a.there:
		r.result.AlreadyDone = true
	case g.careful && !g.holds(a):
		r.err, r.aborted = errLapsed, true
	case how%5 == 4:
		r.err = errs.New("x", errs.Transient, "", "it failed")
	case how%7 == 6:
		r.result = Result{Again: time.Hour, Memory: asJSON(1)}
	default:
		g.acts[a.key]++
		if g.acts[a.key] > 1 {
			g.blame("%s acted %d times", a.key, g.acts[a.key])
		}
	}
	p.attempts = append(p.attempts[:i], p.attempts[i+1:]...)
	p.reports = append(p.reports, r)
}

// holds is Call.Hold and the world's own fence.
func (g *game) holds(a *try) bool {
	var epoch int64
	_ = g.tx(func(x *db.Tx) error {
		_, err := x.Row(ctxGame, "SELECT epoch FROM runs WHERE id = $1", []any{g.id}, &epoch)
		return err
	})
	g.fence = max(g.fence, a.epoch)
	return a.epoch == epoch && a.epoch >= g.fence
}

// look checks the rows, and what has been told of them.
func (g *game) look() {
	var r Run
	var steps []*step
	var feed []Event
	if err := g.d.View(ctxGame, func(x *db.Tx) (err error) {
		if r, err = Get(ctxGame, x, g.id); err != nil {
			return err
		}
		if steps, err = loadSteps(ctxGame, x, g.id); err != nil {
			return err
		}
		return x.Rows(ctxGame, "SELECT seq, step, change, words FROM run_events WHERE run = $1 ORDER BY seq", []any{g.id}, func(scan func(...any) error) error {
			var e Event
			err := scan(&e.Seq, &e.Step, &e.Change, &e.Words)
			feed = append(feed, e)
			return err
		})
	}); err != nil {
		g.blame("rows: %v", err)
		return
	}
	g.lookAtFeed(feed, steps)
	g.lookAtRoom(steps)
	if st := r.State; st != Active && st != g.told {
		g.blame("the run is %s, and who joined was told %q", st, g.told)
	}
	for _, st := range steps {
		for _, other := range steps {
			if st.begun > 0 && other.phase == st.phase && other.spec.Group < st.spec.Group && !other.status.Ended() {
				g.blame("%s began before %s of a lower group had ended", st.spec.Name, other.spec.Name)
			}
		}
		for _, dep := range st.spec.Deps {
			if d := steps[dep-1]; st.begun > 0 && (!d.status.Ended() || d.blocks && st.phase != Undoing) {
				g.blame("%s began after %s, which is %s", st.spec.Name, d.spec.Name, d.status)
			}
		}
		for _, wait := range st.spec.Waits {
			if d := steps[wait-1]; st.begun > 0 && !d.status.Ended() {
				g.blame("%s began behind %s, which is %s", st.spec.Name, d.spec.Name, d.status)
			}
		}
		for _, other := range steps {
			if other.phase == Forward && st.phase == Forward && st.begun > 0 && other.spec.OnError == Gate && other.blocks && other.ended <= st.begun && st.spec.Group > other.spec.Group {
				g.blame("%s began behind the gate of %s", st.spec.Name, other.spec.Name)
			}
		}
		if r.State.Ended() && !st.status.Ended() && (st.phase != Undoing) {
			g.blame("the run is %s, %s is %s", r.State, st.spec.Name, st.status)
		}
		if st.phase == Finally && r.State.Ended() && st.begun == 0 && st.status != Skipped {
			g.blame("the end did not run")
		}
	}
}

// lookAtRoom checks that no more steps of a group run than there is room for.
func (g *game) lookAtRoom(steps []*step) {
	under := map[int]int{}
	for _, st := range steps {
		if st.phase == Forward && st.status == Running && !builtin(st.spec.Kind) {
			under[st.spec.Group]++
		}
	}
	for group, n := range under {
		if most, ok := g.room[group]; ok && n > most {
			g.blame("%d steps of group %d run, there is room for %d", n, group, most)
		}
	}
}

func (g *game) lookAtFeed(feed []Event, steps []*step) {
	at := make(map[int]Status)
	cancelled, over := false, false
	for _, e := range feed {
		if over {
			g.blame("%s %s after the end", e.Change, e.Words)
		}
		switch e.Change {
		case "cancel":
			cancelled = true
		case "run":
			over = State(e.Words).Ended()
		case "step":
			from, to := at[e.Step], Status(e.Words)
			if from == "" {
				from = Inactive
			}
			if !allowed(from, to) {
				g.blame("step %d became %s after %s", e.Step, to, from)
			}
			if cancelled && to == Running && steps[e.Step-1].phase == Forward {
				g.blame("step %d began after the cancel", e.Step)
			}
			at[e.Step] = to
		}
	}
}

// move plays one random move.
func (g *game) move(op, who, how int) {
	p := g.workers[who%len(g.workers)]
	switch op {
	case 0, 1, 2:
		g.pass(p, false)
	case 3, 4, 5, 6:
		g.step(p, how)
	case 7:
		if p.held == nil && len(p.attempts) == 0 {
			g.claim(p)
		}
	case 8: // it crashes
		*p = player{}
	case 9: // the leases end: who sleeps does not know
		_ = g.tx(func(x *db.Tx) error {
			_, err := x.Exec(ctxGame, "UPDATE runs SET lease_until = 0 WHERE id = $1", g.id)
			return err
		})
		g.workers = append(g.workers, &player{})
	case 10: // an hour passes
		_ = g.tx(func(x *db.Tx) error {
			if _, err := x.Exec(ctxGame, "UPDATE run_steps SET due_at = 1 WHERE run = $1 AND due_at > 1", g.id); err != nil {
				return err
			}
			_, err := x.Exec(ctxGame, "UPDATE runs SET pokes = pokes + 1, due_at = 0 WHERE id = $1", g.id)
			return err
		})
	case 11:
		seq := how%6 + 1
		if g.tx(func(x *db.Tx) error { return Answer(ctxGame, x, g.id, seq, "yes", "me") }) == nil {
			if g.answers[seq]++; g.answers[seq] > 1 {
				g.blame("prompt %d was answered twice", seq)
			}
		}
	case 12:
		if how%4 == 0 {
			_ = g.tx(func(x *db.Tx) error { return Cancel(ctxGame, x, g.id, "me") })
		}
	case 13:
		g.pass(p, true)
	}
}

// play plays a whole game and returns the first rule that was broken.
func play(t *rapid.T, d *db.DB, careful bool) string {
	g := &game{t: t, d: d, kinds: one(nil), careful: careful, acts: map[string]int{}, answers: map[int]int{}, workers: []*player{{}, {}}}
	g.kinds[Kind{"do", 1}] = DoerFunc(func(context.Context, *Call) (Result, error) { return Result{}, nil })
	s := drawSnapshot(t)
	g.room = s.Room
	if err := g.tx(func(x *db.Tx) (err error) {
		g.id, _, err = Start(ctxGame, x, Request{Key: fmt.Sprint(time.Now().UnixNano()), Subject: "s", Operation: "o", By: "me", Snapshot: s})
		return err
	}); err != nil {
		return err.Error()
	}
	g.claim(g.workers[0])
	for range rapid.IntRange(10, 50).Draw(t, "moves") {
		g.move(rapid.IntRange(0, 13).Draw(t, "op"), rapid.IntRange(0, 5).Draw(t, "who"), rapid.IntRange(0, 34).Draw(t, "how"))
		g.look()
		if g.wrong != "" {
			return g.wrong
		}
	}
	return g.finish()
}

// finish has one healthy worker end the run: it must get there.
func (g *game) finish() string {
	p := &player{}
	g.workers = append(g.workers, p)
	for range 300 {
		var state State
		_ = g.tx(func(x *db.Tx) error {
			_, err := x.Row(ctxGame, "SELECT state FROM runs WHERE id = $1", []any{g.id}, &state)
			return err
		})
		if state.Ended() {
			g.look()
			return g.wrong
		}
		if state == Parked {
			return "the run parked"
		}
		if p.held == nil {
			_ = g.tx(func(x *db.Tx) error {
				_, err := x.Exec(ctxGame, "UPDATE runs SET lease_until = 0 WHERE id = $1", g.id)
				return err
			})
			g.claim(p)
		}
		g.pass(p, false)
		for len(p.attempts) > 0 {
			g.step(p, 0)
		}
		g.pass(p, false)
		g.move(10, 0, 0)
	}
	return "the run does not end: " + g.wrong
}

// TestModel plays games from HOLDFAST_RUNS_SEED on, or from a seed of its own, as many
// as HOLDFAST_RUNS_GAMES says: whatever happens in whatever order, no step has its effect twice, nothing
// changes by another way than the table's, and every run can be brought to its end.
func TestModel(t *testing.T) {
	first := int(time.Now().UnixNano() % 1e9)
	if s := os.Getenv("HOLDFAST_RUNS_SEED"); s != "" {
		first, _ = strconv.Atoi(s)
	}
	games := 40
	if s := os.Getenv("HOLDFAST_RUNS_GAMES"); s != "" {
		games, _ = strconv.Atoi(s)
	}
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		if d.Shared() {
			games = (games + 2) / 3 // each costs three times as much
		}
		for seed := first; seed < first+games; seed++ {
			if wrong := rapid.Custom(func(t *rapid.T) string { return play(t, d, true) }).Example(seed); wrong != "" {
				t.Fatalf("seed %d: %s\n%s", seed, wrong, dump(t, d))
			}
		}
	})
}

// TestModelCatchesBrokenRules breaks one rule at a time.
func TestModelCatchesBrokenRules(t *testing.T) {
	right := sqlText
	t.Cleanup(func() { sqlText = right })
	d := open(t, dbtest.SQLite(t))
	for name, c := range map[string]struct {
		breaks  func()
		careful bool
		want    string
	}{
		"no epoch in the guard": {func() {
			sqlText.guard = `UPDATE runs SET epoch = epoch WHERE id = $1 AND ($2 = $2) AND ($3 = $3) AND state = 'active' RETURNING pokes`
		}, true, "in the reign of"},
		"a lease that lasts is taken": {func() {
			sqlText.claim = strings.Replace(right.claim, "lease_until <= $4", "$4 > 0", 1)
		}, true, "while another's lease lasts"},
		"prompts are answered twice": {func() {
			sqlText.answer = `UPDATE run_prompts SET answer = $3, answered_by = $4, answered_at = $5 WHERE run = $1 AND seq = $2`
		}, true, "success after success"}, // once by its default, say
		"steps that do not look": {func() {}, false, "acted 2 times"},
	} {
		sqlText = right
		c.breaks()
		caught := ""
		for seed := 0; seed < 300 && !strings.Contains(caught, c.want); seed++ {
			if w := rapid.Custom(func(t *rapid.T) string { return play(t, d, c.careful) }).Example(seed); w != "" {
				caught = w
			}
		}
		if caught == "" || !strings.Contains(caught, c.want) {
			t.Errorf("%s: %q", name, caught)
		} else {
			t.Logf("%s: %s", name, caught)
		}
	}
}
