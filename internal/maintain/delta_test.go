package maintain

import (
	"bytes"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/journal"
)

// deltaVariant breaks how disks are updated. The zero one is right.
type deltaVariant struct {
	noZeroes  bool // what reads as zeroes and has no frame is not written
	olderBase bool // the disks are taken for what an earlier checkpoint had
	notTheirs bool // what the other line wrote since the fork is let stand
}

// base is a retained checkpoint of some line, as a disk may hold it.
type base struct {
	ref journal.PointRef
	tr  *truth
}

// bases are the retained checkpoints of all lines.
func (w *world) bases() (out []base) {
	for _, l := range w.lines {
		if l.dropped {
			continue
		}
		h, err := w.c.History(w.t.Context(), journal.HistoryOptions{Timeline: l.id})
		if err != nil {
			w.fail("history of %s: %v", l.id, err)
			return nil
		}
		for _, cp := range h.Checkpoints() {
			if cp.Recoverable {
				out = append(out, base{h.Ref(cp), l.truthOf(cp.ID)})
			}
		}
	}
	return out
}

// checkDeltas updates disks that hold a checkpoint of any line to checkpoints of
// l, in the mind, and compares them with the truth.
func (w *world) checkDeltas(l *line, n int, v deltaVariant) {
	h, err := w.c.History(w.t.Context(), journal.HistoryOptions{Timeline: l.id})
	if err != nil {
		w.fail("history of %s: %v", l.id, err)
		return
	}
	all := w.bases()
	var points []journal.CheckpointInfo
	for _, cp := range h.Checkpoints() {
		if cp.Recoverable {
			points = append(points, cp)
		}
	}
	for range n {
		if len(points) == 0 || w.failed() {
			return
		}
		w.checkDelta(h, l, points[w.rng.IntN(len(points))], all[w.rng.IntN(len(all))], v)
	}
}

func (w *world) checkDelta(h *journal.History, l *line, cp journal.CheckpointInfo, from base, v deltaVariant) {
	opts := journal.DeltaOptions{From: from.ref}
	tr := l.truthOf(cp.ID)
	for _, d := range cp.Disks {
		k := journal.DeltaDisk{Disk: d.ID, Known: true}
		if w.rng.IntN(4) == 0 {
			k.Also = index.NewBlocks(d.Size)
			k.Also.AddBytes(w.rng.Int64N(d.Size), w.rng.Int64N(20*dr.BlockSize))
		}
		opts.Disks = append(opts.Disks, k)
	}
	switch {
	case v.olderBase:
		for _, b := range w.bases() {
			if b.ref.Timeline == from.ref.Timeline && b.ref.Seq < from.ref.Seq {
				opts.From = b.ref
			}
		}
	case v.notTheirs && from.ref.Timeline != l.id && l.parent != nil && from.ref.Timeline == l.parent.id:
		opts.From = journal.PointRef{Timeline: l.id, Checkpoint: l.fork, Seq: l.truthOf(l.fork).cp.Seq}
	}
	d, err := h.Delta(w.t.Context(), cp, opts)
	if err != nil {
		w.fail("delta of %v to #%d of %s: %v", from.ref, cp.ID, l.id, err)
		return
	}
	frames, err := materialize(w.t.Context(), w.c, d.Image)
	if err != nil {
		w.fail("delta of %v to #%d of %s: %v", from.ref, cp.ID, l.id, err)
		return
	}
	for i, disk := range cp.Disks {
		w.deltas++
		if why := w.judgeDelta(d, i, disk, from, tr, opts.Disks[i].Also, frames[disk.ID], v); why != "" {
			w.fail("delta of %v to #%d of %s, disk %s: %s", from.ref, cp.ID, l.id, disk.ID, why)
		}
	}
}

// judgeDelta writes the delta of one disk to what the base has there.
func (w *world) judgeDelta(d *journal.Delta, i int, disk dr.CheckpointDisk, from base, tr *truth, also *index.Blocks, frames map[uint64][]byte, v deltaVariant) string {
	there, size := from.tr.image[disk.ID], int64(0)
	for _, b := range from.tr.cp.Disks {
		if b.ID == disk.ID {
			size = b.Size
		}
	}
	zeroed := map[uint64]bool{}
	for r := range d.Zeroes(i) {
		for off := r.Off; off < r.End(); off += dr.BlockSize {
			zeroed[uint64(off/dr.BlockSize)] = true
		}
	}
	want := tr.image[disk.ID]
	for b := range uint64(disk.Size / dr.BlockSize) {
		chunk, bit := uint32(b/dr.BlocksPerChunk), uint16(1)<<(b%dr.BlocksPerChunk)
		listed := d.Changed(i).Mask(chunk)&bit != 0
		old := uint32(0)
		if int64(b) < size/dr.BlockSize {
			old = there[b]
		}
		frame, given := frames[b]
		switch {
		case given != listed && !zeroed[b] || given && zeroed[b]:
			return "a block is changed and neither given nor zero, or both"
		case given && !bytes.Equal(frame, blockOf(want[b])):
			return "a frame gives something else"
		case zeroed[b] && want[b] != 0:
			return "a block is zeroed that is data"
		case (!listed || v.noZeroes && zeroed[b]) && old != want[b]:
			return "a block that differs is not written"
		case listed && old == want[b] && old != 0 && int64(b) < size/dr.BlockSize && also.Mask(chunk)&bit == 0:
			return "a block is written that both checkpoints have from the same record"
		}
	}
	return ""
}

// playDeltas is a history at whose places deltas are looked at.
func (w *world) playDeltas(steps int, v deltaVariant) string {
	defer w.close()
	for i := range steps {
		w.step()
		if i%4 == 3 {
			lines := w.live()
			w.checkDeltas(lines[w.rng.IntN(len(lines))], 3, v)
		}
		if w.failed() {
			return w.fault
		}
	}
	return w.fault
}

// TestDeltas: whatever was thinned, packed, merged, branched and taken over, what
// makes one retained checkpoint of another is exactly what was written since
// the two parted.
func TestDeltas(t *testing.T) {
	n, from := max(2, envInt(t, "HOLDFAST_SIM_N", 12)/2), seed(t)
	deltas, branches := 0, 0
	for i := range uint64(n) {
		w := newWorld(t, from+i, testPolicy(), nil)
		if why := w.playDeltas(100, deltaVariant{}); why != "" {
			t.Fatalf("HOLDFAST_SEED=%d: %s", from+i, why)
		}
		deltas += w.deltas
		branches += len(w.lines) - 1
	}
	t.Logf("%d histories from seed %d: %d deltas of disks, %d branches", n, from, deltas, branches)
	if deltas < 50*n || branches < n/2 {
		t.Fatal("too little happened to prove anything")
	}
}

// TestDeltasCatchBrokenRules updates disks in ways that are wrong.
func TestDeltasCatchBrokenRules(t *testing.T) {
	most, from := 2*envInt(t, "HOLDFAST_SIM_N", 12), seed(t)
	for name, v := range map[string]deltaVariant{
		"zeroes are not written":                 {noZeroes: true},
		"the disk holds a newer checkpoint":      {olderBase: true},
		"what the other line wrote is let stand": {notTheirs: true},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range uint64(most) {
				w := newWorld(t, from+i, testPolicy(), nil)
				if why := w.playDeltas(100, v); why != "" {
					t.Logf("caught with seed %d: %s", from+i, why)
					return
				}
			}
			t.Errorf("not caught in %d histories", most)
		})
	}
}
