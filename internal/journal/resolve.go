package journal

import (
	"cmp"
	"context"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// Image is a checkpoint resolved: which frames of which objects make its
// disks. Blocks that no piece gives are zeroes. It is read-only once made.
type Image struct {
	Timeline   dr.TimelineID
	Checkpoint CheckpointInfo
	Disks      []ImageDisk
	Objects    []ImageObject // ascending by number; objects that give nothing are absent
	// VMs are the configurations recorded for the checkpoint. A VM that has
	// none stored is absent.
	VMs map[dr.VMID]dr.VMConfig
}

// ImageDisk is one disk of an Image.
type ImageDisk struct {
	dr.CheckpointDisk
	Bytes int64 // given by pieces; the rest is zeroes
}

// ImageObject is what one journal object gives, in the order of offsets.
type ImageObject struct {
	Number dr.ObjectNumber
	Size   int64 // of the whole object, bytes
	Pieces []Piece
}

// Piece is a frame of which some blocks belong to the image. 48 bytes.
type Piece struct {
	Entry segment.Entry // as in the object's footer; Entry.Disk counts there
	Disk  uint16        // index in Image.Disks
	Take  uint16        // the blocks of Entry.Mask that belong to the image
}

// Pieces is the number of pieces of all objects.
func (m *Image) Pieces() int {
	n := 0
	for _, o := range m.Objects {
		n += len(o.Pieces)
	}
	return n
}

// Recovery path, step 4: resolve. What was written last before the checkpoint
// wins; what was never written is zeroes.

// Resolve finds, newest object first, what makes the disks of checkpoint cp.
// It reads footers again and no content. Memory: 2 bytes for each 64 KiB of
// disk that is covered, 48 for each piece of the result, and the footers of 64
// objects.
//
// Kinds: NotFound when cp is not of this history, Unavailable when it is not
// recoverable, Corrupt when an object it needs is damaged, or the store's.
func (h *History) Resolve(ctx context.Context, cp CheckpointInfo) (*Image, error) {
	const op = "journal.Resolve"
	if err := h.check(cp); err != nil {
		return nil, err
	}
	r := newResolver(h.timeline, cp)
	refs := h.objectsUpTo(cp.Object)
	for end := len(refs); end > 0 && r.left(); end = max(0, end-walkBatch) {
		var batch []sized
		for _, ref := range refs[max(0, end-walkBatch):end] {
			if ref.kind == segment.Journal {
				batch = append(batch, sized{ref.number, ref.size})
			}
		}
		loads, err := h.c.loadAll(ctx, h.timeline, batch)
		if err != nil {
			return nil, errs.E(op, errs.Internal, "", err)
		}
		for _, l := range slices.Backward(loads) {
			if l.missing {
				return nil, errs.New(op, errs.Corrupt, l.key, "the object is missing")
			} else if err := l.damaged(); err != nil {
				return nil, errs.E(op, errs.Corrupt, l.key, err)
			}
			r.add(l)
		}
	}
	slices.Reverse(r.image.Objects)
	if err := h.addConfigs(ctx, r.image); err != nil {
		return nil, err
	}
	return r.image, nil
}

// check refuses a checkpoint that is not this history's or not recoverable.
func (h *History) check(cp CheckpointInfo) error {
	const op = "journal.Resolve"
	h.mu.RLock()
	defer h.mu.RUnlock()
	i, found := slices.BinarySearchFunc(h.points, cp.Object, func(p CheckpointInfo, n dr.ObjectNumber) int { return cmp.Compare(p.Object, n) })
	if !found || h.points[i].ID != cp.ID {
		return errs.New(op, errs.NotFound, cp.brief(), "the checkpoint is not of this history")
	}
	if p := h.points[i]; !p.Recoverable {
		return errs.New(op, errs.Unavailable, p.brief(), "the checkpoint cannot be recovered: "+p.Why).
			WithRemedy("choose an earlier checkpoint, or \"latest\"")
	}
	return nil
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
	return nil
}

// resolver gathers an image from objects given newest first.
type resolver struct {
	image   *Image
	index   map[dr.DiskID]int // place in image.Disks
	covered []*coverage
}

func newResolver(t dr.TimelineID, cp CheckpointInfo) *resolver {
	r := &resolver{image: &Image{Timeline: t, Checkpoint: cp}, index: make(map[dr.DiskID]int)}
	for i, d := range cp.Disks {
		r.index[d.ID] = i
		r.image.Disks = append(r.image.Disks, ImageDisk{CheckpointDisk: d})
		r.covered = append(r.covered, newCoverage(d.Size))
	}
	return r
}

// left reports whether any block is not answered for yet.
func (r *resolver) left() bool {
	return slices.ContainsFunc(r.covered, func(c *coverage) bool { return c.left > 0 })
}

func (r *resolver) add(l *loaded) {
	o := ImageObject{Number: l.number, Size: l.size}
	f := l.footer
	for _, e := range f.Entries {
		disk, ok := r.index[f.Disks[e.Disk]]
		if !ok {
			continue // a disk that was no longer protected
		}
		if take := r.covered[disk].add(uint64(e.Chunk), e.Mask); take != 0 {
			o.Pieces = append(o.Pieces, Piece{Entry: e, Disk: uint16(disk), Take: take})
			r.image.Disks[disk].Bytes += maskBytes(take)
		}
	}
	for _, z := range f.Zeros {
		if disk, ok := r.index[f.Disks[z.Disk]]; ok {
			r.covered[disk].addRange(z.First, z.Count)
		}
	}
	if len(o.Pieces) > 0 {
		slices.SortFunc(o.Pieces, func(a, b Piece) int { return cmp.Compare(a.Entry.Offset, b.Entry.Offset) })
		r.image.Objects = append(r.image.Objects, o)
	}
}
