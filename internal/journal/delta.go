package journal

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/index"
)

// PointRef names a checkpoint of a timeline: what is noted down beside a disk
// of which checkpoint it holds. The zero value names none.
type PointRef struct {
	Timeline   dr.TimelineID   `json:"timeline"`
	Checkpoint dr.CheckpointID `json:"checkpoint"`
	Seq        dr.Seq          `json:"seq"` // the checkpoint's, to tell it from another of that number
}

// IsZero reports whether p names no checkpoint.
func (p PointRef) IsZero() bool { return p == PointRef{} }

// String is for people.
func (p PointRef) String() string {
	return fmt.Sprintf("checkpoint #%d of timeline %s", p.Checkpoint, p.Timeline)
}

// Ref names the checkpoint that m is of.
func (m *Image) Ref() PointRef { return PointRef{m.Timeline, m.Checkpoint.ID, m.Checkpoint.Seq} }

// Ref names a checkpoint of this history.
func (h *History) Ref(cp CheckpointInfo) PointRef { return PointRef{h.timeline, cp.ID, cp.Seq} }

// DeltaDisk says what is known of a disk that is to become what a checkpoint
// has of it.
type DeltaDisk struct {
	Disk dr.DiskID
	// Known: it holds what Delta's from has of it, except in Also. If not, what
	// is not in Also is right already.
	Known bool
	Also  *index.Blocks // blocks of which the content is not known; nil: none
}

// DeltaOptions say what is known of the disks a delta is for.
type DeltaOptions struct {
	From  PointRef    // what Known disks hold; zero when there is none
	Disks []DeltaDisk // a disk that is not listed is left out
	// VMs, if not nil, are the configurations to go by: they are not read from
	// the store.
	VMs map[dr.VMID]dr.VMConfig
}

// Delta is what makes disks that hold one checkpoint hold another.
type Delta struct {
	From PointRef // zero: nothing was known
	// Image is of the other checkpoint: all its disks, and of its frames those
	// blocks that differ. Frames are taken from as little as is needed.
	Image   *Image
	changed []*index.Blocks // by place in Image.Disks
	given   []*index.Blocks
	base    *CheckpointInfo
}

// FromSize is the size in bytes that a disk has at From; 0 when it is none of
// From's disks.
func (d *Delta) FromSize(disk dr.DiskID) int64 {
	if d.base == nil {
		return 0
	}
	return sizeIn(d.base.Disks, disk)
}

// Changed is what is to be written of the disk at a place in Image.Disks:
// blocks that differ, or of which the content is not known. Read-only.
func (d *Delta) Changed(disk int) *index.Blocks { return d.changed[disk] }

// Bytes is how much is to be written of all disks, in whole blocks.
func (d *Delta) Bytes() (n int64) {
	for _, b := range d.changed {
		n += int64(b.Count()) * dr.BlockSize
	}
	return n
}

// Zeroes yields the stretches to be written of a disk that read as zeroes and
// that no frame gives.
func (d *Delta) Zeroes(disk int) iter.Seq[extent.Range] {
	return func(yield func(extent.Range) bool) {
		for off, n := range d.changed[disk].Without(d.given[disk]) {
			if !yield(extent.Range{Off: off, Len: n}) {
				return
			}
		}
	}
}

// A block differs between two checkpoints when it was written since the newest
// point that both histories share: the older of them on one timeline, the fork
// where one left the other. What counts is the place of the record in the
// domain's order, which a version keeps wherever maintenance moves it. Both
// checkpoints are retained, so that maintenance has kept the newest version each
// of them sees, and zeroes over everything that either of them sees as data.

// Delta finds what makes disks hold checkpoint cp of this history that hold
// checkpoint From, of this timeline or any other of the container, before or
// after cp. A disk that From does not have is all changed, as is what lies
// behind the end it had there.
//
// It reads the index and footers of what lies between the two, no content, and
// takes memory as Resolve for what differs.
//
// Kinds: NotFound or Unavailable when one of the two is not there any more or
// cannot be recovered: what the disks hold is then found by their hashes (see
// HashesAt); otherwise as Resolve.
func (h *History) Delta(ctx context.Context, cp CheckpointInfo, opts DeltaOptions) (*Delta, error) {
	const op = "journal.Delta"
	from, disks := opts.From, opts.Disks
	cp, err := h.check(cp)
	if err != nil {
		return nil, err
	}
	m, v, err := h.imageOf(cp)
	if err != nil {
		return nil, err
	}
	w := &deltaWalk{h: h, cp: cp, v: v, disks: make([]DeltaDisk, len(cp.Disks))}
	for i, d := range cp.Disks {
		if at := slices.IndexFunc(disks, func(k DeltaDisk) bool { return k.Disk == d.ID }); at >= 0 {
			w.disks[i] = disks[at]
		}
		if w.disks[i].Known && from.IsZero() {
			return nil, errs.New(op, errs.Invalid, d.ID.String(), "the disk is said to hold a checkpoint, and none is named")
		}
	}
	if !from.IsZero() {
		if err := w.meet(ctx, from); err != nil {
			return nil, err
		}
	}
	if err := w.walk(ctx); err != nil {
		return nil, errs.E(op, errs.Internal, cp.brief(), err)
	}
	d := &Delta{From: from, Image: m, changed: w.changed, base: w.base}
	for i := range m.Disks {
		m.Disks[i].Bytes = int64(v.r.Bytes(i))
		d.given = append(d.given, v.r.Given(i))
	}
	if err := m.gather(h, v.r.Result()); err != nil {
		return nil, err
	}
	if opts.VMs != nil {
		m.VMs = opts.VMs
		m.trimSizes()
		return d, nil
	}
	return d, h.addConfigs(ctx, m)
}

