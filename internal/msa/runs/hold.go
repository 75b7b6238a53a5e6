package runs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// held is a run under this worker's epoch. Its methods are transactions; it starts
// no goroutine and is used by one at a time.
type held struct {
	db    *db.DB
	kinds Kinds
	join  func(context.Context, *db.Tx, string) error // Options.Joined
	id    string
	owner string
	epoch int64

	model *model      // nil: to be loaded
	pokes int64       // of the row when model was loaded
	live  map[int]int // attempt by step, of what this worker executes
}

// claimed is what a claim found.
type claimed struct{ epoch, crashes int64 }

// candidate is a run that may be claimed, and the epoch it had when it was seen.
type candidate struct {
	id    string
	epoch int64
}

// dueRuns lists runs that may be claimed, those that wait longest first.
func dueRuns(ctx context.Context, tx *db.Tx, limit int) (out []candidate, err error) {
	err = tx.Rows(ctx, `SELECT id, epoch FROM runs WHERE state = 'active' AND due_at <= $1 AND lease_until <= $1 ORDER BY due_at, created_at LIMIT $2`,
		[]any{tx.Now(), limit}, func(scan func(...any) error) error {
			var c candidate
			err := scan(&c.id, &c.epoch)
			out = append(out, c)
			return err
		})
	return out, err
}

// claim takes a run for an owner; nil when another was faster. A run that was
// dropped more than most times without a step's end in between is parked instead.
func claim(ctx context.Context, d *db.DB, run candidate, owner string, o *Options) (*claimed, error) {
	var c *claimed
	id := run.id
	err := d.Tx(ctx, func(tx *db.Tx) error {
		c = new(claimed)
		found, err := tx.Row(ctx, sqlText.claim, []any{id, run.epoch, owner, tx.Now(), tx.Now() + o.Lease.Milliseconds()}, &c.epoch, &c.crashes)
		if err != nil || !found {
			c = nil
			return err
		}
		if c.crashes <= o.Crashes {
			return nil
		}
		words := fmt.Sprintf("its owner ended %d times in the middle of it, and no step ended between", c.crashes)
		c = nil
		if _, err := tx.Exec(ctx, `UPDATE runs SET state = 'parked', reason = $2, owner = '', lease_until = 0 WHERE id = $1`, id, words); err != nil {
			return err
		}
		return join(ctx, tx, id, []event{{0, "run", string(Parked)}}, o.Joined)
	})
	return c, err
}

// turn is what a pass is given and what it decided.
type turn struct {
	reports []report
	grab    func() bool // takes room for one more step; what is grabbed and not launched is the caller's to give back
	leave   bool        // let go of the run whatever is to be done: the worker stops

	grabbed   int
	used      int // of those, in this try of the transaction
	launches  []launch
	starved   bool
	interrupt []int // steps whose attempts are to be interrupted
	due       int64 // when to look again, by the database's clock
	wait      time.Duration
	gone      bool // ended, parked or let go of: it is no longer ours
}

// pass enters reports and does all that follows, in one transaction. Kinds: Fenced
// (the run has another owner; nothing was done), those of db.Tx (nothing was done, or
// that is not known: a later pass finds out).
func (h *held) pass(ctx context.Context, t *turn) error {
	for _, r := range t.reports {
		delete(h.live, r.seq)
	}
	err := h.db.Tx(ctx, func(tx *db.Tx) error {
		t.launches, t.starved, t.gone, t.used = nil, false, false, 0
		m := h.model
		h.model = nil // until it is known to be what the rows are
		var pokes int64
		found, err := tx.Row(ctx, sqlText.guard, []any{h.id, h.owner, h.epoch}, &pokes)
		if err != nil {
			return err
		}
		if !found {
			return errs.New("runs.pass", errs.Fenced, h.id, "the run has another owner")
		}
		if m == nil || pokes != h.pokes {
			if m, err = load(ctx, tx, h.id); err != nil {
				return err
			}
			for seq, attempt := range h.live {
				if st := m.steps[seq-1]; st.attempt == attempt && st.executes {
					st.live = true
				}
			}
		}
		if err := h.decide(ctx, tx, m, t); err != nil {
			return err
		}
		h.pokes = pokes
		h.model = m
		return nil
	})
	if err != nil {
		h.model = nil
		return err
	}
	for _, l := range t.launches {
		h.live[l.step.seq] = l.attempt
	}
	return nil
}

