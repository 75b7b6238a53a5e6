package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// Image is a checkpoint resolved: which frames of which objects make its
// disks. Blocks that no frame gives are zeroes. It is read-only once made.
type Image struct {
	Timeline   dr.TimelineID
	Checkpoint CheckpointInfo
	Disks      []ImageDisk
	Objects    []ImageObject // by ObjectID.Compare; objects that give nothing are absent
	// VMs are the configurations recorded for the checkpoint. A VM that has
	// none stored is absent.
	VMs map[dr.VMID]dr.VMConfig
}

// ImageDisk is one disk of an Image.
type ImageDisk struct {
	dr.CheckpointDisk
	Bytes int64 // given by frames; the rest is zeroes
}

// ImageObject is what one object gives. Where a frame lies in the object is in
// the object's own footer: see OpenSized and Object.Entry.
type ImageObject struct {
	Ref    index.ObjectID
	Key    string      // in the store
	Size   int64       // of the whole object, bytes
	Stored int64       // bytes these frames take in it, all together
	Print  Fingerprint // of a journal object, where it is known
	Frames []Take      // in the order of the frames in the object
}

// Take is a frame of which some blocks belong to the image: its counter in the
// object, its chunk, the disk's place in Image.Disks, and the blocks. 12 bytes.
type Take = index.Take

// Frames is the number of frames of all objects.
func (m *Image) Frames() int {
	n := 0
	for _, o := range m.Objects {
		n += len(o.Frames)
	}
	return n
}

// Recovery path, step 5: resolve. What was written last before the checkpoint
// wins; what was never written is zeroes.

// Resolve finds, newest first, what makes the disks of checkpoint cp: in the
// footers of the tail, then in the manifest's runs, then, of a branch, in the
// timeline it left as of the fork. It reads no content.
//
// Memory: 2 bytes for each 64 KiB of disk that is covered, 12 for each frame of
// the result and as much again while the lists grow, partAhead index parts,
// and the footers of walkBatch objects.
//
// Kinds: NotFound when cp is not of this history, Unavailable when it is not
// recoverable, Corrupt when an object or index part it needs is damaged or
// missing, or the store's.
func (h *History) Resolve(ctx context.Context, cp CheckpointInfo) (*Image, error) {
	const op = "journal.Resolve"
	cp, err := h.check(cp)
	if err != nil {
		return nil, err
	}
	m, v, err := h.imageOf(cp)
	if err != nil {
		return nil, err
	}
	if err := v.timeline(ctx, h, cp.Seq, cp.Object); err != nil {
		return nil, errs.E(op, errs.Internal, cp.brief(), err)
	}
	for i := range m.Disks {
		m.Disks[i].Bytes = int64(v.r.Bytes(i))
	}
	if err := m.gather(h, v.r.Result()); err != nil {
		return nil, err
	}
	return m, h.addConfigs(ctx, m)
}

// check finds a checkpoint as this history knows it now, and refuses one that
// is not recoverable.
func (h *History) check(cp CheckpointInfo) (CheckpointInfo, error) {
	const op = "journal.Resolve"
	h.mu.RLock()
	defer h.mu.RUnlock()
	i, found := slices.BinarySearchFunc(h.points, cp.ID, func(p CheckpointInfo, id dr.CheckpointID) int { return cmp.Compare(p.ID, id) })
	if !found || h.points[i].Object != cp.Object {
		// After damage ids need not rise.
		i = slices.IndexFunc(h.points, func(p CheckpointInfo) bool { return p.ID == cp.ID && p.Object == cp.Object })
	}
	if i < 0 {
		return cp, errs.New(op, errs.NotFound, cp.brief(), "the checkpoint is not of this history, or not retained any more").
			WithRemedy("list the checkpoints again")
	}
	if p := h.points[i]; !p.Recoverable {
		return cp, errs.New(op, errs.Unavailable, p.brief(), "the checkpoint cannot be recovered: "+p.Why).
			WithRemedy("choose an earlier checkpoint, or \"latest\"")
	}
	return h.points[i], nil
}

func (h *History) addConfigs(ctx context.Context, m *Image) error {
	m.VMs = make(map[dr.VMID]dr.VMConfig)
	for _, d := range m.Disks {
		if _, have := m.VMs[d.VM]; have {
			continue
		}
		cfg, ok, err := h.c.vmConfig(ctx, d.VM, m.Checkpoint.Seq)
		if err != nil {
			return errs.E("journal.Resolve", errs.Internal, prefixMeta+d.VM.String(), err)
		}
		if ok {
			m.VMs[d.VM] = cfg
		}
	}
	m.trimSizes()
	return nil
}

