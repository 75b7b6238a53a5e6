package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

// published is a container to which a test publishes what happens to a disk.
type published struct {
	t    *testing.T
	c    *journal.Container
	pub  *journal.Publisher
	b    *segment.Builder
	disk dr.DiskID
	vm   dr.VMID
	img  []byte
	seq  dr.Seq
	done dr.Seq // the last that is published
	cp   dr.CheckpointID
}

func newPublished(t *testing.T, size int) *published {
	t.Helper()
	key, err := journal.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := journal.Create(t.Context(), mem.New(), journal.CreateOptions{Name: "bench", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := c.OpenPublisher(t.Context(), journal.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pub.Close(); err != nil {
			t.Error(err)
		}
	})
	return &published{t: t, c: c, pub: pub, b: c.NewBuilder(segment.BuilderOptions{}),
		disk: dr.DiskID{UUID: dr.NewUUID()}, vm: dr.VMID{UUID: dr.NewUUID()}, img: make([]byte, size)}
}

// chunk gives some blocks of a chunk new content.
func (p *published) chunk(n uint32, mask uint16) {
	p.t.Helper()
	var blocks []byte
	for i := range dr.BlocksPerChunk {
		if mask>>i&1 == 0 {
			continue
		}
		at := p.img[int(n)*dr.ChunkSize+i*dr.BlockSize:][:dr.BlockSize]
		for j := range at {
			at[j] = byte(rand.Uint32())
		}
		blocks = append(blocks, at...)
	}
	p.seq++
	if err := p.b.AddFrame(p.disk, n, mask, p.seq, blocks); err != nil {
		p.t.Fatal(err)
	}
}

// zero zeroes blocks.
func (p *published) zero(first, count uint64) {
	p.t.Helper()
	clear(p.img[first*dr.BlockSize : (first+count)*dr.BlockSize])
	p.seq++
	if err := p.b.AddZero(p.disk, first, count, p.seq); err != nil {
		p.t.Fatal(err)
	}
}

// checkpoint publishes what was added since the last.
func (p *published) checkpoint() dr.CheckpointID {
	p.t.Helper()
	p.cp++
	p.b.SetSeqs(p.done+1, p.seq)
	p.b.SetCheckpoint(dr.Checkpoint{ID: p.cp, Seq: p.seq + 1, Time: time.Now().UTC(), Scope: dr.Group,
		Disks: []dr.CheckpointDisk{{ID: p.disk, VM: p.vm, Size: int64(len(p.img)), Synced: true}}})
	q, err := p.pub.Publish(p.t.Context(), p.b)
	if err == nil {
		err = q.Wait(p.t.Context())
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.b.Reset()
	p.done = p.seq
	return p.cp
}

// rebuilt advances a replay to a checkpoint and compares it with a disk file.
func rebuilt(t *testing.T, r *replay, id dr.CheckpointID, disk []byte) error {
	t.Helper()
	if err := r.advance(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return r.compare(t.Context(), path)
}

// TestReplayFollowsTheHistory: over several checkpoints the rebuilt disk is
// the disk, also where blocks were overwritten in part or zeroed, and a disk
// with one write the history does not have is told from it.
func TestReplayFollowsTheHistory(t *testing.T) {
	const size = 8 * mib
	p := newPublished(t, size)
	for n := range uint32(size / dr.ChunkSize) {
		p.chunk(n, 0xffff)
	}
	first := p.checkpoint()
	r, err := openReplay(t.Context(), p.c, p.disk, size, filepath.Join(t.TempDir(), "replay"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := rebuilt(t, r, first, p.img); err != nil {
		t.Error(err)
	}

	p.chunk(3, 0x0ff0)
	p.checkpoint() // not looked at
	p.chunk(3, 0x00ff)
	p.chunk(9, 0x0001)
	p.zero(16*5+3, 40)
	p.zero(16*60, 16)
	if err := rebuilt(t, r, p.checkpoint(), p.img); err != nil {
		t.Error(err)
	}
	p.chunk(6, 0x8001)
	last := p.checkpoint()
	if err := rebuilt(t, r, last, p.img); err != nil {
		t.Error(err)
	}

	missed := bytes.Clone(p.img)
	missed[77*blockSize+123] ^= 1
	if err := rebuilt(t, r, last, missed); !errors.Is(err, errDiffer) {
		t.Errorf("a write the history does not have: %v, want %v", err, errDiffer)
	}
	if err := rebuilt(t, r, last, p.img[:size-blockSize]); err == nil {
		t.Error("a short disk passes for a whole one")
	}
	if err := r.advance(t.Context(), last+1); err == nil {
		t.Error("a checkpoint that does not exist was rebuilt")
	}
}

// TestChangedCountsBlocks: what shipping is measured against.
func TestChangedCountsBlocks(t *testing.T) {
	const size = 2 * mib
	p := newPublished(t, size)
	for n := range uint32(size / dr.ChunkSize) {
		p.chunk(n, 0xffff)
	}
	r, err := openReplay(t.Context(), p.c, p.disk, size, filepath.Join(t.TempDir(), "replay"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.advance(t.Context(), p.checkpoint()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	now := bytes.Clone(p.img)
	now[0] ^= 1
	now[5*blockSize] ^= 1
	now[5*blockSize+9] ^= 1
	now[size-1] ^= 1
	if err := os.WriteFile(path, now, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := r.changed(t.Context(), path); err != nil || n != 3*blockSize {
		t.Errorf("got %d, %v; want three blocks", n, err)
	}
}