// decide computes what follows and saves it.
func (h *held) decide(ctx context.Context, tx *db.Tx, m *model, t *turn) error {
	now := tx.Now()
	for _, r := range t.reports {
		m.take(r, now)
	}
	var begin []*step
	if st := m.unknown(h.kinds); st != nil && !m.busy() {
		m.park(fmt.Sprintf("this release does not know steps of kind %s version %d: %s", st.spec.Kind, st.spec.Version, st.spec.Name))
	} else if !t.leave {
		begin, t.starved = m.advance(now, func() bool {
			// What is under way ends before a run parks.
			if st != nil || t.used == t.grabbed && !t.grab() {
				return false
			}
			t.used++
			t.grabbed = max(t.grabbed, t.used)
			return true
		})
		t.starved = t.starved && st == nil
	}
	for _, st := range begin {
		if h.kinds[Kind{st.spec.Kind, st.spec.Version}] == nil {
			// Its phase has begun only now: nothing of it has been executed.
			st.executes, st.live, st.due = false, false, now
			m.park(fmt.Sprintf("this release does not know steps of kind %s version %d: %s", st.spec.Kind, st.spec.Version, st.spec.Name))
		}
	}
	t.due, t.interrupt = m.due(), m.interrupt
	t.wait = longestPause
	if t.due < never {
		t.wait = time.Duration(min(t.due-now, holdFor.Milliseconds())) * time.Millisecond
	}
	idle := !m.busy() && t.due > now+holdFor.Milliseconds()
	t.gone = m.state != Active || t.leave && !m.busy() || idle && !t.starved
	if m.state == Active {
		for _, st := range begin {
			t.launches = append(t.launches, h.launch(m, st))
		}
	}
	return h.save(ctx, tx, m, t)
}

func (h *held) launch(m *model, st *step) launch {
	l := launch{step: *st, key: st.key(h.id), epoch: h.epoch, attempt: st.attempt}
	if of := st.spec.Undoes; of > 0 {
		undone := *m.steps[of-1]
		l.undoes = &undone
	}
	return l
}

// save stores what has changed. The guard holds the run's row.
func (h *held) save(ctx context.Context, tx *db.Tx, m *model, t *turn) error {
	if err := saveRows(ctx, tx, m); err != nil { // a prompt's default before its step's end
		return err
	}
	for _, st := range m.steps {
		if st.dirty {
			if err := saveStep(ctx, tx, m.id, st); err != nil {
				return err
			}
			st.dirty = false
		}
	}
	owner, lease, due := h.owner, "lease_until", int64(0)
	if t.gone {
		owner, lease, due = "", "0", t.due
		if t.leave {
			due = 0
		}
	}
	ended := int64(0)
	if m.state.Ended() {
		ended = tx.Now()
	}
	crashes := "crashes"
	if m.progress {
		crashes, m.progress = "0", false
	}
	if _, err := tx.Exec(ctx, `UPDATE runs SET state = $2, phase = $3, verdict = $4, reason = $5, owner = $6, due_at = $7, ended_at = $8, unfolded = 1,
		lease_until = `+lease+`, crashes = `+crashes+` WHERE id = $1`,
		m.id, m.state, m.phase, m.verdict, db.Text(m.reason, maxWords), owner, due, ended); err != nil {
		return err
	}
	told := h.join
	if !m.news {
		told = nil
	}
	events := m.events
	m.events, m.news = nil, false
	return join(ctx, tx, m.id, events, told)
}

// join appends to the feed, then tells whoever joined, who may append to another: two
// feeds are taken in this order everywhere.
func join(ctx context.Context, tx *db.Tx, run string, events []event, told func(context.Context, *db.Tx, string) error) error {
	if err := saveEvents(ctx, tx, run, events); err != nil || told == nil {
		return err
	}
	return told(ctx, tx, run)
}

