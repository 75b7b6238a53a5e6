package drva

import (
	"context"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/wire"
)

// A host whose tracking state is lost asks for the block hashes of what its
// disk's last state in the container is, and ships what differs. Why that is
// enough is a matter of what the answer may leave out, and of what it must not:
//
// The host asks with the number of the last of its records that entered before
// the last change which bypassed the stream, and this is answered from a
// history that holds this record and all before it, and all that other sessions
// ever wrote of the disk. So every record of the disk that the answer does not
// hold is younger than that change: the last of them on a block has what the
// primary has there, because every later change of the block would be a later
// record. The host compares under the range lock, in which nothing changes. A
// block with such a record is right whatever the comparison says; a block
// without one is in the domain's order as the answer says, and right if it
// compares equal.

// shipped tells how far the shipper has come. Written by it and the settler,
// read by those who answer.
type shipped struct {
	read      atomic.Uint64 // seq of the last record taken from the log
	content   atomic.Uint64 // of the last with content; stored before read
	published atomic.Uint64 // the container holds everything up to it
}

// holds reports whether the container has the content of every record up to
// seq, and from what record on a history must reach to have it.
func (p *shipped) holds(seq dr.Seq) (least dr.Seq, ok bool) {
	read := dr.Seq(p.read.Load())
	least = min(seq, dr.Seq(p.content.Load()))
	published := dr.Seq(p.published.Load())
	return least, published >= seq || read >= seq && published >= least
}

// hashSource reads block hashes from the container, one reader at a time: it is
// done beside publishing and takes no more than one processor. It holds a
// history, a cache, and maxHashRanges ranges of 2.4 MiB.
type hashSource struct {
	container *journal.Container
	timeline  dr.TimelineID
	cache     *journal.HashCache
	slot      chan struct{} // capacity 1: who has put something in owns what follows

	history *journal.History
	ranges  []hashRange // used last at the end
}

type hashRange struct {
	disk dr.DiskID
	*journal.DiskHashes
}

func newHashSource(c *journal.Container, t dr.TimelineID) *hashSource {
	return &hashSource{container: c, timeline: t, cache: journal.NewHashCache(), slot: make(chan struct{}, 1)}
}

// fill answers for the chunks of a question from a history that reaches at
// least to record least. What is behind the disk's end stays unknown.
func (h *hashSource) fill(ctx context.Context, ask *wire.HashAsk, disk dr.Disk, least dr.Seq) (*wire.HashAnswer, error) {
	select {
	case h.slot <- struct{}{}:
		defer func() { <-h.slot }()
	case <-ctx.Done():
		return nil, errs.E("drva.hash", errs.Canceled, disk.ID.String(), context.Cause(ctx))
	}
	if h.history == nil || h.history.LastSeq() < least {
		if err := h.refresh(ctx, least); err != nil {
			return nil, err
		}
	}
	a := &wire.HashAnswer{ID: ask.ID, States: make([]wire.ChunkState, ask.Count)}
	chunks := uint32((disk.Size + dr.ChunkSize - 1) / dr.ChunkSize)
	for i := range uint32(ask.Count) {
		if ask.First+i >= chunks {
			break
		}
		r, err := h.lookUp(ctx, disk.ID, ask.First+i, chunks)
		if err != nil {
			h.history = nil // it may rest on what maintenance has deleted since
			return nil, err
		}
		addChunk(a, i, r, ask.First+i-r.First)
	}
	return a, nil
}

// around returns what the container holds of the range a chunk is in.
func (h *hashSource) around(ctx context.Context, disk dr.Disk, least dr.Seq, chunk uint32) (*journal.DiskHashes, error) {
	select {
	case h.slot <- struct{}{}:
		defer func() { <-h.slot }()
	case <-ctx.Done():
		return nil, errs.E("drva.hash", errs.Canceled, disk.ID.String(), context.Cause(ctx))
	}
	if h.history == nil || h.history.LastSeq() < least {
		if err := h.refresh(ctx, least); err != nil {
			return nil, err
		}
	}
	d, err := h.lookUp(ctx, disk.ID, chunk, uint32((disk.Size+dr.ChunkSize-1)/dr.ChunkSize))
	if err != nil {
		h.history = nil
	}
	return d, err
}

// refresh reads the history anew.
func (h *hashSource) refresh(ctx context.Context, least dr.Seq) error {
	hist, err := h.container.History(ctx, journal.HistoryOptions{Timeline: h.timeline})
	if err != nil {
		return err
	}
	if hist.LastSeq() < least {
		return errs.New("drva.hash", errs.Transient, "container", "the store does not list yet what was published")
	}
	h.history, h.ranges = hist, nil
	return nil
}

// lookUp returns the range a chunk is in.
func (h *hashSource) lookUp(ctx context.Context, disk dr.DiskID, chunk, chunks uint32) (*journal.DiskHashes, error) {
	for i := len(h.ranges) - 1; i >= 0; i-- {
		r := h.ranges[i]
		if r.disk == disk && chunk >= r.First && chunk-r.First < uint32(len(r.Masks)) {
			if i < len(h.ranges)-1 {
				h.ranges = append(slices.Delete(h.ranges, i, i+1), r)
			}
			return r.DiskHashes, nil
		}
	}
	from := chunk / journal.MaxHashRange * journal.MaxHashRange
	d, err := h.history.DiskHashes(ctx, h.cache, disk, from, min(from+journal.MaxHashRange, chunks))
	if err != nil {
		return nil, err
	}
	if len(h.ranges) == maxHashRanges {
		h.ranges = slices.Delete(h.ranges, 0, 1)
	}
	h.ranges = append(h.ranges, hashRange{disk, d})
	return d, nil
}

