package runs

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Run is a run as its row says. Times by the database's clock.
type Run struct {
	ID, Subject, Operation, By, RerunOf string
	State                               State
	Phase                               Phase
	Reason                              string // why it is parked
	CancelledBy                         string
	Cancelled                           time.Time // when that was asked for; zero: it was not
	Owner                               string    // the worker that holds it now; empty: nothing goes on
	Epoch                               int64
	Crashes                             int64 // owners that ended in the middle of it since a step ended
	Created, Ended                      time.Time
}

const runColumns = `id, subject, operation, started_by, rerun_of, state, phase, reason, cancel_by, cancel_at, owner, epoch, crashes, created_at, ended_at`

func scanRun(scan func(...any) error) (Run, error) {
	var r Run
	var cancelled, created, ended int64
	err := scan(&r.ID, &r.Subject, &r.Operation, &r.By, &r.RerunOf, &r.State, &r.Phase, &r.Reason, &r.CancelledBy, &cancelled,
		&r.Owner, &r.Epoch, &r.Crashes, &created, &ended)
	r.Cancelled, r.Created, r.Ended = db.Time(cancelled), db.Time(created), db.Time(ended)
	return r, err
}

// Get returns a run. Kind NotFound.
func Get(ctx context.Context, tx *db.Tx, id string) (Run, error) {
	var out []Run
	err := tx.Rows(ctx, `SELECT `+runColumns+` FROM runs WHERE id = $1`, []any{id}, collect(&out, scanRun))
	if err == nil && len(out) == 0 {
		err = noRun("runs.Get", id)
	}
	if err != nil {
		return Run{}, err
	}
	return out[0], nil
}

// List returns runs of a subject, or of all with "", the newest first, from a place
// in that order; at most limit, and at most 1000.
func List(ctx context.Context, tx *db.Tx, subject string, offset, limit int) (out []Run, err error) {
	err = tx.Rows(ctx, `SELECT `+runColumns+` FROM runs WHERE $1 = '' OR subject = $1 ORDER BY created_at DESC, id LIMIT $2 OFFSET $3`,
		[]any{subject, min(limit, maxPage), max(0, offset)}, collect(&out, scanRun))
	return out, err
}

func collect[T any](out *[]T, one func(func(...any) error) (T, error)) func(func(...any) error) error {
	return func(scan func(...any) error) error {
		v, err := one(scan)
		*out = append(*out, v)
		return err
	}
}

// StepState is a step of a run as its row says.
type StepState struct {
	Seq         int
	Phase       Phase
	Step        Step
	Undoes      int // the step it takes back; 0: none
	Status      Status
	Attempt     int       // attempts begun
	Failed      bool      // its last attempt failed, also if that counts but as a warning
	Missed      bool      // it was not done, and what is after it is skipped
	Key         string    // the name of its effect
	Due         time.Time // when it goes on, if it waits for a time
	Begun       time.Time
	Ended       time.Time
	Done, Total int64           // progress, in the step's own unit
	Note        string          // for people
	Memory      json.RawMessage // what it left
	Output      string          // the end of what it printed
}

// Steps returns the steps of a run by number; none, if no worker has looked at it yet.
func Steps(ctx context.Context, tx *db.Tx, id string) (out []StepState, err error) {
	steps, err := loadSteps(ctx, tx, id)
	for _, st := range steps {
		out = append(out, StepState{
			Seq: st.seq, Phase: st.phase, Step: st.spec.Step, Undoes: st.spec.Undoes, Status: st.status, Attempt: st.attempt, Failed: st.failures > 0, Missed: st.blocks, Key: st.key(id),
			Due: db.Time(st.due), Begun: db.Time(st.begun), Ended: db.Time(st.ended), Done: st.done, Total: st.total,
			Note: st.note, Memory: json.RawMessage(st.memory), Output: st.output,
		})
	}
	return out, err
}

// Note is a warning or an error of a step.
type Note struct {
	Seq   int
	At    time.Time
	Level Status // Warning or Error
	Words string
}

// Notes returns the warnings and errors of a run, by step and in their order; at most
// limit, and at most 1000.
func Notes(ctx context.Context, tx *db.Tx, id string, limit int) (out []Note, err error) {
	err = tx.Rows(ctx, `SELECT seq, at, level, words FROM run_notes WHERE run = $1 ORDER BY seq, n LIMIT $2`, []any{id, min(limit, maxPage)},
		collect(&out, func(scan func(...any) error) (n Note, err error) {
			var at int64
			err = scan(&n.Seq, &at, &n.Level, &n.Words)
			n.At = db.Time(at)
			return n, err
		}))
	return out, err
}

// Question is a prompt that was opened.
type Question struct {
	Run        string
	Seq        int
	Question   string
	Choices    []string
	Opened     time.Time
	Answer     string
	AnsweredBy string    // empty: nobody, the default was taken
	Answered   time.Time // zero: it is open
}

// Questions returns the prompts of a run, or with "" the open ones of all, by run and
// step; at most limit, and at most 1000.
func Questions(ctx context.Context, tx *db.Tx, id string, limit int) (out []Question, err error) {
	err = tx.Rows(ctx, `SELECT p.run, p.seq, p.question, p.choices, p.opened_at, p.answer, p.answered_by, p.answered_at
		FROM run_prompts p JOIN run_steps s ON s.run = p.run AND s.seq = p.seq
		WHERE p.run = $1 OR $1 = '' AND p.answered_at = 0 AND s.status = 'running' ORDER BY p.run, p.seq LIMIT $2`, []any{id, min(limit, maxPage)},
		collect(&out, func(scan func(...any) error) (q Question, err error) {
			var opened, answered int64
			var choices string
			if err := scan(&q.Run, &q.Seq, &q.Question, &choices, &opened, &q.Answer, &q.AnsweredBy, &answered); err != nil {
				return q, err
			}
			q.Opened, q.Answered = db.Time(opened), db.Time(answered)
			if err := json.Unmarshal([]byte(choices), &q.Choices); err != nil {
				return q, errs.E("runs.Questions", errs.Corrupt, q.Run, err)
			}
			return q, nil
		}))
	return out, err
}

// Event is one change of a run, in the order in which all changes were committed.
type Event struct {
	Seq    int64 // in the feed: of a later event always larger
	At     time.Time
	Run    string
	Step   int    // 0: of the run itself
	Change string // run, phase, cancel, resume, step, progress
	Words  string // the new state, phase or status; who
}

// Events returns the changes behind a place in the feed, oldest first; at most limit,
// and at most 1000. Numbers are given out one by one and become visible in order, so
// whoever asks again behind the last one he got misses nothing. Deleted runs take their
// events along: a first event far behind the place means that the rows are to be read
// anew.
func Events(ctx context.Context, tx *db.Tx, after int64, limit int) (out []Event, err error) {
	err = tx.Rows(ctx, `SELECT seq, at, run, step, change, words FROM run_events WHERE seq > $1 ORDER BY seq LIMIT $2`, []any{after, min(limit, maxPage)},
		collect(&out, func(scan func(...any) error) (e Event, err error) {
			var at int64
			err = scan(&e.Seq, &at, &e.Run, &e.Step, &e.Change, &e.Words)
			e.At = db.Time(at)
			return e, err
		}))
	return out, err
}
