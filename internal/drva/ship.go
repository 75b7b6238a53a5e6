package drva

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/record"
	"holdfast/internal/replog"
	"holdfast/internal/segment"
)

// shipper reads the log from the first record the container does not hold and
// publishes it, an object for each cell. Owned by its goroutine but where it
// says otherwise.
type shipper struct {
	s    *Server
	rl   *replog.Log
	pub  *journal.Publisher
	st   *order.State // as of the last record read: which index is which disk
	done dr.Seq       // the container held this when the publisher was opened
	cell *cell

	held   *object   // its checkpoint's result is not known
	behind []*object // closed after held, in order

	spare []*segment.Builder // free ones; guarded by spareMu: the settler gives back too
	sent  chan *object       // to the settler; written by the shipper, closed when it ends

	published time.Time      // of the last object given to the publisher
	shown     *dr.Checkpoint // the last one published
	bare      bool           // what was published since may be in no checkpoint yet

	spareMu  sync.Mutex
	busy     *pressure
	caughtUp time.Time // when there was last nothing left to read
	seen     int64     // bytes that had come in by then, and those read since
}

// object is a closed cell on its way.
type object struct {
	first, last dr.Seq
	b           *segment.Builder // nil: nothing in it yet
	metas       []meta
	cp          *dr.Checkpoint
	raw         uint64
	pending     *journal.Pending
}

func newShipper(s *Server, rl *replog.Log, pub *journal.Publisher) (*shipper, error) {
	h := &shipper{s: s, rl: rl, pub: pub, st: order.NewState(), done: pub.LastSeq(), cell: newCell(min(cellLog, rl.Usage().Quota/cellParts)),
		sent: make(chan *object, maxBuilders), bare: true}
	for _, r := range rl.Recovered().Carried {
		if err := h.st.Apply(&r); err != nil {
			return nil, err
		}
	}
	h.cell.begin(h.done + 1)
	s.shipped.published.Store(uint64(h.done))
	if cp, ok := pub.LastCheckpoint(); ok {
		h.shown = &cp.Checkpoint
	}
	return h, nil
}

// run ships until ctx ends or nothing can be published any more.
func (h *shipper) run(ctx context.Context) error {
	defer close(h.sent)
	r, err := h.rl.NewReader(0)
	if err != nil {
		return errs.E("drva.ship", errs.Internal, h.s.cfg.LogDir, err)
	}
	defer r.Close()
	busy, closeBusy := openPressure()
	defer func() { _ = closeBusy() }()
	h.busy = busy
	for {
		recs, err := h.next(ctx, r)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errs.E("drva.ship", errs.Internal, h.s.cfg.LogDir, err)
		}
		for i := range recs {
			if err := h.take(ctx, &recs[i]); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return errs.E("drva.ship", errs.Internal, "", err)
			}
		}
	}
}

// next returns the next batch of the log, when there is one and publishing need
// not give way.
func (h *shipper) next(ctx context.Context, r *replog.Reader) ([]record.Record, error) {
	recs, err := r.TryNext()
	if err != nil {
		return nil, err
	}
	if len(recs) == 0 {
		h.seen = int64(h.s.count.bytesIn.Load())
		recs, err = r.Next(ctx)
		h.caughtUp = time.Now()
	}
	if err == nil {
		err = h.giveWay(ctx)
	}
	for i := range recs {
		h.seen += int64(len(recs[i].Payload))
	}
	return recs, err
}

// take packs one record. Records the container holds only bring the state up
// to date.
func (h *shipper) take(ctx context.Context, r *record.Record) error {
	defer h.s.shipped.read.Store(uint64(r.Seq))
	if r.Seq <= h.done {
		return h.st.Apply(r)
	}
	c := h.cell
	c.last = r.Seq
	c.logged += int64(len(r.Payload)) + recordLog
	var checkpoint *dr.Checkpoint
	switch r.Kind {
	case record.Data, record.Zero, record.Discard:
		if d, ok := h.st.Disk(r.Disk); ok { // else it was removed from the domain since
			c.write(d.ID, r)
			h.s.shipped.content.Store(uint64(r.Seq))
		}
	case record.Meta:
		cfg, err := order.DecodeMeta(r)
		if err != nil {
			return err
		}
		c.metas = append(c.metas, meta{r.Seq, cfg})
	case record.Checkpoint:
		cp, err := order.CheckpointOf(r)
		if err != nil {
			return err
		}
		checkpoint = &cp
	case record.CheckpointResult:
		if err := h.outcome(ctx, r); err != nil {
			return err
		}
	}
	if err := h.st.Apply(r); err != nil {
		return err
	}
	if checkpoint != nil || c.full() {
		return h.close(ctx, checkpoint)
	}
	return nil
}

// close ends the cell as an object. With a checkpoint it waits for its result,
// and so does what is closed after it.
func (h *shipper) close(ctx context.Context, cp *dr.Checkpoint) error {
	c := h.cell
	o := &object{first: c.first, last: c.last, metas: c.metas, cp: cp, raw: c.raw}
	if len(c.disks) > 0 {
		b, err := h.builder(ctx)
		if err != nil {
			return err
		}
		if err := h.pack(ctx, b); err != nil {
			return err
		}
		o.b = b
	}
	c.begin(c.last + 1)
	switch {
	case h.held != nil:
		h.behind = append(h.behind, o)
		if len(h.behind) < maxHeld {
			return nil
		}
		return h.giveUp(ctx)
	case cp != nil:
		h.held = o
		return nil
	}
	return h.publish(ctx, o)
}

