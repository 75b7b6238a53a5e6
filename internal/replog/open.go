package replog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// remedyCorrupt is what a user can do about a damaged log.
const remedyCorrupt = "replace the device if it fails; set the log's directory aside for diagnosis and resync the domain's disks: " +
	"what was published is not affected"

// Open opens the log in opts.Dir, or makes a new one there, and recovers it: on
// return every record that Recovered tells of is durable, and an unfinished
// end, which nobody was told is durable, is dropped. Call Run next.
//
// Errors: Invalid for impossible options, another domain's or timeline's log,
// or one of a newer format; Fenced for the log of a higher epoch; Conflict when
// the directory is in use; Full when there is no space for the first files;
// Corrupt when something acknowledged is damaged or missing: then nothing is
// changed.
func Open(ctx context.Context, opts Options) (*Log, error) {
	if opts.minFile == 0 {
		opts.minFile = minFileSize
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(opts.FS, opts.Dir); err != nil {
		return nil, err
	}
	unlock, err := durable.LockDir(opts.FS, opts.Dir)
	if err != nil {
		return nil, errs.E("replog.Open", errs.Internal, opts.Dir, err)
	}
	l := &Log{
		opts: opts, fs: opts.FS, log: opts.Logger, direct: true, unlock: unlock,
		grow: make(chan struct{}, 1), space: make(chan struct{}, 1),
		statePage: durable.AlignedBytes(pageSize), state: newInForce(),
		readers: map[*Reader]struct{}{}, stopped: make(chan struct{}),
	}
	l.wake = sync.NewCond(&l.mu)
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	return l, nil
}

func (o *Options) check() error {
	bad := func(words string) error { return errs.New("replog.Open", errs.Invalid, o.Dir, words) }
	switch {
	case o.Dir == "" || o.FS == nil || o.Logger == nil:
		return bad("directory, file system and logger are needed")
	case o.Domain.IsZero() || o.Timeline.IsZero() || o.Epoch == 0:
		return bad("domain, timeline and epoch are needed")
	case o.FileSize != 0 && (o.FileSize < o.minFile || o.FileSize%pageSize != 0):
		return bad(fmt.Sprintf("file size %d is not whole pages of at least %d bytes", o.FileSize, o.minFile))
	}
	return nil
}

func (l *Log) statePath() string { return filepath.Join(l.opts.Dir, stateName) }

func (l *Log) open(ctx context.Context) error {
	// The lock is ours, so that every temporary file is a leftover.
	if err := durable.SweepTemps(l.fs, l.opts.Dir, time.Unix(1<<40, 0)); err != nil {
		return err
	}
	// A name that the process before made and did not live to sync must be
	// durable before anything is built on it.
	if err := l.fs.SyncDir(l.opts.Dir); err != nil {
		return err
	}
	err := l.loadState()
	fresh := errs.Is(err, errs.NotFound)
	if err != nil && !fresh {
		return err
	}
	if fresh {
		l.begin()
	} else if err := l.checkState(); err != nil {
		return err
	}
	if err := l.sizeUp(); err != nil {
		return err
	}
	rec := recovery{l: l, fresh: fresh}
	if err := rec.run(); err != nil {
		return err
	}
	if fresh {
		err = l.create(ctx)
	} else if l.stateFile, err = l.openFile(l.statePath()); err == nil {
		err = rec.settle()
	}
	if err != nil {
		return err
	}
	l.id = l.st.identity
	if err := l.ensureSpare(ctx); err != nil {
		return err
	}
	l.recovered = rec.result()
	l.log.Info("replication log open", "object", l.opts.Dir,
		"first", uint64(l.recovered.First), "last", uint64(l.recovered.Last), "torn", l.recovered.TornTail)
	return nil
}

// begin sets the state of a log that does not exist yet.
func (l *Log) begin() {
	l.st = state{
		identity:  identity{uuid: dr.NewUUID(), domain: l.opts.Domain, timeline: l.opts.Timeline, epoch: l.opts.Epoch, incarnation: 1},
		firstFile: 1, fileSize: l.opts.FileSize,
	}
	l.nextFile = 1
	if l.st.fileSize == 0 {
		l.st.fileSize = defaultFileSize
	}
}

// checkState compares the log found with the one asked for.
func (l *Log) checkState() error {
	bad := func(kind errs.Kind, words, remedy string) error {
		return errs.New("replog.Open", kind, l.opts.Dir, words).WithRemedy(remedy)
	}
	switch {
	case l.st.domain != l.opts.Domain:
		return bad(errs.Invalid, "log belongs to domain "+l.st.domain.String()+", not "+l.opts.Domain.String(), "use the directory of this domain's log")
	case l.st.timeline != l.opts.Timeline:
		return bad(errs.Invalid, "log belongs to timeline "+l.st.timeline.String()+", not "+l.opts.Timeline.String(),
			"use a fresh directory for the new timeline; keep this one until its tail is published or given up")
	case l.st.epoch > l.opts.Epoch:
		return bad(errs.Fenced, fmt.Sprintf("log was written in epoch %d, this is epoch %d", l.st.epoch, l.opts.Epoch), "start as the owner of the newest epoch")
	case l.opts.FileSize != 0 && l.opts.FileSize != l.st.fileSize:
		return bad(errs.Invalid, fmt.Sprintf("log has files of %d bytes, %d are asked for", l.st.fileSize, l.opts.FileSize),
			"leave the file size of an existing log as it is")
	}
	l.st.epoch = l.opts.Epoch
	return nil
}

// sizeUp derives the bounds from file size and quota.
func (l *Log) sizeUp() error {
	l.fileSize = l.st.fileSize
	l.carryMax = int(min(maxCarry, l.fileSize/carryShare))
	n := l.opts.Quota / l.fileSize
	if n < minFiles || n > maxFiles {
		return errs.New("replog.Open", errs.Invalid, l.opts.Dir,
			fmt.Sprintf("quota of %d bytes is %d files of %d bytes, between %d and %d are needed", l.opts.Quota, n, l.fileSize, minFiles, maxFiles)).
			WithRemedy("change the log's quota")
	}
	l.maxFiles = int(n)
	l.plan.fileSize = l.fileSize
	l.plan.off = l.fileSize
	return nil
}

// create makes the log: its first files, then the state, whose name is the
// commit.
func (l *Log) create(ctx context.Context) error {
	if err := l.ensureSpare(ctx); err != nil {
		return err
	}
	pages := make([]byte, 2*pageSize)
	for i := range 2 {
		l.st.generation++
		l.st.put(pages[i*pageSize:])
	}
	if err := durable.CreateOnce(l.fs, l.statePath(), pages); err != nil {
		return err
	}
	var err error
	l.stateFile, err = l.openFile(l.statePath())
	return err
}

// ensureSpare makes sure that there is a file to append to.
func (l *Log) ensureSpare(ctx context.Context) error {
	l.shrink()
	if len(l.files) > 0 || len(l.free) > 0 {
		return nil
	}
	s, err := l.addSlot(ctx, l.slots)
	if err != nil {
		return err
	}
	l.slots++
	l.free = append(l.free, s)
	return nil
}
