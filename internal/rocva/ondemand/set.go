package ondemand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva"
)

// Set is the disks of one checkpoint that are being made. Safe for concurrent
// use; Finish, Discard and Close are called when no Run is under way.
type Set struct {
	opts   Options
	log    *slog.Logger
	disks  []*disk
	fetch  *fetcher
	record recorder
	rate   rate

	ctx    context.Context // of operations and the keeper
	cancel context.CancelFunc
	gate   gate
	wake   chan struct{} // the keeper has much to record
	whole  chan struct{}
	absent atomic.Int64 // content blocks of all disks that are not there

	once sync.Once // closes whole
}

// Open makes the local disks of img that targets name, or goes on with those
// that an earlier Set left, whether it was closed or killed. Their directories
// exist. What img and targets say is read-only from now on.
//
// Kinds: Invalid (targets or options make no sense), NotFound (no such disk in
// the checkpoint), Exists (a target is there and not being made: all of them,
// when an earlier Set was finished), Conflict (in use, or another checkpoint's
// disk is being made there), Corrupt (its map cannot be read), Full, Denied.
func Open(ctx context.Context, c *journal.Container, img *journal.Image, targets []rocva.Target, o Options) (*Set, error) {
	const op = "ondemand.Open"
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Set{opts: o, log: o.Logger.With("checkpoint", uint64(img.Checkpoint.ID)), fetch: newFetcher(c, img, o),
		wake: make(chan struct{}, 1), whole: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.pick(op, img, targets); err != nil {
		s.shut()
		return nil, err
	}
	if err := s.openDisks(ctx, op, c, img); err != nil {
		s.shut()
		return nil, err
	}
	s.gate.enter()
	go s.keep()
	return s, nil
}

// pick matches targets with the image's disks.
func (s *Set) pick(op string, img *journal.Image, targets []rocva.Target) error {
	seen := map[string]bool{}
	for _, t := range targets {
		path, err := filepath.Abs(t.Path)
		if err != nil || t.Path == "" {
			return errs.New(op, errs.Invalid, t.Path, "the target has no usable path")
		}
		place := -1
		for i, d := range img.Disks {
			if d.ID == t.Disk {
				place = i
			}
		}
		if place < 0 {
			return errs.New(op, errs.NotFound, t.Disk.String(), fmt.Sprintf("checkpoint #%d has no such disk", img.Checkpoint.ID)).
				WithRemedy("inspect the container to see its disks")
		}
		if seen[path] || seen[t.Disk.String()] {
			return errs.New(op, errs.Invalid, t.Path, "a disk or a path is given twice")
		}
		seen[path], seen[t.Disk.String()] = true, true
		src, err := newSource(img, place)
		if err != nil {
			return err
		}
		s.absent.Add(src.blocks)
		s.disks = append(s.disks, &disk{set: s, path: path, source: src, size: src.disk.Size, fs: s.opts.FS})
	}
	if len(s.disks) == 0 {
		return errs.New(op, errs.Invalid, "", "no disk was asked for")
	}
	return nil
}

// openDisks opens all disks. Some of them may be finished already, when others
// say that they are whole: the process was killed within Finish.
func (s *Set) openDisks(ctx context.Context, op string, c *journal.Container, img *journal.Image) error {
	plain := map[*disk]bool{}
	for _, d := range s.disks {
		if ctx.Err() != nil {
			return errs.E(op, errs.Canceled, d.path, context.Cause(ctx))
		}
		if err := rocva.CheckRoom(d.path, diskBytes(d.blocks)); err != nil {
			return err
		}
		head := header{image: imageID(c.Domain().ID, img, d.disk), size: d.size, boot: bootSum(s.opts.BootID)}
		ended, err := d.open(head)
		if err != nil {
			return err
		}
		plain[d] = ended
	}
	finishing := false
	for _, d := range s.disks {
		finishing = finishing || !plain[d] && d.whole
	}
	for d, ended := range plain {
		if !ended {
			continue
		}
		if !finishing {
			return errs.New(op, errs.Exists, d.path, "the target exists already and is not being made").
				WithRemedy("choose another path, or remove it; it may be whole, if this recovery was finished before")
		}
		if err := d.openPlain(op); err != nil {
			return err
		}
	}
	s.arrived(0)
	return nil
}

// arrived hears of content blocks that are there.
func (s *Set) arrived(n int) {
	if s.absent.Add(-int64(n)) == 0 {
		s.once.Do(func() { close(s.whole) })
	}
}

// Device is what an NBD server exports for a disk: reads, writes, flushes, trims
// and zeroes. It is served from the moment Open returns until Close, also while
// and after the Set is finished. Nil for a disk that is none of the Set's.
func (s *Set) Device(id dr.DiskID) nbd.Disk {
	if d := s.find(id); d != nil {
		return &device{d}
	}
	return nil
}

func (s *Set) find(id dr.DiskID) *disk {
	for _, d := range s.disks {
		if d.disk.ID == id {
			return d
		}
	}
	return nil
}

// Whole is closed when every block of every disk is there. It says nothing of
// durability: that is Finish's.
func (s *Set) Whole() <-chan struct{} { return s.whole }

// Written is what the guest wrote to a disk since the recovery, in order and
// without overlaps, in whole blocks (but for the disk's end). It is durable as
// of the last flush, and until Finish: whoever needs it later takes it before.
// After a power loss it is more than was written: all that may have been.
func (s *Set) Written(id dr.DiskID) []extent.Range {
	if d := s.find(id); d != nil {
		return d.written()
	}
	return nil
}

// Trace is what was read in the first two minutes after the first read, of the
// disks that of says yes to.
func (s *Set) Trace(of func(dr.DiskID) bool) Trace {
	return s.record.trace(func(place uint16) (dr.DiskID, bool) {
		for _, d := range s.disks {
			if d.place == place {
				return d.disk.ID, of(d.disk.ID)
			}
		}
		return dr.DiskID{}, false
	})
}

// keep makes progress durable now and then, and takes the rate.
func (s *Set) keep() {
	defer s.gate.leave()
	save, look := time.NewTicker(s.opts.SaveEvery), time.NewTicker(rateWindow/rateSamples)
	defer save.Stop()
	defer look.Stop()
	s.rate.add(time.Now(), s.presentBytes())
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-look.C:
			s.rate.add(time.Now(), s.presentBytes())
			continue
		case <-save.C:
		case <-s.wake:
		}
		for _, d := range s.disks {
			if err := d.ledger.flush(s.ctx); err != nil && s.ctx.Err() == nil {
				s.log.Warn("progress of a disk could not be saved", "path", d.path, "err", err)
			}
		}
	}
}

