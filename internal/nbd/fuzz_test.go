package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"
)

// scripted is a connection whose peer has said everything already.
type scripted struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *scripted) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }
func (s *scripted) Close() error                     { return nil }

// memDisk is a disk in memory; every second operation completes from another
// goroutine.
type memDisk struct {
	mu sync.Mutex
	b  []byte
	n  int
}

func (m *memDisk) Size() int64 { return int64(len(m.b)) }

func (m *memDisk) ReadAt(p []byte, off int64) (int, error) { return copy(p, m.b[off:]), nil }

func (m *memDisk) NextData(off int64) (int64, int64, error) {
	if off < 4096 {
		return off, 4096, nil
	}
	return m.Size(), m.Size(), nil
}

func (m *memDisk) Submit(op *Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch op.Kind {
	case Read:
		copy(op.Data, m.b[op.Offset:])
	case Write:
		copy(m.b[op.Offset:], op.Data)
	case WriteZeroes, Trim:
		clear(m.b[op.Offset : op.Offset+op.Length])
	case Flush:
	}
	if m.n++; m.n%2 == 0 {
		go op.Complete(nil)
		return
	}
	op.Complete(nil)
}

func testExports() *exports {
	x := &exports{}
	x.list = []*Export{{Name: "a", Description: "x", Disk: &memDisk{b: make([]byte, 64<<10)}}}
	return x
}

func optionBytes(opt uint32, data []byte) []byte {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, opt)
	return append(be.AppendUint32(b, uint32(len(data))), data...)
}

// FuzzHandshake feeds a server what a client may send before transmission.
// Whatever it is, the server answers options with well-formed replies.
func FuzzHandshake(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	info := append(appendString(nil, "a"), 0, 2, 0, 1, 0, 3)
	meta := appendString(be.AppendUint32(appendString(nil, "a"), 1), contextAllocation)
	f.Add(append(bytes.Clone(flags), optionBytes(optExportName, []byte("a"))...))
	f.Add(append(bytes.Clone(flags), optionBytes(optAbort, nil)...))
	f.Add(bytes.Join([][]byte{flags, optionBytes(optList, nil), optionBytes(optStructuredReply, nil),
		optionBytes(optListMetaContext, meta), optionBytes(optSetMetaContext, meta), optionBytes(optInfo, info), optionBytes(optGo, info)}, nil))
	f.Add(append(bytes.Clone(flags), optionBytes(optGo, []byte{255, 255, 255, 255, 0, 0})...))
	f.Add(append(bytes.Clone(flags), optionBytes(optStartTLS, nil)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &scripted{in: bytes.NewReader(in)}
		h := &handshake{conn: s, exports: testExports()}
		err := h.run(context.Background())
		if (err == nil) != (h.chosen != nil) {
			t.Fatalf("error %v with export %v", err, h.chosen)
		}
		out := s.out.Bytes()[18:]
		for len(out) >= 20 && be.Uint64(out) == magicOptReply {
			n := be.Uint32(out[16:])
			if uint64(n) > uint64(len(out)-20) {
				t.Fatal("reply cut short")
			}
			out = out[20+n:]
		}
		if len(out) != 0 && len(out) != 10 && len(out) != 134 { // the answer to EXPORT_NAME
			t.Fatalf("%d bytes that are no reply", len(out))
		}
	})
}

// FuzzRequests feeds a transmission loop what a client may send. Every reply
// must be well formed and the loop end with no operation in flight.
func FuzzRequests(f *testing.F) {
	req := func(flags Flags, cmd uint16, off uint64, n uint32, payload string) []byte {
		b := make([]byte, requestSize)
		putRequest(b, &request{flags: flags, cmd: cmd, cookie: 77, offset: off, length: n})
		return append(b, payload...)
	}
	f.Add(bytes.Join([][]byte{req(0, cmdWrite, 5, 4, "abcd"), req(0, cmdRead, 5, 4, ""), req(FUA, cmdFlush, 0, 0, ""), req(0, cmdDisc, 0, 0, "")}, nil), true)
	f.Add(bytes.Join([][]byte{req(flagReqOne, cmdBlockStatus, 0, 65536, ""), req(NoHole, cmdWriteZeroes, 1, 4, ""), req(0, cmdTrim, 0, 512, ""), req(0, cmdCache, 0, 1, "")}, nil), true)
	f.Add(bytes.Join([][]byte{req(0, cmdWrite, 1<<40, 4, "abcd"), req(0, cmdRead, ^uint64(0), 1<<31, ""), req(0xffff, 99, 0, 0, "")}, nil), false)
	f.Add(req(0, cmdWrite, 0, maxPayload+1, "x"), false)
	f.Add(req(0, cmdWrite, 0, 1<<32-1, "x"), false)
	f.Fuzz(func(t *testing.T, in []byte, structured bool) {
		s := &scripted{in: bytes.NewReader(in)}
		x := testExports()
		h := &handshake{conn: s, exports: x, chosen: x.list[0], structured: structured}
		if structured {
			h.metaFor = h.chosen
		}
		l := newStreamLoop(h, newBufferPool())
		_ = l.run() // how it ends is the client's affair
		if !l.ops.idle() {
			t.Fatal("operations in flight")
		}
		if used := l.acct.used.Load(); used != 0 {
			t.Fatalf("%d bytes not given back", used)
		}
		checkReplies(t, s.out.Bytes(), in)
	})
}

