package iofilter

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/segment"
	"holdfast/internal/wire"
)

// hashLink is what the host has asked the DRVA about block hashes. Guarded by
// the outlet's mutex.
type hashLink struct {
	on   bool // the DRVA answers such questions
	next uint32
	open map[uint32]*question // asked on this connection and not answered
}

// question is about the chunks of one window of a disk. The cursor owns it;
// what the receiver writes is guarded by the outlet's mutex.
type question struct {
	disk  *disk
	first uint32 // chunk
	count uint32
	// need is the last record that had entered when a change of the disk last
	// bypassed the stream. The answer holds all records up to it, so it says
	// what the domain's order says of a block, unless a younger record does; and
	// that one has what the primary has, if nothing has bypassed the stream
	// since.
	need dr.HostSeq
	link uint64 // which connection it was asked on: records of another may have other numbers

	answer *wire.HashAnswer // guarded
	gone   bool             // guarded: it will not be answered
	places []place          // of each chunk, once there is an answer
}

// place is where a chunk's pieces and hashes begin in an answer.
type place struct{ piece, hash int32 }

// bypassLocked notes that d changes, or is taken for different from its copy,
// by something that is not in the stream.
func (o *outlet) bypassLocked(d *disk) { d.bypass = o.str.Next() - 1 }

// hashedLocked takes in which disks the DRVA has an earlier state of.
func (o *outlet) hashedLocked(w *wire.Welcome) {
	o.hash = hashLink{next: o.hash.next, open: make(map[uint32]*question)}
	o.boots.kept = false
	for _, f := range w.Features {
		o.hash.on = o.hash.on || f == wire.FeatureHash
		o.boots.kept = o.boots.kept || f == wire.FeatureBoot
	}
	for _, i := range w.Unsynced {
		if d := o.diskLocked(i); d != nil {
			d.compare = false
		}
	}
	for _, i := range w.Hashed {
		if d := o.diskLocked(i); d != nil {
			d.compare = d.unsynced
		}
	}
	signal(o.syncKick)
}

// hashDownLocked gives up what is asked: the connection is gone.
func (o *outlet) hashDownLocked() {
	for _, q := range o.hash.open {
		q.gone = true
	}
	o.hash.on, o.hash.open = false, nil
	signal(o.answered)
}

// onHashAnswer takes in an answer. What nobody waits for any more is dropped.
func (o *outlet) onHashAnswer(a *wire.HashAnswer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.hash.open[a.ID]
	if q == nil {
		return nil
	}
	delete(o.hash.open, a.ID)
	if len(a.States) != int(q.count) {
		return errs.E("iofilter.hash", errs.Invalid, "drva", fmt.Errorf("an answer about %d chunks, asked were %d", len(a.States), q.count))
	}
	q.answer = a
	signal(o.answered)
	return nil
}

// sequencedLocked wakes the cursor if it waits for a record to have its place.
func (o *outlet) sequencedLocked() {
	if n := o.cursor.place; n != 0 && o.str.Sequenced() >= n {
		o.cursor.place = 0
		signal(o.syncKick)
	}
}

// mayCompareLocked reports whether d, if it is to be compared, can be now. If
// not, what it waits for will signal the cursor.
func (o *outlet) mayCompareLocked(d *disk) bool {
	if !d.compare {
		return true
	}
	if !o.link.replayed { // a question must not overtake the records it rests on
		return false
	}
	if o.hash.on && o.str.Sequenced() < d.bypass {
		o.cursor.place = d.bypass // the DRVA could not say yet what it holds
		return false
	}
	return true
}

// step deals with the dirty chunks at chunk: compares them, if what the DRVA
// holds of the disk is known, or copies them. It returns the bytes read.
func (c *cursor) step(ctx context.Context, d *disk, chunk uint32) (int, error) {
	q, err := c.answerFor(ctx, d, chunk)
	switch {
	case errors.Is(err, errNoAnswer):
		return c.copyFrom(ctx, d, chunk)
	case err != nil || q == nil:
		return 0, err
	}
	return c.compareFrom(ctx, d, chunk, q)
}

// errNoAnswer says that the window at hand is to be shipped.
var errNoAnswer = errors.New("nothing to compare with")

