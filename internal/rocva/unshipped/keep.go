package unshipped

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
)

// Disk is a disk as the returning site left it.
type Disk struct {
	ID   dr.DiskID
	Path string // raw file or block device; only read
	// Regions, if not nil, are where it may differ from Options.Base; what lies
	// outside is not looked at. A host component's sidecar speaks of the
	// replication log and is enough only if all of that was published. Nil: all of
	// it is compared.
	Regions []extent.Range
}

// Options say what is compared with what.
type Options struct {
	// Base is the last checkpoint the site published. If it is not retained any
	// more the newest one before it that is takes its place, and Regions are not
	// gone by.
	Base  journal.PointRef
	Disks []Disk
	Site  string // whose it is; at most 200 bytes
	By    string // who asked for it; empty: this host
	// Progress, if not nil, is called now and then, on Keep's goroutine.
	Progress func(done, total int64) // bytes of disks
	Logger   *slog.Logger            // nil: none
	FS       durable.FS              // nil: the operating system's
	Now      func() time.Time        // nil: time.Now
}

// Result is what was found and kept.
type Result struct {
	Timeline   dr.TimelineID    `json:"timeline"`   // the branch; zero: nothing differs, and none was made
	Checkpoint dr.CheckpointID  `json:"checkpoint"` // of the branch: the disks as they were found
	Base       journal.PointRef `json:"base"`       // what they were compared with
	Bytes      int64            `json:"bytes"`      // that differ, in whole blocks
	Disks      []Kept           `json:"disks"`
}

// Kept is what was found on a disk.
type Kept struct {
	Disk   dr.DiskID      `json:"disk"`
	VM     dr.VMID        `json:"vm"`
	Path   string         `json:"path"`
	Bytes  int64          `json:"bytes"` // that differ, in whole blocks
	Ranges []extent.Range `json:"ranges"`
	More   bool           `json:"more,omitempty"` // there are more ranges than are listed
}

