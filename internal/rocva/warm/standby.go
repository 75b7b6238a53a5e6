package warm

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
)

// Place decides where the disks of a checkpoint go; img has the checkpoint,
// its disks and VMs, and no frames. A disk that the standby has already stays
// where it is. Relative paths are below the standby's directory; directories
// must exist.
type Place func(img *journal.Image) ([]rocva.Target, error)

// Options say how a standby follows. Place is needed.
type Options struct {
	Timeline dr.TimelineID // zero: the current one, when the standby is made
	Place    Place
	// Again takes a standby up again that was handed over: its disks may have
	// been written to since and are compared.
	Again    bool
	Poll     time.Duration // how often is looked for something new; 0: 5 s
	Parallel int           // objects fetched at once, as of rocva.Options
	Progress func(rocva.Progress)
	Logger   *slog.Logger     // nil: none
	FS       durable.FS       // nil: the operating system's
	Now      func() time.Time // nil: time.Now
}

// Standby is an open standby. Safe for concurrent use.
type Standby struct {
	c    *journal.Container
	dir  string
	opts Options
	fs   durable.FS
	log  *slog.Logger
	now  func() time.Time
	lock io.Closer

	work     chan struct{} // capacity 1: who has put something in owns what follows
	state    *state
	hist     *journal.History
	listed   time.Time // when hist was last extended
	vms      map[dr.VMID]dr.VMConfig
	vmsRead  time.Time
	over     bool
	finished chan struct{} // closed when the disks are handed over, and over is set

	mu     sync.Mutex // guards status
	status Status
}

