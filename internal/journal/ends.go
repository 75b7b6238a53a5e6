package journal

import (
	"context"

	"holdfast/internal/dr"
	"holdfast/internal/index"
)

// keepEnds keeps header and footer of an object that the walk has read: what
// was just published is asked for again by who follows it.
func (h *History) keepEnds(l *loaded) {
	if l.footer == nil || l.damaged() != nil {
		return
	}
	const entry, zero, other = 48, 32, 8192 // bytes in memory
	f := l.footer
	kept := *l
	kept.whole = nil // frames are not kept
	h.ends.put(l.number, &kept, other+len(f.Entries)*entry+len(f.Zeros)*zero+len(f.Hashes)*8)
}

// loadEnds loads objects of this timeline, those that are kept from memory. The
// result has their order.
func (h *History) loadEnds(ctx context.Context, objects []sized) ([]*loaded, error) {
	return loadEach(ctx, h.timeline, objects, func(ctx context.Context, t dr.TimelineID, n dr.ObjectNumber, size int64) (*loaded, error) {
		if l, ok := h.ends.get(n); ok && l.size == size {
			return l, nil
		}
		return h.c.load(ctx, t, n, size)
	})
}

// Open opens an object of an image of this history, without asking the store
// when its ends are kept from the walk. Kinds as of Container.OpenRef; that it
// has gone meanwhile may show only when it is read.
func (h *History) Open(ctx context.Context, id index.ObjectID, size int64) (*Object, error) {
	for near := h; near != nil; {
		if l, ok := near.ends.get(id.Number); ok && id.Timeline == near.timeline && l.size == size {
			return h.c.opened(l)
		}
		if near.base == nil {
			break
		}
		near = near.base.hist
	}
	return h.c.OpenSized(ctx, id, size)
}