// VMs reads the configurations recorded for a checkpoint; a VM that has none
// stored is absent. Two requests a VM.
func (h *History) VMs(ctx context.Context, cp CheckpointInfo) (map[dr.VMID]dr.VMConfig, error) {
	m, err := h.Outline(ctx, cp, nil)
	if err != nil {
		return nil, err
	}
	return m.VMs, nil
}

// Outline is the image of a checkpoint without anything that makes its disks:
// their sizes, and their VMs. vms as in DeltaOptions. Kinds as Resolve.
func (h *History) Outline(ctx context.Context, cp CheckpointInfo, vms map[dr.VMID]dr.VMConfig) (*Image, error) {
	cp, err := h.check(cp)
	if err != nil {
		return nil, err
	}
	m := &Image{Timeline: h.timeline, Checkpoint: cp, VMs: vms}
	for _, d := range cp.Disks {
		m.Disks = append(m.Disks, ImageDisk{CheckpointDisk: d})
	}
	if vms != nil {
		m.trimSizes()
		return m, nil
	}
	return m, h.addConfigs(ctx, m)
}

// StoredSince is how many bytes in the store the objects accepted after number
// n take: what somebody who has all up to n is behind.
func (h *History) StoredSince(n dr.ObjectNumber) (bytes int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for i := len(h.objects) - 1; i >= 0 && h.objects[i].number > n; i-- {
		bytes += h.objects[i].size
	}
	return bytes
}

// Grown asks, with one request, whether the object that comes next is there.
// false does not prove that there is none: maintenance may have deleted it, when
// the history was not extended for long. Errors are the store's.
func (h *History) Grown(ctx context.Context) (bool, error) {
	h.mu.RLock()
	next := h.chain.next
	h.mu.RUnlock()
	_, err := h.c.st.Stat(ctx, objectKey(h.timeline, next))
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	return err == nil, wrapErr("journal.Grown", objectKey(h.timeline, next), err)
}

// imageOf is an empty image of cp and what resolves it.
func (h *History) imageOf(cp CheckpointInfo) (*Image, *resolver, error) {
	m := &Image{Timeline: h.timeline, Checkpoint: cp}
	v := &resolver{cat: new(index.Catalog)}
	var disks []index.Disk
	for _, d := range cp.Disks {
		m.Disks = append(m.Disks, ImageDisk{CheckpointDisk: d})
		disks = append(disks, index.Disk{ID: d.ID, Size: d.Size})
	}
	var err error
	// A checkpoint holds the records below its own.
	if v.r, err = index.NewResolver(v.cat, cp.Seq-min(cp.Seq, 1), disks); err != nil {
		return nil, nil, errs.E("journal.Resolve", errs.Internal, cp.brief(), err)
	}
	return m, v, nil
}

// leg is a stretch of one timeline that a checkpoint rests on.
type leg struct {
	h     *History
	limit dr.Seq          // it rests on records below it
	last  dr.ObjectNumber // in objects up to it
}

// legs are what cp rests on, its own timeline first.
func (h *History) legs(cp CheckpointInfo) (out []leg) {
	l := leg{h, cp.Seq, cp.Object}
	for {
		out = append(out, l)
		b := l.h.base
		if b == nil {
			return out
		}
		l = leg{b.hist, min(l.limit, b.head.Point.Seq), b.head.Object}
	}
}

// deltaWalk finds what differs between two checkpoints.
type deltaWalk struct {
	h       *History
	cp      CheckpointInfo
	v       *resolver
	disks   []DeltaDisk     // by place in cp.Disks; the zero one: left out
	base    *CheckpointInfo // nil: nothing was known
	legs    []leg           // of base
	stem    leg             // up to where both rest on the same; of h's own histories
	changed []*index.Blocks
}

// meet finds the base, and the newest that both have in common: on the youngest
// timeline that both rest on, the older of the places they rest on it to.
func (w *deltaWalk) meet(ctx context.Context, from PointRef) error {
	cp, hist, err := w.h.baseOf(ctx, from)
	if err != nil {
		return err
	}
	w.base, w.legs = &cp, hist.legs(cp)
	for _, x := range w.h.legs(w.cp) {
		for _, y := range w.legs {
			if x.h.timeline != y.h.timeline {
				continue
			}
			w.stem = x
			if y.limit < x.limit {
				w.stem.limit, w.stem.last = y.limit, y.last
			}
			return nil
		}
	}
	return errs.New("journal.Delta", errs.NotFound, from.String(), "the two checkpoints have no history in common").
		WithRemedy("compare the disks by hash")
}

