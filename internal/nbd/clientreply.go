package nbd

import (
	"bufio"
	"fmt"
	"io"

	"holdfast/internal/errs"
)

// reader parses the reply stream. Everything a server says is checked: a
// reply that belongs to no request, or says more than was asked, breaks the
// connection, because the place in the stream can no longer be trusted.
type replyReader struct {
	c *Client
	r *bufio.Reader
}

// replies runs until the stream ends or goes wrong.
func (c *Client) replies() error {
	rr := replyReader{c: c, r: bufio.NewReaderSize(c.conn, 256<<10)}
	for {
		if err := rr.one(); err != nil {
			return err
		}
	}
}

func wrong(words string) error {
	return errs.New("nbd.Client", errs.Invalid, "server", words)
}

// one reads a simple reply or a chunk.
func (rr *replyReader) one() error {
	var b [chunkSize]byte
	if _, err := io.ReadFull(rr.r, b[:4]); err != nil {
		return err
	}
	switch be.Uint32(b[:]) {
	case magicSimple:
		if _, err := io.ReadFull(rr.r, b[4:simpleSize]); err != nil {
			return err
		}
		return rr.simple(be.Uint64(b[8:]), be.Uint32(b[4:]))
	case magicChunk:
		if !rr.c.extended.structured {
			return wrong("structured reply that was not negotiated")
		}
		if _, err := io.ReadFull(rr.r, b[4:]); err != nil {
			return err
		}
		return rr.chunk(be.Uint64(b[8:]), be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint32(b[16:]))
	}
	return wrong("wrong reply magic")
}

// begin finds the request of a cookie. fill: the reader is going to write to
// its buffer, which must not be taken away meanwhile. buf is nil when the
// caller has left.
func (rr *replyReader) begin(cookie uint64, fill bool) (k *call, buf []byte, err error) {
	slot, generation := uint32(cookie), uint32(cookie>>32)
	c := rr.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if slot >= clientSlots || !c.table[slot].busy || c.table[slot].generation != generation {
		return nil, nil, wrong("reply to a request that was not made")
	}
	k = &c.table[slot]
	if fill && !k.abandoned {
		k.filling = true
		return k, k.buf, nil
	}
	return k, nil, nil
}

// filled ends what begin began with fill.
func (rr *replyReader) filled(k *call, n int64) {
	rr.c.mu.Lock()
	k.filling = false
	k.filled += n
	rr.c.mu.Unlock()
}

// end hands the outcome to the caller, or frees the slot of one who left.
func (rr *replyReader) end(cookie uint64, k *call) {
	c := rr.c
	c.mu.Lock()
	defer c.mu.Unlock()
	k.busy = false
	k.filling = false
	if k.abandoned {
		c.free(uint32(cookie))
		return
	}
	k.done <- struct{}{}
}

func (rr *replyReader) simple(cookie uint64, errno uint32) error {
	k, buf, err := rr.begin(cookie, errno == 0)
	if err != nil {
		return err
	}
	switch {
	case errno != 0:
		k.err = fromWire("nbd.Client", errno)
	case k.cmd == cmdBlockStatus:
		return wrong("simple reply to block status")
	case k.cmd == cmdRead && rr.c.extended.structured:
		return wrong("simple reply to a read after structured replies were negotiated")
	case k.cmd == cmdRead && buf != nil:
		if _, err := io.ReadFull(rr.r, buf); err != nil {
			return err
		}
	case k.cmd == cmdRead: // the caller left
		if _, err := io.CopyN(io.Discard, rr.r, k.length); err != nil {
			return err
		}
	}
	rr.end(cookie, k)
	return nil
}

// chunk reads one chunk of a structured reply.
func (rr *replyReader) chunk(cookie uint64, flags, typ uint16, n uint32) error {
	k, buf, err := rr.begin(cookie, typ == chunkOffsetData || typ == chunkOffsetHole)
	if err != nil {
		return err
	}
	switch {
	case typ == chunkNone:
		if n != 0 || flags&chunkDone == 0 {
			return wrong("malformed final chunk")
		}
	case typ == chunkOffsetData:
		err = rr.data(k, buf, n)
	case typ == chunkOffsetHole:
		err = rr.hole(k, buf, n)
	case typ == chunkBlockStatus:
		err = rr.status(k, n)
	case typ&chunkErrorBit != 0:
		err = rr.failure(k, typ, n)
	default:
		return wrong(fmt.Sprintf("unknown chunk type %d", typ))
	}
	if err != nil {
		return err
	}
	if flags&chunkDone != 0 {
		rr.complete(k)
		rr.end(cookie, k)
	}
	return nil
}