// addChunk puts chunk at of a range into the answer as its chunk i.
func addChunk(a *wire.HashAnswer, i uint32, d *journal.DiskHashes, at uint32) {
	if d.Masks[at] == 0 {
		a.States[i] = wire.HashZero
		return
	}
	pieces, hashes := len(a.Pieces), len(a.Hashes)
	for left := d.Masks[at]; left != 0; {
		under := d.Keys[at*dr.BlocksPerChunk+uint32(bits.TrailingZeros16(left))]
		key, ok := keyOf(a, wire.HashKey(d.Under[under]))
		if !ok {
			a.Pieces, a.Hashes = a.Pieces[:pieces], a.Hashes[:hashes]
			return // unknown: the answer has no room for its keys
		}
		p := wire.HashPiece{Chunk: uint16(i), Key: key}
		for m := left; m != 0; m &= m - 1 {
			b := uint32(bits.TrailingZeros16(m))
			if d.Keys[at*dr.BlocksPerChunk+b] == under {
				p.Mask |= 1 << b
				a.Hashes = append(a.Hashes, d.Hashes[at*dr.BlocksPerChunk+b])
			}
		}
		a.Pieces = append(a.Pieces, p)
		left &^= p.Mask
	}
	a.States[i] = wire.HashKnown
}

// keyOf is the key's place in the answer; false when there is no room.
func keyOf(a *wire.HashAnswer, key wire.HashKey) (uint8, bool) {
	i := slices.Index(a.Keys, key)
	if i < 0 {
		if i = len(a.Keys); i == wire.MaxHashKeys {
			return 0, false
		}
		a.Keys = append(a.Keys, key)
	}
	return uint8(i), true
}

// answerer answers one host's questions, in order. Owned by its goroutine.
type answerer struct {
	s      *Server
	c      *conn
	placed map[uint16]placed // by index in the host's Hello
	told   bool              // of a failure
}

// placed says that a host's records up to need have places up to at, as have
// all records of the disk that others ever brought.
type placed struct {
	disk dr.Disk
	need dr.HostSeq
	at   dr.Seq
}

// answer answers until the connection ends.
func (s *Server) answer(ctx context.Context, c *conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	a := &answerer{s: s, c: c, placed: map[uint16]placed{}}
	for {
		select {
		case <-ctx.Done():
			return
		case ask := <-c.asks:
			if m := a.find(ctx, &ask); m != nil && !c.pushFrame(m.Append(nil)) {
				c.nc.Close()
			}
		}
	}
}

// find finds the answer, however long the store or the host's own records take;
// nil when the connection ends first. What is damaged is answered as unknown,
// and the host ships it.
func (a *answerer) find(ctx context.Context, ask *wire.HashAsk) *wire.HashAnswer {
	for pause := hashPoll; ; {
		m, err := a.try(ctx, ask)
		switch {
		case ctx.Err() != nil:
			return nil
		case m != nil:
			return m
		case err == nil:
			pause = hashPoll
		case errs.Is(err, errs.Transient) || errs.Is(err, errs.Unavailable) || errs.Is(err, errs.NotFound) && pause < retryMost:
			pause = min(2*pause, retryMost)
		default:
			if !a.told {
				a.told = true
				a.s.log.Warn("block hashes cannot be read, the host ships what it would have compared", "host", a.c.name, "err", err, "remedy", errs.RemedyOf(err))
			}
			a.s.noteError(err)
			return &wire.HashAnswer{ID: ask.ID, States: make([]wire.ChunkState, ask.Count)}
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// try answers if it can; nil and no error: not yet.
func (a *answerer) try(ctx context.Context, ask *wire.HashAsk) (*wire.HashAnswer, error) {
	p, ok := a.placed[ask.Disk]
	if !ok || p.need < ask.Need {
		if p, ok = a.place(ctx, ask); !ok {
			return nil, nil
		}
		a.placed[ask.Disk] = p
	}
	least, ok := a.s.shipped.holds(p.at)
	if !ok {
		return nil, nil
	}
	return a.s.hashes.fill(ctx, ask, p.disk, least)
}

// place asks the sequencer where the host's records are, and has a checkpoint
// cut at once: what is answered must be published.
func (a *answerer) place(ctx context.Context, ask *wire.HashAsk) (p placed, ok bool) {
	done := make(chan struct{})
	posted := a.s.post(ctx, event{do: func(q *sequencer) {
		defer close(done)
		var sequenced dr.HostSeq
		p.disk, sequenced, p.at, ok = q.core.Placed(a.c.id, ask.Disk)
		if ok = ok && sequenced >= ask.Need; ok {
			p.need = ask.Need
			q.nextCut = time.Now()
		}
	}})
	if !posted {
		return p, false
	}
	select {
	case <-done:
		return p, ok
	case <-ctx.Done():
		return placed{}, false
	case <-a.s.stopped:
		return placed{}, false
	}
}