// walk finds the changed blocks and what gives them: first what was written on
// this side since the two met, which differs all of it; then, of what the other
// side wrote since and of blocks of which nothing is known, what was there
// before.
func (w *deltaWalk) walk(ctx context.Context) error {
	r := w.v.r
	r.Track()
	for i := range w.disks {
		if !w.disks[i].Known {
			r.Only(i, w.disks[i].Also)
		}
	}
	rest := leg{w.h, w.cp.Seq, w.cp.Object}
	if w.base != nil {
		w.v.after(w.stem)
		if err := w.v.timeline(ctx, rest.h, rest.limit, rest.last); err != nil {
			return err
		}
		rest = w.stem
	}
	if err := w.findChanged(ctx); err != nil {
		return err
	}
	w.v.after(leg{})
	return w.v.timeline(ctx, rest.h, rest.limit, rest.last)
}

// findChanged sets changed, and leaves out of what follows all that is not.
func (w *deltaWalk) findChanged(ctx context.Context) error {
	theirs, err := w.theirs(ctx)
	if err != nil {
		return err
	}
	for i, d := range w.cp.Disks {
		b := index.NewBlocks(d.Size)
		if k := &w.disks[i]; k.Known {
			b = w.v.r.Answered(i)
			b.Union(theirs[d.ID])
			if old := sizeIn(w.base.Disks, d.ID); old < d.Size {
				b.AddBytes(old, d.Size-old)
			}
		}
		b.Union(w.disks[i].Also)
		w.v.r.Only(i, b)
		w.changed = append(w.changed, b)
	}
	return nil
}

// sizeIn is a disk's size among disks; 0 when it is none of them.
func sizeIn(disks []dr.CheckpointDisk, id dr.DiskID) int64 {
	for _, d := range disks {
		if d.ID == id {
			return d.Size
		}
	}
	return 0
}

// theirs are the blocks that the base's side wrote since the two met.
func (w *deltaWalk) theirs(ctx context.Context) (map[dr.DiskID]*index.Blocks, error) {
	out := make(map[dr.DiskID]*index.Blocks)
	if w.base == nil || w.legs[0].h.timeline == w.stem.h.timeline && w.base.Seq == w.stem.limit {
		return out, nil
	}
	m, v, err := w.legs[0].h.imageOf(*w.base)
	if err != nil {
		return nil, err
	}
	v.after(w.stem)
	if err := v.timeline(ctx, w.legs[0].h, w.base.Seq, w.base.Object); err != nil {
		return nil, err
	}
	for i, d := range m.Disks {
		out[d.ID] = v.r.Answered(i)
	}
	return out, nil
}

// after leaves out what rests on l; the zero leg leaves out nothing.
func (v *resolver) after(l leg) {
	v.least, v.stem, v.until = l.limit, dr.TimelineID{}, l.last
	if l.h != nil {
		v.stem = l.h.timeline
	}
}

// baseOf finds a checkpoint and the history it is of: this one, one that this
// is a branch of, or any other of the container.
func (h *History) baseOf(ctx context.Context, from PointRef) (CheckpointInfo, *History, error) {
	for near := h; ; near = near.base.hist {
		if near.timeline == from.Timeline {
			if cp, err := near.at(from); err == nil {
				return cp, near, nil
			}
		}
		if near.base == nil {
			break
		}
	}
	// It may have been published since this history was read.
	other, err := h.c.openHistory(ctx, from.Timeline, nil)
	if err != nil {
		return CheckpointInfo{}, nil, err
	}
	cp, err := other.at(from)
	return cp, other, err
}

// at finds the checkpoint a reference names, if it can be recovered.
func (h *History) at(p PointRef) (CheckpointInfo, error) {
	h.mu.RLock()
	i := slices.IndexFunc(h.points, func(q CheckpointInfo) bool { return q.ID == p.Checkpoint && q.Seq == p.Seq })
	var cp CheckpointInfo
	if i >= 0 {
		cp = h.points[i]
	}
	h.mu.RUnlock()
	if i < 0 {
		return cp, errs.New("journal.Delta", errs.NotFound, p.String(), "the checkpoint is not retained any more").
			WithRemedy("compare the disks by hash")
	}
	return h.check(cp)
}

// At returns the checkpoint a reference names. Kind NotFound when it is not of
// this history or not retained any more, Unavailable when it cannot be
// recovered.
func (h *History) At(p PointRef) (CheckpointInfo, error) {
	if p.Timeline != h.timeline {
		return CheckpointInfo{}, errs.New("journal.At", errs.NotFound, p.String(), "the checkpoint is of another timeline")
	}
	return h.at(p)
}
