package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
)

// socketName is where a run's owner answers, in the run's directory.
const socketName = "control.sock"

// Options are what a Service is made of.
type Options struct {
	// Provider runs the VMs of every run of this service.
	Provider hypervisor.Provider
	// Open opens the container at an address. access is Request.Access: where the
	// identity is.
	Open func(ctx context.Context, url string, access map[string]string) (*journal.Container, error)
	// Source reaches the site that protects the domain now, as Request.Source
	// says; nil: planned migrations are refused.
	Source func(ctx context.Context, where map[string]string) (Source, error)
	// Site is what protection at this site is made of; nil: none is prepared.
	Site *Site
	// StallLimit is how long a guest's read of a block that is not there yet waits
	// for a store that does not answer; 0: package ondemand's default.
	StallLimit time.Duration
	// Logger is told what happens; nil: nobody.
	Logger *slog.Logger
	// FS is where runs lie; nil: the operating system's.
	FS durable.FS
	// Now is the clock of records; nil: the system's.
	Now func() time.Time

	// crash, if not nil, is asked before and after each step; tests die there.
	crash func(point string)
	// program, if not nil, takes the place of the function of this name: tests
	// leave steps out, and must be caught.
	program func(Action, *Record) []step
}

// Service begins and finds runs. Safe for concurrent use; a run itself has one
// owner at a time, in whatever process.
type Service struct {
	opts Options
	fs   durable.FS
	log  *slog.Logger
	now  func() time.Time
	turn Turn // nil: VMs start as runs want it
}

// Turn says whether a VM of a run may be started now, and is told what came of it: the VM,
// or nil when it did not start. An error, which Do and others return as it is, leaves the
// VM as it was: it may be started later. It is for concurrent use.
type Turn func(run dr.UUID, vm dr.VMID) (started func(hypervisor.VM), err error)

// TakeTurns has all runs ask before they start a VM. Before the service is used.
func (s *Service) TakeTurns(t Turn) { s.turn = t }

