package runs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Kind names a kind of step and the version of what it means.
type Kind struct {
	Name    string
	Version int
}

// Kinds are the kinds of steps a worker can do.
type Kinds map[Kind]Doer

// Doer does steps of one kind. See the package's comment for what it promises.
type Doer interface {
	// Do does one attempt of a step, or one look at its job. An error's kind
	// decides whether the step's Retry applies: Invalid, NotFound, Exists,
	// Corrupt, Denied and Fenced are final. Called concurrently.
	Do(ctx context.Context, c *Call) (Result, error)
}

// DoerFunc is a function that is a Doer.
type DoerFunc func(ctx context.Context, c *Call) (Result, error)

// Do calls f.
func (f DoerFunc) Do(ctx context.Context, c *Call) (Result, error) { return f(ctx, c) }

// Result is what an attempt came to.
type Result struct {
	// AlreadyDone: it looked and found the effect there.
	AlreadyDone bool
	// Again, if not zero, means that a job is under way, to be looked at after
	// that time. Nothing is held meanwhile.
	Again time.Duration
	// Memory is given to the next attempt, to the step's Undo and, if the step is
	// done, to reruns: a job's id, what was made. JSON, at most 64 KiB.
	Memory json.RawMessage
	Note   string // for people
}

// Call is one attempt of a step, of the goroutine that got it.
type Call struct {
	Run     string
	Seq     int             // the step's number in the run, from 1
	Step    Step            // as in the snapshot
	Epoch   int64           // of the run: larger with each owner. Who can refuse an older one, gets it
	Key     string          // names the effect: look for it before acting, make it under it
	Attempt int             // from 1; 2 and more: an earlier one may have done some or all of it
	Input   json.RawMessage // the step's
	Memory  json.RawMessage // what an earlier attempt left, or empty
	// Of an undo: the key and the memory of the step it takes back. Who undoes
	// cancels a job that goes on under that key.
	Undoes       string
	UndoesMemory json.RawMessage

	hold func(context.Context) error

	mu          sync.Mutex // guards the rest
	done, total int64
	warnings    []string
	output      tail
}

// NewCall makes a call for who has a step done elsewhere than in a worker: its fields are
// the caller's to set before it is used. hold answers Hold; nil: it may always act.
func NewCall(hold func(context.Context) error) *Call {
	if hold == nil {
		hold = func(context.Context) error { return nil }
	}
	return &Call{hold: hold}
}

// Said is what a call has told so far.
type Said struct {
	Done, Total int64
	Warnings    []string
	Output      string // the last 4 KiB
}

// Said returns what was told by Progress, Warn and Output.
func (c *Call) Said() Said {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Said{c.done, c.total, slices.Clone(c.warnings), c.output.String()}
}

// Hold reports whether this attempt is still the one to act: it is asked right
// before each effect, since the machine may have slept since the last look. Kinds:
// Fenced (give up at once), Canceled, Unavailable (the database does not say: do
// not act).
func (c *Call) Hold(ctx context.Context) error { return c.hold(ctx) }

// Progress tells how much of how much is done, in whatever unit.
func (c *Call) Progress(done, total int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done, c.total = done, total
}

// Warn notes a warning: the step, if it ends well, ends with warnings.
func (c *Call) Warn(words string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	words = db.Text(words, maxWords)
	if len(c.warnings) < maxNotes && !slices.Contains(c.warnings, words) {
		c.warnings = append(c.warnings, words)
	}
}

// Output takes what a script or command prints. The last 4 KiB are kept. It may be
// written to concurrently.
func (c *Call) Output() io.Writer { return (*outputWriter)(c) }

type outputWriter Call

func (w *outputWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.output.add(p)
	return len(p), nil
}

// tail keeps the end of what is written, at most twice outputTail in memory.
type tail struct{ b []byte }

func (t *tail) add(p []byte) {
	if len(p) > outputTail {
		p = p[len(p)-outputTail:]
	}
	t.b = append(t.b, p...)
	if len(t.b) > 2*outputTail {
		t.b = append(t.b[:0], t.b[len(t.b)-outputTail:]...)
	}
}

func (t *tail) String() string {
	b := t.b
	if len(b) > outputTail {
		b = b[len(b)-outputTail:]
	}
	s := db.Text(string(b), 4*outputTail) // what is no UTF-8 has grown
	for len(s) > outputTail || len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[max(1, len(s)-outputTail):]
	}
	return s
}

// execute runs one attempt to its end. A panic is that attempt's failure.
func execute(ctx context.Context, d Doer, c *Call) (r report) {
	defer func() {
		p := recover()
		c.mu.Lock()
		defer c.mu.Unlock()
		if p != nil {
			c.output.add([]byte(fmt.Sprintf("\npanic: %v\n%s", p, debug.Stack())))
			r.panicked = true
			r.err = errs.New("runs.Do", errs.Internal, c.Step.Name, db.Text(fmt.Sprintf("panic: %v", p), maxWords))
		}
		r.seq, r.attempt = c.Seq, c.Attempt
		r.warnings, r.output, r.done, r.total = c.warnings, c.output.String(), c.done, c.total
		r.result.Note = db.Text(r.result.Note, maxWords)
	}()
	r.result, r.err = d.Do(ctx, c)
	if m := r.result.Memory; r.err == nil && (len(m) > maxMemory || len(m) > 0 && !json.Valid(m)) {
		r.err = errs.New("runs.Do", errs.Invalid, c.Step.Name, fmt.Sprintf("its memory is no JSON of at most %d bytes", maxMemory))
	}
	return r
}