// outcome completes the held checkpoint and publishes it, unless it says
// nothing new.
func (h *shipper) outcome(ctx context.Context, r *record.Record) error {
	b, err := order.DecodeResult(r)
	if err != nil {
		return err
	}
	if h.held == nil || h.held.cp == nil || h.held.cp.ID != b.ID {
		return nil
	}
	h.held.cp.Scope, h.held.cp.Missing = b.ScopeOf(), b.Missing
	if b.Kind == dr.AppConsistent {
		h.held.cp.Kind = b.Kind
	}
	return h.letGo(ctx)
}

// letGo publishes what is held, in order.
func (h *shipper) letGo(ctx context.Context) error {
	o, behind := h.held, h.behind
	h.held, h.behind = nil, nil
	if h.unchanged(o) {
		// The next object covers these records too.
		h.s.skipped(o.cp, h.shown)
		if len(behind) > 0 {
			behind[0].first = o.first
		} else {
			h.cell.first = o.first
		}
	} else if err := h.publish(ctx, o); err != nil {
		return err
	}
	for _, o := range behind {
		if err := h.publish(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// unchanged reports whether o's checkpoint may be left out: nothing was written
// since the one before, not even by objects without a checkpoint, it says the
// same, and that one is not old.
func (h *shipper) unchanged(o *object) bool {
	p := h.shown
	return !h.bare && o.cp != nil && o.b == nil && len(o.metas) == 0 && p != nil && o.cp.Kind == dr.CrashConsistent &&
		o.cp.Scope == p.Scope && slices.Equal(o.cp.Missing, p.Missing) && slices.Equal(o.cp.Disks, p.Disks) &&
		time.Since(h.published) < h.s.cfg.Heartbeat
}

// publish hands o to the publisher: first the configurations of the VMs it
// covers, then the object.
func (h *shipper) publish(ctx context.Context, o *object) error {
	for _, m := range o.metas {
		if err := h.putMeta(ctx, m); err != nil {
			return err
		}
	}
	if o.b == nil {
		if o.cp == nil && len(o.metas) == 0 && o.last < o.first {
			return nil
		}
		b, err := h.builder(ctx)
		if err != nil {
			return err
		}
		o.b = b
	}
	o.b.SetSeqs(o.first, o.last)
	if h.bare = o.cp == nil; !h.bare {
		o.b.SetCheckpoint(*o.cp)
		h.shown = o.cp
	}
	var err error
	if o.pending, err = h.pub.Publish(ctx, o.b); err != nil {
		return err
	}
	h.published = time.Now()
	h.sent <- o // has room for every builder
	return nil
}

// putMeta stores a VM's configuration, for as long as the store is not there.
func (h *shipper) putMeta(ctx context.Context, m meta) error {
	return h.s.retry(ctx, "store a VM's configuration", func() error {
		err := h.pub.PutMeta(ctx, m.cfg.ID, m.seq, m.cfg)
		if errs.Is(err, errs.Conflict) {
			h.s.log.Error("another configuration is stored for this record of the VM", "vm", m.cfg.ID.String(), "seq", uint64(m.seq), "err", err)
			return nil // the checkpoints offer that one; content is not touched
		}
		return err
	})
}

// pack fills b with the cell, in this domain's turn, compressed as the log's
// filling demands.
func (h *shipper) pack(ctx context.Context, b *segment.Builder) error {
	if err := h.s.share.packers.Take(ctx); err != nil {
		return err
	}
	defer h.s.share.packTurn(time.Now())
	l := levelFor(h.s.tuning.Load().Compression, h.logFill(), h.pub.Status().UnderWay)
	b.SetLevel(l)
	h.s.showCompression(l)
	return h.cell.pack(b)
}

// giveUp publishes what is held without its checkpoint, whose outcome comes too
// late for the memory there is.
func (h *shipper) giveUp(ctx context.Context) error {
	if h.held.cp != nil {
		h.s.log.Warn("a checkpoint is given up, its outcome comes too late", "checkpoint", uint64(h.held.cp.ID))
	}
	h.held.cp = nil
	return h.letGo(ctx)
}

// builder returns an empty builder, waiting for a publication if all this
// domain may have are in use. What is held back keeps builders from coming
// free, so that it is let go first.
func (h *shipper) builder(ctx context.Context) (*segment.Builder, error) {
	m := h.s.share.builders
	if !m.Try() {
		if h.held != nil {
			if err := h.giveUp(ctx); err != nil {
				return nil, err
			}
		}
		if err := m.Take(ctx); err != nil {
			return nil, err
		}
	}
	h.spareMu.Lock()
	defer h.spareMu.Unlock()
	if n := len(h.spare); n > 0 {
		b := h.spare[n-1]
		h.spare = h.spare[:n-1]
		return b, nil
	}
	return h.s.cfg.Container.NewBuilder(segment.BuilderOptions{Level: h.s.tuning.Load().Compression}), nil
}

// giveBack ends the use of a builder. A few are kept: each has up to 16 MiB.
func (h *shipper) giveBack(b *segment.Builder) {
	b.Reset()
	h.spareMu.Lock()
	if len(h.spare) < leastBuilders {
		h.spare = append(h.spare, b)
	}
	h.spareMu.Unlock()
	h.s.share.builders.Give(1)
}

// settle waits for publications in order and trims the log behind them.
func (h *shipper) settle(ctx context.Context) error {
	for o := range h.sent {
		if err := o.pending.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errs.E("drva.publish", errs.Internal, "", err)
		}
		h.s.shipped.published.Store(uint64(o.last))
		if err := h.rl.Trim(o.last); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errs.E("drva.trim", errs.Internal, h.s.cfg.LogDir, err)
		}
		h.s.settled(o)
		h.giveBack(o.b)
	}
	return nil
}
