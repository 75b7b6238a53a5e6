package unshipped

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// publish has the branch hold what was found, with a checkpoint at its end. No
// branch: the zero timeline.
func (k *keeper) publish(ctx context.Context) (t dr.TimelineID, cp dr.CheckpointID, err error) {
	nothing := !slices.ContainsFunc(k.disks, func(f *found) bool { return f.left.Count() > 0 })
	if k.branch == nil && nothing {
		return t, 0, nil
	}
	if k.branch != nil {
		t = k.branch.Timeline()
		if last, ok := lastOwn(k.branch); ok && nothing {
			return t, last, nil // an earlier call came to its end
		}
	} else if t, err = k.c.Fork(ctx, journal.ForkOptions{Parent: k.opts.Base.Timeline, Checkpoint: k.base.ID, Label: k.label(), By: k.opts.By, Test: true}); err != nil {
		return t, 0, err
	}
	p, err := k.c.OpenPublisher(ctx, journal.PublisherOptions{Timeline: t, Host: k.opts.By, Logger: k.opts.Logger})
	if err != nil {
		return t, 0, err
	}
	w := &writing{k: k, p: p, seq: max(p.LastSeq(), k.base.Seq), last: k.base.ID}
	if was, ok := p.LastCheckpoint(); ok {
		w.last = max(w.last, was.ID)
	}
	cp, err = w.run(ctx)
	if cerr := p.Close(); err == nil {
		err = cerr
	}
	return t, cp, err
}

// lastOwn is the newest checkpoint that was published on the branch itself.
func lastOwn(h *journal.History) (dr.CheckpointID, bool) {
	all := h.Checkpoints()
	if len(all) == 0 || all[len(all)-1].Inherited {
		return 0, false
	}
	return all[len(all)-1].ID, true
}

// writing publishes objects until all is there.
type writing struct {
	k    *keeper
	p    *journal.Publisher
	b    *segment.Builder
	seq  dr.Seq // of the object at hand
	last dr.CheckpointID
	buf  []byte
	zero int // zero ranges in the object at hand
}

func (w *writing) run(ctx context.Context) (dr.CheckpointID, error) {
	w.begin()
	w.buf = make([]byte, dr.ChunkSize)
	for _, f := range w.k.disks {
		for chunk, mask := range f.left.Chunks() {
			if err := w.chunk(ctx, f, chunk, mask); err != nil {
				return 0, err
			}
		}
	}
	cp := w.k.checkpoint()
	cp.ID, cp.Seq = w.last+1, w.seq+1
	w.b.SetCheckpoint(cp)
	return cp.ID, w.end(ctx)
}

// begin begins an object: one record all of it.
func (w *writing) begin() {
	w.seq++
	w.zero = 0
	w.b = w.k.c.NewBuilder(segment.BuilderOptions{})
	w.b.SetSeqs(w.seq, w.seq)
}

// end publishes the object at hand.
func (w *writing) end(ctx context.Context) error {
	q, err := w.p.Publish(ctx, w.b)
	if err != nil {
		return err
	}
	return q.Wait(ctx)
}

// chunk adds what differs of a chunk, to the next object when this one is full.
func (w *writing) chunk(ctx context.Context, f *found, chunk uint32, mask uint16) error {
	if w.b.Size() >= objectSize || w.b.Frames() >= maxFrames || w.zero >= maxZeros {
		if err := w.end(ctx); err != nil {
			return err
		}
		w.begin()
	}
	at := int64(chunk) * dr.ChunkSize
	n, err := f.file.ReadAt(w.buf, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return errs.E("unshipped.Keep", errs.Internal, f.Path, fmt.Errorf("byte %d: %w", at+int64(n), err))
	}
	clear(w.buf[n:])
	var data []byte
	var full uint16
	for m := mask; m != 0; m &= m - 1 {
		i := bits.TrailingZeros16(m)
		block := w.buf[i*dr.BlockSize : (i+1)*dr.BlockSize]
		if !bytes.Equal(block, zeroBlock[:]) {
			full |= 1 << i
			data = append(data, block...)
			continue
		}
		w.zero++
		if err := w.b.AddZero(f.ID, uint64(chunk)*dr.BlocksPerChunk+uint64(i), 1, w.seq); err != nil {
			return errs.E("unshipped.Keep", errs.Internal, f.Path, err)
		}
	}
	if full == 0 {
		return nil
	}
	if err := w.b.AddFrame(f.ID, chunk, full, w.seq, data); err != nil {
		return errs.E("unshipped.Keep", errs.Internal, f.Path, err)
	}
	return nil
}

var zeroBlock [dr.BlockSize]byte // never written

// checkpoint is the disks as they were found: what a machine has that lost its
// power, if all disks of the domain are among them.
func (k *keeper) checkpoint() dr.Checkpoint {
	cp := dr.Checkpoint{Time: k.opts.Now().UTC(), Kind: dr.CrashConsistent, Scope: dr.Group, Tag: k.label()}
	for _, d := range k.base.Disks {
		i := slices.IndexFunc(k.disks, func(f *found) bool { return f.ID == d.ID })
		d.Synced = true
		if i >= 0 {
			d.Size = max(d.Size, k.disks[i].size)
		} else if cp.Scope = dr.Partial; !slices.Contains(cp.Missing, d.VM) {
			cp.Missing = append(cp.Missing, d.VM)
		}
		cp.Disks = append(cp.Disks, d)
	}
	return cp
}

// Branch is a branch that keeps what a site had not published.
type Branch struct {
	Site       string           `json:"site"`
	Timeline   dr.TimelineID    `json:"timeline"`
	Created    time.Time        `json:"created"`
	By         string           `json:"by"`
	Base       journal.PointRef `json:"base"`       // the last checkpoint the site had published
	Checkpoint dr.CheckpointID  `json:"checkpoint"` // the disks as they were found; 0: Keep has not ended
	Stored     int64            `json:"stored"`     // bytes in the store, as far as they were not packed
	Disks      []dr.DiskID      `json:"disks"`
}

// List lists the branches of a container that are not dropped. Errors are the
// store's.
func List(ctx context.Context, c *journal.Container) ([]Branch, error) {
	all, err := c.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	var out []Branch
	for _, t := range all {
		site, ok := strings.CutPrefix(t.Label, labelPrefix)
		if !ok || !t.Test || t.Dropped != nil || t.Fork == nil {
			continue
		}
		h, err := c.History(ctx, journal.HistoryOptions{Timeline: t.ID})
		if err != nil {
			return nil, err
		}
		b := Branch{Site: site, Timeline: t.ID, Created: t.Created, By: t.By, Stored: h.StoredSince(0),
			Base: journal.PointRef{Timeline: t.Parent, Checkpoint: t.Fork.ID, Seq: t.Fork.Seq}}
		b.Checkpoint, _ = lastOwn(h)
		for _, d := range t.Fork.Disks {
			b.Disks = append(b.Disks, d.ID)
		}
		out = append(out, b)
	}
	return out, nil
}
