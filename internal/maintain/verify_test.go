package maintain

import (
	"bytes"
	"context"
	"fmt"
	"math/bits"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/fault"
)

// materialize reads an image's blocks.
func materialize(ctx context.Context, c *journal.Container, m *journal.Image) (map[dr.DiskID]map[uint64][]byte, error) {
	return blocksOf(ctx, c, m, false)
}

// blocksOf is materialize; a lenient reader, which no reader may be, takes
// what it cannot read or open for zeroes.
func blocksOf(ctx context.Context, c *journal.Container, m *journal.Image, lenient bool) (map[dr.DiskID]map[uint64][]byte, error) {
	out := map[dr.DiskID]map[uint64][]byte{}
	for _, d := range m.Disks {
		out[d.ID] = map[uint64][]byte{}
	}
	for i := range m.Objects {
		src := &m.Objects[i]
		o, err := c.OpenSized(ctx, src.Ref, src.Size)
		if err != nil && lenient {
			continue
		} else if err != nil {
			return nil, err
		}
		body := make([]byte, o.Footer.FramesEnd())
		if err := o.ReadAt(ctx, body, 0); err != nil && !lenient {
			return nil, err
		}
		for _, take := range src.Frames {
			e, err := o.Entry(take.Frame)
			if err != nil {
				return nil, err
			}
			blocks, err := o.OpenFrame(nil, e, body[e.Offset:][:e.Stored], false) // the truth is a better judge than hashes
			if err != nil && lenient {
				continue
			} else if err != nil {
				return nil, err
			}
			disk := out[m.Disks[take.Disk].ID]
			place := 0
			for bit := e.Mask; bit != 0; bit &= bit - 1 {
				n := bits.TrailingZeros16(bit)
				if take.Take&(1<<n) != 0 {
					b := uint64(e.Chunk)*dr.BlocksPerChunk + uint64(n)
					if _, twice := disk[b]; twice {
						return nil, fmt.Errorf("block %d comes twice", b)
					}
					disk[b] = blocks[place*dr.BlockSize:][:dr.BlockSize]
				}
				place++
			}
		}
	}
	return out, nil
}

// compare tells how what was read differs from the truth; "" when it does not.
func compare(tr *truth, got map[dr.DiskID]map[uint64][]byte) string {
	for _, d := range tr.cp.Disks {
		want, have := tr.image[d.ID], got[d.ID]
		for b, content := range want {
			if b < uint64(d.Size/dr.BlockSize) && !bytes.Equal(have[b], blockOf(content)) {
				return fmt.Sprintf("block %d of disk %v is not content %d (%d bytes)", b, d.ID, content, len(have[b]))
			}
		}
		for b, p := range have {
			if want[b] == 0 && !bytes.Equal(p, make([]byte, dr.BlockSize)) {
				return fmt.Sprintf("block %d of disk %v is not zeroes", b, d.ID)
			}
		}
	}
	return ""
}

// check compares all checkpoints a timeline's history offers with the truth,
// and that those that must be there are.
func (w *world) check(l *line) {
	ctx := w.t.Context()
	h, err := w.c.History(ctx, journal.HistoryOptions{Timeline: l.id})
	if err != nil {
		w.fail("history of %s: %v", l.id, err)
		return
	}
	for _, p := range h.Problems() {
		w.fail("timeline %s has a problem: %s: %s", l.id, p.Object, p.What)
	}
	w.checkHashes(h, l)
	there := map[dr.CheckpointID]bool{}
	for _, cp := range h.Checkpoints() {
		there[cp.ID] = true
		tr := l.truthOf(cp.ID)
		if tr == nil || tr.cp.Seq != cp.Seq {
			w.fail("checkpoint #%d of %s was never taken", cp.ID, l.id)
			return
		}
		if ok, _ := tr.cp.Recoverable(); ok != cp.Recoverable {
			w.fail("checkpoint #%d of %s: recoverable %v (%s)", cp.ID, l.id, cp.Recoverable, cp.Why)
		}
		if cp.Recoverable {
			w.checkPoint(h, cp, tr)
		}
	}
	for _, id := range w.must(l) {
		if !there[id] {
			w.fail("checkpoint #%d of %s should be retained", id, l.id)
		}
	}
}

