package maintain

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store/dir"
)

// synthetic makes a timeline of which only the index exists: a base of gib
// GiB, every chunk written once, in data objects of 1000 frames, and runs newer
// runs of entries scattered over it, with 2880 checkpoints. No content is
// needed to merge it.
func synthetic(ctx context.Context, c *journal.Container, gib, runs, entries int, now time.Time) error {
	rng := rand.New(rand.NewPCG(1, 2))
	t := c.Domain().Timeline
	chunks := gib << 30 / dr.ChunkSize
	disk := dr.DiskID{UUID: dr.NewUUID()}
	m := &journal.Manifest{
		Timeline: t, Generation: 1, Created: now, By: "bench", Policy: (&Policy{}).fullPtr().stored(),
		Stats: journal.Stats{LastRun: now},
	}
	p := &pass{Maintainer: &Maintainer{c: c, timeline: t}, report: &Report{}}
	base := journal.RunRef{First: 1, Last: dr.Seq(chunks)}
	cat := &index.Catalog{}
	w := p.writer(ctx, cat, &base, nil)
	n, err := cat.Disk(disk)
	if err != nil {
		return err
	}
	const perObject, stored = 1000, 30_000
	var object uint32
	for chunk := range chunks {
		if chunk%perObject == 0 {
			id := index.ObjectID{Data: dr.NewUUID()}
			if object, err = cat.Object(id); err != nil {
				return err
			}
			m.Objects = append(m.Objects, journal.ObjectState{ID: id, Size: 31 << 20, Live: min(perObject, int64(chunks-chunk)) * stored, Created: now.Add(-30 * day)})
		}
		e := index.Entry{Seq: dr.Seq(chunk + 1), Chunk: uint32(chunk), Chunks: 1, Object: object, Frame: uint32(chunk % perObject), Stored: stored - uint32(rng.IntN(3000)), Mask: 1<<16 - 1, Disk: n}
		if err := w.Add(&e); err != nil {
			return err
		}
	}
	if err := w.Finish(); err != nil {
		return err
	}
	m.Runs = []journal.RunRef{base}
	number, seq := dr.ObjectNumber(1), dr.Seq(chunks)
	for range runs {
		run := journal.RunRef{First: seq + 1}
		cat := &index.Catalog{}
		s := index.NewSorter(cat)
		n, err := cat.Disk(disk)
		if err != nil {
			return err
		}
		var live int64
		for i := range entries {
			if i%1000 == 0 {
				number++
				id := index.ObjectID{Timeline: t, Number: number}
				if object, err = cat.Object(id); err != nil {
					return err
				}
				m.Objects = append(m.Objects, journal.ObjectState{ID: id, Size: 20 << 20, Live: 1000 * 16_000, Created: now.Add(-time.Hour)})
			}
			seq++
			live += 16_000
			if err := s.AddFrame(n, rng.Uint32N(uint32(chunks)), uint16(1+rng.IntN(1<<16-1)), seq, object, uint32(i%1000), 4000); err != nil {
				return err
			}
		}
		run.Last = seq
		w := p.writer(ctx, cat, &run, nil)
		if err := copyRun(w, s.Source(), nil); err != nil {
			return err
		}
		m.Runs = slices.Insert(m.Runs, 0, run)
	}
	slices.SortFunc(m.Objects, func(a, b journal.ObjectState) int { return a.ID.Compare(b.ID) })
	m.Anchor = journal.Anchor{Number: number, Digest: segment.Digest{1}, Epoch: 1, Next: number + 1, LastSeq: seq, Objects: uint64(number)}
	m.Anchor.Fences = 1
	disks := []dr.CheckpointDisk{{ID: disk, VM: dr.VMID{UUID: dr.NewUUID()}, Size: int64(chunks) * dr.ChunkSize, Synced: true}}
	points := min(2880, int(number)-1)
	for i := range points {
		at := dr.Seq(chunks) + dr.Seq(i+1)*(seq-dr.Seq(chunks))/dr.Seq(points)
		m.Points = append(m.Points, journal.Point{
			Checkpoint: dr.Checkpoint{ID: dr.CheckpointID(i + 1), Seq: at + 1, Time: now.Add(-time.Duration(points-i) * 10 * time.Minute), Scope: dr.Group, Disks: disks},
			Object:     dr.ObjectNumber(i + 2), PublishedAt: now, Reasons: []journal.Reason{{Kind: journal.BySchedule, Name: "1h"}},
		})
	}
	return c.WriteManifest(ctx, m)
}

func (p *Policy) fullPtr() *Policy {
	f := p.full()
	return &f
}

// peak is the process's largest resident size since resetPeak, in bytes; 0
// where the system does not tell.
func peak() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		var kib int64
		if _, err := fmt.Sscanf(string(line), "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

func resetPeak(b *testing.B) {
	b.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("the peak includes the making of the input: %v", err)
	}
}

// BenchmarkFullPass merges the whole index of a large domain once and shows
// the memory it takes: HOLDFAST_BENCH_GIB of disk (default 64; 4096 is the
// 4 TiB of the promise), in a directory.
//
//	HOLDFAST_BENCH_GIB=4096 go test -run '^$' -bench FullPass -benchtime 1x ./internal/maintain
func BenchmarkFullPass(b *testing.B) {
	gib := envInt(b, "HOLDFAST_BENCH_GIB", 64)
	st, err := dir.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	key, err := testKey()
	if err != nil {
		b.Fatal(err)
	}
	c, err := journal.Create(b.Context(), st, journal.CreateOptions{Name: "bench", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		b.Fatal(err)
	}
	const runs, entries = 11, 200_000
	if err := synthetic(b.Context(), c, gib, runs, entries, time.Now()); err != nil {
		b.Fatal(err)
	}
	resetPeak(b)
	before := peak()
	for b.Loop() {
		m, err := New(b.Context(), c, Options{})
		if err != nil {
			b.Fatal(err)
		}
		m.request(request{full: true})
		r, err := m.Pass(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if !r.Full {
			b.Fatal("it was no full pass")
		}
		in := float64(gib)*(1<<30/dr.ChunkSize) + runs*entries
		b.ReportMetric(in, "entries")
		b.ReportMetric(in/r.Took.Seconds(), "entries/s")
		b.ReportMetric(float64(r.Stats.Index)/float64(r.Entries), "index-bytes/entry")
		b.ReportMetric(float64(peak())/(1<<20), "peak-MiB")
		b.ReportMetric(float64(before)/(1<<20), "before-MiB")
	}
}
