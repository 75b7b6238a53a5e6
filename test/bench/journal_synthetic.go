package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/journal"
)

// Where the entries of a synthetic history lie.
const (
	// syntheticFrames is how many frames an object has: some 14 MB, too large
	// to be packed. It divides scatter, so that no object is smaller.
	syntheticFrames = 512
	// scatter is the stretch of chunks in which versions after the first come
	// in a mixed order, and scatterBy what mixes them: odd.
	scatter   = 1 << 14
	scatterBy = 0x2545
)

var (
	syntheticDisk     = dr.DiskID{UUID: dr.UUID{0xd1}}
	syntheticTimeline = dr.TimelineID{UUID: dr.UUID{0x71}}
)

// synthetic is the index of a disk of which every chunk was written as often
// as versions says: once in order, then in stretches of mixed order. There is
// no content behind it, which neither resolving nor merging reads.
type synthetic struct {
	timeline dr.TimelineID
	disk     dr.DiskID
	chunks   int // a multiple of scatter
	versions int
}

// span is a run: versions from..to, the upper end left out.
type span struct{ from, to int }

// plan is the runs, newest first: the last version is one that maintenance has
// not merged with the others yet.
func (s synthetic) plan() []span {
	if s.versions == 1 {
		return []span{{0, 1}}
	}
	return []span{{s.versions - 1, s.versions}, {0, s.versions - 1}}
}

// last is the newest record, and so what its checkpoint sees.
func (s synthetic) last() dr.Seq { return dr.Seq(s.chunks*s.versions) + 1 }

func (s synthetic) seq(version, chunk int) dr.Seq {
	if version > 0 {
		chunk = chunk&^(scatter-1) | chunk*scatterBy&(scatter-1)
	}
	return dr.Seq(version*s.chunks+chunk) + 1
}

// number is the journal object that a record's frame lies in: the first is a
// fence.
func number(seq dr.Seq) dr.ObjectNumber {
	return journal.FirstNumber + 1 + dr.ObjectNumber((seq-1)/syntheticFrames)
}

func frame(seq dr.Seq) uint32 { return uint32((seq - 1) % syntheticFrames) }

// stored is a frame's size: 12 to 44 kB, with nothing in it to compress.
func stored(seq dr.Seq) uint32 {
	x := uint64(seq) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return 12_000 + uint32((x^x>>31)>>49)
}

// write makes the parts of one run.
func (s synthetic) write(run span, emit func(index.Part) error) error {
	if s.timeline.IsZero() {
		s.timeline, s.disk = syntheticTimeline, syntheticDisk
	}
	cat := &index.Catalog{}
	disk, err := cat.Disk(s.disk)
	if err != nil {
		return err
	}
	objects := make(map[dr.ObjectNumber]uint32)
	w := index.NewWriter(cat, emit, index.WriterOptions{})
	for chunk := range s.chunks {
		for version := run.to - 1; version >= run.from; version-- {
			seq := s.seq(version, chunk)
			object, ok := objects[number(seq)]
			if !ok {
				if object, err = cat.Object(index.ObjectID{Timeline: s.timeline, Number: number(seq)}); err != nil {
					return err
				}
				objects[number(seq)] = object
			}
			e := index.Entry{Seq: seq, Chunk: uint32(chunk), Chunks: 1, Mask: 0xffff, Disk: disk, Object: object, Frame: frame(seq), Stored: stored(seq)}
			if err := w.Add(&e); err != nil {
				return err
			}
		}
	}
	return w.Finish()
}

// store writes the runs, as sealed parts, and the manifest that refers to them
// into a container that has nothing else, as of made.
func (s synthetic) store(ctx context.Context, c *journal.Container, made time.Time) error {
	m := &journal.Manifest{
		Timeline: s.timeline, Generation: 1, Created: made, By: "bench",
		Anchor: s.anchor(), Points: s.points(made), Objects: s.objects(made),
		Policy: journal.Policy{Schedule: []journal.Slot{{Every: time.Hour, For: 30 * 24 * time.Hour}}, Grace: 24 * time.Hour},
	}
	for _, run := range s.plan() {
		ref := journal.RunRef{First: dr.Seq(run.from*s.chunks) + 1, Last: dr.Seq(run.to * s.chunks)}
		err := s.write(run, func(p index.Part) error {
			part, err := c.WriteRunPart(ctx, s.timeline, p.Bytes, journal.WriteOptions{})
			if err != nil {
				return err
			}
			part.Entries, part.First, part.Last = uint64(p.Entries), p.First, p.Last
			ref.Entries += part.Entries
			ref.Parts = append(ref.Parts, part)
			return nil
		})
		if err != nil {
			return err
		}
		m.Runs = append(m.Runs, ref)
	}
	return c.WriteManifest(ctx, m)
}

// anchor is that of the last object. Its digest is made up: nothing but the
// next object refers to it.
func (s synthetic) anchor() journal.Anchor {
	n := number(s.last() - 1)
	return journal.Anchor{Number: n, Digest: sha256.Sum256([]byte("synthetic")), Epoch: 1, Next: n + 1,
		LastSeq: s.last() - 1, Objects: uint64(n), Fences: 1}
}

// points are a checkpoint behind each version of the whole disk, an hour apart.
func (s synthetic) points(made time.Time) []journal.Point {
	var out []journal.Point
	disks := []dr.CheckpointDisk{{ID: s.disk, VM: dr.VMID{UUID: dr.UUID{0x77}}, Size: int64(s.chunks) * dr.ChunkSize, Synced: true}}
	for v := range s.versions {
		at := made.Add(-time.Duration(s.versions-v) * time.Hour)
		end := dr.Seq((v + 1) * s.chunks)
		out = append(out, journal.Point{
			Checkpoint: dr.Checkpoint{ID: dr.CheckpointID(v + 1), Seq: end + 1, Time: at, Scope: dr.Group, Disks: disks},
			Object:     number(end), PublishedAt: at, Reasons: []journal.Reason{{Kind: journal.BySchedule, Name: "1h"}},
		})
	}
	return out
}

func (s synthetic) objects(made time.Time) []journal.ObjectState {
	var out []journal.ObjectState
	created := made.Add(-time.Duration(s.versions+1) * time.Hour)
	for seq := dr.Seq(1); seq < s.last(); {
		o := journal.ObjectState{ID: index.ObjectID{Timeline: s.timeline, Number: number(seq)}, Created: created}
		for n := number(seq); seq < s.last() && number(seq) == n; seq++ {
			o.Live += int64(stored(seq))
		}
		o.Size = o.Live + 32<<10
		out = append(out, o)
	}
	return out
}

// check compares an image of the checkpoint behind a version with what it must
// be: each frame of that version once and whole, and nothing else.
func (s synthetic) check(img *journal.Image, version int) error {
	first, end := dr.Seq(version*s.chunks)+1, dr.Seq((version+1)*s.chunks)
	next := first
	for _, o := range img.Objects {
		for _, f := range o.Frames {
			if o.Ref.Number != number(next) || f.Frame != frame(next) || f.Take != 0xffff || f.Disk != 0 {
				return fmt.Errorf("the image takes %+v of object %v where record %d is due", f, o.Ref, next)
			}
			next++
		}
	}
	if next != end+1 || img.Disks[0].Bytes != int64(s.chunks)*dr.ChunkSize {
		return fmt.Errorf("the image ends at record %d of %d and has %d bytes", next-1, end, img.Disks[0].Bytes)
	}
	return nil
}
