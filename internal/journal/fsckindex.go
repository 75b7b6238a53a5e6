package journal

import (
	"context"
	"errors"
	"fmt"
	"io"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
)

// badObject is damage found in an object: all of it, or some frames.
type badObject struct {
	key    string
	whole  string            // why no frame can be read; "": see frames
	frames map[uint32]string // by counter: why
}

func (k *checker) badWhole(id index.ObjectID, why string) {
	k.badOf(id).whole = why
}

func (k *checker) badOf(id index.ObjectID) *badObject {
	b := k.bad[id]
	if b == nil {
		b = &badObject{key: ObjectName(id), frames: make(map[uint32]string)}
		k.bad[id] = b
	}
	return b
}

// index checks the runs of a history's manifest: parts, order, counts, the
// objects they refer to, and live bytes counted again. When maintenance has
// written a newer manifest meanwhile, what is gone may be gone rightly.
func (k *checker) index(ctx context.Context, h *History, r *TimelineReport) error {
	m := h.manifest
	k.progress = FsckProgress{Stage: "index"}
	for i := range m.Runs {
		k.progress.Total += len(m.Runs[i].Parts)
	}
	live := make(map[index.ObjectID]int64, len(m.Objects))
	whole := true
	for i := range m.Runs {
		ok, err := k.run(ctx, h, &m.Runs[i], live, r)
		if err != nil {
			return err
		}
		whole = whole && ok
	}
	for i := range m.Objects {
		o := &m.Objects[i]
		if whole && live[o.ID] != o.Live {
			k.problem(Problem{Object: ObjectName(o.ID), What: fmt.Sprintf("the manifest counts %d live bytes in it, the index %d", o.Live, live[o.ID]), Kind: errs.Corrupt})
		}
		r.Live += live[o.ID]
		delete(live, o.ID)
		if o.Live == 0 {
			continue // it may be deleted at any time
		}
		if err := k.there(ctx, h, o); err != nil {
			return err
		}
	}
	for id := range live {
		k.problem(Problem{Object: ObjectName(id), What: "the index refers to it and the manifest does not list it", Kind: errs.Corrupt})
	}
	return nil
}

// there checks that an object is in the store with its size.
func (k *checker) there(ctx context.Context, h *History, o *ObjectState) error {
	name := ObjectName(o.ID)
	size, listed := k.sizes[name]
	if !listed { // created after names were gone over, or gone
		in, err := k.c.st.Stat(ctx, name)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if size, listed = in.Size, err == nil; !listed {
			newer, err := k.superseded(ctx, h)
			if err != nil || newer {
				return err
			}
			k.badWhole(o.ID, "the object is missing")
			return nil
		}
	}
	if size != o.Size {
		k.badWhole(o.ID, fmt.Sprintf("the object has %d bytes, the manifest says %d", size, o.Size))
	}
	return nil
}

// superseded reports whether the history's manifest is not the newest any more.
func (k *checker) superseded(ctx context.Context, h *History) (bool, error) {
	newer, err := k.c.listManifests(ctx, h.timeline, h.manifest.Generation)
	return len(newer) > len(h.stale), err
}

// run checks one run. ok is false when it could not be read to its end.
func (k *checker) run(ctx context.Context, h *History, run *RunRef, live map[index.ObjectID]int64, r *TimelineReport) (ok bool, err error) {
	cat := new(index.Catalog)
	sums := []int64{}
	last := index.Entry{}
	ok = true
	for i := range run.Parts {
		k.tell()
		p := &run.Parts[i]
		n, what, err := k.part(ctx, cat, run, p, &sums, &last)
		if err != nil && !ownFault(err) {
			return false, err
		}
		if err != nil {
			if newer, serr := k.superseded(ctx, h); serr != nil || newer {
				return false, serr
			}
			what = err.Error()
		}
		r.Parts++
		r.Entries += n
		if what != "" {
			ok = false
			k.partProblem(h, run, p, what)
		}
	}
	for i, id := range cat.Objects() {
		if i < len(sums) && sums[i] > 0 {
			live[id] += sums[i]
		}
	}
	return ok, nil
}

// part checks one part and adds up the stored bytes of the frames it refers to.
func (k *checker) part(ctx context.Context, cat *index.Catalog, run *RunRef, p *PartRef, sums *[]int64, last *index.Entry) (n uint64, what string, err error) {
	plain, err := k.c.OpenRunPart(ctx, *p)
	if err != nil {
		return 0, "", err
	}
	src, err := index.NewReader(cat, plain)
	if err != nil {
		return 0, "", err
	}
	for {
		es, err := src.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return n, "", err
		}
		for i := range es {
			e := &es[i]
			at := PartKey{Disk: cat.Disks()[e.Disk], Chunk: e.Chunk}
			switch {
			case e.Seq < run.First || e.Seq > run.Last:
				what = fmt.Sprintf("it has record %d, its run covers %d to %d", e.Seq, run.First, run.Last)
			case n == 0 && at != p.First:
				what = "it does not begin where the manifest says"
			case last.Mask != 0 && compareKeys(PartKey{Disk: cat.Disks()[last.Disk], Chunk: last.Chunk}, at) > 0:
				what = "it goes back behind the part before it"
			}
			*last = *e
			n++
			if !e.Zero {
				for len(*sums) <= int(e.Object) {
					*sums = append(*sums, 0)
				}
				(*sums)[e.Object] += int64(e.Stored)
			}
		}
	}
	if what == "" && n != p.Entries {
		what = fmt.Sprintf("it has %d entries, the manifest says %d", n, p.Entries)
	}
	if d := cat.Disks(); what == "" && last.Mask != 0 && d[last.Disk] != p.Last.Disk {
		what = "it does not end where the manifest says"
	}
	return n, what, nil
}

// partProblem reports a part, with the checkpoints for which its run is read.
func (k *checker) partProblem(h *History, run *RunRef, p *PartRef, what string) {
	name := PartName(p.ID)
	k.problem(Problem{Object: name, What: what, Kind: errs.Corrupt, Timeline: h.timeline, Touched: seeing(h.points, run.First, 1<<64-1)})
	k.partDamage = append(k.partDamage, partDamage{h.timeline, name, what, run.First})
}

// partDamage is what branches are told of their parent's index.
type partDamage struct {
	timeline dr.TimelineID
	name     string
	what     string
	first    dr.Seq
}

// seeing is the recoverable checkpoints that hold record first, of what lies
// below limit.
func seeing(points []CheckpointInfo, first, limit dr.Seq) (s CheckpointSpan) {
	for i := range points {
		if p := &points[i]; p.Recoverable && min(p.Seq, limit) > first {
			s.add(p.ID)
		}
	}
	return s
}

// branchesOfParts reports damaged parts once more for each branch that falls
// through to them.
func (k *checker) branchesOfParts() {
	for _, d := range k.partDamage {
		for _, h := range k.opened {
			limit := dr.Seq(1<<64 - 1)
			for b := h.base; b != nil; b = b.hist.base {
				if limit = min(limit, b.head.Point.Seq); b.parent != d.timeline {
					continue
				}
				if s := seeing(h.points, d.first, limit); s.Count > 0 {
					k.problem(Problem{Object: d.name, What: d.what, Kind: errs.Corrupt, Timeline: h.timeline, Touched: s})
				}
			}
		}
	}
}
