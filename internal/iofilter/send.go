package iofilter

import (
	"context"
	"net"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter/stream"
	"holdfast/internal/wire"
)

// sender writes the stream to one connection. Owned by one goroutine.
type sender struct {
	o        *outlet
	conn     net.Conn
	flush    flusher // nil: the connection does not gather
	timer    *time.Timer
	frame    stream.Frame
	out      []byte // answers being written
	session  dr.Session
	unsent   bool     // something was written since the last flush
	rested   bool     // the last thing done was a nap
	replayed bool     // the frame at hand is a replay
	boot     *booting // a trace to be told; nil: none
}

// What the sender does next.
type step uint8

const (
	stepWrite step = iota
	stepNap
	stepIdle
	stepRejoin
)

// send writes records and answers to conn until ctx is done or the connection
// fails. With asynchronous acknowledgement it naps between loads; otherwise
// what came while a frame was written forms the next.
func (o *outlet) send(ctx context.Context, conn net.Conn) error {
	s := &sender{o: o, conn: conn, timer: time.NewTimer(time.Hour)}
	defer s.timer.Stop()
	s.flush, _ = conn.(flusher)
	o.mu.Lock()
	s.session = o.link.session
	o.mu.Unlock()
	for {
		var err error
		switch s.next() {
		case stepWrite:
			err = s.write()
			s.done()
		case stepNap:
			if err = s.sleep(ctx, napTime); err == nil {
				s.rested = true
			}
		case stepIdle:
			err = s.idle(ctx)
			s.rested = false
		case stepRejoin:
			err = errRejoin
		}
		if err != nil {
			return err
		}
	}
}

// next takes what there is to send, or puts the sender to sleep: the sleep is
// announced under the same lock that every record enters under, so that none
// is missed.
func (s *sender) next() step {
	o := s.o
	o.mu.Lock()
	defer o.unlock()
	l := &o.link
	if l.edition != o.edition && !o.gate.Holding() { // a hold lasts 100 ms at most, and its round is worth that
		return stepRejoin
	}
	s.out = s.out[:0]
	end := l.replayTo
	if !l.replayed && l.cursor >= l.replayTo {
		s.out = wire.AppendFrame(s.out, wire.TypeReplayEnd, nil)
		l.replayed = true
		o.tryLeaveLocked(o.now())
		signal(o.syncKick) // what is asked from now on follows what was replayed
	}
	if l.replayed {
		end = o.str.Next()
	}
	s.boot = o.takeBootLocked()
	s.out = append(s.out, l.outbox...)
	l.outbox = l.outbox[:0]
	if l.marker.set {
		end = min(end, l.marker.after+1)
	}
	pending := o.str.Next() > l.cursor
	hurry := o.ack != dr.Async || s.rested || l.cursor <= l.rush || o.str.Pending(l.cursor) >= napBytes
	s.frame.Clear()
	if pending && hurry && l.cursor < end {
		s.replayed = !l.replayed
		if o.str.Gather(&s.frame, l.cursor, end) {
			l.cursor = s.frame.First + dr.HostSeq(s.frame.Count)
			o.stats.sentBytes += uint64(s.frame.Bytes())
		} else {
			l.cursor = max(l.cursor, min(end, o.str.First())) // freed meanwhile
		}
	}
	if l.marker.set && l.replayed && l.cursor > l.marker.after && s.frame.Mark(l.marker.round, time.Now().UnixNano()) {
		l.marker.set = false
	}
	switch {
	case len(s.out) > 0 || s.boot != nil || !s.frame.Empty() || pending && hurry || l.marker.set:
		o.asleep.Store(awake)
		return stepWrite
	case o.ack == dr.Async && !s.rested:
		o.asleep.Store(napping)
		return stepNap
	}
	o.asleep.Store(idle)
	return stepIdle
}

// write puts the answers and the frame at hand on the connection.
func (s *sender) write() error {
	if s.boot != nil {
		s.out, s.boot = s.boot.append(s.out), nil // here, where nobody waits for the lock
	}
	if len(s.out) == 0 && s.frame.Empty() {
		return nil
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(peerSilence)); err != nil {
		return err
	}
	s.unsent = true
	if len(s.out) > 0 {
		if _, err := s.conn.Write(s.out); err != nil {
			return err
		}
	}
	if s.frame.Empty() {
		return nil
	}
	for _, p := range [3][]byte{s.frame.Encode(s.session, s.replayed), s.frame.Payload[0], s.frame.Payload[1]} {
		if len(p) == 0 {
			continue
		}
		if _, err := s.conn.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// done gives the frame's memory back to the stream, whatever became of it.
func (s *sender) done() {
	if s.frame.Count == 0 {
		return
	}
	o := s.o
	o.mu.Lock()
	before := o.str.First()
	o.str.Unpin()
	if o.link.cursor >= o.str.Next() {
		s.rested = false // a load is over; collect the next
	}
	if o.str.First() > before {
		o.progressLocked(true)
	}
	o.unlock()
}

// sleep waits until woken or until d has passed.
func (s *sender) sleep(ctx context.Context, d time.Duration) error {
	if s.unsent && s.flush != nil {
		if err := s.flush.Flush(); err != nil {
			return err
		}
	}
	s.unsent = false
	s.timer.Reset(d)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.o.wake:
	case <-s.timer.C:
	}
	return nil
}

// idle waits for work, and says Ping when there is none for long.
func (s *sender) idle(ctx context.Context) error {
	began := time.Now()
	if err := s.sleep(ctx, pingEvery); err != nil || time.Since(began) < pingEvery {
		return err
	}
	s.out = wire.AppendFrame(s.out[:0], wire.TypePing, nil)
	s.frame.Clear()
	return s.write()
}