// trimSizes gives disks that do not end at a whole block their size to the
// byte: records cover whole blocks, the VM's configuration tells the rest. A
// guest looks for its second partition table at the disk's very end.
func (m *Image) trimSizes() {
	for i := range m.Disks {
		d := &m.Disks[i]
		for _, v := range m.VMs[d.VM].Disks {
			if v.ID == d.ID && v.Size < d.Size && v.Size > d.Size-dr.BlockSize {
				d.Size = v.Size
			}
		}
	}
}

// gather makes the image's objects of what was taken.
func (m *Image) gather(h *History, taken []index.Taken) error {
	m.Objects = make([]ImageObject, 0, len(taken))
	for _, t := range taken {
		size, print, ok := h.objectSize(t.Object)
		name := ObjectName(t.Object)
		if !ok {
			return errs.New("journal.Resolve", errs.Corrupt, name, "the index refers to this object and no manifest lists it").
				WithRemedy("run an index check on the container")
		}
		slices.SortFunc(t.Frames, func(a, b Take) int { return cmp.Compare(a.Frame, b.Frame) })
		m.Objects = append(m.Objects, ImageObject{Ref: t.Object, Key: name, Size: size, Stored: int64(t.Stored), Print: print, Frames: t.Frames})
	}
	slices.SortFunc(m.Objects, func(a, b ImageObject) int { return a.Ref.Compare(b.Ref) })
	return nil
}

// objectSize finds an object's size and fingerprint, here or where a branch
// falls through to.
func (h *History) objectSize(id index.ObjectID) (int64, Fingerprint, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if id.Timeline == h.timeline {
		i, ok := slices.BinarySearchFunc(h.objects, id.Number, func(o objectRef, n dr.ObjectNumber) int { return cmp.Compare(o.number, n) })
		if ok {
			return h.objects[i].size, h.objects[i].print, true
		}
	}
	if h.manifest != nil {
		if o := h.manifest.Object(id); o != nil {
			return o.Size, o.Print, true
		}
	}
	if h.base != nil {
		return h.base.hist.objectSize(id)
	}
	return 0, 0, false
}

// resolver feeds an index.Resolver newest first.
type resolver struct {
	cat *index.Catalog
	r   *index.Resolver
	// least: records below it are left out. 0: none. They are those of stem in
	// objects up to number until, and all that stem falls through to.
	least dr.Seq
	stem  dr.TimelineID
	until dr.ObjectNumber
}

// timeline adds what timeline h has of records below limit, in objects up to
// number last, and then what it falls through to.
func (v *resolver) timeline(ctx context.Context, h *History, limit dr.Seq, last dr.ObjectNumber) error {
	h.mu.RLock()
	m, base := h.manifest, h.base
	h.mu.RUnlock()
	if err := v.tail(ctx, h, limit, last); err != nil {
		return err
	}
	if m != nil {
		for i := range m.Runs {
			if v.r.Left() == 0 {
				return nil
			}
			if m.Runs[i].First >= limit || m.Runs[i].Last < v.least {
				continue
			}
			if err := v.run(ctx, h.c, m.Runs[i].Parts, limit); err != nil {
				return err
			}
		}
	}
	if base == nil || v.r.Left() == 0 || base.head.Point.Seq <= v.least {
		return nil
	}
	return v.timeline(ctx, base.hist, min(limit, base.head.Point.Seq), base.head.Object)
}

// tail adds the journal objects behind the anchor, newest first, a batch at a
// time.
func (v *resolver) tail(ctx context.Context, h *History, limit dr.Seq, last dr.ObjectNumber) error {
	const op = "journal.Resolve"
	refs := h.objectsUpTo(last)
	if h.timeline == v.stem {
		refs = refs[min(len(h.objectsUpTo(v.until)), len(refs)):]
	}
	for end := len(refs); end > 0 && v.r.Left() > 0; end = max(0, end-walkBatch) {
		var batch []sized
		var prints []Fingerprint
		for _, ref := range refs[max(0, end-walkBatch):end] {
			if ref.kind == segment.Journal {
				batch = append(batch, sized{ref.number, ref.size})
				prints = append(prints, ref.print)
			}
		}
		loads, err := h.loadEnds(ctx, batch)
		if err != nil {
			return err
		}
		s := index.NewSorter(v.cat)
		for i, l := range slices.Backward(loads) {
			if l.missing {
				return errs.New(op, errs.Corrupt, l.key, "the object is missing")
			} else if err := l.damaged(); err != nil {
				return errs.E(op, errs.Corrupt, l.key, err)
			} else if prints[i].differs(l.header.Object) {
				return swapped(op, l.key)
			}
			if s.Room() < len(l.footer.Entries)+3*len(l.footer.Zeros) {
				if err := v.r.Add(s.Source()); err != nil {
					return err
				}
				s = index.NewSorter(v.cat)
			}
			if err := addFooter(s, v.cat, index.ObjectID{Timeline: h.timeline, Number: l.number}, l.footer, v.least, limit); err != nil {
				return errs.E(op, errs.Internal, l.key, err)
			}
		}
		if err := v.r.Add(s.Source()); err != nil {
			return err
		}
	}
	return nil
}