// Open makes a standby of c's timeline in dir, which must exist, or goes on
// with the one that is there. It touches no disk: Run does. Kinds: Invalid for
// options or a standby of another domain or timeline, Conflict when another
// process has it, Corrupt when standby.json is damaged, or the store's.
func Open(ctx context.Context, c *journal.Container, dir string, opts Options) (*Standby, error) {
	const op = "warm.Open"
	if opts.Place == nil {
		return nil, errs.New(op, errs.Invalid, dir, "nothing says where the disks go")
	}
	s := &Standby{c: c, dir: dir, opts: opts, fs: opts.FS, log: opts.Logger, now: opts.Now,
		work: make(chan struct{}, 1), finished: make(chan struct{})}
	if s.fs == nil {
		s.fs = durable.OS{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.opts.Poll <= 0 {
		s.opts.Poll = pollEvery
	}
	var err error
	if s.lock, err = s.fs.Lock(filepath.Join(dir, lockFile)); err != nil {
		return nil, errs.E(op, errs.Internal, dir, err)
	}
	if err := s.begin(ctx); err != nil {
		_ = s.lock.Close() // nothing was done under it
		return nil, err
	}
	return s, nil
}

// begin reads the state, or makes one.
func (s *Standby) begin(ctx context.Context) error {
	const op = "warm.Open"
	var err error
	if s.state, err = readState(s.fs, s.dir); err != nil {
		return err
	}
	if s.state == nil {
		h, err := s.c.History(ctx, journal.HistoryOptions{Timeline: s.opts.Timeline})
		if err != nil {
			return err
		}
		s.hist, s.listed = h, s.now()
		s.state = &state{Domain: s.c.Domain().ID, Timeline: h.Timeline()}
	}
	st := s.state
	if st.Domain != s.c.Domain().ID || !s.opts.Timeline.IsZero() && s.opts.Timeline != st.Timeline {
		return errs.New(op, errs.Invalid, s.dir, "the standby is of another domain or timeline").
			WithRemedy("use another directory")
	}
	if st.Handed && s.opts.Again {
		st.Handed, st.At, st.Checkpoint = false, journal.PointRef{}, journal.CheckpointInfo{}
		for i := range st.Disks {
			st.Disks[i].At = journal.PointRef{}
		}
		if err := writeState(s.fs, s.dir, st); err != nil {
			return err
		}
	}
	if s.over = st.Handed; s.over {
		close(s.finished)
	}
	s.tell(func(v *Status) {
		v.Dir, v.Domain, v.Name, v.Timeline = s.dir, st.Domain, s.c.Domain().Name, st.Timeline
	})
	s.tellAt()
	return nil
}

// Close lets go of the standby; a Run must have ended. What it holds stays.
func (s *Standby) Close() error { return s.lock.Close() }

// take makes the caller the worker.
func (s *Standby) take(ctx context.Context) error {
	select {
	case s.work <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.E("warm.Standby", errs.Canceled, s.dir, context.Cause(ctx))
	}
}

func (s *Standby) give() { <-s.work }

// Run follows the timeline until ctx ends, which is kind Canceled, or the disks
// are handed over: then it returns nil. What fails meanwhile is told by Status
// and tried again.
func (s *Standby) Run(ctx context.Context) error {
	pause := s.opts.Poll
	for {
		err := s.step(ctx)
		switch {
		case ctx.Err() != nil:
			return errs.E("warm.Run", errs.Canceled, s.dir, context.Cause(ctx))
		case err != nil:
			s.log.Warn("the standby cannot follow", "err", err, "remedy", errs.RemedyOf(err))
			pause = min(2*pause, max(retryMost, s.opts.Poll))
		default:
			pause = s.opts.Poll
		}
		s.tell(func(v *Status) { v.failed(err) })
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-s.finished:
			t.Stop()
			return nil
		}
		t.Stop()
	}
}

// step looks once for something new and applies it.
func (s *Standby) step(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	if s.state.Handed {
		return nil
	}
	if err := s.look(ctx, false); err != nil {
		return err
	}
	cp, err := s.hist.Find("latest")
	if errs.Is(err, errs.NotFound) {
		return nil // nothing to follow yet
	} else if err != nil {
		return err
	}
	return s.follow(ctx, cp, false)
}

// look reads what was published. With all, by listing, whatever the next name
// says.
func (s *Standby) look(ctx context.Context, all bool) (err error) {
	if s.hist == nil {
		s.hist, err = s.c.History(ctx, journal.HistoryOptions{Timeline: s.state.Timeline})
		s.listed = s.now()
		return err
	}
	more := all || s.now().Sub(s.listed) >= listEvery
	if !more {
		if more, err = s.hist.Grown(ctx); err != nil {
			return err
		}
	}
	if more {
		s.listed = s.now()
		err = s.hist.Extend(ctx)
	}
	return err
}

// follow brings the disks to cp, unless they stand there. What was under way
// is brought to its end first, if it can be: with less effort, since then it is
// known what differs. With hand the disks are handed over at cp, if there is
// anything to do.
func (s *Standby) follow(ctx context.Context, cp journal.CheckpointInfo, hand bool) error {
	s.tell(func(v *Status) { v.newest(cp) })
	if to := s.state.To; !to.IsZero() && to != s.hist.Ref(cp) {
		if under, err := s.hist.At(to); err == nil {
			if err := s.apply(ctx, under, false); err != nil {
				return err
			}
		}
	}
	if s.state.To.IsZero() && s.state.At == s.hist.Ref(cp) && s.whole(cp) {
		return nil
	}
	return s.apply(ctx, cp, hand)
}

// whole reports whether all of the checkpoint's disks hold what At says.
func (s *Standby) whole(cp journal.CheckpointInfo) bool {
	return !slices.ContainsFunc(cp.Disks, func(d dr.CheckpointDisk) bool {
		have := s.state.disk(d.ID)
		return have != nil && have.At != s.state.At
	})
}

// apply makes the disks hold cp: what is about to happen is durable before the
// first byte, and that it has happened after the last; together with that the
// disks are not the standby's any more, if hand says so: a failover waits for
// every sync.
func (s *Standby) apply(ctx context.Context, cp journal.CheckpointInfo, hand bool) error {
	to := s.hist.Ref(cp)
	img, err := s.outline(ctx, cp)
	if err != nil {
		return s.stale(err)
	}
	targets, err := s.place(img)
	if err != nil {
		return err
	}
	plan := rocva.Plan{History: s.hist, Checkpoint: cp, Base: s.state.At, VMs: img.VMs}
	for _, t := range targets {
		d := s.state.disk(t.Disk)
		other := !s.state.To.IsZero() && s.state.To != to
		plan.Targets = append(plan.Targets, rocva.UpdateTarget{Target: t, Compare: other || d.At != s.state.At})
	}
	if other := !s.state.To.IsZero() && s.state.To != to; other {
		for i := range s.state.Disks {
			s.state.Disks[i].At = journal.PointRef{} // a mixture: it stays so until cp is there
		}
	}
	if s.state.To != to {
		s.state.To = to
		if err := writeState(s.fs, s.dir, s.state); err != nil {
			return err
		}
	}
	s.tell(func(v *Status) { v.Applying = &Applying{Checkpoint: cp.ID, Time: cp.Time} })
	defer s.tell(func(v *Status) { v.Applying = nil })
	res, err := rocva.Update(ctx, s.c, plan, rocva.Options{Parallel: s.opts.Parallel, Hold: true, Progress: s.progress,
		Logger: s.opts.Logger, FS: s.fs})
	if err != nil {
		return s.stale(err)
	}
	s.stand(cp, img, targets)
	s.state.Handed = hand
	if err := writeState(s.fs, s.dir, s.state); err != nil {
		s.state.At, s.state.To, s.state.Handed = plan.Base, to, false // what the file says, or may say: FailoverTo writes it again
		return err
	}
	s.tell(func(v *Status) { v.applied(&res) })
	s.tellAt()
	return nil
}

// stand notes that the disks hold cp.
func (s *Standby) stand(cp journal.CheckpointInfo, img *journal.Image, targets []rocva.Target) {
	st := s.state
	st.At, st.To, st.Checkpoint = s.hist.Ref(cp), journal.PointRef{}, cp
	for _, d := range img.Disks {
		if slices.ContainsFunc(targets, func(t rocva.Target) bool { return t.Disk == d.ID }) {
			have := st.disk(d.ID)
			have.VM, have.Size, have.At = d.VM, d.Size, st.At
		}
	}
	st.VMs = st.VMs[:0:0]
	for _, d := range img.Disks {
		cfg, ok := img.VMs[d.VM]
		if _, have := st.config(d.VM); ok && !have {
			st.VMs = append(st.VMs, cfg)
		}
	}
}

// stale has the history read anew after an error that may come from objects
// that maintenance has deleted since it was read.
func (s *Standby) stale(err error) error {
	if errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound) {
		s.hist = nil
	}
	return err
}

