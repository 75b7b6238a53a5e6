package nbd

import "sync"

// span is an operation's place in the range lock of a direct file.
type span struct {
	lo, hi     int64
	alone      bool // reads before it writes: shares its blocks with nobody
	held       bool
	prev, next *Op         // list of holders
	ring       resubmitter // where to go on after a wait; nil: a worker
}

// rangeLock keeps read-modify-write apart from every write to the same
// blocks. Writes of whole blocks share: their order is the guest's affair, as
// on any disk. Nobody blocks: an operation that has to wait is parked and
// handed back by the release that frees it, because the thread of a ring must
// go on reaping the very writes it would wait for.
//
// An aligned write costs two uncontended lock rounds.
type rangeLock struct {
	mu      sync.Mutex
	holders *Op
	alone   int // holders that are alone
	parked  opList
}

func (a *span) collides(b *span) bool {
	return (a.alone || b.alone) && a.lo < b.hi && b.lo < a.hi
}

// acquire takes the span for op, or parks op and reports false.
func (l *rangeLock) acquire(op *Op, lo, hi int64, alone bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &op.span
	s.lo, s.hi, s.alone = lo, hi, alone
	if l.blocked(s) {
		l.parked.push(op)
		return false
	}
	l.hold(op)
	return true
}

// blocked reports whether a holder or a parked operation stands in the way:
// those who wait go first, or a stream of whole-block writes would starve a
// read-modify-write.
func (l *rangeLock) blocked(s *span) bool {
	if s.alone || l.alone > 0 {
		for h := l.holders; h != nil; h = h.span.next {
			if s.collides(&h.span) {
				return true
			}
		}
	}
	for p := l.parked.head; p != nil; p = p.next {
		if s.collides(&p.span) {
			return true
		}
	}
	return false
}

func (l *rangeLock) hold(op *Op) {
	s := &op.span
	s.held, s.prev, s.next = true, nil, l.holders
	if l.holders != nil {
		l.holders.span.prev = op
	}
	l.holders = op
	if s.alone {
		l.alone++
	}
}

// release gives op's span up and returns the parked operations that now hold
// theirs.
func (l *rangeLock) release(op *Op) (free opList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(op)
	if l.parked.empty() {
		return free
	}
	var still opList
	waiting := l.parked.take()
	for p := waiting.pop(); p != nil; p = waiting.pop() {
		l.parked = still // those before p go first
		if l.blocked(&p.span) {
			still.push(p)
			continue
		}
		l.hold(p)
		free.push(p)
	}
	l.parked = still
	return free
}

func (l *rangeLock) drop(op *Op) {
	s := &op.span
	if !s.held {
		return
	}
	if s.prev != nil {
		s.prev.span.next = s.next
	} else {
		l.holders = s.next
	}
	if s.next != nil {
		s.next.span.prev = s.prev
	}
	if s.alone {
		l.alone--
	}
	s.held, s.prev, s.next = false, nil, nil
}
