package journal

import (
	"context"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// TailObject is an accepted journal object behind an anchor.
type TailObject struct {
	Number   dr.ObjectNumber
	Size     int64           // bytes
	Created  time.Time       // by its writer's clock
	Modified time.Time       // by the store's
	Object   dr.UUID         // its own, from its header
	Footer   *segment.Footer // nil of a fence; read-only
	After    Anchor          // the anchor of a manifest that contains this object too
	// Small and Body are the object of up to 160 KiB that has content, and all
	// its bytes, which nothing verified yet but who opens or copies a frame;
	// nil of others. Read-only.
	Small *Object
	Body  []byte
}

// Tail walks the accepted journal objects of t behind from, by the rule every
// reader follows, and gives at most limit of them to take, in order. more is
// true when the limit ended the walk.
//
// It is stricter than a History: it goes no further than an object that is
// missing while later ones exist, that is damaged or that does not continue
// the history. That is kind Corrupt, and what came before was given to take.
// An error of take ends the walk and comes back as it is. Memory: the footers
// of walkBatch objects and, of those of up to 160 KiB, all of them.
func (c *Container) Tail(ctx context.Context, t dr.TimelineID, from Anchor, limit int, take func(TailObject) error) (more bool, err error) {
	if from.Next == 0 {
		from.Next = FirstNumber
	}
	c.recent.want()
	w := &tailWalk{c: c, timeline: t, at: from, left: limit, take: take}
	w.chain = newChain(Window)
	w.chain.next, w.chain.epoch, w.chain.prev, w.chain.at = from.Next, from.Epoch, from.Digest, from.Number
	for {
		moved, err := w.page(ctx)
		if err != nil {
			return false, err
		}
		if w.left <= 0 {
			return true, nil
		}
		if !moved {
			return false, nil
		}
	}
}

// tailWalk is one walk of Tail.
type tailWalk struct {
	c        *Container
	timeline dr.TimelineID
	chain    chain
	at       Anchor
	left     int
	take     func(TailObject) error
	modified map[dr.ObjectNumber]time.Time // of the page's objects
}

// page goes over one page of the store's list; moved is false when the tail
// has ended. A page that is not full was the last: what is published meanwhile
// is for the next walk.
func (w *tailWalk) page(ctx context.Context) (moved bool, err error) {
	page, err := w.c.st.List(ctx, objectPrefix(w.timeline), objectKey(w.timeline, w.chain.next-1), listPage)
	if err != nil {
		return false, errs.E("journal.Tail", errs.Internal, w.timeline.String(), err)
	}
	objects := w.sizes(page)
	for len(objects) > 0 && w.left > 0 {
		n := min(len(objects), walkBatch, w.left)
		batch, err := loadEach(ctx, w.timeline, objects[:n], w.c.loadRecent)
		if err != nil {
			return moved, err
		}
		objects = objects[n:]
		for _, l := range batch {
			if l.number < w.chain.next {
				continue // a name a FENCE made dead
			}
			if l.number > w.chain.next || l.missing {
				return false, w.end(l.number)
			}
			if err := w.accept(l); err != nil {
				return moved, err
			}
			moved = true
		}
	}
	return moved && len(page) == listPage, nil
}

func (w *tailWalk) sizes(page []store.Info) []sized {
	var out []sized
	w.modified = make(map[dr.ObjectNumber]time.Time, len(page))
	for _, in := range page {
		if n, ok := parseObjectKey(w.timeline, in.Key); ok {
			out = append(out, sized{n, in.Size})
			w.modified[n] = in.Modified
		}
	}
	return out
}

// end judges that the next object is not there while number is.
func (w *tailWalk) end(number dr.ObjectNumber) error {
	if number < w.chain.next+Window {
		return nil // what is under way, or made dead
	}
	return w.corrupt("the object is missing, though later ones exist")
}

func (w *tailWalk) corrupt(what string) error {
	return errs.New("journal.Tail", errs.Corrupt, objectKey(w.timeline, w.chain.next), what).
		WithRemedy("run fsck on the container; maintenance goes no further than this object")
}

func (w *tailWalk) accept(l *loaded) error {
	if err := l.damaged(); err != nil {
		return w.corrupt(err.Error())
	}
	if refused := w.chain.step(l.link()); refused != "" {
		return w.corrupt("it does not continue the history: " + refused)
	}
	w.at.Number, w.at.Digest, w.at.Epoch, w.at.Next = l.number, l.digest, l.header.Epoch, w.chain.next
	w.at.Objects++
	if l.header.Kind == segment.Fence {
		w.at.Fences++
	}
	if f := l.footer; f != nil && f.Last >= f.First {
		if f.First <= w.at.LastSeq && f.Last > 0 {
			return w.corrupt("its records do not come after those of the objects before it")
		}
		w.at.LastSeq = max(w.at.LastSeq, f.Last)
	}
	if l.footer != nil && l.footer.Checkpoint != nil && l.footer.Checkpoint.Seq > 0 {
		w.at.LastSeq = max(w.at.LastSeq, l.footer.Checkpoint.Seq-1) // it holds all below, whether there was any or not
	}
	t := TailObject{Number: l.number, Size: l.size, Created: l.header.Created, Modified: w.modified[l.number], Object: l.header.Object, Footer: l.footer, After: w.at}
	if l.whole != nil && l.footer != nil && len(l.footer.Entries) > 0 {
		o, err := w.c.object(l)
		if err != nil {
			return w.corrupt(err.Error())
		}
		t.Small, t.Body = o, l.whole
	}
	if err := w.take(t); err != nil {
		return err
	}
	w.left--
	return nil
}
