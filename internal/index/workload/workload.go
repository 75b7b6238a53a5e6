// Package workload makes indexes of the shapes that guests' disks give them,
// for benchmarks: a baseline in order, one scattered over a long history, and a
// month of a busy disk. It is deterministic for a seed, pure, and no part of
// the product's data path.
package workload

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/index"
)

// History is entries of one disk in the order of a run, numbered by Catalog,
// and the checkpoints that a retention policy keeps of their time.
type History struct {
	Catalog  *index.Catalog
	Entries  []index.Entry
	Disk     index.Disk
	Retained []dr.Seq
}

// seqsPerHour is how many records an hour of the busy disk takes: 30 a second,
// 0.3 MB of them.
const seqsPerHour = 30 * 3600

var (
	disk     = dr.DiskID{UUID: dr.UUID{0xd1}}
	timeline = dr.TimelineID{UUID: dr.UUID{0x71}}
)

func newHistory(chunks int) *History {
	h := &History{Catalog: &index.Catalog{}, Disk: index.Disk{ID: disk, Size: int64(chunks) * dr.ChunkSize}}
	if _, err := h.Catalog.Disk(disk); err != nil {
		panic("workload: an empty catalog refused a disk: " + err.Error())
	}
	return h
}

func (h *History) journal(n int) uint32 {
	return h.object(index.ObjectID{Timeline: timeline, Number: dr.ObjectNumber(n) + 1})
}

// packed objects have random names, as in a store.
func (h *History) packed(r *rand.Rand) uint32 {
	var u dr.UUID
	for i := range u {
		u[i] = byte(r.Uint32())
	}
	return h.object(index.ObjectID{Data: u})
}

func (h *History) object(id index.ObjectID) uint32 {
	n, err := h.Catalog.Object(id)
	if err != nil {
		panic("workload: more objects than a catalog takes: " + err.Error())
	}
	return n
}

// stored is what compression leaves of a mask's blocks: to 1/2.2 on average,
// widely spread, and a tenth not at all.
func stored(r *rand.Rand, mask uint16) uint32 {
	raw := float64(bits.OnesCount16(mask) * dr.BlockSize)
	if r.IntN(10) == 0 {
		return uint32(raw) + 16
	}
	return 16 + uint32(raw*min(0.95, max(0.02, 0.41+0.17*r.NormFloat64())))
}

// Base is a disk of n chunks as its first synchronisation leaves it: in order,
// whole chunks, 500 to an object.
func Base(seed uint64, n int) *History {
	r := rand.New(rand.NewPCG(seed, 1))
	h := newHistory(n)
	const perObject = 500
	object := uint32(0)
	for i := range n {
		if i%perObject == 0 {
			object = h.journal(i / perObject)
		}
		h.Entries = append(h.Entries, index.Entry{
			Seq: dr.Seq(i + 1), Chunk: uint32(i), Chunks: 1, Mask: 0xffff, Object: object,
			Frame: uint32(i % perObject), Stored: stored(r, 0xffff),
		})
	}
	return h
}

// Scattered is a disk of which each of n chunks, one in eight of it, was
// written last at a time of its own in a month, in objects of 5 s as published.
func Scattered(seed uint64, n int) *History {
	r := rand.New(rand.NewPCG(seed, 2))
	h := newHistory(8 * n)
	const month = 30 * 24 * seqsPerHour
	for i := range n {
		at := r.IntN(month)
		mask := someBlocks(r, 1+r.IntN(16))
		h.Entries = append(h.Entries, index.Entry{
			Seq: dr.Seq(at + 1), Chunk: uint32(8*i + r.IntN(8)), Chunks: 1, Mask: mask,
			Object: h.journal(at / (seqsPerHour / 720)), Frame: uint32(r.IntN(40)), Stored: stored(r, mask),
		})
	}
	return h
}

// someBlocks is n blocks in a row.
func someBlocks(r *rand.Rand, n int) uint16 {
	return uint16((1<<n - 1) << r.IntN(17-n))
}

// Busy is a month of a disk of 200 GB divided by scale: a baseline, and per
// hour 26 000 (by scale) versions of which a fifth are appended to a log, two
// thirds lie in a hot fiftieth of the disk, and the rest are files written in
// one go. Objects of all days but the last are packed by 1800 frames,
// sorted by chunk. Retained are 720 checkpoints of 5 s, 1440 of a minute,
// 720 of an hour; what these do not see is still there, for Merge to drop.
func Busy(seed uint64, scale int) *History {
	r := rand.New(rand.NewPCG(seed, 3))
	h := newHistory(3_200_000 / scale)
	b := Base(seed, 3_200_000/scale)
	h.Catalog, h.Entries = b.Catalog, b.Entries
	base := dr.Seq(len(b.Entries) + 1)
	const hours = 30 * 24
	w := &writer{h: h, r: r, chunks: uint32(len(b.Entries)), perHour: 26_400 / scale, length: seqsPerHour / scale, number: 1 << 20}
	for hour := range hours {
		w.hour(base+dr.Seq(hour*w.length), hour < hours-24)
	}
	slices.SortFunc(h.Entries, func(a, b index.Entry) int {
		return cmp.Or(cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(b.Seq, a.Seq))
	})
	h.Retained = retained(base+dr.Seq(hours*w.length), float64(w.length)/3600)
	return h
}

