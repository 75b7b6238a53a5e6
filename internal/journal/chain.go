package journal

import (
	"holdfast/internal/dr"
	"holdfast/internal/segment"
)

// link is what the rules need to know of one journal object.
type link struct {
	number dr.ObjectNumber
	kind   segment.Kind
	epoch  dr.Epoch
	prev   segment.Digest  // of the object before, as this one names it
	digest segment.Digest  // of this one
	before dr.UUID         // the object before, as this one names it; zero: it does not
	object dr.UUID         // this one
	behind dr.ObjectNumber // number of the object before, likewise
}

// chain is the accepted history of a timeline up to, and without, number next.
// It is the reader's rule as a pure step: no I/O, no clock. The zero epoch
// means that nothing is accepted yet.
type chain struct {
	next  dr.ObjectNumber // where the history continues
	epoch dr.Epoch        // reign of the last accepted object
	prev  segment.Digest  // digest of the last accepted object
	gap   dr.ObjectNumber // how far a FENCE jumps: W
	last  dr.UUID         // the last accepted object; zero: not known
	at    dr.ObjectNumber // its number
}

func newChain(gap dr.ObjectNumber) chain { return chain{next: FirstNumber, gap: gap} }

// step accepts l as the object at c.next, or says why it does not continue
// the history. A refused object changes nothing.
func (c *chain) step(l link) (refused string) {
	switch {
	case l.number != c.next:
		return "its number is not the next one"
	case l.kind == segment.Fence && l.epoch <= c.epoch:
		return "a fence of an epoch that is not above the one before"
	case l.kind == segment.Journal && l.epoch != c.epoch:
		return "its epoch was not fenced in"
	case l.kind != segment.Fence && l.kind != segment.Journal:
		return "it is not a journal object"
	case l.prev != c.prev:
		return "it does not follow the object before it"
	case l.behind != 0 && l.behind != c.at, l.before != c.last && !l.before.IsZero() && !c.last.IsZero():
		// A digest stands in a tail, which whoever has the store can write anew.
		return "it follows another object than the one before it"
	}
	c.accept(l)
	return ""
}

func (c *chain) accept(l link) {
	c.epoch, c.prev, c.last, c.at = l.epoch, l.digest, l.object, l.number
	if l.kind == segment.Fence {
		c.next += c.gap
	} else {
		c.next++
	}
}