// New returns a service.
func New(opts Options) *Service {
	s := &Service{opts: opts, fs: opts.FS, log: opts.Logger, now: opts.Now}
	if s.fs == nil {
		s.fs = durable.OS{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Test begins a run that looks at a point beside production, and returns when
// its VMs run. Nothing of the domain changes: there is a pin, and no fence, fork
// or journal object. The caller owns the run, also after an error if it is not
// nil, and closes it.
func (s *Service) Test(ctx context.Context, dir string, q Request) (*Run, error) {
	return s.start(ctx, dir, Test, q)
}

// Disaster begins a run that recovers the domain here because its source is lost
// or given up, and returns when the VMs run, before the commit.
func (s *Service) Disaster(ctx context.Context, dir string, q Request) (*Run, error) {
	return s.start(ctx, dir, Disaster, q)
}

// Planned begins a run that moves the domain here without loss. An error before
// the source's history is ended puts the source back in service.
func (s *Service) Planned(ctx context.Context, dir string, q Request) (*Run, error) {
	return s.start(ctx, dir, Planned, q)
}

// Failback is Planned in the other direction; Request.Onto names disks that held
// the domain before.
func (s *Service) Failback(ctx context.Context, dir string, q Request) (*Run, error) {
	return s.start(ctx, dir, Failback, q)
}

// Clone begins a run that builds the disks of a point as VMs of their own.
func (s *Service) Clone(ctx context.Context, dir string, q Request) (*Run, error) {
	return s.start(ctx, dir, Clone, q)
}

func (s *Service) start(ctx context.Context, dir string, op Operation, q Request) (*Run, error) {
	r, err := s.Begin(dir, op, q)
	if err != nil {
		return nil, err
	}
	if s.opts.FS == nil { // what lies elsewhere has no sockets
		if err := r.Serve(); err != nil {
			return r, err
		}
	}
	return r, r.Do(ctx, Recover)
}

// Begin makes a run in dir, which is made if it is missing, and does nothing of
// it yet. The caller owns it. Kinds: Invalid (the request), Exists (dir holds a
// run), Conflict (another process works there).
func (s *Service) Begin(dir string, op Operation, q Request) (*Run, error) {
	const begin = "recovery.Begin"
	if q.Mode == "" {
		q.Mode = Instant
	}
	if q.At == "" {
		q.At = "latest"
	}
	if err := q.check(); err != nil {
		return nil, errs.E(begin, errs.Invalid, dir, err)
	}
	if !slices.Contains(operations, op) {
		return nil, errs.New(begin, errs.Invalid, string(op), "no such operation")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, errs.E(begin, errs.Invalid, dir, err)
	}
	if n := len(filepath.Join(dir, socketName)); n > maxSocketPath {
		return nil, errs.New(begin, errs.Invalid, dir, fmt.Sprintf("its sockets' names would have %d bytes, the system allows %d", n, maxSocketPath)).
			WithRemedy("choose a directory with a shorter name")
	}
	if err := durable.MkdirAll(s.fs, dir); err != nil {
		return nil, err
	}
	lock, err := s.lock(dir)
	if err != nil {
		return nil, err
	}
	if _, err := readRecord(s.fs, dir); !errs.Is(err, errs.NotFound) {
		if err == nil {
			err = errs.New(begin, errs.Exists, dir, "there is a recovery in this directory").
				WithRemedy("resume it, or clean it up and choose another directory")
		}
		return nil, errors.Join(err, lock.Close())
	}
	if err := s.sweep(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	now := s.now().UTC()
	r := s.own(dir, lock, &Record{
		Format: recordFormat, ID: dr.NewUUID(), Operation: op, State: Preparing, Created: now, Updated: now,
		Request: q, Action: Recover, Try: 1,
	})
	if err := r.change(func(*Record) {}); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// maxSocketPath is what the system allows for a unix socket's name, bytes.
const maxSocketPath = 107

func (s *Service) lock(dir string) (io.Closer, error) {
	lock, err := durable.LockDir(s.fs, dir)
	if errs.Is(err, errs.Conflict) {
		return nil, errs.E("recovery.open", errs.Conflict, dir, err).
			WithRemedy("another process owns this recovery; commands reach it by its socket")
	}
	return lock, err
}

// sweep removes what writes that a crash cut off left, once the lock is held.
func (s *Service) sweep(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, "evidence")} {
		if err := durable.SweepTemps(s.fs, d, time.Unix(1<<40, 0)); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// Open takes a run over whose owner has ended. Kinds: NotFound, Conflict (it has
// an owner), Corrupt, Invalid (another release's).
func (s *Service) Open(dir string) (*Run, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, errs.E("recovery.open", errs.Invalid, dir, err)
	}
	if _, err := readRecord(s.fs, dir); err != nil { // so that no lock file is made where there is no run
		return nil, err
	}
	lock, err := s.take(dir)
	if err != nil {
		return nil, err
	}
	rec, err := readRecord(s.fs, dir)
	if err == nil {
		err = s.sweep(dir)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s.own(dir, lock, rec), nil
}

// Resume takes over a run that was interrupted, or failed, and goes on with what
// it was doing. at, if not empty, is the point a run that was rolled back tries
// next. The caller owns the run, also after an error if it is not nil.
func (s *Service) Resume(ctx context.Context, dir, at string) (*Run, error) {
	r, err := s.Open(dir)
	if err != nil {
		return nil, err
	}
	return r, r.Resume(ctx, at)
}

// Resume goes on with what the run was doing; see Service.Resume.
func (r *Run) Resume(ctx context.Context, at string) error {
	rec := r.Record()
	if at != "" {
		if rec.State != RolledBack && !(rec.State == Incomplete && rec.Checkpoint == nil) {
			return errs.New("recovery.Resume", errs.Conflict, r.dir, "the run is "+string(rec.State)+": its point is chosen").
				WithRemedy("roll it back first, to try another point")
		}
		if err := r.change(func(rec *Record) { rec.Request.At = at }); err != nil {
			return err
		}
	}
	a := rec.Action
	if rec.State == RolledBack {
		if at == "" {
			return errs.New("recovery.Resume", errs.Conflict, r.dir, "the run was rolled back").
				WithRemedy("name the point to try next with --at, or clean it up")
		}
		a = Recover
	}
	if !rec.State.Active() && rec.State != RolledBack && rec.State != fails(a) {
		return r.revive(ctx)
	}
	return r.Do(ctx, a)
}

// Act does an action on a run: by its owner if it has one, else here. Kinds
// besides those of Run.Do: Conflict (the owner is busy).
func (s *Service) Act(ctx context.Context, dir string, a Action, o ActOptions) error {
	r, err := s.Open(dir)
	if errs.Is(err, errs.Conflict) {
		return s.ask(ctx, dir, request{Action: a, ActOptions: o})
	}
	if err != nil {
		return err
	}
	return errors.Join(r.DoWith(ctx, a, o), r.Close())
}

// Commit makes a recovery final: see Act.
func (s *Service) Commit(ctx context.Context, dir string) error {
	return s.Act(ctx, dir, Commit, ActOptions{})
}

// Rollback stops and discards what a run recovered, and drops its fork. A planned
// migration that has not ended the source's history yet is unwound.
func (s *Service) Rollback(ctx context.Context, dir string) error {
	st, err := s.Status(ctx, dir)
	if err != nil {
		return err
	}
	return s.Act(ctx, dir, st.undo(), ActOptions{})
}

// Rollback is Service.Rollback on a run the caller owns.
func (r *Run) Rollback(ctx context.Context) error { return r.Do(ctx, r.Record().undo()) }

// undo is how a run is rolled back.
func (rec *Record) undo() Action {
	if has(rec.Operation, Unwind) && rec.Fork.IsZero() && rec.Fence == 0 {
		return Unwind
	}
	return Rollback
}

// Reprotect waits until the VMs that were recovered can be recovered from here.
func (s *Service) Reprotect(ctx context.Context, dir string) error {
	return s.Act(ctx, dir, Reprotect, ActOptions{})
}

// Cleanup removes all a run made but record, evidence and report. force goes on
// over errors, and names what it had to leave.
func (s *Service) Cleanup(ctx context.Context, dir string, force bool) error {
	return s.Act(ctx, dir, Cleanup, ActOptions{Force: force})
}

// Cancel has a run's owner stop what it does. Kind Conflict when it has none.
func (s *Service) Cancel(ctx context.Context, dir string) error {
	return s.ask(ctx, dir, request{Cancel: true})
}

func (s *Service) ask(ctx context.Context, dir string, q request) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return errs.E("recovery.ask", errs.Invalid, dir, err)
	}
	var out struct{}
	err = control.CallLocal(ctx, filepath.Join(dir, socketName), "/act", q, &out)
	if errs.Is(err, errs.Unavailable) {
		if _, gone := readRecord(s.fs, dir); gone != nil {
			return gone
		}
		return errs.E("recovery.ask", errs.Conflict, dir, err).WithRemedy("no process answers for this recovery: holdfast recover resume, rollback or cleanup")
	}
	return err
}

// Status is a run as it is now.
type Status struct {
	Record
	Dir string `json:"dir"`
	// Owned is set while a process looks after the run, Interrupted when one
	// should and does not.
	Owned       bool     `json:"owned"`
	Interrupted bool     `json:"interrupted,omitempty"`
	Down        []string `json:"down,omitempty"`     // what is to run and does not, as far as is known: see Look
	Next        string   `json:"next,omitempty"`     // what may be done
	Reminder    string   `json:"reminder,omitempty"` // a decision that is due
	Hydration   *Filling `json:"hydration,omitempty"`
}

// Filling is how far disks are that are filled while their VMs run.
type Filling struct {
	Bytes   int64   `json:"bytes"` // there
	Total   int64   `json:"bytes_total"`
	Rate    float64 `json:"bytes_per_s"`
	ETA     float64 `json:"eta_seconds"`       // negative: unknown
	Stalled string  `json:"stalled,omitempty"` // why nothing comes
}

// Status returns a run's status: its owner's word, or what the record says.
func (s *Service) Status(ctx context.Context, dir string) (*Status, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, errs.E("recovery.Status", errs.Invalid, dir, err)
	}
	rec, err := readRecord(s.fs, abs)
	if err != nil {
		return nil, err
	}
	st := new(Status)
	if err := control.CallLocal(ctx, filepath.Join(abs, socketName), "/status", nil, st); err == nil {
		return st, nil
	}
	owned := false
	if lock, err := s.lock(abs); err != nil {
		owned = errs.Is(err, errs.Conflict)
	} else {
		lock.Close()
	}
	return s.statusOf(abs, rec, owned), nil
}

func (s *Service) statusOf(dir string, rec *Record, owned bool) *Status {
	st := &Status{Record: *rec, Dir: dir, Owned: owned, Next: next(rec.State)}
	needs := rec.State.Active() || rec.runs() && !rec.Hydrated
	if st.Interrupted = needs && !owned; st.Interrupted {
		st.Next = "its process has ended: holdfast recover resume DIR goes on, rollback DIR or cleanup DIR undoes it"
	}
	if st.Down = rec.down(); len(st.Down) > 0 && !st.Interrupted {
		st.Next = downWords(st.Down)
	}
	if rec.State == BeforeCommit || rec.State == Tested {
		st.Reminder = remind(rec, s.now())
	}
	return st
}

// remind says what is still to be decided.
func remind(rec *Record, now time.Time) string {
	since := now.Sub(rec.BootedAt).Round(time.Second)
	switch {
	case rec.State == Tested:
		return fmt.Sprintf("the test's VMs have run for %v; nobody cleans them up by himself", since)
	case rec.Request.Auto == Wait:
		return fmt.Sprintf("the VMs have run for %v without a decision and without protection; nothing is decided automatically", since)
	}
	return fmt.Sprintf("the VMs have run for %v without a decision; %s by itself in %v", since, rec.Request.Auto, max(0, rec.Decide.Sub(now)).Round(time.Second))
}

// List returns the runs in the directories below parent, oldest first. What
// cannot be read is told, beside the others, in the error.
func (s *Service) List(ctx context.Context, parent string) ([]*Status, error) {
	entries, err := s.fs.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var out []*Status
	var all error
	for i, e := range entries {
		if i >= maxList {
			all = errors.Join(all, errs.New("recovery.List", errs.Full, parent, "more directories than are looked into"))
			break
		}
		if !e.Dir {
			continue
		}
		st, err := s.Status(ctx, filepath.Join(parent, e.Name))
		switch {
		case errs.Is(err, errs.NotFound):
		case err != nil:
			all = errors.Join(all, err)
		default:
			out = append(out, st)
		}
	}
	slices.SortStableFunc(out, func(a, b *Status) int { return cmp.Compare(a.Created.UnixNano(), b.Created.UnixNano()) })
	return out, all
}

// ReadRequest returns what was asked of the run in dir. Kinds as of Service.Open,
// without Conflict.
func ReadRequest(dir string) (*Request, error) {
	rec, err := readRecord(durable.OS{}, dir)
	if err != nil {
		return nil, err
	}
	return &rec.Request, nil
}
