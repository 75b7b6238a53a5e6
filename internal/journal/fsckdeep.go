package journal

import (
	"context"
	"crypto/sha256"
	"fmt"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// deepParallel is how many whole objects a deep check holds at once: 4 of at
// most 32 MiB.
const deepParallel = 4

// badFrame is a frame that cannot be opened; mask is what later objects have
// not yet replaced of it.
type badFrame struct {
	disk  dr.DiskID
	chunk uint32
	mask  uint16
	what  string
	span  CheckpointSpan
}

// scanned is a whole object checked.
type scanned struct {
	key    string
	footer *segment.Footer
	bad    []badFrame
	words  []string // what is wrong with the object as a whole
	frames int
	blocks int64
	bytes  int64
}

// content reads every object of a history, in order, a few at once.
func (k *checker) content(ctx context.Context, h *History) error {
	k.progress = FsckProgress{Stage: "content", Total: len(h.objects)}
	d := &damage{points: h.points, open: make(map[frameID][]*badFrame)}
	for i := 0; i < len(h.objects); i += deepParallel {
		refs := h.objects[i:min(len(h.objects), i+deepParallel)]
		batch := make([]*scanned, len(refs))
		g, gctx := errgroup.WithContext(ctx)
		for j, ref := range refs {
			g.Go(func() (err error) {
				batch[j], err = k.c.scan(gctx, h.timeline, ref)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for j, s := range batch {
			k.progress.Bytes += s.bytes
			k.tell()
			k.report.Frames += s.frames
			k.report.Blocks += s.blocks
			for _, w := range s.words {
				k.problem(Problem{Object: s.key, What: w, Kind: errs.Corrupt})
			}
			d.pass(k, refs[j].number, s)
		}
	}
	d.finish(k)
	return nil
}

// scan reads a whole object and checks every byte of it. Objects the walk
// found unreadable are not looked at again.
func (c *Container) scan(ctx context.Context, t dr.TimelineID, ref objectRef) (*scanned, error) {
	s := &scanned{key: objectKey(t, ref.number)}
	if ref.lost || ref.size < segment.HeaderSize+segment.TailSize || ref.size > segment.MaxObjectSize {
		return s, nil
	}
	body := make([]byte, ref.size)
	if err := readExact(ctx, c.st, s.key, body, 0); err != nil {
		if kind := errs.KindOf(err); kind == errs.Corrupt || kind == errs.NotFound {
			s.words = append(s.words, err.Error())
			return s, nil
		}
		return nil, err
	}
	s.bytes = ref.size
	_, _, want, err := segment.ParseTail(body[len(body)-segment.TailSize:])
	if err != nil {
		s.words = append(s.words, err.Error())
		return s, nil
	}
	if segment.Digest(sha256.Sum256(body[:len(body)-segment.TailSize])) != want {
		s.words = append(s.words, "its bytes do not match its digest")
	}
	if ref.kind != segment.Journal {
		return s, nil
	}
	l, err := c.load(ctx, t, ref.number, ref.size)
	if err != nil {
		return nil, err
	}
	if l.missing || l.damaged() != nil {
		s.words = append(s.words, "it cannot be read any more")
		return s, nil
	}
	o, err := c.object(l)
	if err != nil {
		return nil, err
	}
	s.footer = l.footer
	s.openFrames(o, body)
	return s, nil
}

func (s *scanned) openFrames(o *Object, body []byte) {
	var buf []byte
	for i := range s.footer.Entries {
		e := &s.footer.Entries[i]
		disk := s.footer.Disks[e.Disk]
		var err error
		end := uint64(e.Offset) + uint64(e.Stored)
		if end > uint64(len(body)) {
			err = errs.New("journal.Fsck", errs.Corrupt, o.Key, "the frame ends beyond the object")
		} else {
			buf, err = o.OpenFrame(buf[:0], e, body[e.Offset:end], true)
		}
		s.frames++
		s.blocks += int64(e.Blocks())
		if err != nil {
			s.bad = append(s.bad, badFrame{disk: disk, chunk: e.Chunk, mask: e.Mask, what: err.Error()})
		}
	}
}

type frameID struct {
	disk  dr.DiskID
	chunk uint32
}

// damage follows bad frames through the history until later objects have
// replaced all their blocks: a checkpoint in between needs them.
type damage struct {
	points []CheckpointInfo
	open   map[frameID][]*badFrame
	all    []*badFrame
	keys   []string // of all
	next   int      // in points
}

func (d *damage) pass(k *checker, n dr.ObjectNumber, s *scanned) {
	if s.footer != nil {
		for _, e := range s.footer.Entries {
			d.cover(frameID{s.footer.Disks[e.Disk], e.Chunk}, e.Mask)
		}
		for _, z := range s.footer.Zeros {
			d.coverZeros(s.footer.Disks[z.Disk], z)
		}
	}
	for i := range s.bad {
		if len(d.all) >= maxProblems {
			k.report.More++
			continue
		}
		b := &s.bad[i]
		id := frameID{b.disk, b.chunk}
		d.open[id] = append(d.open[id], b)
		d.all, d.keys = append(d.all, b), append(d.keys, s.key)
	}
	for ; d.next < len(d.points) && d.points[d.next].Object <= n; d.next++ {
		for _, bs := range d.open {
			for _, b := range bs {
				b.span.add(d.points[d.next].ID)
			}
		}
	}
}

// cover drops what mask replaces. The frame of the object that is being
// passed was not added yet, so it does not replace itself.
func (d *damage) cover(id frameID, mask uint16) {
	bs := d.open[id]
	if len(bs) == 0 {
		return
	}
	left := bs[:0]
	for _, b := range bs {
		if b.mask &^= mask; b.mask != 0 {
			left = append(left, b)
		}
	}
	if len(left) == 0 {
		delete(d.open, id)
		return
	}
	d.open[id] = left
}

func (d *damage) coverZeros(disk dr.DiskID, z segment.ZeroRange) {
	for id := range d.open {
		first := uint64(id.chunk) * dr.BlocksPerChunk
		if id.disk != disk || first+dr.BlocksPerChunk <= z.First || first >= z.First+z.Count {
			continue
		}
		var mask uint16
		for i := range uint64(dr.BlocksPerChunk) {
			if first+i >= z.First && first+i < z.First+z.Count {
				mask |= 1 << i
			}
		}
		d.cover(id, mask)
	}
}

func (d *damage) finish(k *checker) {
	for i, b := range d.all {
		k.problem(Problem{
			Object:  d.keys[i],
			What:    fmt.Sprintf("disk %s, chunk %d: %s", b.disk, b.chunk, b.what),
			Kind:    errs.Corrupt,
			Touched: b.span,
		})
	}
}
