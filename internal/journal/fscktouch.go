package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// Which checkpoints damage touches is found through the index: of every chunk
// that a damaged frame is of, all versions are gathered, and each checkpoint
// takes of them what a resolution would.

const (
	// maxTouched bounds the versions gathered: 200 MB.
	maxTouched = 1 << 22
	// wholeObject stands for all frames of an object.
	wholeObject = 1<<32 - 1
)

// badFrame names damage: a frame, or all of an object.
type badFrame struct {
	id    index.ObjectID
	frame uint32
}

// seenVersion is a version of an affected chunk.
type seenVersion struct {
	seq  dr.Seq
	mask uint16
	bad  int32 // place in toucher.bad; -1: sound
}

// toucher follows damage to the checkpoints it touches.
type toucher struct {
	k        *checker
	bad      []badFrame
	place    map[badFrame]int32
	chunks   map[chunkID]bool
	versions map[dr.TimelineID]map[chunkID][]seenVersion
	count    int
	full     bool // there is more than maxTouched
}

var errTouchedFull = errors.New("more versions than are followed")

// touched reports all damage of objects with the checkpoints it touches.
func (k *checker) touched(ctx context.Context) error {
	k.branchesOfParts()
	if len(k.bad) == 0 {
		return nil
	}
	t := &toucher{k: k, place: make(map[badFrame]int32), chunks: make(map[chunkID]bool), versions: make(map[dr.TimelineID]map[chunkID][]seenVersion)}
	ids := slices.SortedFunc(maps.Keys(k.bad), index.ObjectID.Compare)
	for _, id := range ids {
		b := k.bad[id]
		if b.whole != "" {
			t.name(badFrame{id, wholeObject})
			continue
		}
		for _, n := range slices.Sorted(maps.Keys(b.frames)) {
			t.name(badFrame{id, n})
		}
	}
	// First which chunks, then all their versions.
	for _, find := range []bool{true, false} {
		for _, h := range k.opened {
			if err := t.gather(ctx, h, find); err != nil {
				return err
			}
		}
	}
	if t.full {
		k.problem(Problem{Object: ids[0].String(), What: fmt.Sprintf(
			"the damage is of chunks with more than %d versions: not all checkpoints it touches are named", maxTouched), Kind: errs.Corrupt})
	}
	t.report()
	return nil
}

func (t *toucher) name(b badFrame) {
	if len(t.bad) >= maxProblems {
		t.k.report.More++
		return
	}
	t.place[b] = int32(len(t.bad))
	t.bad = append(t.bad, b)
}

// badAt is the place of a frame's damage, or -1.
func (t *toucher) badAt(id index.ObjectID, frame uint32) int32 {
	if i, ok := t.place[badFrame{id, wholeObject}]; ok {
		return i
	}
	if i, ok := t.place[badFrame{id, frame}]; ok {
		return i
	}
	return -1
}

// gather goes over a timeline's own index: its tail's footers and its runs.
// find looks for the chunks of damaged frames; otherwise versions of these
// chunks are kept.
func (t *toucher) gather(ctx context.Context, h *History, find bool) error {
	cat := new(index.Catalog)
	see := func(es []index.Entry) error {
		for i := range es {
			if err := t.see(h.timeline, cat, &es[i], find); err != nil {
				return err
			}
		}
		return nil
	}
	err := t.tail(ctx, h, cat, see)
	if err == nil && h.manifest != nil {
		for _, run := range h.manifest.Runs {
			if err = t.run(ctx, run.Parts, cat, see); err != nil {
				break
			}
		}
	}
	if errors.Is(err, errTouchedFull) {
		t.full = true
		return nil
	}
	return err
}

func (t *toucher) run(ctx context.Context, parts []PartRef, cat *index.Catalog, see func([]index.Entry) error) error {
	for _, p := range parts {
		plain, err := t.k.c.OpenRunPart(ctx, p)
		if err == nil {
			var src *index.Reader
			if src, err = index.NewReader(cat, plain); err == nil {
				err = drain(src, see)
			}
		}
		if err != nil && (errors.Is(err, errTouchedFull) || !ownFault(err)) {
			return err // a damaged part is reported by the check of the index
		}
	}
	return nil
}

func drain(src index.Source, see func([]index.Entry) error) error {
	for {
		es, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = see(es)
		}
		if err != nil {
			return err
		}
	}
}