// hurry wakes the keeper when a disk has much to record.
func (s *Set) hurry(d *disk) {
	if d.ledger.pending() < maxPending {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Finish makes plain raw images of the disks: durable, and with no map beside
// them. All must be whole. The devices go on serving, so that a VM can be
// switched to the files before or after. Killed at any point, Open and Finish
// again end it. Kind Conflict when a disk is not whole.
func (s *Set) Finish(ctx context.Context) error {
	for _, d := range s.disks {
		if d.present.Load() < d.blocks {
			return errs.New("ondemand.Finish", errs.Conflict, d.path, d.missing()).
				WithRemedy("let it run until it is whole")
		}
	}
	// All are marked before the first map goes: a disk without one is known for
	// finished by the others.
	for _, d := range s.disks {
		if err := d.ledger.flush(ctx); err != nil {
			return err
		}
		if err := d.ledger.mark(kindWhole); err != nil {
			return errs.E("ondemand.Finish", errs.Internal, d.path, err)
		}
	}
	for _, d := range s.disks {
		if err := d.ledger.retire(); err != nil {
			return err
		}
	}
	s.log.Info("disks made on demand are plain images now", "disks", len(s.disks))
	return nil
}

// Close stops the Set and keeps its files: the next Open of the same image goes
// on. No VM may use its devices any more: operations under way fail.
func (s *Set) Close() error {
	if !s.stop() {
		return nil
	}
	var failed []error
	for _, d := range s.disks {
		err := d.ledger.flush(context.Background())
		if err == nil {
			err = d.ledger.mark(kindClosed)
		}
		failed = append(failed, err)
	}
	s.shut()
	return errors.Join(failed...)
}

// Discard closes the Set and removes all it made, finished or not.
func (s *Set) Discard() error {
	s.stop()
	s.shut()
	var failed []error
	for _, d := range s.disks {
		failed = append(failed, Remove(s.opts.FS, d.path))
	}
	return errors.Join(failed...)
}

// stop ends operations and the keeper; false when that was done before.
func (s *Set) stop() bool {
	first := s.gate.shut()
	s.cancel()
	s.gate.wait()
	return first
}

// shut gives the files back.
func (s *Set) shut() {
	s.cancel()
	for _, d := range s.disks {
		d.close()
	}
}

// Finished reports whether the disk at path is there, whole and plain. fs nil is
// the operating system's.
func Finished(fs durable.FS, path string) (bool, error) {
	if fs == nil {
		fs = durable.OS{}
	}
	for _, p := range []struct {
		name string
		want bool
	}{{path, true}, {path + presentSuffix, false}} {
		_, err := fs.Stat(p.name)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return false, errs.E("ondemand.Finished", errs.Internal, p.name, err)
		}
		if (err == nil) != p.want {
			return false, nil
		}
	}
	return true, nil
}

// Remove removes the disk at path and all that belongs to it: finished, being
// made, or left by a killed process. Nobody may use it. Durable on return; no
// error where nothing is. fs nil is the operating system's. Kind Conflict when
// a Set has it.
func Remove(fs durable.FS, path string) error {
	const op = "ondemand.Remove"
	if fs == nil {
		fs = durable.OS{}
	}
	if _, err := fs.Stat(filepath.Dir(path)); errs.Is(err, errs.NotFound) {
		return nil
	}
	lock, err := fs.Lock(path + lockSuffix)
	if err != nil {
		return errs.E(op, errs.Internal, path, err)
	}
	defer lock.Close()
	// The map goes last but for the lock: a disk without one counts as whole.
	for _, name := range []string{path, path + presentSuffix, path + lockSuffix} {
		if err := durable.Remove(fs, name); err != nil {
			return errs.E(op, errs.Internal, name, err)
		}
	}
	// Last, so that a map that was being replaced is no reason to stop before.
	if err := durable.SweepTempsOf(fs, path+presentSuffix); err != nil {
		return errs.E(op, errs.Internal, path, err)
	}
	return nil
}
