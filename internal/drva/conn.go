package drva

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/durable"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// buffer is the memory of one frame, from the network until its records are
// durable. One owner at a time: reader, sequencer, log, and back.
type buffer struct {
	frame   order.Frame
	recs    []record.Record
	body    []byte
	payload []byte // page-aligned, so that the log writes it from here
	large   bool
	conn    *conn // whose permit it has
}

// newBuffer returns a buffer for small frames, or for any. Most hosts write
// little at a time: 64 disks that idle would hold a gibibyte in large ones.
func newBuffer(large bool) *buffer {
	records, payload := smallRecords, smallPayload
	if large {
		records, payload = wire.MaxRecords, wire.MaxPayload
	}
	b := &buffer{
		recs:    make([]record.Record, 0, records),
		body:    make([]byte, records*record.Size),
		payload: durable.AlignedBytes(payload),
		large:   large,
	}
	b.frame.Owner = b
	return b
}

// release gives the buffer back, and its permit to its connection, which has
// room for all of its own.
func (b *buffer) release() {
	c := b.conn
	b.conn = nil
	c.frames.give(b)
	c.permits <- struct{}{}
}

// conn is one connection of a host.
type conn struct {
	id   order.ConnID
	nc   net.Conn
	host dr.HostID
	name string
	ack  dr.AckRule

	throttles, tracks bool                  // frames it takes, as its Hello says
	disks             map[dr.DiskID]dr.VMID // that its Hello names

	frames  *framePool
	permits chan struct{} // one for each frame it may have in memory; given back by whoever is done with it, never closed
	bytesIn atomic.Uint64 // payload that came

	// Owned by the sequencer.
	welcome bool // a Welcome was sent: nothing may come before
	rate    rate // of bytesIn

	done chan struct{}     // closed by the reader when it ends
	asks chan wire.HashAsk // written by the reader, never closed
	wake chan struct{}     // something to write; written under mu, never closed

	mu      sync.Mutex // guards what waits to be written
	control []byte     // whole frames
	spans   []wire.Span
	durable dr.HostSeq
	told    dr.HostSeq // last Durable written
	closing bool       // the last frame is in control
}

func newConn(id order.ConnID, nc net.Conn, h *wire.Hello, frames *framePool) *conn {
	ack, _ := dr.ParseAckRule(h.Ack)
	c := &conn{id: id, nc: nc, host: h.Host, name: h.Name, ack: ack, frames: frames,
		throttles: slices.Contains(h.Features, wire.FeatureThrottle), tracks: slices.Contains(h.Features, wire.FeatureTrack),
		disks:   disksOf(h),
		rate:    rate{window: lookWindow},
		permits: make(chan struct{}, Buffers), asks: make(chan wire.HashAsk, maxAsks), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	for range Buffers {
		c.permits <- struct{}{}
	}
	return c
}

// buffer returns a buffer for a frame, waiting if all the host may have are
// under way; nil when stop is closed first.
func (c *conn) buffer(h *wire.Head, stop <-chan struct{}) *buffer {
	select {
	case <-c.permits:
	case <-stop:
		return nil
	}
	b := c.frames.take(int(h.Count), h.Payload)
	b.conn = c
	return b
}

// tell takes a whole frame for the host; false when it reads too slowly.
func (c *conn) tell(frame []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control = append(c.control, frame...)
	return c.pushedLocked()
}

// pushedLocked wakes the writer; false when the host reads too slowly.
func (c *conn) pushedLocked() bool {
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(c.spans) <= maxSpans && len(c.control) <= maxControl
}

// push takes a frame for the host; false when it reads too slowly.
func (c *conn) push(m *order.Send) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Type {
	case wire.TypeAck:
		c.durable = max(c.durable, m.Durable)
		c.addSpan(m.Span)
	case wire.TypeWelcome, wire.TypeRefuse:
		var v any = m.Welcome
		if m.Type == wire.TypeRefuse {
			v, c.closing = m.Refuse, true
		}
		f, err := wire.EncodeJSON(m.Type, v)
		if err != nil {
			return false
		}
		c.control = append(c.control, f...)
	case wire.TypeFreeze:
		c.control = wire.Freeze{Round: m.Round, Limit: m.Limit}.Append(c.control)
	default:
		var b [wire.RoundSize]byte
		m.Round.Put(b[:])
		c.control = wire.AppendFrame(c.control, m.Type, b[:])
	}
	return c.pushedLocked()
}

// pushFrame takes a whole frame for the host; false when it reads too slowly.
func (c *conn) pushFrame(f []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control = append(c.control, f...)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(c.control) <= maxControl
}

// ask takes a host's question; false when it has asked too many.
func (c *conn) ask(m wire.HashAsk) bool {
	select {
	case c.asks <- m:
		return true
	default:
		return false
	}
}

// addSpan adds s to the last span if it continues it. Caller holds mu.
func (c *conn) addSpan(s wire.Span) {
	if s.Count == 0 {
		return
	}
	if n := len(c.spans); n > 0 {
		l := &c.spans[n-1]
		if s.First == l.First+dr.HostSeq(l.Count) && s.Seq == l.Seq+dr.Seq(l.Count) {
			l.Count += s.Count
			return
		}
	}
	c.spans = append(c.spans, s)
}

// lazy reports whether what waits may wait a moment longer: acknowledgements
// no guest waits for.
func (c *conn) lazy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ack == dr.Async && len(c.control) == 0
}

// take moves what waits into dst as whole frames. last: the connection ends
// after them.
func (c *conn) take(dst []byte) (_ []byte, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dst = append(dst, c.control...)
	c.control = c.control[:0]
	spans := c.spans
	for len(spans) > 0 || c.durable > c.told {
		n := min(len(spans), wire.MaxAckSpans)
		a := wire.Ack{Durable: c.durable, Spans: spans[:n]}
		dst = a.Append(dst)
		spans, c.told = spans[n:], c.durable
	}
	c.spans = c.spans[:0]
	return dst, c.closing
}

// write sends what is pushed until the connection ends.
func (c *conn) write() {
	defer c.nc.Close()
	idle := time.NewTimer(pingEvery)
	defer idle.Stop()
	var out []byte
	for {
		select {
		case <-c.done:
			return
		case <-idle.C:
			out = wire.AppendFrame(out[:0], wire.TypePing, nil)
			if !c.put(out) {
				return
			}
			idle.Reset(pingEvery)
			continue
		case <-c.wake:
		}
		if c.lazy() {
			nap := time.NewTimer(ackNap)
			select {
			case <-c.done:
			case <-nap.C:
			}
			nap.Stop()
		}
		var last bool
		if out, last = c.take(out[:0]); len(out) > 0 && !c.put(out) || last {
			return
		}
		idle.Reset(pingEvery)
	}
}

func (c *conn) put(b []byte) bool {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return false
	}
	_, err := c.nc.Write(b)
	return err == nil
}