func (t *toucher) tail(ctx context.Context, h *History, cat *index.Catalog, see func([]index.Entry) error) error {
	var all []sized
	for _, ref := range h.objects {
		if ref.kind == segment.Journal && !ref.lost {
			all = append(all, sized{ref.number, ref.size})
		}
	}
	for batch := range slices.Chunk(all, walkBatch) {
		loads, err := t.k.c.loadAll(ctx, h.timeline, batch)
		if err != nil {
			return err
		}
		for _, l := range loads {
			if l.missing || l.damaged() != nil {
				continue // gone since the walk: the scan has said so
			}
			s := index.NewSorter(cat)
			if err := addFooter(s, cat, index.ObjectID{Timeline: h.timeline, Number: l.number}, l.footer, 0, 1<<64-1); err != nil {
				return err
			}
			if err := drain(s.Source(), see); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *toucher) see(tl dr.TimelineID, cat *index.Catalog, e *index.Entry, find bool) error {
	at := chunkID{cat.Disks()[e.Disk], e.Chunk}
	bad := int32(-1)
	if !e.Zero {
		bad = t.badAt(cat.Objects()[e.Object], e.Frame)
	}
	if find {
		if bad >= 0 {
			if len(t.chunks) >= maxTouched {
				return errTouchedFull
			}
			t.chunks[at] = true
		}
		return nil
	}
	if e.Chunks == 1 {
		if t.chunks[at] {
			return t.keep(tl, at, seenVersion{e.Seq, e.Mask, bad})
		}
		return nil
	}
	for id := range t.chunks { // a range of zeroes: there are few, and few chunks
		if id.disk == at.disk && id.chunk >= e.Chunk && id.chunk-e.Chunk < e.Chunks {
			if err := t.keep(tl, id, seenVersion{e.Seq, fullMask, -1}); err != nil {
				return err
			}
		}
	}
	return nil
}

const fullMask = 1<<dr.BlocksPerChunk - 1

func (t *toucher) keep(tl dr.TimelineID, at chunkID, v seenVersion) error {
	if t.count++; t.count > maxTouched {
		return errTouchedFull
	}
	if t.versions[tl] == nil {
		t.versions[tl] = make(map[chunkID][]seenVersion)
	}
	t.versions[tl][at] = append(t.versions[tl][at], v)
	return nil
}

// report lets every checkpoint of every timeline take what it sees.
func (t *toucher) report() {
	for _, byChunk := range t.versions {
		for _, vs := range byChunk {
			slices.SortStableFunc(vs, func(a, b seenVersion) int { return cmp.Compare(b.seq, a.seq) })
		}
	}
	named := make([]bool, len(t.bad))
	for _, h := range t.k.opened {
		spans := t.spans(h)
		for i := range t.bad {
			if s := spans[int32(i)]; s.Count > 0 {
				named[i] = true
				t.k.problem(Problem{Object: ObjectName(t.bad[i].id), What: t.what(i), Kind: errs.Corrupt, Timeline: h.timeline, Touched: s})
			}
		}
	}
	for i := range t.bad {
		if !named[i] { // nothing needs it
			t.k.problem(Problem{Object: ObjectName(t.bad[i].id), What: t.what(i), Kind: errs.Corrupt})
		}
	}
}

func (t *toucher) what(i int) string {
	b := t.k.bad[t.bad[i].id]
	if t.bad[i].frame == wholeObject {
		return b.whole
	}
	return b.frames[t.bad[i].frame]
}

// spans is which checkpoints of a history each damage touches.
func (t *toucher) spans(h *History) map[int32]CheckpointSpan {
	out := make(map[int32]CheckpointSpan)
	for i := range h.points {
		p := &h.points[i]
		if !p.Recoverable {
			continue
		}
		hit := make(map[int32]bool)
		for _, d := range p.Disks {
			for at := range t.chunks {
				if at.disk == d.ID {
					t.take(h, p, d.Size, at, hit)
				}
			}
		}
		for b := range hit {
			s := out[b]
			s.add(p.ID)
			out[b] = s
		}
	}
	return out
}

// take resolves one chunk at one checkpoint, through the timelines it falls
// through to.
func (t *toucher) take(h *History, p *CheckpointInfo, size int64, at chunkID, hit map[int32]bool) {
	first := int64(at.chunk) * dr.BlocksPerChunk
	blocks := (size+dr.BlockSize-1)/dr.BlockSize - first
	if blocks <= 0 {
		return
	}
	left := uint16(fullMask)
	if blocks < dr.BlocksPerChunk {
		left = 1<<blocks - 1
	}
	limit := p.Seq
	for {
		vs := t.versions[h.timeline][at]
		for i := range vs {
			if vs[i].seq >= limit || vs[i].mask&left == 0 {
				continue
			}
			if vs[i].bad >= 0 {
				hit[vs[i].bad] = true
			}
			if left &^= vs[i].mask; left == 0 {
				return
			}
		}
		if h.base == nil {
			return
		}
		limit = min(limit, h.base.head.Point.Seq)
		h = h.base.hist
	}
}
