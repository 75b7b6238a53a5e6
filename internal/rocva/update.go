package rocva

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/index"
	"holdfast/internal/journal"
)

// UpdateTarget is a disk that is there and is to become what a checkpoint has
// of it.
type UpdateTarget struct {
	Target
	// Own is what the disk was written to, or may have been, since it held
	// Plan.Base: it is rewritten whatever it is. Rounded out to blocks; parts
	// outside the disk are ignored.
	Own []extent.Range
	// Compare: that the disk holds Plan.Base is not relied on. All of it is read
	// and compared with the checkpoint's block hashes, and what differs is
	// rewritten.
	Compare bool
}

// Plan says which disks are to become what.
type Plan struct {
	History    *journal.History
	Checkpoint journal.CheckpointInfo // of History
	// Base is the checkpoint the disks hold, of any timeline of the container,
	// older or newer; zero: not known, all of them are compared.
	Base    journal.PointRef
	Targets []UpdateTarget
	// VMs, if not nil, are the configurations to go by: they are not read again.
	VMs map[dr.VMID]dr.VMConfig
}

// UpdateResult is a finished update.
type UpdateResult struct {
	Result
	Image    *journal.Image // the checkpoint, with its VMs' configurations; of its frames what was needed
	Changed  int64          // bytes that were to be written, in whole blocks, zeroes too
	Compared int64          // bytes read from the disks to compare them
}

// Update makes disks that are there hold a checkpoint, and fetches and writes
// only what differs. A disk that is missing is built whole. It returns when all
// disks are right, durable and under their own names.
//
// A disk under update is never taken for whole: before its first byte is
// written, PATH.cursor says what is being done to it, and it is renamed to
// PATH.partial; it gets its name back when all disks are done. After an error,
// a crash or when ctx ends, the same call goes on from there, and a call for
// another checkpoint finds out by hashes what the disk holds. Full with Force
// may take it too.
//
// Whoever calls it notes Base and Checkpoint durably before: once all is
// done nothing beside the disks tells that an earlier call came to its end, and
// only the same call, or one that compares, is right then.
//
// What Base says is relied on: nobody may write to the disks but as Own says,
// and none may be in use. A Base that is not retained any more is compared
// instead, as is a disk whose size is not what Base says. A block device has no
// cursor and is always compared; it needs Force.
//
// Kinds: as Full, NotFound or Unavailable when the checkpoint is not there or
// cannot be recovered, Conflict when a disk's file and its partial are both
// there.
func Update(ctx context.Context, c *journal.Container, plan Plan, opts Options) (UpdateResult, error) {
	if err := opts.complete(); err != nil {
		return UpdateResult{}, err
	}
	u := &update{plan: plan}
	u.run = run{c: c, opts: opts, fs: opts.FS, byDisk: make(map[uint16]*target), gap: updateGap, openObject: plan.History.Open,
		log: opts.Logger.With("checkpoint", uint64(plan.Checkpoint.ID)), started: time.Now()}
	err := u.pick()
	if err != nil {
		return UpdateResult{}, err
	}
	for _, t := range u.targets {
		defer t.close()
	}
	if err := u.look(); err != nil {
		return UpdateResult{}, err
	}
	if err := u.plot(ctx); err != nil {
		return UpdateResult{}, err
	}
	if err := u.open(ctx); err != nil {
		return UpdateResult{}, err
	}
	if err := u.fetch(ctx); err != nil {
		return UpdateResult{}, err
	}
	if err := u.finish(); err != nil {
		return UpdateResult{}, err
	}
	return UpdateResult{Result: u.result(), Image: u.img, Changed: u.delta.Bytes(), Compared: u.compared.Load()}, nil
}

// mark says in a cursor that the disk beside it is under update: it holds Base
// but for Own and what differs from To, which may be anything.
type mark struct {
	Base journal.PointRef `json:"base"` // zero: what it holds is found by hashes
	To   journal.PointRef `json:"to"`
	Own  [][2]int64       `json:"own,omitempty"` // bytes, from and length
}

// updated is a target under update.
type updated struct {
	*target
	own     *index.Blocks // may differ from what base has
	missing bool          // nothing is there
	compare bool
	marked  bool // its cursor says what this run does
	differ  *index.Blocks
}

// update is one call of Update.
type update struct {
	run
	plan  Plan
	to    journal.PointRef
	disks []*updated // as run.targets
	delta *journal.Delta
}