// swapped is the error for an object that is whole and not the one that belongs
// there.
func swapped(op, key string) error {
	return errs.New(op, errs.Corrupt, key, "another object lies under the name than the history was read or indexed with").
		WithRemedy("the store has exchanged it: bring the right one back from another copy or the store's own versions, and run fsck")
}

// addFooter adds the versions of an object with a seq from least to below limit.
func addFooter(s *index.Sorter, cat *index.Catalog, id index.ObjectID, f *segment.Footer, least, limit dr.Seq) error {
	object, err := cat.Object(id)
	if err != nil {
		return err
	}
	disks := make([]uint16, len(f.Disks))
	for i, d := range f.Disks {
		if disks[i], err = cat.Disk(d); err != nil {
			return err
		}
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if e.Seq < least || e.Seq >= limit {
			continue
		}
		if err := s.AddFrame(disks[e.Disk], e.Chunk, e.Mask, e.Seq, object, e.Counter, e.Stored); err != nil {
			return err
		}
	}
	for _, z := range f.Zeros {
		if z.Seq < least || z.Seq >= limit {
			continue
		}
		if err := s.AddZeros(disks[z.Disk], z.First, z.Count, z.Seq); err != nil {
			return err
		}
	}
	return nil
}

// run adds one run of the index.
func (v *resolver) run(ctx context.Context, c *Container, parts []PartRef, limit dr.Seq) error {
	src, stop := c.openRun(ctx, v.cat, parts)
	defer stop()
	return v.r.Add(&between{src: src, least: v.least, limit: limit})
}

// openRun is the source of a run whose parts are fetched ahead. stop ends the
// fetching and must be called.
func (c *Container) openRun(ctx context.Context, cat *index.Catalog, parts []PartRef) (src index.Source, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{ctx: ctx, c: c, parts: parts}
	return index.NewRun(cat, len(parts), a.fetch), func() { cancel(); a.helpers.Wait() }
}

// ahead fetches the parts of a run, partAhead at once.
type ahead struct {
	ctx     context.Context
	c       *Container
	parts   []PartRef
	asked   int
	waiting []chan fetched // of the parts asked for and not yet handed out
	helpers sync.WaitGroup
}

type fetched struct {
	plain []byte
	err   error
}

// fetch returns part i. It is called once for each part, in order.
func (a *ahead) fetch(int) ([]byte, error) {
	for a.asked < len(a.parts) && len(a.waiting) < partAhead {
		p := a.parts[a.asked]
		a.asked++
		ch := make(chan fetched, 1)
		a.waiting = append(a.waiting, ch)
		a.helpers.Go(func() {
			plain, err := a.c.OpenRunPart(a.ctx, p)
			ch <- fetched{plain, err}
		})
	}
	if len(a.waiting) == 0 {
		return nil, errs.New("journal.openRun", errs.Internal, "", "more parts are asked for than the run has")
	}
	f := <-a.waiting[0] // its helper always answers
	a.waiting = a.waiting[1:]
	if f.err != nil && errs.Is(f.err, errs.NotFound) {
		f.err = errs.E("journal.openRun", errs.Corrupt, "", fmt.Errorf("a part of the index is missing: %w", f.err))
	}
	return f.plain, f.err
}

// between leaves out of a source what is below least, or not below limit.
type between struct {
	src   index.Source
	least dr.Seq
	limit dr.Seq
	kept  []index.Entry
}

// Next implements index.Source.
func (b *between) Next() ([]index.Entry, error) {
	for {
		es, err := b.src.Next()
		if err != nil {
			return nil, err
		}
		clean := true
		for i := range es {
			if es[i].Seq < b.least || es[i].Seq >= b.limit {
				clean = false
				break
			}
		}
		if clean {
			return es, nil
		}
		b.kept = b.kept[:0]
		for i := range es {
			if es[i].Seq >= b.least && es[i].Seq < b.limit {
				b.kept = append(b.kept, es[i])
			}
		}
		if len(b.kept) > 0 {
			return b.kept, nil
		}
	}
}
