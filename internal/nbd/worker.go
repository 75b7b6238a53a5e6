package nbd

import "sync"

// opList is a queue threaded through Op.next. It needs no bound of its own:
// operations are bounded per connection.
type opList struct{ head, tail *Op }

func (l *opList) push(op *Op) {
	op.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
}

func (l *opList) pop() *Op {
	op := l.head
	if op != nil {
		l.head = op.next
		if l.head == nil {
			l.tail = nil
		}
		op.next = nil
	}
	return op
}

func (l *opList) empty() bool { return l.head == nil }

// take empties the list and returns what it held.
func (l *opList) take() opList {
	out := *l
	*l = opList{}
	return out
}

// workers run operations that may wait for the disk. Goroutines start when
// there is work for them, up to the limit, and stay until close.
type workers struct {
	run   func(*Op)
	limit int

	mu      sync.Mutex
	wake    sync.Cond
	queue   opList
	idle    int
	started int
	closed  bool
	done    sync.WaitGroup
}

func (w *workers) init(limit int, run func(*Op)) {
	w.limit, w.run = limit, run
	w.wake.L = &w.mu
}

// push never blocks: a loop, or the thread of a ring, calls it.
func (w *workers) push(op *Op) {
	w.mu.Lock()
	w.queue.push(op)
	switch {
	case w.idle > 0:
		w.idle-- // here, so that the next push does not count on the same one
		w.wake.Signal()
	case w.started < w.limit:
		w.started++
		w.done.Add(1)
		go w.loop()
	}
	w.mu.Unlock()
}

func (w *workers) loop() {
	defer w.done.Done()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		op := w.queue.pop()
		if op != nil {
			w.mu.Unlock()
			w.run(op)
			w.mu.Lock()
			continue
		}
		if w.closed {
			return
		}
		w.idle++
		w.wake.Wait()
	}
}

func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	w.wake.Broadcast()
	w.mu.Unlock()
	w.done.Wait()
}

// syncer makes writes durable for many operations at once: every operation
// that waits when a sync starts is completed by it, those that come while it
// runs wait for the next, so each is covered by a sync that began after it.
type syncer struct {
	sync func() error

	mu      sync.Mutex
	wake    sync.Cond
	waiting opList
	started bool
	closed  bool
	done    sync.WaitGroup
}

func (s *syncer) init(sync func() error) {
	s.sync = sync
	s.wake.L = &s.mu
}

func (s *syncer) push(op *Op) {
	s.mu.Lock()
	s.waiting.push(op)
	if !s.started {
		s.started = true
		s.done.Add(1)
		go s.loop()
	}
	s.wake.Signal()
	s.mu.Unlock()
}

func (s *syncer) loop() {
	defer s.done.Done()
	for {
		s.mu.Lock()
		for s.waiting.empty() && !s.closed {
			s.wake.Wait()
		}
		batch := s.waiting.take()
		s.mu.Unlock()
		if batch.empty() {
			return
		}
		err := s.sync()
		for op := batch.pop(); op != nil; op = batch.pop() {
			op.Complete(err)
		}
	}
}

func (s *syncer) close() {
	s.mu.Lock()
	s.closed = true
	s.wake.Broadcast()
	s.mu.Unlock()
	s.done.Wait()
}