// pick matches targets with the checkpoint's disks and locks them.
func (u *update) pick() error {
	cp, err := u.plan.History.At(u.plan.History.Ref(u.plan.Checkpoint))
	if err != nil {
		return err
	}
	u.plan.Checkpoint, u.to = cp, u.plan.History.Ref(cp)
	u.img = &journal.Image{Timeline: u.to.Timeline, Checkpoint: cp}
	for _, d := range cp.Disks {
		u.img.Disks = append(u.img.Disks, journal.ImageDisk{CheckpointDisk: d})
	}
	var want []Target
	for _, t := range u.plan.Targets {
		want = append(want, t.Target)
	}
	if u.targets, err = pickTargets(u.fs, u.img, want); err != nil {
		return err
	}
	for i, t := range u.targets {
		u.byDisk[uint16(t.index)] = t
		t.stays = true
		d := &updated{target: t, compare: u.plan.Targets[i].Compare || u.plan.Base.IsZero() || t.device, own: index.NewBlocks(t.disk.Size)}
		for _, r := range u.plan.Targets[i].Own {
			d.own.AddBytes(r.Off, r.Len)
		}
		u.disks = append(u.disks, d)
	}
	for i, t := range u.targets {
		if t.device && !u.opts.Force {
			return errs.New("rocva.Update", errs.Exists, t.Path, "what differs on the device would be overwritten").
				WithRemedy("say so (force), or choose another target")
		}
		if err := t.take(); err != nil {
			for _, o := range u.targets[:i] {
				o.close()
			}
			return err
		}
	}
	return nil
}

// look finds out what an earlier call left of each disk.
func (u *update) look() error {
	for _, d := range u.disks {
		if d.device {
			continue
		}
		if err := u.lookAt(d); err != nil {
			return err
		}
	}
	return nil
}

func (u *update) lookAt(d *updated) error {
	const op = "rocva.Update"
	there, err := exists(u.fs, d.Path)
	if err != nil {
		return errs.E(op, errs.Internal, d.Path, err)
	}
	partial, err := exists(u.fs, d.partial())
	if err != nil {
		return errs.E(op, errs.Internal, d.partial(), err)
	}
	if there && partial {
		return errs.New(op, errs.Conflict, d.Path, "the disk and a half-made one, "+d.partial()+", are both there").
			WithRemedy("remove the one that is not wanted")
	}
	if d.missing = !there && !partial; d.missing {
		d.own.AddAll()
		d.compare, d.stays = false, false
		return nil
	}
	c, err := readCursor(u.fs, d.cursor())
	if err != nil {
		return err
	}
	switch {
	case c == nil || c.Update == nil:
		// A half-made disk that no update speaks of: what it holds is not known,
		// unless the caller keeps its disks that way.
		d.compare = d.compare || partial && !u.opts.Hold
	case there && !c.Complete && c.Update.To != u.to: // stopped before the first byte
	case there && c.Complete && c.Update.To == u.to:
		d.final = d.untouched()
		d.compare = d.compare || !d.final
	case (partial || !c.Complete) && c.Update.To == u.to && c.Update.Base == u.plan.Base:
		for _, r := range c.Update.Own {
			d.own.AddBytes(r[0], r[1])
		}
	default:
		d.compare = true
	}
	return nil
}

// plot finds what is to be written.
func (u *update) plot(ctx context.Context) error {
	base := u.plan.Base
	for {
		if err := u.compareDisks(ctx); err != nil {
			return err
		}
		var disks []journal.DeltaDisk
		known := false
		for _, d := range u.disks {
			k := journal.DeltaDisk{Disk: d.Disk, Known: !d.compare && !d.missing && !d.final, Also: d.own}
			switch {
			case d.compare:
				k.Also = d.differ
			case d.final:
				k.Also = nil
			}
			known = known || k.Known
			disks = append(disks, k)
		}
		from := base
		if !known {
			from = journal.PointRef{}
		}
		delta, err := u.plan.History.Delta(ctx, u.plan.Checkpoint, journal.DeltaOptions{From: from, Disks: disks, VMs: u.plan.VMs})
		if known && (errs.Is(err, errs.NotFound) || errs.Is(err, errs.Unavailable)) {
			u.log.Info("what the disks hold is not retained any more: they are compared", "base", base.String())
			u.compareKnown(nil)
			continue
		} else if err != nil {
			return err
		}
		if u.compareKnown(delta) {
			continue
		}
		u.delta, u.img = delta, delta.Image
		break
	}
	u.total = u.delta.Bytes()
	for _, t := range u.targets {
		t.disk = u.img.Disks[t.index]
	}
	u.id = runID(u.c.Domain().ID, u.img, u.targets, u.delta.From)
	return u.resume()
}

// compareKnown has disks compared that were to be relied on: all, when delta is
// nil, or those whose file has not the size that the base says. It reports
// whether there are any.
func (u *update) compareKnown(delta *journal.Delta) (any bool) {
	for _, d := range u.disks {
		if d.compare || d.missing || d.final {
			continue
		}
		if delta != nil {
			size, ok := u.sizeOf(d)
			if !ok || roundUp(size) == delta.FromSize(d.Disk) || roundUp(size) == roundUp(d.disk.Size) {
				continue
			}
		}
		d.compare, any = true, true
	}
	return any
}

