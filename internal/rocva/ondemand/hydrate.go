package ondemand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/rocva/frame"
)

// Run fetches what the boot traces name and then all the rest, behind guests'
// reads, and returns nil when every disk is whole. A store that is lost is
// waited for, as long as ctx lasts. Where content is damaged or gone the rest
// is fetched all the same, and the first such error is returned: kinds Corrupt,
// NotFound, Denied; else Canceled.
func (s *Set) Run(ctx context.Context) error {
	const op = "ondemand.Run"
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errClosed) })()
	s.fetch.boot.touch() // a guest is to come
	defer s.fetch.boot.over.Store(true)
	for _, t := range s.opts.Prefetch {
		if s.prefetch(ctx, t); ctx.Err() != nil {
			return errs.E(op, errs.Canceled, "", context.Cause(ctx))
		}
	}
	for {
		before := s.absent.Load()
		if before == 0 {
			return nil
		}
		err := s.hydrate(ctx)
		switch left := s.absent.Load(); {
		case ctx.Err() != nil:
			return errs.E(op, errs.Canceled, "", context.Cause(ctx))
		case left == 0:
			return nil
		case err != nil:
			return frame.Explain(op, s.fetch.img, errs.E(op, errs.Internal, "", err))
		case left == before:
			// All that is left is being fetched by others just now.
			select {
			case <-time.After(retryFirst):
			case <-ctx.Done():
			}
		}
	}
}

var errClosed = errors.New("the disks were closed")

// prefetch fetches what a trace names, in about its order. What cannot be
// fetched is told by hydration, which goes over it again.
func (s *Set) prefetch(ctx context.Context, t Trace) {
	for batch := range slices.Chunk(t.Chunks, prefetchBatch) {
		byDisk := map[*disk][]want{}
		for _, c := range batch {
			if d := s.find(c.Disk); d != nil && int64(c.Chunk) < int64(len(d.state)) {
				byDisk[d] = append(byDisk[d], want{c.Chunk, all16})
			}
		}
		g, gctx := errgroup.WithContext(ctx)
		for d, list := range byDisk {
			g.Go(func() error {
				return s.fetch.background(gctx, d, list, int64(len(list))*dr.ChunkSize)
			})
		}
		_ = g.Wait() // see above
		if ctx.Err() != nil {
			return
		}
	}
}

// hydrate goes over all objects once and fetches what is absent. It returns the
// first error after all that could be done was.
func (s *Set) hydrate(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.opts.Parallel)
	failed := make(chan error, 1)
	for i := range s.fetch.img.Objects {
		if gctx.Err() != nil {
			break
		}
		if !s.absentOf(uint32(i), nil) {
			continue
		}
		g.Go(func() error {
			err := s.hydrateObject(gctx, uint32(i))
			if err == nil || gctx.Err() != nil {
				return nil
			}
			s.log.Warn("an object could not be fetched", "object", s.fetch.img.Objects[i].Key, "err", err)
			select {
			case failed <- err:
			default: // the first is told
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// absentOf reports whether something of an object is absent, and lists the
// frames where found is not nil.
func (s *Set) absentOf(i uint32, found func(d *disk, r ref)) bool {
	any := false
	for f, t := range s.fetch.img.Objects[i].Frames {
		for _, d := range s.disks {
			if d.place != t.Disk || d.lacks(t.Chunk, t.Take) == 0 {
				continue
			}
			if found == nil {
				return true
			}
			any = true
			found(d, ref{i, uint32(f)})
		}
	}
	return any
}

// hydrateObject fetches what is absent of one object, in the order of its
// bytes, a span at a time.
func (s *Set) hydrateObject(ctx context.Context, i uint32) error {
	var o *frame.Object
	err := s.fetch.persist(ctx, func() (err error) {
		o, err = s.fetch.shelf.get(ctx, i)
		return err
	})
	if err != nil {
		return err
	}
	var parts []frame.Part
	s.absentOf(i, func(_ *disk, r ref) { parts = append(parts, o.Part(int(r.frame))) })
	frame.Sort(parts)
	var failed error
	var out outgoing
	for _, span := range frame.Spans(parts, spanSize) {
		s.fetch.boot.wait(ctx)
		if err := s.hydrateSpan(ctx, span, &out); err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed = err
		}
	}
	return failed
}

// hydrateSpan fetches the frames of one span, disk by disk.
func (s *Set) hydrateSpan(ctx context.Context, span frame.Span, out *outgoing) error {
	for _, d := range s.disks {
		var list []want
		for _, p := range span.Parts {
			if p.Disk == d.place {
				list = append(list, want{p.Entry.Chunk, p.Take})
			}
		}
		if len(list) == 0 {
			continue
		}
		list = merge(list)
		if err := s.fetch.background(ctx, d, list, span.End-span.Off); err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
		s.hurry(d)
		if err := out.next(d, list); err != nil {
			return err
		}
	}
	return nil
}

// outgoing sends what one worker has put into files to the device, so that a
// guest's flush, which syncs the whole file, does not wait for all that was
// hydrated since the last one: at most for the last two spans of each worker.
type outgoing struct {
	d *disk
	r extent.Range
}

// next begins to write out what was put for list, whose chunks ascend, and waits
// until what the call before began is out.
func (o *outgoing) next(d *disk, list []want) error {
	last := *o
	o.d, o.r = d, chunkRange(list[0].chunk, list[len(list)-1].chunk)
	if err := o.d.start(o.r); err != nil || last.d == nil {
		return err
	}
	return last.d.start(last.r)
}

// merge joins wants of the same chunk.
func merge(list []want) []want {
	slices.SortFunc(list, func(a, b want) int { return int(int64(a.chunk) - int64(b.chunk)) })
	out := list[:0]
	for _, w := range list {
		if n := len(out); n > 0 && out[n-1].chunk == w.chunk {
			out[n-1].blocks |= w.blocks
			continue
		}
		out = append(out, w)
	}
	return out
}