// retained are the checkpoints of "5s for 1h, 1m for 24h, 1h for 30d".
func retained(end dr.Seq, perSecond float64) []dr.Seq {
	at := func(ago int) dr.Seq { return end - dr.Seq(float64(ago)*perSecond) }
	var c []dr.Seq
	for i := range 720 {
		c = append(c, at(5*i), at(3600*i))
	}
	for i := range 1440 {
		c = append(c, at(60*i))
	}
	slices.Sort(c)
	return slices.Compact(c)
}

// writer makes what a guest writes.
type writer struct {
	h       *History
	r       *rand.Rand
	chunks  uint32
	perHour int    // versions
	length  int    // of an hour, in records
	log     uint32 // where the log ends
	number  int
	pending []index.Entry // of objects not packed yet
}

// packFrames is how many frames make a packed object of some 30 MB.
const packFrames = 1800

func (w *writer) hour(from dr.Seq, pack bool) {
	var es []index.Entry
	add := func(at int, chunk uint32, mask uint16) {
		es = append(es, index.Entry{
			Seq: from + dr.Seq(at), Chunk: chunk % w.chunks, Chunks: 1, Mask: mask, Stored: stored(w.r, mask),
		})
	}
	logs, files := w.perHour/5, w.perHour*2/15
	for i := range logs {
		w.log++
		add(i*w.length/logs, w.log%(w.chunks/40), 0xffff)
	}
	hot := w.chunks / 50
	for range w.perHour - logs - files {
		add(w.r.IntN(w.length), w.chunks/2+w.r.Uint32N(hot), someBlocks(w.r, 4+w.r.IntN(9)))
	}
	for n := 0; n < files; {
		at, chunk, burst := w.r.IntN(w.length), w.r.Uint32N(w.chunks), 1+w.r.IntN(200)
		for i := range min(burst, files-n) {
			add(at+i, chunk+uint32(i), 0xffff)
		}
		n += burst
	}
	if pack {
		w.pack(es)
		return
	}
	w.publish(es, from)
}

// publish puts an hour's entries into objects of 5 s, sorted by chunk.
func (w *writer) publish(es []index.Entry, from dr.Seq) {
	slot := func(e *index.Entry) int { return int(e.Seq-from) * 720 / w.length }
	slices.SortFunc(es, func(a, b index.Entry) int {
		return cmp.Or(cmp.Compare(slot(&a), slot(&b)), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(b.Seq, a.Seq))
	})
	last, frame, object := -1, uint32(0), uint32(0)
	for i := range es {
		if s := slot(&es[i]); s != last {
			last, frame = s, 0
			w.number++
			object = w.h.journal(w.number)
		}
		es[i].Object, es[i].Frame = object, frame
		frame++
	}
	w.h.Entries = append(w.h.Entries, es...)
}

// pack puts entries into packed objects, in the order of time, each sorted by
// chunk. What does not fill one waits.
func (w *writer) pack(es []index.Entry) {
	slices.SortFunc(es, func(a, b index.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	w.pending = append(w.pending, es...)
	for len(w.pending) >= packFrames {
		group := w.pending[:packFrames]
		w.pending = w.pending[packFrames:]
		slices.SortFunc(group, func(a, b index.Entry) int {
			return cmp.Or(cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(b.Seq, a.Seq))
		})
		object := w.h.packed(w.r)
		for i := range group {
			group[i].Object, group[i].Frame = object, uint32(i)
		}
		w.h.Entries = append(w.h.Entries, group...)
	}
}

// Write makes the parts of a run of the entries for which keep is true; nil
// keeps all.
func (h *History) Write(keep func(e *index.Entry) bool) ([][]byte, error) {
	var parts [][]byte
	w := index.NewWriter(h.Catalog, func(p index.Part) error { parts = append(parts, p.Bytes); return nil }, index.WriterOptions{})
	for i := range h.Entries {
		if keep == nil || keep(&h.Entries[i]) {
			if err := w.Add(&h.Entries[i]); err != nil {
				return nil, err
			}
		}
	}
	return parts, w.Finish()
}

// Runs cuts the history into k runs of adjacent seqs, newest first, each with
// as many entries.
func (h *History) Runs(k int) ([][][]byte, error) {
	seqs := make([]dr.Seq, len(h.Entries))
	for i := range h.Entries {
		seqs[i] = h.Entries[i].Seq
	}
	slices.Sort(seqs)
	var runs [][][]byte
	for i := range k {
		lo, hi := seqs[len(seqs)*i/k], dr.Seq(1<<63)
		if i < k-1 {
			hi = seqs[len(seqs)*(i+1)/k]
		}
		parts, err := h.Write(func(e *index.Entry) bool { return e.Seq >= lo && e.Seq < hi })
		if err != nil {
			return nil, err
		}
		runs = append(runs, parts)
	}
	slices.Reverse(runs)
	return runs, nil
}

// Sources are the runs as sources, numbered by cat.
func Sources(cat *index.Catalog, runs [][][]byte) []index.Source {
	var out []index.Source
	for _, parts := range runs {
		out = append(out, index.NewRun(cat, len(parts), func(i int) ([]byte, error) { return parts[i], nil }))
	}
	return out
}
