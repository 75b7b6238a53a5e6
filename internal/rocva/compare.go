package rocva

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// Hashes finds what a history has of chunks from..to-1 of a disk.
type Hashes func(ctx context.Context, disk dr.DiskID, from, to uint32) (*journal.DiskHashes, error)

// Comparison is a disk and what it is compared with.
type Comparison struct {
	Disk   dr.DiskID
	Size   int64       // bytes
	File   io.ReaderAt // what lies behind its end counts as zeroes
	Hashes Hashes
	// Within, if not nil, is where the disk may differ: the rest is not read.
	Within *index.Blocks
	// Progress, if not nil, is called now and then with how many bytes were gone
	// over, by one goroutine.
	Progress func(n int64)
}

// Differing returns the blocks of a disk that are not what the hashes say, and
// how many bytes were read. Errors are the file's and Hashes'.
func Differing(ctx context.Context, c Comparison) (*index.Blocks, int64, error) {
	w := &comparison{Comparison: c, out: index.NewBlocks(c.Size)}
	chunks := uint32((c.Size + dr.ChunkSize - 1) / dr.ChunkSize)
	for from := uint32(0); from < chunks; from += journal.MaxHashRange {
		to := min(from+journal.MaxHashRange, chunks)
		if w.any(from, to) {
			h, err := c.Hashes(ctx, c.Disk, from, to)
			if err != nil {
				return nil, w.read, err
			}
			w.hashes = h
			if err := w.run(ctx, from, to); err != nil {
				return nil, w.read, errs.E("rocva.Differing", errs.Internal, c.Disk.String(), err)
			}
		}
		if c.Progress != nil {
			c.Progress(min(int64(to)*dr.ChunkSize, c.Size))
		}
	}
	return w.out, w.read, nil
}

// comparison is one under way.
type comparison struct {
	Comparison
	hashes *journal.DiskHashes // of the chunks that are compared just now

	mu   sync.Mutex // guards the rest
	out  *index.Blocks
	read int64
}

// any reports whether chunks from..to-1 are to be looked at.
func (w *comparison) any(from, to uint32) bool {
	if w.Within == nil {
		return true
	}
	for c := from; c < to; c++ {
		if w.Within.Mask(c) != 0 {
			return true
		}
	}
	return false
}

// run compares chunks from..to-1, a piece after the other on each processor.
func (w *comparison) run(ctx context.Context, from, to uint32) error {
	g, ctx := errgroup.WithContext(ctx)
	pieces := make(chan uint32)
	g.Go(func() error {
		defer close(pieces)
		for c := from; c < to; c += comparePiece / dr.ChunkSize {
			if !w.any(c, min(c+comparePiece/dr.ChunkSize, to)) {
				continue
			}
			select {
			case pieces <- c:
			case <-ctx.Done():
				return errs.E("rocva.Differing", errs.Canceled, "", context.Cause(ctx))
			}
		}
		return nil
	})
	for range min(runtime.GOMAXPROCS(0), compareMost) {
		g.Go(func() error {
			buf := durable.AlignedBytes(comparePiece)
			hashers := make(map[segment.HashKey]*segment.BlockHasher)
			for c := range pieces {
				p := buf[:min(int64(comparePiece), int64(to-c)*dr.ChunkSize)]
				if err := w.fill(p, int64(c)*dr.ChunkSize); err != nil {
					return err
				}
				w.judge(p, c, hashers)
			}
			return nil
		})
	}
	return g.Wait()
}

// fill reads p from off; zeroes behind the end of the file or the disk.
func (w *comparison) fill(p []byte, off int64) error {
	n, err := w.File.ReadAt(p[:min(int64(len(p)), w.Size-off)], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("byte %d: %w", off+int64(n), err)
	}
	clear(p[n:])
	w.mu.Lock()
	w.read += int64(n)
	w.mu.Unlock()
	return nil
}

// judge adds the blocks of p, which begins with a chunk, that differ.
func (w *comparison) judge(p []byte, chunk uint32, hashers map[segment.HashKey]*segment.BlockHasher) {
	h := w.hashes
	for at := chunk - h.First; len(p) > 0; at++ {
		var differ uint16
		for i := range uint32(dr.BlocksPerChunk) {
			block := p[i*dr.BlockSize : (i+1)*dr.BlockSize]
			if h.Masks[at]>>i&1 == 0 {
				if !isZero(block) {
					differ |= 1 << i
				}
				continue
			}
			key := h.Under[h.Keys[at*dr.BlocksPerChunk+i]]
			if hashers[key] == nil {
				hashers[key] = key.Hasher()
			}
			if hashers[key].Sum(block) != h.Hashes[at*dr.BlocksPerChunk+i] {
				differ |= 1 << i
			}
		}
		if w.Within != nil {
			differ &= w.Within.Mask(h.First + at)
		}
		if differ != 0 {
			w.mu.Lock()
			w.out.Add(h.First+at, differ)
			w.mu.Unlock()
		}
		p = p[dr.ChunkSize:]
	}
}

// compareDisks finds what differs on the disks that are to be compared and were
// not yet.
func (u *update) compareDisks(ctx context.Context) error {
	for _, d := range u.disks {
		if !d.compare || d.differ != nil {
			continue
		}
		name := d.Path
		if there, err := exists(u.fs, d.Path); err != nil || !there {
			name = d.partial()
		}
		f, err := u.fs.OpenFile(name, 0)
		if err != nil {
			return errs.E("rocva.Update", errs.Internal, name, err)
		}
		var n int64
		d.differ, n, err = Differing(ctx, Comparison{Disk: d.Disk, Size: d.disk.Size, File: f, Hashes: u.hashesAt})
		u.compared.Add(n)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hashesAt are those of the checkpoint. What was read of the index serves all
// disks.
func (u *update) hashesAt(ctx context.Context, disk dr.DiskID, from, to uint32) (*journal.DiskHashes, error) {
	if u.hashes == nil {
		u.hashes = journal.NewHashCache()
	}
	return u.plan.History.HashesAt(ctx, u.hashes, u.plan.Checkpoint, disk, from, to)
}