func (w *world) checkPoint(h *journal.History, cp journal.CheckpointInfo, tr *truth) {
	ctx := w.t.Context()
	m, err := h.Resolve(ctx, cp)
	if err != nil {
		w.fail("checkpoint #%d of %s: %v", cp.ID, h.Timeline(), err)
		return
	}
	got, err := materialize(ctx, w.c, m)
	if err != nil {
		w.fail("checkpoint #%d of %s: %v", cp.ID, h.Timeline(), err)
		return
	}
	if diff := compare(tr, got); diff != "" {
		w.fail("checkpoint #%d of %s: %s", cp.ID, h.Timeline(), diff)
	}
}

// must are the checkpoints that no maintenance may have dropped: by the
// schedule over the whole history as the last pass knew the time, pinned ones,
// forks, the newest.
func (w *world) must(l *line) (out []dr.CheckpointID) {
	var points []Point
	for i := range l.truths {
		points = append(points, l.truths[i].point())
	}
	now := w.clock.Wall()
	var holds []Hold
	for _, p := range w.pins {
		if p.line == l && p.info.Active(now) {
			holds = append(holds, Hold{Checkpoint: p.info.Checkpoint, Reason: ByHold})
		}
	}
	for _, child := range w.lines {
		if child.parent == l && !child.dropped {
			holds = append(holds, Hold{Checkpoint: child.fork, Reason: ByFork})
		}
	}
	for i, d := range Retained(points, now, Rules{Schedule: w.policy.Schedule, TagFor: w.policy.TagFor, Holds: holds}) {
		if d.Keep() {
			out = append(out, points[i].ID)
		}
	}
	return out
}

// checkAll checks every live timeline.
func (w *world) checkAll() {
	for _, l := range w.lines {
		if !l.dropped && !w.failed() {
			w.check(l)
		}
	}
}

// read lets a reader that resolved its image earlier read it now.
func (w *world) read(r *reading) {
	tr := r.line.truthOf(r.cp)
	if r.image == nil {
		var err error
		if r.image, err = r.from.Resolve(w.t.Context(), r.point); err != nil {
			w.fail("a reader who looked at checkpoint #%d, promised until %v, at %v: %v", r.cp, r.until, w.clock.Wall(), err)
			return
		}
	}
	got, err := materialize(w.t.Context(), w.c, r.image)
	if err != nil {
		w.fail("a reader of checkpoint #%d, promised until %v, at %v: %v", r.cp, r.until, w.clock.Wall(), err)
		return
	}
	if diff := compare(tr, got); diff != "" {
		w.fail("a reader of checkpoint #%d: %s", r.cp, diff)
	}
}

// seen are the entries that some of the retained checkpoints, or the head,
// sees, counted one block at a time.
func seen(entries []index.Entry, seqs []dr.Seq) map[int]bool {
	out := map[int]bool{}
	for view := range len(seqs) + 1 {
		var covered uint16
		for i, e := range entries { // newest first
			if view < len(seqs) && e.Seq >= seqs[view] {
				continue
			}
			if e.Mask&^covered != 0 && !(e.Zero && below(entries[i+1:], e.Mask&^covered)) {
				out[i] = true
			}
			covered |= e.Mask
		}
	}
	return out
}

// below reports whether no entry holds any of the blocks: zeroes over nothing
// are not needed.
func below(entries []index.Entry, mask uint16) bool {
	return !slices.ContainsFunc(entries, func(e index.Entry) bool { return e.Mask&mask != 0 })
}

