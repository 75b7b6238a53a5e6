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

// Differing reads a disk and returns the blocks that are not what checkpoint cp
// of h has of it, and how many bytes were read. What lies behind the file's end
// counts as zeroes. size is the disk's, at the checkpoint.
func Differing(ctx context.Context, h *journal.History, cache *journal.HashCache, cp journal.CheckpointInfo, disk dr.DiskID, size int64, file io.ReaderAt) (*index.Blocks, int64, error) {
	out := index.NewBlocks(size)
	chunks := uint32((size + dr.ChunkSize - 1) / dr.ChunkSize)
	var read int64
	for from := uint32(0); from < chunks; from += journal.MaxHashRange {
		to := min(from+journal.MaxHashRange, chunks)
		hashes, err := h.HashesAt(ctx, cache, cp, disk, from, to)
		if err != nil {
			return nil, read, err
		}
		w := &comparison{file: file, hashes: hashes, size: size, out: out}
		if err := w.run(ctx, from, to); err != nil {
			return nil, read, errs.E("rocva.Differing", errs.Internal, disk.String(), err)
		}
		read += min(int64(to)*dr.ChunkSize, size) - int64(from)*dr.ChunkSize
	}
	return out, read, nil
}

// comparison is of the chunks whose hashes were read together.
type comparison struct {
	file   io.ReaderAt
	hashes *journal.DiskHashes
	size   int64

	mu  sync.Mutex
	out *index.Blocks // guarded by mu
}

// run compares chunks from..to-1, a piece after the other on each processor.
func (w *comparison) run(ctx context.Context, from, to uint32) error {
	g, ctx := errgroup.WithContext(ctx)
	pieces := make(chan uint32)
	g.Go(func() error {
		defer close(pieces)
		for c := from; c < to; c += comparePiece / dr.ChunkSize {
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
				if err := w.read(p, int64(c)*dr.ChunkSize); err != nil {
					return err
				}
				w.judge(p, c, hashers)
			}
			return nil
		})
	}
	return g.Wait()
}

// read fills p from off; zeroes behind the end of the file or the disk.
func (w *comparison) read(p []byte, off int64) error {
	n, err := w.file.ReadAt(p[:min(int64(len(p)), w.size-off)], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("byte %d: %w", off+int64(n), err)
	}
	clear(p[n:])
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
		d.differ, n, err = Differing(ctx, u.plan.History, u.cache(), u.plan.Checkpoint, d.Disk, d.disk.Size, f)
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

// cache keeps what comparisons of several disks read of the index.
func (u *update) cache() *journal.HashCache {
	if u.hashes == nil {
		u.hashes = journal.NewHashCache()
	}
	return u.hashes
}
