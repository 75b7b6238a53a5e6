package journal

import (
	"runtime"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

// baseOf is a container whose index is the base of one disk of n chunks, all of
// them allocated, in objects of 1000 frames.
func baseOf(b *testing.B, n int) (*Container, CheckpointInfo) {
	b.Helper()
	c := newTestContainer(b, mem.New())
	tl := c.Domain().Timeline
	disk := dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, Size: int64(n) * dr.ChunkSize, Synced: true}
	cat := new(index.Catalog)
	at := must[uint16](b)(cat.Disk(disk.ID))
	m := &Manifest{Timeline: tl, Generation: 1, Created: testNow, By: "bench",
		Anchor: Anchor{Number: 9, Next: 10, Digest: segment.Digest{1}, Epoch: 1, LastSeq: 1000, Objects: 2, Fences: 1}}
	run := RunRef{First: 1, Last: 1000}
	w := index.NewWriter(cat, func(p index.Part) error {
		ref, err := c.WriteRunPart(b.Context(), tl, p.Bytes, WriteOptions{})
		ref.Entries, ref.First, ref.Last = uint64(p.Entries), p.First, p.Last
		run.Parts = append(run.Parts, ref)
		run.Entries += ref.Entries
		return err
	}, index.WriterOptions{})
	object := uint32(0)
	for i := range n {
		if i%1000 == 0 {
			id := index.ObjectID{Data: dr.NewUUID()}
			object = must[uint32](b)(cat.Object(id))
			m.Objects = append(m.Objects, ObjectState{ID: id, Size: 31 << 20, Live: 30 << 20})
		}
		check(b, w.Add(&index.Entry{Seq: dr.Seq(1 + i%900), Chunk: uint32(i), Chunks: 1, Object: object, Frame: uint32(i % 1000),
			Stored: uint32(20_000 + i*7919%20_000), Mask: 0xffff, Disk: at}))
	}
	check(b, w.Finish())
	m.Runs = []RunRef{run}
	slices.SortFunc(m.Objects, func(a, b ObjectState) int { return a.ID.Compare(b.ID) })
	m.Points = []Point{{Checkpoint: dr.Checkpoint{ID: 1, Seq: 1001, Time: testNow, Scope: dr.Group, Disks: []dr.CheckpointDisk{disk}}, Object: 9, PublishedAt: testNow}}
	check(b, c.WriteManifest(b.Context(), m))
	h := must[*History](b)(c.History(b.Context(), HistoryOptions{}))
	return c, must[CheckpointInfo](b)(h.Find("latest"))
}

// BenchmarkResolve resolves a fully allocated disk through manifest and index
// parts: time for each entry, bytes of the image kept for each, and bytes
// allocated in all.
func BenchmarkResolve(b *testing.B) {
	const n = 4 << 20 // 256 GiB
	c, cp := baseOf(b, n)
	h := must[*History](b)(c.History(b.Context(), HistoryOptions{}))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var img *Image
	for b.Loop() {
		img = must[*Image](b)(h.Resolve(b.Context(), cp))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if img.Frames() != n {
		b.Fatalf("%d frames", img.Frames())
	}
	per := float64(b.N) * n
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/per, "ns/entry")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "kept-B/entry")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/per, "alloc-B/entry")
	b.ReportMetric(float64(after.HeapSys)/n, "heap-sys-B/entry")
	runtime.KeepAlive(img)
}