// checkExact compares the index of a timeline whose passes have all been made
// with the rule: everything in it is seen, and the counts are right.
func (w *world) checkExact(l *line) {
	ctx := w.t.Context()
	m, ok, err := w.c.ReadManifest(ctx, l.id)
	if err != nil || !ok {
		w.fail("manifest of %s: %v, %v", l.id, ok, err)
		return
	}
	if len(m.Runs) > 1 {
		w.fail("%d runs after a full merge", len(m.Runs))
	}
	cat := &index.Catalog{}
	live := map[index.ObjectID]int64{}
	chunks := map[[2]uint32][]index.Entry{}
	for _, r := range m.Runs {
		src := index.NewRun(cat, len(r.Parts), func(i int) ([]byte, error) { return w.c.OpenRunPart(ctx, r.Parts[i]) })
		err := eachOf(src, func(e *index.Entry) error {
			for c := range e.Chunks {
				key := [2]uint32{uint32(e.Disk), e.Chunk + c}
				chunks[key] = append(chunks[key], *e)
			}
			if !e.Zero {
				live[cat.Objects()[e.Object]] += int64(e.Stored)
			}
			return nil
		})
		if err != nil {
			w.fail("index of %s: %v", l.id, err)
			return
		}
	}
	var seqs []dr.Seq
	for i := range m.Points {
		seqs = append(seqs, m.Points[i].Seq)
	}
	for key, es := range chunks {
		slices.SortStableFunc(es, func(a, b index.Entry) int { return int(min(1, max(-1, int64(b.Seq)-int64(a.Seq)))) })
		vis := seen(es, seqs)
		for i := range es {
			if !vis[i] && !es[i].Zero {
				w.fail("version %d of chunk %d of %s is kept and nobody sees it: points %v, versions %+v, pass %+v, anchor %+v", es[i].Seq, key[1], l.id, seqs, es, *l.last, m.Anchor)
			}
		}
	}
	for _, o := range m.Objects {
		if o.Live != live[o.ID] {
			w.fail("object %v is counted %d live bytes, and has %d", o.ID, o.Live, live[o.ID])
		}
		delete(live, o.ID)
	}
	if len(live) > 0 {
		w.fail("the index refers to %d objects that are not listed", len(live))
	}
}

// checkDrained compares what lies in the store with what the newest manifests
// of all timelines refer to: after a drained GC nothing else is left but the
// newest journal objects.
func (w *world) checkDrained() {
	ctx := w.t.Context()
	needed := map[string]bool{}
	for _, l := range w.lines {
		m, ok, err := w.c.ReadManifest(ctx, l.id)
		if err != nil {
			w.fail("manifest of %s: %v", l.id, err)
			return
		}
		if ok && !l.dropped {
			refer(needed, m)
			if m.Stats.Live > m.Stats.Stored {
				w.fail("%d bytes live of %d stored", m.Stats.Live, m.Stats.Stored)
			}
		}
	}
	for _, prefix := range []string{journal.DataPrefix, journal.PartPrefix} {
		all, err := keysUnder(ctx, w.back, prefix)
		if err != nil {
			w.fail("list: %v", err)
		}
		for _, in := range all {
			if !needed[in.Key] {
				w.fail("%s is left after a drained collection", in.Key)
			}
			delete(needed, in.Key)
		}
	}
	for _, l := range w.lines {
		all, err := keysUnder(ctx, w.back, journal.JournalPrefix(l.id))
		if err != nil {
			w.fail("list: %v", err)
		}
		left := 0
		for _, in := range all {
			if !needed[in.Key] {
				left++
			}
			delete(needed, in.Key)
		}
		if left > 2*journal.KeepNumbers {
			w.fail("%d journal objects that nothing needs are left", left)
		}
	}
	for key := range needed {
		w.fail("%s is needed and is not there", key)
	}
}

// watch is what the store itself watches for: journal objects that may never
// be deleted.
func (w *world) watch(op fault.Op, key string) error {
	id, ok := journal.ParseObjectName(key)
	if op != "delete" || !ok || !id.Data.IsZero() {
		return nil
	}
	all, err := keysUnder(context.Background(), w.back, journal.JournalPrefix(id.Timeline))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(in store.Info) bool { return in.Key == key })
	if i < 0 {
		return nil
	}
	if len(all)-i <= journal.KeepNumbers {
		w.fail("journal object %d of %d is deleted: a zombie's object may land there", id.Number, len(all))
	}
	if age := w.clock.Wall().Sub(all[i].Modified); age < journalAge {
		w.fail("journal object %d is deleted %v after it was made", id.Number, age)
	}
	return nil
}