func roundUp(n int64) int64 { return (n + dr.BlockSize - 1) &^ (dr.BlockSize - 1) }

// sizeOf is the size of the file that is there.
func (u *update) sizeOf(d *updated) (int64, bool) {
	for _, name := range []string{d.Path, d.partial()} {
		if e, err := u.fs.Stat(name); err == nil {
			return e.Size, true
		}
	}
	return 0, false
}

// resume sets done to what the cursors of all disks agree on.
func (u *update) resume() error {
	u.done = slices.Repeat([]bool{true}, len(u.img.Objects))
	for _, d := range u.disks {
		if d.final {
			continue
		}
		c, err := readCursor(u.fs, d.cursor())
		if err != nil {
			return err
		}
		if d.marked = c != nil && c.Run == u.id && !d.device; !d.marked {
			clear(u.done)
			continue
		}
		for i, was := range doneOf(len(u.img.Objects), c.Done) {
			u.done[i] = u.done[i] && was
		}
	}
	for i, was := range u.done {
		if was {
			u.skipped++
			u.contentBytes.Add(u.content(u.img.Objects[i].Frames))
		}
	}
	u.count = u.skipped
	return nil
}

// open marks the disks, takes their names away, opens them and writes the
// zeroes.
func (u *update) open(ctx context.Context) error {
	for _, d := range u.disks {
		if d.final {
			continue
		}
		if err := u.openOne(d); err != nil {
			return err
		}
		if err := u.zero(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (u *update) openOne(d *updated) error {
	const op = "rocva.Update"
	if d.device {
		size, err := deviceSize(d.Path)
		if err != nil {
			return err
		}
		return d.openInPlace(size)
	}
	d.mark = &mark{To: u.to}
	if own := pairs(d.own); !d.compare && !d.missing && len(own) <= maxOwn {
		d.mark.Base, d.mark.Own = u.plan.Base, own
	}
	if !d.marked && !u.opts.Hold {
		if err := writeCursor(u.fs, d.cursor(), cursor{Run: u.id, Checkpoint: u.to.Checkpoint, Done: [][2]int{}, Update: d.mark}); err != nil {
			return err
		}
	}
	there, err := exists(u.fs, d.Path)
	if err != nil {
		return errs.E(op, errs.Internal, d.Path, err)
	}
	if there {
		err := u.fs.Rename(d.Path, d.partial())
		if err == nil {
			err = u.fs.SyncDir(filepath.Dir(d.Path))
		}
		if err != nil {
			return errs.E(op, errs.Internal, d.Path, err)
		}
	}
	return d.openFile(false)
}

// pairs are the stretches of a set.
func pairs(b *index.Blocks) (out [][2]int64) {
	for off, n := range b.Bytes() {
		out = append(out, [2]int64{off, n})
	}
	return out
}

// zero writes what reads as zeroes and no frame gives. It is done again by
// whoever goes on.
func (u *update) zero(ctx context.Context, d *updated) error {
	if d.missing {
		return nil // it is all holes
	}
	for r := range u.delta.Zeroes(d.index) {
		if ctx.Err() != nil {
			return u.interrupted(ctx, context.Cause(ctx))
		}
		if err := d.clear(r); err != nil {
			return err
		}
		u.gave(r.Len)
	}
	return nil
}

// Marked reports what an interrupted Update says of the disk at path: the
// checkpoint it is on its way to. ok is false when none is under way there.
func Marked(fs durable.FS, path string) (to journal.PointRef, ok bool, err error) {
	c, err := readCursor(fs, path+cursorSuffix)
	if err != nil || c == nil || c.Update == nil || c.Complete {
		return to, false, err
	}
	return c.Update.To, true, nil
}

// String is for people.
func (r *UpdateResult) String() string {
	return fmt.Sprintf("%d bytes changed, %d fetched, %d compared", r.Changed, r.Fetched, r.Compared)
}

// Release gives a disk that was updated under Hold its own name, durably. It
// may be called again. Kind NotFound when there is no such disk.
func Release(fs durable.FS, path string) error {
	const op = "rocva.Release"
	t := &target{Target: Target{Path: path}, fs: fs}
	there, err := exists(fs, t.partial())
	if err != nil {
		return errs.E(op, errs.Internal, t.partial(), err)
	}
	if !there {
		if whole, err := exists(fs, path); err != nil || !whole {
			return errs.E(op, errs.NotFound, path, errors.Join(errors.New("the disk is not there"), err))
		}
		return fs.SyncDir(filepath.Dir(path)) // of whoever renamed it and was killed
	}
	if err := t.rename(); err != nil {
		return err
	}
	return t.tidy()
}