// Keep publishes what the disks hold beyond a checkpoint as a checkpoint of a
// branch. Where nothing differs there is no branch. Durable on return; after an
// error it may be called again and goes on.
//
// Kinds: Invalid for options that make no sense, NotFound when neither Base nor
// any checkpoint before it is there, Canceled, Fenced when another Keep of this
// site runs, or the store's.
func Keep(ctx context.Context, c *journal.Container, opts Options) (*Result, error) {
	const op = "unshipped.Keep"
	if len(opts.Disks) == 0 || opts.Site == "" || len(opts.Site) > 200 || opts.Base.IsZero() {
		return nil, errs.New(op, errs.Invalid, opts.Site, "a site, its disks and the checkpoint it published last are needed")
	}
	k := &keeper{c: c, opts: opts, cache: journal.NewHashCache()}
	k.complete()
	if err := k.findBase(ctx); err != nil {
		return nil, err
	}
	if err := k.findBranch(ctx); err != nil {
		return nil, err
	}
	defer k.close()
	if err := k.compare(ctx); err != nil {
		return nil, err
	}
	r := &Result{Base: journal.PointRef{Timeline: k.opts.Base.Timeline, Checkpoint: k.base.ID, Seq: k.base.Seq}}
	for _, d := range k.disks {
		r.Disks = append(r.Disks, d.kept)
		r.Bytes += d.kept.Bytes
	}
	var err error
	if r.Timeline, r.Checkpoint, err = k.publish(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// keeper is one call of Keep.
type keeper struct {
	c      *journal.Container
	opts   Options
	log    *slog.Logger
	cache  *journal.HashCache
	hist   *journal.History // base's
	base   journal.CheckpointInfo
	branch *journal.History // an earlier call's; nil: none
	disks  []*found
	done   int64 // bytes compared
	total  int64
}

// found is a disk that was compared.
type found struct {
	Disk
	size int64 // bytes, whole blocks
	file durable.File
	kept Kept          // beyond base
	left *index.Blocks // of that what is not on the branch yet
}

func (k *keeper) complete() {
	if k.opts.FS == nil {
		k.opts.FS = durable.OS{}
	}
	if k.opts.Now == nil {
		k.opts.Now = time.Now
	}
	if k.log = k.opts.Logger; k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
}

// findBase finds the checkpoint to compare with.
func (k *keeper) findBase(ctx context.Context) (err error) {
	want := k.opts.Base
	if k.hist, err = k.c.History(ctx, journal.HistoryOptions{Timeline: want.Timeline}); err != nil {
		return err
	}
	if k.base, err = k.hist.At(want); err == nil || !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Unavailable) {
		return err
	}
	for _, cp := range slices.Backward(k.hist.Checkpoints()) {
		if cp.Recoverable && cp.Seq < want.Seq {
			k.base = cp
			k.log.Info("the site's last checkpoint is not retained any more, its disks are compared with an older one", "checkpoint", uint64(cp.ID))
			for i := range k.opts.Disks {
				k.opts.Disks[i].Regions = nil
			}
			return nil
		}
	}
	return errs.New("unshipped.Keep", errs.NotFound, want.String(), "neither this checkpoint nor one before it is retained").
		WithRemedy("keep a copy of the disks; the container has nothing to compare them with")
}

func (k *keeper) label() string { return labelPrefix + k.opts.Site }

// findBranch finds the branch that an earlier call made.
func (k *keeper) findBranch(ctx context.Context) error {
	all, err := k.c.Timelines(ctx)
	if err != nil {
		return err
	}
	for _, t := range slices.Backward(all) {
		if t.Test && t.Dropped == nil && t.Label == k.label() && t.Parent == k.opts.Base.Timeline && t.Fork != nil && t.Fork.ID == k.base.ID && t.Fork.Seq == k.base.Seq {
			k.branch, err = k.c.History(ctx, journal.HistoryOptions{Timeline: t.ID})
			return err
		}
	}
	return nil
}

// compare finds what differs on each disk.
func (k *keeper) compare(ctx context.Context) error {
	for _, d := range k.opts.Disks {
		i := slices.IndexFunc(k.base.Disks, func(b dr.CheckpointDisk) bool { return b.ID == d.ID })
		if i < 0 || slices.ContainsFunc(k.disks, func(f *found) bool { return f.ID == d.ID }) {
			return errs.New("unshipped.Keep", errs.Invalid, d.ID.String(), "the disk is none of the checkpoint's, or is given twice")
		}
		f := &found{Disk: d, kept: Kept{Disk: d.ID, VM: k.base.Disks[i].VM, Path: d.Path}}
		if err := f.open(k.opts.FS); err != nil {
			return err
		}
		k.disks = append(k.disks, f)
		k.total += f.size
	}
	for _, f := range k.disks {
		if err := k.compareOne(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) close() {
	for _, f := range k.disks {
		_ = f.file.Close() // it was only read
	}
}

func (f *found) open(fs durable.FS) (err error) {
	if f.file, err = fs.OpenFile(f.Path, 0); err != nil {
		return errs.E("unshipped.Keep", errs.Internal, f.Path, err)
	}
	size, err := f.file.Size()
	if err == nil && (size <= 0 || size > dr.MaxDiskSize) {
		err = errs.New("unshipped.Keep", errs.Invalid, f.Path, "the disk is empty or larger than 64 TiB")
	}
	if err != nil {
		_ = f.file.Close() // it was only read
		return errs.E("unshipped.Keep", errs.Internal, f.Path, err)
	}
	f.size = (size + dr.BlockSize - 1) &^ (dr.BlockSize - 1)
	return nil
}

func (k *keeper) compareOne(ctx context.Context, f *found) error {
	var regions *index.Blocks
	if f.Regions != nil {
		regions = index.NewBlocks(f.size)
		for _, r := range f.Regions {
			regions.AddBytes(r.Off, r.Len)
		}
	}
	differ, err := k.differing(ctx, f, k.hist, k.base, regions)
	if err != nil {
		return err
	}
	for off, n := range differ.Bytes() {
		if f.kept.More = len(f.kept.Ranges) == maxRanges; f.kept.More {
			break
		}
		f.kept.Ranges = append(f.kept.Ranges, extent.Range{Off: off, Len: n})
	}
	f.kept.Bytes = int64(differ.Count()) * dr.BlockSize
	f.left = differ
	if k.branch != nil {
		f.left, err = k.differing(ctx, f, k.branch, journal.CheckpointInfo{}, nil)
	}
	k.done += f.size
	return err
}

// differing compares a disk with a checkpoint, or with all a history has if
// that is the zero one.
func (k *keeper) differing(ctx context.Context, f *found, h *journal.History, cp journal.CheckpointInfo, within *index.Blocks) (*index.Blocks, error) {
	hashes := func(ctx context.Context, disk dr.DiskID, from, to uint32) (*journal.DiskHashes, error) {
		if cp.ID == 0 {
			return h.DiskHashes(ctx, k.cache, disk, from, to)
		}
		return h.HashesAt(ctx, k.cache, cp, disk, from, to)
	}
	out, _, err := rocva.Differing(ctx, rocva.Comparison{Disk: f.ID, Size: f.size, File: f.file, Hashes: hashes, Within: within,
		Progress: func(n int64) {
			if k.opts.Progress != nil {
				k.opts.Progress(k.done+n, k.total)
			}
		}})
	return out, err
}
