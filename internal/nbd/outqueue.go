package nbd

import "net"

// segment is a piece of the reply stream and what it lies in.
type segment struct {
	b    []byte
	hold *buffer // nil when the garbage collector owns b
}

// outQueue gathers replies for one write. Replies that follow each other in
// the current buffer are one segment: a queue of small replies, and of reads
// served at once, is one contiguous piece. One goroutine owns it.
type outQueue struct {
	pool *bufferPool
	acct *account

	cur     *buffer
	start   int // of the open segment in cur
	end     int // of the open segment, and of what is used
	segs    []segment
	pending int // bytes in closed segments
	vec     net.Buffers
	vecUsed net.Buffers // consumed by the write; a field, so that it does not escape each time
}

// space makes room for n contiguous bytes at the end.
func (q *outQueue) space(n int) []byte {
	if q.cur == nil || q.end+n > len(q.cur.b) {
		q.rotate(n)
	}
	return q.cur.b[q.end : q.end+n]
}

// rotate goes on in another buffer of at least n bytes.
func (q *outQueue) rotate(n int) {
	q.closeSegment()
	q.drop()
	q.cur = q.pool.get(max(outSize, n), q.acct)
	q.start, q.end = 0, 0
}

// drop lets go of the current buffer.
func (q *outQueue) drop() {
	if q.cur != nil {
		q.cur.release()
		q.cur = nil
	}
}

// commit makes n bytes given by space part of the stream.
func (q *outQueue) commit(n int) { q.end += n }

// skip leaves n bytes given by space to somebody who will send them later.
func (q *outQueue) skip(n int) {
	q.closeSegment()
	q.end += n
	q.start = q.end
}

func (q *outQueue) closeSegment() {
	if q.end == q.start {
		return
	}
	q.cur.retain()
	q.segs = append(q.segs, segment{q.cur.b[q.start:q.end], q.cur})
	q.pending += q.end - q.start
	q.start = q.end
}

// add puts a region into the stream and takes over its hold.
func (q *outQueue) add(b []byte, hold *buffer) {
	q.closeSegment()
	q.segs = append(q.segs, segment{b, hold})
	q.pending += len(b)
}

// waiting is how many bytes a write would send.
func (q *outQueue) waiting() int { return q.pending + q.end - q.start }

// writeTo sends everything and releases it, sent or not.
func (q *outQueue) writeTo(nc net.Conn) error {
	q.closeSegment()
	var err error
	for first := 0; first < len(q.segs) && err == nil; first += maxSegments {
		err = q.writeSome(nc, q.segs[first:min(len(q.segs), first+maxSegments)])
	}
	q.discard()
	return err
}

// discard releases what is queued, sent or not.
func (q *outQueue) discard() {
	q.closeSegment()
	for i := range q.segs {
		if h := q.segs[i].hold; h != nil {
			h.release()
		}
		q.segs[i] = segment{}
	}
	q.segs, q.pending = q.segs[:0], 0
	q.reuse()
}

// reuse starts the current buffer over, where the cache is warm, if nobody
// needs what is in it.
func (q *outQueue) reuse() {
	if q.cur == nil || q.end != q.start || !q.cur.alone() {
		return
	}
	q.start, q.end = 0, 0
	if len(q.cur.b) > outSize {
		q.drop()
	}
}

func (q *outQueue) writeSome(nc net.Conn, segs []segment) error {
	if len(segs) == 1 {
		_, err := nc.Write(segs[0].b)
		return err
	}
	q.vec = q.vec[:0]
	for i := range segs {
		q.vec = append(q.vec, segs[i].b)
	}
	q.vecUsed = q.vec
	_, err := q.vecUsed.WriteTo(nc)
	clear(q.vec)
	return err
}
