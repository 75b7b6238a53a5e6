package ondemand

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
)

// ReadOnly is a disk of a checkpoint with no file behind it: what is read comes
// from the container, proven as all is, and some of it is kept in memory
// (Options.CacheSize). Writes are refused. The Closer ends operations under
// way. Kinds: Invalid, NotFound, Corrupt.
func ReadOnly(ctx context.Context, c *journal.Container, img *journal.Image, id dr.DiskID, o Options) (nbd.Disk, io.Closer, error) {
	const op = "ondemand.ReadOnly"
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	for i, d := range img.Disks {
		if d.ID != id {
			continue
		}
		src, err := newSource(img, i)
		if err != nil {
			return nil, nil, err
		}
		r := &view{source: src, fetch: newFetcher(c, img, o), keep: int(o.CacheSize / dr.ChunkSize), chunks: map[uint32]*cached{}}
		r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
		return r, r, nil
	}
	return nil, nil, errs.New(op, errs.NotFound, id.String(), fmt.Sprintf("checkpoint #%d has no such disk", img.Checkpoint.ID)).
		WithRemedy("inspect the container to see its disks")
}

// view is a read-only disk.
type view struct {
	source
	fetch  *fetcher
	ahead  ahead
	ctx    context.Context
	cancel context.CancelFunc
	gate   gate
	keep   int // chunks in memory

	mu     sync.Mutex
	chunks map[uint32]*cached // guarded by mu
	clock  uint64             // guarded by mu; counts uses
}

// cached is a chunk in memory.
type cached struct {
	have uint16
	used uint64
	b    []byte // dr.ChunkSize
}

// lacks implements sink.
func (v *view) lacks(chunk uint32, blocks uint16) uint16 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lacksLocked(chunk, blocks)
}

func (v *view) lacksLocked(chunk uint32, blocks uint16) uint16 {
	blocks &= v.content[chunk]
	if c := v.chunks[chunk]; c != nil {
		blocks &^= c.have
	}
	return blocks
}

// put implements sink.
func (v *view) put(chunk uint32, take, mask uint16, b []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.chunks[chunk]
	if c == nil {
		c = &cached{b: v.roomLocked()}
		v.chunks[chunk] = c
	}
	v.clock++
	c.used = v.clock
	for ; mask != 0; mask &= mask - 1 {
		if i := bits.TrailingZeros16(mask); take>>i&1 == 1 {
			copy(c.b[i*dr.BlockSize:][:dr.BlockSize], b)
		}
		b = b[dr.BlockSize:]
	}
	c.have |= take
	return nil
}

// roomLocked returns zeroed memory for a chunk: of the one that was used
// longest ago, of some that are looked at, when there are enough.
func (v *view) roomLocked() []byte {
	if len(v.chunks) < v.keep {
		return make([]byte, dr.ChunkSize)
	}
	oldest, looked := uint32(0), 0
	var victim *cached
	for n, c := range v.chunks { // a map gives its members in no order
		if victim == nil || c.used < victim.used {
			oldest, victim = n, c
		}
		if looked++; looked == evictLooks {
			break
		}
	}
	delete(v.chunks, oldest)
	clear(victim.b)
	return victim.b
}

func (v *view) number() uint16 { return v.place }

// Size implements nbd.Primary.
func (v *view) Size() int64 { return v.disk.Size }

// NextData implements nbd.Primary.
func (v *view) NextData(off int64) (start, end int64, err error) {
	return nextData(v.disk.Size, off, func(c uint32) uint16 { return v.content[c] })
}

// ReadAt implements nbd.Primary.
func (v *view) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errs.New("ondemand.ReadAt", errs.Invalid, v.disk.ID.String(), "negative offset")
	}
	n := int(max(0, min(int64(len(p)), v.disk.Size-off)))
	if n > 0 {
		if !v.gate.enter() {
			return 0, errs.New("ondemand.ReadAt", errs.Unavailable, v.disk.ID.String(), "the disk is closed")
		}
		defer v.gate.leave()
		if err := v.read(p[:n], off); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read fills p, which lies on the disk.
func (v *view) read(p []byte, off int64) error {
	r := extent.Range{Off: off, Len: int64(len(p))}
	first, last := chunkSpan(r)
	touched := func(c uint32) uint16 {
		t, _ := blocksOf(c, r, v.disk.Size)
		return t
	}
	missing := wants(v, first, last, touched)
	v.fetch.lookAhead(v.ctx, &v.gate, &v.ahead, v, first, last, len(missing) > 0, uint32(len(v.content)))
	for c := first; c <= last; {
		if len(missing) > 0 {
			if err := v.fetch.hold(v.ctx, v, missing); err != nil {
				return err
			}
		}
		part := r.Intersect(extent.Range{Off: int64(c) * dr.ChunkSize, Len: dr.ChunkSize})
		if missing = wants(v, c, c, touched); v.copy(p[part.Off-off:][:part.Len], part.Off, c, touched(c)) {
			c, missing = c+1, nil
		}
	}
	return nil
}

// copy copies a part of a chunk out of the cache; false when it is not there,
// or not any more.
func (v *view) copy(p []byte, off int64, chunk uint32, touched uint16) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lacksLocked(chunk, touched) != 0 {
		return false
	}
	c := v.chunks[chunk]
	if c == nil {
		clear(p)
		return true
	}
	v.clock++
	c.used = v.clock
	copy(p, c.b[off%dr.ChunkSize:])
	return true
}

// Submit implements nbd.Device.
func (v *view) Submit(op *nbd.Op) {
	switch op.Kind {
	case nbd.Flush:
		op.Complete(nil)
		return
	case nbd.Write, nbd.Trim, nbd.WriteZeroes:
		op.Complete(errs.New("ondemand.Submit", errs.Denied, v.disk.ID.String(), "a checkpoint's disk is read-only"))
		return
	case nbd.Read:
	}
	if !v.gate.enter() {
		op.Complete(errs.New("ondemand.Submit", errs.Unavailable, v.disk.ID.String(), "the disk is closed"))
		return
	}
	go func() {
		defer v.gate.leave()
		op.Complete(v.read(op.Data, op.Offset))
	}()
}

// Close ends operations under way and frees what was kept.
func (v *view) Close() error {
	v.gate.shut()
	v.cancel()
	v.gate.wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.chunks = nil
	return nil
}

// gate counts operations until it is shut.
type gate struct {
	mu     sync.Mutex
	closed bool // guarded by mu
	ops    sync.WaitGroup
}

// enter begins an operation; false once the gate is shut.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.ops.Add(1)
	}
	return !g.closed
}

func (g *gate) leave() { g.ops.Done() }

// shut lets nobody in any more; true the first time.
func (g *gate) shut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.closed
	g.closed = true
	return !was
}

// wait returns when all who entered have left.
func (g *gate) wait() { g.ops.Wait() }
