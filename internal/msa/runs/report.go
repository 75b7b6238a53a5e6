package runs

import (
	"errors"
	"fmt"

	"holdfast/internal/errs"
)

// report is what became of an attempt.
type report struct {
	seq, attempt int
	result       Result
	err          error
	panicked     bool
	aborted      bool // the worker gave the run up, or stops: nothing is known of the effect
	warnings     []string
	output       string
	done, total  int64
}

// take enters a report. One of an attempt that is not the newest, or has been
// entered already, changes nothing.
func (m *model) take(r report, now int64) {
	st := m.steps[r.seq-1]
	if st.attempt != r.attempt || !st.executes || st.status != Running {
		return
	}
	st.live, st.dirty = false, true
	if r.aborted && r.err != nil {
		return // it still executes, as far as anybody knows: whoever goes on with the run begins it anew
	}
	st.executes = false
	st.output, st.done, st.total = r.output, r.done, r.total
	for _, w := range r.warnings {
		m.notes = append(m.notes, note{st.seq, string(Warning), w})
	}
	switch {
	case r.err == nil && r.result.Again > 0:
		st.failures, st.due = 0, now+max(1, r.result.Again.Milliseconds())
		st.memory = string(r.result.Memory)
	case r.err == nil:
		m.succeed(st, r, now)
	case m.cancelled && m.phase == Forward:
		m.notes = append(m.notes, note{st.seq, string(Warning), r.err.Error()})
		m.set(st, Canceled, now, "interrupted")
		st.blocks = true
		m.progress = true
	case !r.panicked && mayPass(r.err) && st.failures+1 < st.spec.Retry.Attempts:
		st.failures++
		st.due = max(1, now+st.spec.Retry.pause(st.failures))
		m.notes = append(m.notes, note{st.seq, string(Warning), fmt.Sprintf("attempt %d: %v", st.attempt, r.err)})
	default:
		words := r.err.Error()
		if remedy := errs.RemedyOf(r.err); remedy != "" {
			words += "; " + remedy
		}
		m.fail(st, now, words)
	}
}

func (m *model) succeed(st *step, r report, now int64) {
	st.failures, st.memory = 0, string(r.result.Memory)
	to := Success
	switch {
	case len(r.warnings) > 0:
		to = Warning
	case r.result.AlreadyDone:
		to = AlreadyDone
	}
	m.set(st, to, now, r.result.Note)
	m.progress = true
}

// fail ends a step that cannot be done.
func (m *model) fail(st *step, now int64, words string) {
	st.failures++
	m.notes = append(m.notes, note{st.seq, string(Error), words})
	m.progress = true
	if st.spec.OnError == Warn {
		m.set(st, Warning, now, words)
		return
	}
	m.set(st, Error, now, words)
	st.blocks = true
}

// mayPass reports whether the same call may succeed when it is repeated.
func mayPass(err error) bool {
	var known *errs.Error
	if !errors.As(err, &known) {
		return true // of a program or a platform that has no kinds
	}
	switch known.Kind {
	case errs.Invalid, errs.NotFound, errs.Exists, errs.Corrupt, errs.Denied, errs.Fenced:
		return false
	}
	return true
}
