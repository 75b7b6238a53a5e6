package journal

import (
	"context"
	"errors"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// walkBatch is how many objects are loaded ahead of the walk: bounds its
// memory to so many footers.
const walkBatch = 4 * readParallel

var errMissing = errors.New("the object is missing, though later ones exist")

// Extend reads what was published since the history was read. One call at a
// time works; others wait. On error the history is as far as it came, and
// Extend may be called again.
func (h *History) Extend(ctx context.Context) error {
	h.extending.Lock()
	defer h.extending.Unlock()
	for {
		more, err := h.walk(ctx)
		if err != nil {
			return errs.E("journal.History", errs.Internal, h.timeline.String(), err)
		}
		if !more {
			h.tellProgress()
			return nil
		}
	}
}

// Recovery path, step 2: walk. The accepted history is followed object by
// object, by the rule in chain.go.

// walk lists what lies beyond the known history and goes over it. more means
// that the store changed meanwhile, or that a page was walked: call again.
func (h *History) walk(ctx context.Context) (more bool, err error) {
	if h.broken {
		return false, nil
	}
	objects, err := h.listFrom(ctx, h.chain.next)
	if err != nil || len(objects) == 0 {
		return false, err
	}
	before, begun := h.chain.next, h.manifest
	for len(objects) > 0 {
		n := min(len(objects), walkBatch)
		batch, err := h.c.loadAll(ctx, h.timeline, objects[:n])
		if err != nil {
			return false, err
		}
		objects = objects[n:]
		for _, l := range batch {
			if l.number < h.chain.next {
				continue // a name a FENCE made dead
			}
			if l.number > h.chain.next || l.missing {
				return h.gap(ctx)
			}
			if ok, err := h.advance(ctx, l); err != nil || !ok {
				return h.manifest != begun, err // begun anew: walk on
			}
		}
		h.tellProgress()
	}
	return h.chain.next != before, nil
}

// listFrom returns one page of journal objects with numbers from n on.
func (h *History) listFrom(ctx context.Context, n dr.ObjectNumber) ([]sized, error) {
	page, err := h.c.st.List(ctx, objectPrefix(h.timeline), objectKey(h.timeline, n-1), listPage)
	if err != nil {
		return nil, err
	}
	var out []sized
	for _, in := range page {
		if n, ok := parseObjectKey(h.timeline, in.Key); ok {
			out = append(out, sized{n, in.Size})
		}
	}
	return out, nil
}

// advance goes over the object at chain.next; ok is false when the walk ends
// there.
func (h *History) advance(ctx context.Context, l *loaded) (ok bool, err error) {
	if l.headErr != nil {
		return h.pass(ctx, l)
	}
	k := l.link()
	if h.unlinked {
		// What lay before is lost, and with it the digest to compare with.
		k.prev, k.before, k.behind = h.chain.prev, dr.UUID{}, 0
	}
	c := h.chain
	if c.step(k) != "" {
		// Under a name that maintenance freed anything may lie.
		if done, err := h.rebase(ctx); err != nil || done {
			return false, err
		}
	}
	h.mu.Lock()
	refused := h.chain.step(k)
	if refused != "" {
		h.broken = true
		h.problemLocked(Problem{Object: l.key, What: "it does not continue the history: " + refused, Kind: errs.Corrupt})
	} else {
		h.unlinked = l.tailErr != nil && l.header.Kind != segment.Fence
	}
	h.mu.Unlock()
	if refused == "" {
		h.take(l)
	}
	return refused == "", nil
}

// gap decides what it means that chain.next was not listed while higher numbers
// were: it came meanwhile, or these are objects under way and names made dead,
// or an object was lost.
func (h *History) gap(ctx context.Context) (more bool, err error) {
	next := h.chain.next
	beyond, err := h.listFrom(ctx, next+Window)
	if err != nil {
		return false, err
	}
	in, err := h.c.st.Stat(ctx, objectKey(h.timeline, next))
	if err == nil { // it landed while we listed
		l, err := h.c.load(ctx, h.timeline, next, in.Size)
		if err != nil || l.missing {
			return false, err
		}
		return h.advance(ctx, l)
	} else if !errs.Is(err, errs.NotFound) {
		return false, err
	}
	if len(beyond) == 0 {
		return false, nil
	}
	// No publisher goes W beyond a missing number. Either maintenance deleted
	// what a newer manifest contains, or the object is lost.
	if done, err := h.rebase(ctx); err != nil || done {
		return done, err
	}
	return h.pass(ctx, &loaded{number: next, key: objectKey(h.timeline, next), headErr: errMissing, tailErr: errMissing})
}

// pass goes over an object of which not even the header can be read. What it
// held is lost, unless it was a FENCE; where the history goes on is found by
// looking at the places it may go on at.
func (h *History) pass(ctx context.Context, l *loaded) (ok bool, err error) {
	after, err := h.peek(ctx, l.number+1)
	if err != nil {
		return false, err
	}
	jump, err := h.peek(ctx, l.number+Window)
	if err != nil {
		return false, err
	}
	sealed, err := h.sealed(ctx, jump)
	if err != nil {
		return false, err
	}
	to, fence := goesOn(l, h.chain.epoch, after, jump, sealed)
	if to == nil && errors.Is(l.headErr, errMissing) {
		to, err = h.nextReadable(ctx, l.number)
		if err != nil {
			return false, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if fence {
		h.problemLocked(Problem{Object: l.key, What: l.headErr.Error() + " (a fence, which holds no content)", Kind: errs.Corrupt})
	} else {
		h.loseLocked(l.number, l.key, l.headErr)
	}
	if to == nil {
		return false, nil // it is the newest: looked at again by the next Extend
	}
	ref := objectRef{number: l.number, size: l.size, epoch: h.chain.epoch, lost: !fence}
	h.unlinked = l.tailErr != nil
	h.chain.next, h.chain.prev, h.chain.last, h.chain.at = to.number, l.digest, dr.UUID{}, l.number
	if fence {
		ref.kind = segment.Fence
	}
	if to.header.Kind == segment.Journal {
		h.chain.epoch, ref.epoch = to.header.Epoch, to.header.Epoch
	}
	h.objects = append(h.objects, ref)
	return true, nil
}

// sealed reports whether l is what a holder of the data key wrote: a journal
// object by its seal, a FENCE by the digest that what lies behind it names
// under a seal. l may be nil.
func (h *History) sealed(ctx context.Context, l *loaded) (bool, error) {
	for range maxFences {
		if l == nil || l.damaged() != nil {
			return false, nil
		}
		if l.header.Kind == segment.Journal {
			return true, nil
		}
		next, err := h.peek(ctx, l.number+Window)
		if err != nil || next == nil || next.header.Prev != segment.FenceDigest(l.headRaw) {
			return false, err
		}
		l = next
	}
	return false, nil
}

// goesOn picks which of the objects at n+1 and n+W follows the unreadable
// object n, or nil. By the digest in its tail when that is readable. fence is
// true when it is proven that n was a FENCE, which takes more than a tail:
// anybody can write one. What lies beyond the jump must be sealed, of a later
// reign, and name n as the object before it; older objects do not name it, but
// one with content is proof: had a later object been the FENCE, its name would
// be dead, and only an older epoch could have put something there.
func goesOn(l *loaded, epoch dr.Epoch, after, jump *loaded, sealed bool) (to *loaded, fence bool) {
	if sealed && jump.header.Epoch > epoch {
		named := jump.header.PrevNumber
		fence = named == l.number || named == 0 && jump.header.Kind == segment.Journal
	}
	if l.tailErr == nil {
		switch {
		case after != nil && after.header.Prev == l.digest:
			return after, false
		case jump != nil && jump.header.Prev == l.digest:
			return jump, fence
		}
		return nil, false
	}
	if fence {
		return jump, true
	}
	if after != nil && (after.header.Kind == segment.Fence) == (after.header.Epoch > epoch) && after.header.Epoch >= epoch {
		return after, false
	}
	return jump, false
}

// peek loads the object at n; nil when it is missing or has no readable
// header.
func (h *History) peek(ctx context.Context, n dr.ObjectNumber) (*loaded, error) {
	in, err := h.c.st.Stat(ctx, objectKey(h.timeline, n))
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	l, err := h.c.load(ctx, h.timeline, n, in.Size)
	if err != nil || l.missing || l.headErr != nil {
		return nil, err
	}
	return l, nil
}

// nextReadable finds the first object with a readable header beyond n.
func (h *History) nextReadable(ctx context.Context, n dr.ObjectNumber) (found *loaded, err error) {
	prefix := objectPrefix(h.timeline)
	lerr := listAll(ctx, h.c.st, prefix, objectKey(h.timeline, n), func(in store.Info) bool {
		m, ok := parseObjectKey(h.timeline, in.Key)
		if !ok {
			return true
		}
		found, err = h.peek(ctx, m)
		return err == nil && found == nil
	})
	if err == nil {
		err = lerr
	}
	return found, err
}
