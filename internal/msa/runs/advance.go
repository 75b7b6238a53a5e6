package runs

import (
	"encoding/json"
	"fmt"
	"time"
)

// model is a run and its steps in memory, as of the last load and what was done to
// it since. Its methods compute and do no I/O: what is to be stored is marked dirty
// or listed, and saved in the transaction that decided it.
type model struct {
	id        string
	rerunOf   string
	parallel  int
	room      map[int]int // by group, where it is less
	state     State
	phase     Phase
	verdict   State // what the run will end as, once known; empty before
	reason    string
	cancelled bool
	steps     []*step // by seq, from 1

	events    []event
	notes     []note
	prompts   []int // to be opened
	defaults  []int // prompts whose default is taken
	progress  bool  // some step ended: the run does not crash over and over
	news      bool  // it parked or ended, or a prompt was opened or ended: Options.Joined is told
	interrupt []int // live steps whose end is wanted
}

// event is a row of the feed to be; note one of a step's warnings or errors.
type event struct {
	seq           int
	change, words string
}
type note struct {
	seq          int
	level, words string
}

// launch is an attempt to execute, once the transaction that began it is committed.
type launch struct {
	step    step
	key     string
	undoes  *step // what it takes back, or nil
	epoch   int64
	attempt int
}

// set changes a step's status by the table. Whoever decides a change the table does
// not have has a bug: nothing is changed and the run parks, which keeps all there is.
func (m *model) set(st *step, to Status, now int64, words string) {
	if !allowed(st.status, to) {
		m.park(fmt.Sprintf("step %d was to become %s after %s: report this", st.seq, to, st.status))
		return
	}
	if st.status != to {
		m.events = append(m.events, event{st.seq, "step", string(to)})
	}
	st.status, st.dirty = to, true
	m.news = m.news || st.spec.Kind == KindPrompt
	if words != "" {
		st.note = words
	}
	if to.Ended() {
		st.ended, st.executes, st.live, st.due = now, false, false, 0
	}
}

func allowed(from, to Status) bool {
	for _, s := range follows[from] {
		if s == to {
			return true
		}
	}
	return false
}

func (m *model) park(reason string) {
	if m.state == Active {
		m.state, m.reason, m.news = Parked, reason, true
		m.events = append(m.events, event{0, "run", string(Parked)})
	}
}

// stopped reports whether a step failed whose failure stops the run.
func (m *model) stopped() bool {
	for _, st := range m.steps {
		if st.phase == Forward && st.status == Error && st.spec.OnError == Stop {
			return true
		}
	}
	return false
}

// advance decides all that follows from what is known: which steps are skipped,
// cancelled, timed out or begun, each of these once grab has given it room; whether
// the phase changes or the run ends. starved is set when more would be begun.
func (m *model) advance(now int64, grab func() bool) (begin []*step, starved bool) {
	for m.state == Active {
		halted := m.phase == Forward && (m.cancelled || m.stopped())
		m.settleAll(now, halted)
		if m.state != Active {
			return nil, false
		}
		if !m.ended(m.phase) {
			if halted {
				return nil, false
			}
			return m.begin(now, grab)
		}
		m.next()
	}
	return nil, false
}

// settleAll moves the steps of the phase that need no execution. What that shuts is
// settled as well.
func (m *model) settleAll(now int64, halted bool) {
	for {
		gate, shut := m.shut()
		m.interrupt = nil
		m.settle(now, halted, gate, shut)
		if after, by := m.shut(); m.state != Active || by == shut && after == gate {
			return
		}
	}
}

// settle moves each step once.
func (m *model) settle(now int64, halted bool, gate int, shut *step) {
	for _, st := range m.steps {
		if st.phase != m.phase || st.status.Ended() {
			continue
		}
		switch {
		case st.status == Inactive && halted && m.cancelled:
			m.set(st, Canceled, now, "")
			st.blocks = true
		case st.status == Inactive && halted:
			m.set(st, Skipped, now, "another step stopped the run")
			st.blocks = true
		case st.status == Inactive && shut != nil && st.phase == Forward && st.spec.Group > gate:
			m.set(st, Skipped, now, "nothing begins behind "+shut.spec.Name)
			st.blocks = true
		case st.status == Inactive:
			m.settleInactive(st, now)
		case halted && (m.cancelled || !st.live):
			if st.live {
				m.interrupt = append(m.interrupt, st.seq)
				continue
			}
			m.set(st, Canceled, now, "")
			st.blocks = true
		default:
			m.settleRunning(st, now)
		}
	}
}

// shut returns the lowest group behind which nothing begins any more, and the step
// because of which that is so; nil if there is none.
func (m *model) shut() (group int, by *step) {
	for _, st := range m.steps {
		if st.phase == Forward && st.spec.OnError == Gate && st.blocks && (by == nil || st.spec.Group < group) {
			group, by = st.spec.Group, st
		}
	}
	return group, by
}

func (m *model) settleInactive(st *step, now int64) {
	if of := st.spec.Undoes; of > 0 {
		if m.steps[of-1].begun == 0 {
			m.set(st, Skipped, now, "nothing to undo")
		}
		return
	}
	for _, dep := range st.spec.Deps {
		if d := m.steps[dep-1]; d.blocks {
			m.set(st, Skipped, now, "it needs "+d.spec.Name)
			st.blocks = true
			return
		}
	}
}