func saveStep(ctx context.Context, tx *db.Tx, run string, st *step) error {
	_, err := tx.Exec(ctx, `UPDATE run_steps SET status = $3, blocks = $4, executes = $5, attempt = $6, failures = $7, due_at = $8,
		begun_at = $9, ended_at = $10, done = $11, total = $12, note = $13, memory = $14, output = $15 WHERE run = $1 AND seq = $2`,
		run, st.seq, st.status, number(st.blocks), number(st.executes), st.attempt, st.failures, st.due,
		st.begun, st.ended, st.done, st.total, db.Text(st.note, maxWords), db.Text(st.memory, 2*maxMemory), st.output)
	return err
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// saveRows stores rows that come with a change: steps of a run that was unfolded
// just now, notes, prompts.
func saveRows(ctx context.Context, tx *db.Tx, m *model) error {
	var steps, notes []any
	for _, st := range m.steps {
		if !st.fresh {
			continue
		}
		b, err := json.Marshal(st.spec)
		if err != nil {
			return errs.E("runs.save", errs.Internal, st.spec.Name, err)
		}
		steps = append(steps, m.id, st.seq, st.phase, st.spec.Name, string(b), st.status, number(st.blocks), number(st.executes), st.attempt, st.failures,
			st.due, st.begun, st.ended, st.done, st.total, st.note, st.memory, st.output)
		st.fresh, st.dirty = false, false
	}
	if err := insert(ctx, tx, `run_steps (run, seq, phase, name, spec, status, blocks, executes, attempt, failures, due_at, begun_at, ended_at, done, total, note, memory, output)`, 18, steps); err != nil {
		return err
	}
	next := make(map[int]int64)
	for _, n := range m.notes {
		if _, ok := next[n.seq]; !ok {
			var last int64
			if _, err := tx.Row(ctx, `SELECT COALESCE(MAX(n), 0) FROM run_notes WHERE run = $1 AND seq = $2`, []any{m.id, n.seq}, &last); err != nil {
				return err
			}
			next[n.seq] = last
		}
		if next[n.seq]++; next[n.seq] > maxNotes*10 {
			continue // a step that fails for ever says the same
		}
		notes = append(notes, m.id, n.seq, next[n.seq], tx.Now(), n.level, db.Text(n.words, maxWords))
	}
	if err := insert(ctx, tx, `run_notes (run, seq, n, at, level, words)`, 6, notes); err != nil {
		return err
	}
	for _, seq := range m.prompts {
		if err := savePrompt(ctx, tx, m, seq); err != nil {
			return err
		}
	}
	for _, seq := range m.defaults {
		var p Prompt
		if err := json.Unmarshal(m.steps[seq-1].spec.Input, &p); err != nil {
			return errs.E("runs.save", errs.Corrupt, m.id, err)
		}
		if _, err := tx.Exec(ctx, sqlText.answer, m.id, seq, p.Default, "", tx.Now()); err != nil {
			return err
		}
	}
	m.notes, m.prompts, m.defaults = nil, nil, nil
	return nil
}

func savePrompt(ctx context.Context, tx *db.Tx, m *model, seq int) error {
	var p Prompt
	if err := json.Unmarshal(m.steps[seq-1].spec.Input, &p); err != nil {
		return errs.E("runs.save", errs.Corrupt, m.id, err)
	}
	choices, err := json.Marshal(p.Choices)
	if err != nil {
		return errs.E("runs.save", errs.Internal, m.id, err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO run_prompts (run, seq, question, choices, opened_at, answer, answered_by, answered_at) VALUES ($1, $2, $3, $4, $5, '', '', 0)`,
		m.id, seq, db.Text(p.Question, maxWords), db.Text(string(choices), maxWords*8), tx.Now())
	return err
}

// insert stores rows of so many values each, many at once.
func insert(ctx context.Context, tx *db.Tx, into string, width int, values []any) error {
	for rows := range slices.Chunk(values, width*rowsAtOnce) {
		var b strings.Builder
		b.WriteString("INSERT INTO " + into + " VALUES ")
		for i := range rows {
			switch {
			case i%width == 0 && i > 0:
				b.WriteString("), (")
			case i == 0:
				b.WriteString("(")
			default:
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "$%d", i+1)
		}
		b.WriteString(")")
		if _, err := tx.Exec(ctx, b.String(), rows...); err != nil {
			return err
		}
	}
	return nil
}

// saveEvents appends to the feed. It is the last a transaction does to a run: the
// counter's row is held until it commits, so that numbers become visible in order.
func saveEvents(ctx context.Context, tx *db.Tx, run string, events []event) error {
	if len(events) == 0 {
		return nil
	}
	var last int64
	if _, err := tx.Row(ctx, `UPDATE sequences SET value = value + $1 WHERE name = 'run_events' RETURNING value`, []any{len(events)}, &last); err != nil {
		return err
	}
	var rows []any
	for i, e := range events {
		rows = append(rows, last-int64(len(events)-1-i), tx.Now(), run, e.seq, e.change, db.Text(e.words, maxWords))
	}
	return insert(ctx, tx, `run_events (seq, at, run, step, change, words)`, 6, rows)
}

// progress stores how far the steps under way are. It changes nothing else.
func (h *held) progress(ctx context.Context, far map[int][2]int64) error {
	return h.db.Tx(ctx, func(tx *db.Tx) error {
		var pokes int64
		found, err := tx.Row(ctx, sqlText.guard, []any{h.id, h.owner, h.epoch}, &pokes)
		if err != nil || !found {
			return err
		}
		var events []event
		for _, seq := range slices.Sorted(maps.Keys(far)) {
			p := far[seq]
			if _, err := tx.Exec(ctx, `UPDATE run_steps SET done = $3, total = $4 WHERE run = $1 AND seq = $2 AND executes = 1`, h.id, seq, p[0], p[1]); err != nil {
				return err
			}
			events = append(events, event{seq, "progress", fmt.Sprintf("%d/%d", p[0], p[1])})
		}
		return saveEvents(ctx, tx, h.id, events)
	})
}