// outline is cp's disks and VMs, by configurations that may be a little old.
func (s *Standby) outline(ctx context.Context, cp journal.CheckpointInfo) (*journal.Image, error) {
	known := s.vms != nil && s.now().Sub(s.vmsRead) < configEvery
	for _, d := range cp.Disks {
		known = known && s.state.disk(d.ID) != nil
	}
	if known {
		return s.hist.Outline(ctx, cp, s.vms)
	}
	img, err := s.hist.Outline(ctx, cp, nil)
	if err == nil {
		s.vms, s.vmsRead = img.VMs, s.now()
	}
	return img, err
}

// place finds where the disks are, or go.
func (s *Standby) place(img *journal.Image) ([]rocva.Target, error) {
	targets, err := s.opts.Place(img)
	if err != nil {
		return nil, err
	}
	for i := range targets {
		t := &targets[i]
		d := s.state.disk(t.Disk)
		if d == nil {
			s.state.Disks = append(s.state.Disks, diskState{ID: t.Disk, Path: t.Path})
			d = &s.state.Disks[len(s.state.Disks)-1]
		}
		t.Path = s.path(d)
	}
	return targets, nil
}

// path is where a disk lies.
func (s *Standby) path(d *diskState) string { return pathIn(s.dir, d) }

func pathIn(dir string, d *diskState) string {
	if filepath.IsAbs(d.Path) {
		return d.Path
	}
	return filepath.Join(dir, d.Path)
}