// settleRunning ends what waits for a time that has come, and what is overdue.
func (m *model) settleRunning(st *step, now int64) {
	due := st.due > 0 && st.due <= now
	switch {
	case st.spec.Kind == KindWait && due:
		m.set(st, Success, now, "")
		m.progress = true
	case st.spec.Kind == KindPrompt && due:
		m.defaults = append(m.defaults, st.seq)
		m.set(st, Success, now, "nobody answered in time")
		m.progress = true
	case st.spec.Limit > 0 && now >= st.begun+st.spec.Limit.Milliseconds():
		if st.live {
			m.interrupt = append(m.interrupt, st.seq)
			return
		}
		m.fail(st, now, fmt.Sprintf("it did not end within %v", st.spec.Limit))
	}
}

// ended reports whether all steps of a phase have ended.
func (m *model) ended(p Phase) bool {
	for _, st := range m.steps {
		if st.phase == p && !st.status.Ended() {
			return false
		}
	}
	return true
}

// next goes from a phase that has ended to the one that follows, or to the end.
func (m *model) next() {
	switch m.phase {
	case Forward:
		m.phase = Finally
		switch {
		case m.cancelled:
			m.verdict = Cancelled
		case m.stopped():
			m.verdict = Failed
		}
		if m.verdict != "" && m.canUndo() {
			m.phase = Undoing
		}
	case Undoing:
		m.phase = Finally
	case Finally:
		m.state, m.news = m.outcome(), true
		m.events = append(m.events, event{0, "run", string(m.state)})
		return
	}
	m.events = append(m.events, event{0, "phase", string(m.phase)})
}

// canUndo reports whether there is something to take back and no step has begun
// behind which there is no way back.
func (m *model) canUndo() bool {
	undo := false
	for _, st := range m.steps {
		if st.phase == Forward && st.spec.NoReturn && st.begun > 0 {
			return false
		}
		undo = undo || st.phase == Undoing
	}
	return undo
}

// outcome is what a run whose phases have all ended ends as.
func (m *model) outcome() State {
	out := Succeeded
	for _, st := range m.steps {
		if st.status == Error && (m.verdict != Cancelled || st.phase != Forward) {
			return Failed
		}
		if st.status == Warning || st.status == Skipped && st.phase != Undoing {
			out = WithWarnings
		}
	}
	if m.verdict != "" {
		return m.verdict
	}
	return out
}

// begin picks the steps that may begin or go on, as long as there is room.
func (m *model) begin(now int64, grab func() bool) (out []*step, starved bool) {
	lowest := 0 // the lowest group with a step that has not ended
	first, busy := true, 0
	for _, st := range m.steps {
		if st.phase != m.phase || st.status.Ended() {
			continue
		}
		if first || st.spec.Group < lowest {
			lowest, first = st.spec.Group, false
		}
		if st.status == Running && !builtin(st.spec.Kind) {
			busy++
		}
	}
	room := m.parallel
	if n, ok := m.room[lowest]; ok && m.phase == Forward {
		room = min(room, n)
	}
	room -= busy
	for _, st := range m.steps {
		if st.phase != m.phase || st.status.Ended() || st.live {
			continue
		}
		switch {
		case st.status == Running && !builtin(st.spec.Kind) && (st.executes || st.due <= now):
		case st.status == Inactive && st.spec.Group <= lowest && m.ready(st) && builtin(st.spec.Kind):
			m.open(st, now)
			continue
		case st.status == Inactive && st.spec.Group <= lowest && room > 0 && m.ready(st):
			room--
		default:
			continue
		}
		if !grab() {
			return out, true
		}
		m.set(st, Running, now, "")
		if st.begun == 0 {
			st.begun = now
		}
		st.attempt++
		st.executes, st.live, st.due = true, true, 0
		out = append(out, st)
	}
	return out, false
}

// ready reports whether what a step is after has ended.
func (m *model) ready(st *step) bool {
	for _, deps := range [][]int{st.spec.Deps, st.spec.Waits} {
		for _, dep := range deps {
			if !m.steps[dep-1].status.Ended() {
				return false
			}
		}
	}
	return true
}

// open begins a prompt or a timer: rows, which nothing executes.
func (m *model) open(st *step, now int64) {
	m.set(st, Running, now, "")
	st.begun = now
	var wait time.Duration
	if st.spec.Kind == KindPrompt {
		var p Prompt
		if err := json.Unmarshal(st.spec.Input, &p); err != nil { // Check let it through
			m.park("the prompt of step " + st.spec.Name + " cannot be read")
			return
		}
		m.prompts = append(m.prompts, st.seq)
		if p.Within == 0 {
			return
		}
		wait = p.Within
	} else {
		var w Wait
		if err := json.Unmarshal(st.spec.Input, &w); err != nil {
			m.park("the timer of step " + st.spec.Name + " cannot be read")
			return
		}
		wait = w.For
	}
	st.due = max(1, now+wait.Milliseconds())
}

// due is when there is something to do next if nobody says anything; never, if
// there is nothing.
func (m *model) due() int64 {
	next := int64(never)
	for _, st := range m.steps {
		if st.phase != m.phase || st.status != Running {
			continue
		}
		if st.due > 0 {
			next = min(next, st.due)
		}
		if st.spec.Limit > 0 {
			next = min(next, st.begun+st.spec.Limit.Milliseconds())
		}
	}
	return next
}

// busy reports whether this worker executes something of the run.
func (m *model) busy() bool {
	for _, st := range m.steps {
		if st.live {
			return true
		}
	}
	return false
}

// unknown returns a step still to be done that no Doer is registered for, or nil.
func (m *model) unknown(kinds Kinds) *step {
	halted := m.cancelled || m.stopped()
	for _, st := range m.steps {
		switch {
		case st.status.Ended() || builtin(st.spec.Kind) || st.live:
		case st.phase == Undoing && m.phase != Undoing: // perhaps never
		case st.phase == Forward && halted:
		case kinds[Kind{st.spec.Kind, st.spec.Version}] == nil:
			return st
		}
	}
	return nil
}