// answerFor returns the answered question whose window has chunk, having asked
// about the next windows too. No question and no error: look again.
func (c *cursor) answerFor(ctx context.Context, d *disk, chunk uint32) (*question, error) {
	o := c.o
	o.mu.Lock()
	if !d.compare || !o.hash.on || c.stale >= staleMost {
		c.dropLocked()
		c.stale = 0
		o.mu.Unlock()
		return nil, errNoAnswer
	}
	if !o.mayCompareLocked(d) { // not any more: something has bypassed the stream since mayGo
		o.mu.Unlock()
		return nil, nil
	}
	c.askLocked(d, chunk)
	q := c.asked[0]
	o.mu.Unlock()
	deadline := o.now() + answerLimit
	for {
		o.mu.Lock()
		answer, gone := q.answer, q.gone
		if gone {
			c.asked = nil
		}
		o.mu.Unlock()
		switch {
		case gone:
			return nil, nil
		case answer != nil:
			c.impatient = false
			if q.places == nil {
				q.places = placesOf(answer)
			}
			return q, nil
		case c.impatient || o.now() >= deadline:
			c.impatient = true // until one comes
			return nil, errNoAnswer
		}
		sleepUntil(ctx, o.answered, deadline-o.now())
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// dropLocked forgets what was asked.
func (c *cursor) dropLocked() {
	for _, q := range c.asked {
		for id, p := range c.o.hash.open {
			if p == q {
				delete(c.o.hash.open, id)
			}
		}
	}
	c.asked = nil
}

// askLocked makes asked the questions about the window of chunk and the next
// ones with dirty chunks.
func (c *cursor) askLocked(d *disk, chunk uint32) {
	window := chunk / c.o.window * c.o.window
	for len(c.asked) > 0 && (c.asked[0].disk != d || c.asked[0].first != window) {
		if c.asked[0].disk != d || c.asked[0].first > window {
			c.dropLocked() // the cursor has begun anew
			break
		}
		rest := c.asked[1:]
		c.asked = c.asked[:1]
		c.dropLocked() // a window that was shipped instead, or is done
		c.asked = rest
	}
	next := window
	if n := len(c.asked); n > 0 {
		next = c.asked[n-1].first + c.o.window
	}
	for len(c.asked) < askAhead {
		at, ok := d.dirty.Next(next)
		if !ok {
			break
		}
		next = at / c.o.window * c.o.window
		c.asked = append(c.asked, c.o.askLocked(d, next))
		next += c.o.window
	}
	if len(c.asked) == 0 {
		c.asked = append(c.asked, c.o.askLocked(d, window)) // its last dirty chunk is being copied
	}
}

// askLocked asks about one window.
func (o *outlet) askLocked(d *disk, first uint32) *question {
	chunks := uint32((d.size + dr.ChunkSize - 1) / dr.ChunkSize)
	q := &question{disk: d, first: first, count: min(o.window, chunks-first), need: d.bypass, link: o.stats.connects}
	o.hash.next++
	o.hash.open[o.hash.next] = q
	m := wire.HashAsk{ID: o.hash.next, Disk: d.index, First: first, Count: uint16(q.count), Need: q.need}
	o.link.outbox = m.Append(o.link.outbox)
	o.wakeSender()
	return q
}

// placesOf finds where each chunk's pieces begin.
func placesOf(a *wire.HashAnswer) []place {
	out := make([]place, len(a.States))
	piece, hash := int32(0), int32(0)
	for i := range out {
		out[i] = place{piece, hash}
		for int(piece) < len(a.Pieces) && int(a.Pieces[piece].Chunk) == i {
			hash += int32(blocksOf(a.Pieces[piece].Mask))
			piece++
		}
	}
	return out
}

func blocksOf(mask uint16) int { return bits.OnesCount16(mask) }

// What becomes of a block.
type verdict uint8

const (
	same     verdict = iota // the copy has it
	shipZero                // it reads as zeroes, and the copy does not or may not
	shipData
)

// compareFrom compares the run of dirty chunks at chunk, inside the window of
// q, and records what differs. It returns the bytes read.
func (c *cursor) compareFrom(ctx context.Context, d *disk, chunk uint32, q *question) (int, error) {
	d.work.Lock()
	defer d.work.Unlock()
	lo := int64(chunk) * dr.ChunkSize
	start, _, err := d.primary.NextData(lo)
	if err != nil {
		return 0, err
	}
	limit := int64(q.first+q.count) * dr.ChunkSize
	hole := start >= d.size || start/dr.ChunkSize > int64(chunk)
	switch {
	case !hole:
		limit = min(limit, lo+syncWindow)
	case start < d.size:
		limit = min(limit, start&^(dr.ChunkSize-1))
	}
	hi := min(lo+dirtyRun(d, chunk, (limit-lo)/dr.ChunkSize)*dr.ChunkSize, roundUp(d.size))
	if !c.lock(ctx, d, lo, hi) {
		return 0, ctx.Err()
	}
	defer c.unlock(d)
	if hole {
		if start, _, err = d.primary.NextData(lo); err != nil || start < min(hi, d.size) {
			return 0, err // no hole any more, now that it is locked: looked at again
		}
	}
	if !c.clearFresh(d, q, lo, hi) {
		return 0, nil // asked again
	}
	if !hole {
		return int(hi - lo), c.compareContent(d, q, c.buf[:hi-lo], lo)
	}
	c.verdicts = append(c.verdicts[:0], make([]verdict, (hi-lo)/dr.BlockSize)...)
	c.judge(q, nil, chunk, c.verdicts)
	c.record(d, nil, lo)
	return 0, nil
}

// clearFresh clears the dirty bits of [lo, hi), which is locked, if the answer
// still says what the domain's order says: no change has bypassed the stream
// since it was asked for, and the connection is the same. If not, what was
// asked is dropped. It is one step with the clearing: a disk that is taken for
// different from its copy a moment later is marked again, all of it.
func (c *cursor) clearFresh(d *disk, q *question, lo, hi int64) bool {
	o := c.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if q.need >= d.bypass && q.link == o.stats.connects && !q.gone {
		c.stale = 0
		d.clearDirty(lo, hi)
		return true
	}
	c.stale++
	c.dropLocked()
	return false
}

// compareContent reads p from lo, compares it and records what differs.
func (c *cursor) compareContent(d *disk, q *question, p []byte, lo int64) error {
	if err := d.readBlocks(p, lo); err != nil {
		d.remark(lo, lo+int64(len(p)))
		return err
	}
	c.verdicts = append(c.verdicts[:0], make([]verdict, len(p)/dr.BlockSize)...)
	c.judgeAll(q, p, uint32(lo/dr.ChunkSize))
	c.record(d, p, lo)
	return nil
}

// judgeAll is judge, spread over half of the processors at most: the others are
// the guests'.
func (c *cursor) judgeAll(q *question, p []byte, chunk uint32) {
	c.learn(q.answer.Keys)
	workers := min(max(runtime.GOMAXPROCS(0)/2, 1), judgesMost)
	share := max((len(p)/dr.ChunkSize+workers-1)/workers, 1) * dr.ChunkSize
	var all sync.WaitGroup
	for at := share; at < len(p); at += share {
		end := min(at+share, len(p))
		all.Go(func() {
			c.judge(q, p[at:end], chunk+uint32(at/dr.ChunkSize), c.verdicts[at/dr.BlockSize:end/dr.BlockSize])
		})
	}
	n := min(share, len(p))
	c.judge(q, p[:n], chunk, c.verdicts[:n/dr.BlockSize])
	all.Wait()
}

// learn makes hashers of keys.
func (c *cursor) learn(keys []wire.HashKey) {
	for _, k := range keys {
		if c.hashers[k] == nil {
			if c.hashers == nil || len(c.hashers) >= hashersMost {
				c.hashers = make(map[wire.HashKey]*segment.BlockHasher)
			}
			c.hashers[k] = segment.HashKey(k).Hasher()
		}
	}
}

// judge compares the blocks of p, which begin with a chunk, with an answer; p
// nil: they are a hole.
func (c *cursor) judge(q *question, p []byte, chunk uint32, out []verdict) {
	a := q.answer
	for i := range out {
		at := int(chunk-q.first) + i/dr.BlocksPerChunk
		block := i % dr.BlocksPerChunk
		content := zeroBlock[:]
		if p != nil {
			content = p[i*dr.BlockSize : (i+1)*dr.BlockSize]
		}
		hash, key, hashed := q.hashOf(at, block)
		switch {
		case a.States[at] != wire.HashUnknown && hashed && p != nil && c.hashers[a.Keys[key]].Sum(content) == hash:
			out[i] = same
		case p == nil || isZero(content):
			out[i] = shipZero
			if a.States[at] != wire.HashUnknown && !hashed {
				out[i] = same
			}
		default:
			out[i] = shipData
		}
	}
}

// hashOf is the hash of a block of the window's chunk at; hashed is false for a
// block that reads as zeroes, or of which nothing is known.
func (q *question) hashOf(at, block int) (hash uint64, key uint8, hashed bool) {
	pl := q.places[at]
	for ; int(pl.piece) < len(q.answer.Pieces); pl.piece++ {
		p := &q.answer.Pieces[pl.piece]
		if int(p.Chunk) != at {
			break
		}
		if p.Mask>>block&1 != 0 {
			return q.answer.Hashes[int(pl.hash)+blocksOf(p.Mask&(1<<block-1))], p.Key, true
		}
		pl.hash += int32(blocksOf(p.Mask))
	}
	return 0, 0, false
}

// record puts what the verdicts say of the blocks from lo into the stream; p is
// their content, nil for a hole.
func (c *cursor) record(d *disk, p []byte, lo int64) {
	n := int64(len(c.verdicts)) * dr.BlockSize
	o := d.out
	o.mu.Lock()
	o.stats.comparedBytes += uint64(n)
	o.stats.syncedBytes += uint64(len(p))
	o.mu.Unlock()
	v := entered{lo: lo, hi: lo + n, fromSync: true}
	for i := 0; i < len(c.verdicts); {
		j := i + 1
		for j < len(c.verdicts) && c.verdicts[j] == c.verdicts[i] {
			j++
		}
		from, to := int64(i)*dr.BlockSize, int64(j)*dr.BlockSize
		ok := true
		switch c.verdicts[i] {
		case shipZero:
			ok = d.enterRange(record.Zero, lo+from, lo+to, &v, record.FromSync)
		case shipData:
			ok = d.enterData(&captured{lo: lo + from, hi: lo + to, body: p[from:to]}, &v, record.FromSync)
		}
		if !ok {
			return // all of it is marked dirty again
		}
		i = j
	}
}