// checkReplies walks a reply stream; lengths of simple read replies are looked
// up in the requests by their cookies, so only structured ones are walked
// through reads.
func checkReplies(t *testing.T, out, in []byte) {
	t.Helper()
	for len(out) > 0 {
		switch {
		case len(out) >= chunkSize && be.Uint32(out) == magicChunk:
			n := be.Uint32(out[16:])
			if uint64(n) > uint64(len(out)-chunkSize) {
				t.Fatal("chunk cut short")
			}
			out = out[chunkSize+n:]
		case len(out) >= simpleSize && be.Uint32(out) == magicSimple:
			if bytes.Contains(in, []byte{0x25, 0x60, 0x95, 0x13}) && be.Uint32(out[4:]) == 0 && hasRead(in) {
				return // a payload of unknown length may follow
			}
			out = out[simpleSize:]
		default:
			t.Fatalf("no reply: %x", out[:min(len(out), 32)])
		}
	}
}

func hasRead(in []byte) bool {
	for i := 0; i+8 <= len(in); i++ {
		if binary.BigEndian.Uint32(in[i:]) == magicRequest && be.Uint16(in[i+6:]) == cmdRead {
			return true
		}
	}
	return false
}

// FuzzNegotiation feeds a client what a server may send before transmission.
func FuzzNegotiation(f *testing.F) {
	hello := be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, magicInit), magicOption), 3)
	rep := func(opt, typ uint32, data string) []byte {
		b := be.AppendUint32(be.AppendUint32(be.AppendUint64(nil, magicOptReply), opt), typ)
		return append(be.AppendUint32(b, uint32(len(data))), data...)
	}
	f.Add(bytes.Join([][]byte{hello, rep(optStructuredReply, repAck, ""), rep(optSetMetaContext, repMetaContext, "\x00\x00\x00\x07base:allocation"),
		rep(optSetMetaContext, repAck, ""), rep(optGo, repInfo, "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0d\xed"),
		rep(optGo, repInfo, "\x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00"), rep(optGo, repAck, "")}, nil))
	f.Add(bytes.Join([][]byte{hello, rep(optStructuredReply, repErrUnsup, "no"), rep(optGo, repErrUnknown, "no")}, nil))
	f.Add(append(bytes.Clone(hello), 0, 3, 0xe8, 0x89))
	f.Fuzz(func(t *testing.T, in []byte) {
		n := negotiation{conn: &scripted{in: bytes.NewReader(in)}, export: "a"}
		if err := n.run(context.Background()); err != nil {
			return
		}
		if i := n.exportInfo(); n.size < 0 || i.MaxPayload == 0 || i.MaxPayload > maxPayload {
			t.Fatalf("accepted %d bytes, %+v", n.size, i)
		}
	})
}

// FuzzReplies feeds a client what a server may send in answer to one request
// of each kind. Buffers must not be written outside, and callers always hear.
func FuzzReplies(f *testing.F) {
	cookie := func(slot uint32) uint64 { return 1<<32 | uint64(slot) }
	simple := func(slot, errno uint32, data string) []byte {
		b := make([]byte, simpleSize)
		putSimple(b, cookie(slot), errno)
		return append(b, data...)
	}
	part := func(slot uint32, typ uint16, data string) []byte {
		b := make([]byte, chunkSize)
		putChunk(b, cookie(slot), typ, uint32(len(data)))
		return append(b, data...)
	}
	data := "\x00\x00\x00\x00\x00\x00\x00\x64\x61\x62\x63\x64\x65\x66\x67\x68"
	f.Add(bytes.Join([][]byte{part(0, chunkOffsetData, data), simple(1, 0, ""), part(2, chunkBlockStatus, "\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x03")}, nil), true)
	f.Add(part(0, chunkOffsetHole, "\x00\x00\x00\x00\x00\x00\x00\x64\x00\x00\x00\x08"), true)
	f.Add(part(0, chunkError, "\x00\x00\x00\x05\x00\x02no"), true)
	f.Add(bytes.Join([][]byte{simple(0, 0, "12345678"), simple(1, 28, "")}, nil), false)
	f.Fuzz(func(t *testing.T, in []byte, structured bool) {
		c := &Client{conn: &scripted{in: bytes.NewReader(in)}, size: 1 << 20, slots: make(chan uint32, clientSlots), send: make(chan struct{}, 1), dead: make(chan struct{})}
		c.extended = replyModes{structured: structured, allocation: structured, contextID: 1}
		for i := range uint32(clientSlots) {
			c.table[i].done = make(chan struct{}, 1)
			c.slots <- i
		}
		guarded := bytes.Repeat([]byte{0xcc}, 24)
		for _, r := range []*request{{cmd: cmdRead, offset: 100, length: 8}, {cmd: cmdWrite, length: 4}, {cmd: cmdBlockStatus, length: 8}} {
			if _, err := c.take(context.Background(), "fuzz", r, guarded[8:16:16]); err != nil {
				t.Fatal(err)
			}
		}
		c.receive()
		if !bytes.Equal(guarded[:8], bytes.Repeat([]byte{0xcc}, 8)) || !bytes.Equal(guarded[16:], bytes.Repeat([]byte{0xcc}, 8)) {
			t.Fatal("written outside the caller's buffer")
		}
		if c.reason("fuzz") == nil {
			t.Fatal("the end of the stream went unnoticed")
		}
	})
}
