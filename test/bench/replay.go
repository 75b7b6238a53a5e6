package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// replay is a disk rebuilt from the container alone, kept up to date: each
// time, only the objects published since are read. The blocks of a file
// nobody but the replay writes thus are what the history says, from the first
// object on.
type replay struct {
	c       *journal.Container
	h       *journal.History
	disk    dr.DiskID
	size    int64
	scratch *os.File
	upTo    dr.ObjectNumber // the last object that is in scratch
	covered blockSet        // blocks that the history gives; the others are zero

	mu     sync.Mutex                          // guards opened
	opened map[dr.ObjectNumber]*journal.Object // footers, kept: where a frame lies is in its object's
}

// blockSet is a set of block numbers.
type blockSet []uint64

func newBlockSet(size int64) blockSet { return make(blockSet, (size/blockSize+63)/64) }

func (s blockSet) add(b int64)      { s[b/64] |= 1 << (b % 64) }
func (s blockSet) has(b int64) bool { return s[b/64]>>(b%64)&1 == 1 }

// openReplay begins the replay of a disk into a new file.
func openReplay(ctx context.Context, c *journal.Container, disk dr.DiskID, size int64, path string) (*replay, error) {
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &replay{c: c, h: h, disk: disk, size: size, scratch: f, covered: newBlockSet(size),
		opened: make(map[dr.ObjectNumber]*journal.Object)}, nil
}

func (r *replay) close() error { return errors.Join(r.scratch.Close(), os.Remove(r.scratch.Name())) }

// advance brings the scratch file to the checkpoint and every block's hash is
// checked on the way.
func (r *replay) advance(ctx context.Context, id dr.CheckpointID) error {
	if err := r.h.Extend(ctx); err != nil {
		return err
	}
	if p := r.h.Problems(); len(p) > 0 {
		return fmt.Errorf("%w: the history is damaged: %s: %s", errDiffer, p[0].Object, p[0].What)
	}
	cp, err := r.h.Find(fmt.Sprintf("#%d", id))
	if err != nil {
		return err
	}
	img, err := r.h.Resolve(ctx, cp)
	if err != nil {
		return err
	}
	index := -1
	for i, d := range img.Disks {
		if d.ID == r.disk && d.Size == r.size {
			index = i
		}
	}
	if index < 0 {
		return fmt.Errorf("checkpoint %d has no disk %s of %d bytes", id, r.disk, r.size)
	}
	if err := r.takeObjects(ctx, img, index); err != nil {
		return err
	}
	return r.clearBlocks(img, index)
}

// takeObjects applies what the image takes from objects that are new. In one
// image no two frames give the same block, so their order does not matter.
func (r *replay) takeObjects(ctx context.Context, img *journal.Image, index int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	newest := r.upTo
	for _, o := range img.Objects {
		if o.Ref.Number <= r.upTo {
			continue
		}
		newest = max(newest, o.Ref.Number)
		g.Go(func() error { return r.takeObject(ctx, img, o, index) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.upTo = newest
	return nil
}

func (r *replay) takeObject(ctx context.Context, img *journal.Image, from journal.ImageObject, index int) error {
	o, err := r.c.OpenSized(ctx, from.Ref, from.Size)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.opened[from.Ref.Number] = o
	r.mu.Unlock()
	entries, err := o.Entries(img, &from)
	if err != nil {
		return err
	}
	var sealed, blocks []byte
	for i, e := range entries {
		if int(from.Frames[i].Disk) != index {
			continue
		}
		sealed = append(sealed[:0], make([]byte, e.Stored)...)
		if err := o.ReadAt(ctx, sealed, int64(e.Offset)); err != nil {
			return err
		}
		if blocks, err = o.OpenFrame(blocks[:0], e, sealed, true); err != nil {
			return err
		}
		if err := r.place(e, from.Frames[i].Take, blocks); err != nil {
			return err
		}
	}
	return nil
}

// place writes the blocks of a frame that belong to the image.
func (r *replay) place(e *segment.Entry, take uint16, blocks []byte) error {
	at := int64(e.Chunk) * dr.ChunkSize
	for i := range dr.BlocksPerChunk {
		if e.Mask>>i&1 == 0 {
			continue
		}
		off := at + int64(i)*dr.BlockSize
		if take>>i&1 == 1 {
			b := blocks[:min(dr.BlockSize, r.size-off)]
			if _, err := r.scratch.WriteAt(b, off); err != nil {
				return err
			}
		}
		blocks = blocks[dr.BlockSize:]
	}
	return nil
}

// clearBlocks zeroes the blocks that the history gave before and gives no
// more.
func (r *replay) clearBlocks(img *journal.Image, index int) error {
	now := newBlockSet(r.size)
	for _, o := range img.Objects {
		for _, p := range o.Frames {
			if int(p.Disk) != index {
				continue
			}
			e, err := r.opened[o.Ref.Number].Entry(p.Frame) // opened when it was new
			if err != nil {
				return err
			}
			for i := range int64(dr.BlocksPerChunk) {
				if p.Take>>i&1 == 1 {
					now.add(int64(e.Chunk)*dr.BlocksPerChunk + i)
				}
			}
		}
	}
	zero := make([]byte, blockSize)
	for b := range r.size / blockSize {
		if r.covered.has(b) && !now.has(b) {
			if _, err := r.scratch.WriteAt(zero, b*blockSize); err != nil {
				return err
			}
		}
	}
	r.covered = now
	return nil
}

// compare compares the rebuilt disk with the primary, which nobody may be
// writing.
func (r *replay) compare(ctx context.Context, primary string) error {
	f, err := os.Open(primary)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sameContent(ctx, r.size, f, r.scratch); err != nil {
		return fmt.Errorf("disk rebuilt from the container and primary: %w", err)
	}
	return nil
}