// complete checks that a successful reply said everything.
func (rr *replyReader) complete(k *call) {
	rr.c.mu.Lock()
	defer rr.c.mu.Unlock()
	if k.err != nil || k.abandoned {
		return
	}
	if k.cmd == cmdRead && k.filled != k.length || k.cmd == cmdBlockStatus && len(k.extents) == 0 {
		k.err = wrong("incomplete reply")
	}
}

// place reads a content chunk's offset and checks it against the request.
func (rr *replyReader) place(k *call, buf []byte, n int64) ([]byte, error) {
	var b [8]byte
	if _, err := io.ReadFull(rr.r, b[:]); err != nil {
		return nil, err
	}
	off := be.Uint64(b[:])
	at := off - uint64(k.offset) // huge when off is before the request
	if k.cmd != cmdRead || n <= 0 || at > uint64(k.length) || n > k.length-int64(at) || k.filled+n > k.length {
		return nil, wrong("content chunk outside the request")
	}
	if buf == nil {
		return nil, nil // the caller left
	}
	return buf[at : at+uint64(n)], nil
}

func (rr *replyReader) data(k *call, buf []byte, n uint32) error {
	if n < 9 {
		return wrong("malformed data chunk")
	}
	length := int64(n) - 8
	p, err := rr.place(k, buf, length)
	switch {
	case err != nil:
		return err
	case p == nil:
		_, err = io.CopyN(io.Discard, rr.r, length)
	default:
		_, err = io.ReadFull(rr.r, p)
	}
	rr.filled(k, length)
	return err
}

func (rr *replyReader) hole(k *call, buf []byte, n uint32) error {
	if n != 12 {
		return wrong("malformed hole chunk")
	}
	// The length follows the offset; look ahead, place wants it first.
	b, err := rr.r.Peek(12)
	if err != nil {
		return err
	}
	length := int64(be.Uint32(b[8:]))
	p, err := rr.place(k, buf, length)
	if err != nil {
		return err
	}
	clear(p)
	rr.filled(k, length)
	_, err = rr.r.Discard(4)
	return err
}

// status reads a block status chunk.
func (rr *replyReader) status(k *call, n uint32) error {
	if k.cmd != cmdBlockStatus || n < 12 || (n-4)%8 != 0 || (n-4)/8 > maxChunkExtents || len(k.extents) != 0 {
		return wrong("malformed block status")
	}
	var b [8]byte
	if _, err := io.ReadFull(rr.r, b[:4]); err != nil {
		return err
	}
	if be.Uint32(b[:]) != rr.c.extended.contextID {
		return wrong("block status of an unknown context")
	}
	off := k.offset
	for range (n - 4) / 8 {
		if _, err := io.ReadFull(rr.r, b[:]); err != nil {
			return err
		}
		length, state := int64(be.Uint32(b[:])), be.Uint32(b[4:])
		if length == 0 || off >= k.offset+k.length {
			return wrong("block status of an empty extent or beyond the request")
		}
		k.extents = append(k.extents, Extent{off, length, state&stateHole != 0, state&stateZero != 0})
		off += length
	}
	return nil
}

// failure reads an error chunk: errno u32, message length u16, message, and
// for some types an offset.
func (rr *replyReader) failure(k *call, typ uint16, n uint32) error {
	if n < 6 || n > 6+maxErrorText+8 {
		return wrong("malformed error chunk")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(rr.r, b); err != nil {
		return err
	}
	text := int(be.Uint16(b[4:]))
	if 6+text > len(b) {
		return wrong("malformed error chunk")
	}
	errno := be.Uint32(b)
	if errno == 0 {
		return wrong("error chunk without an error")
	}
	rr.c.mu.Lock()
	defer rr.c.mu.Unlock()
	if k.err == nil {
		k.err = fromWire("nbd.Client", errno)
		if text > 0 {
			k.err = fmt.Errorf("%w (%q)", k.err, b[6:6+text])
		}
	}
	return nil
}
