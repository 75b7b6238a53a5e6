package nbd_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// A client's side of the protocol by hand, written from the protocol document
// and not from the package, so that both are not wrong in the same way.

var be = binary.BigEndian

const (
	oldMagic  = 0x4e42444d41474943
	optMagic  = 0x49484156454f5054
	repMagic  = 0x3e889045565a9
	reqMagic  = 0x25609513
	simple    = 0x67446698
	chunk     = 0x668e33ef
	errBit    = 1 << 31
	ackReply  = 1
	errChunk  = 1<<15 + 1
	dataChunk = 1
)

type wire struct {
	t  *testing.T
	nc net.Conn
}

func (w wire) put(b []byte) {
	w.t.Helper()
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

func (w wire) get(n int) []byte {
	w.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(w.nc, b); err != nil {
		w.t.Fatalf("receive %d bytes: %v", n, err)
	}
	return b
}

// closed checks that the server hangs up without another word.
func (w wire) closed() {
	w.t.Helper()
	if n, err := w.nc.Read(make([]byte, 1)); err == nil || n != 0 {
		w.t.Fatal("the server went on talking")
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		w.t.Fatal("the server did not hang up")
	}
}

// drain reads until the other side hangs up.
func (w wire) drain() { _, _ = io.Copy(io.Discard, w.nc) }

func (w wire) greet(flags uint32) {
	w.t.Helper()
	b := w.get(18)
	if be.Uint64(b) != oldMagic || be.Uint64(b[8:]) != optMagic || be.Uint16(b[16:]) != 3 {
		w.t.Fatalf("greeting %x", b)
	}
	w.put(be.AppendUint32(nil, flags))
}

func (w wire) option(opt uint32, data []byte) {
	w.t.Helper()
	b := be.AppendUint64(nil, optMagic)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, uint32(len(data)))
	w.put(append(b, data...))
}

type optReply struct {
	typ  uint32
	data string
}

// replies reads the replies to an option up to the last.
func (w wire) replies(opt uint32) (all []optReply) {
	w.t.Helper()
	for {
		h := w.get(20)
		if be.Uint64(h) != repMagic || be.Uint32(h[8:]) != opt {
			w.t.Fatalf("option reply header %x", h)
		}
		r := optReply{be.Uint32(h[12:]), string(w.get(int(be.Uint32(h[16:]))))}
		all = append(all, r)
		if r.typ == ackReply || r.typ&errBit != 0 {
			return all
		}
	}
}

// ask sends an option and returns the type of its last reply.
func (w wire) ask(opt uint32, data []byte) uint32 {
	w.t.Helper()
	w.option(opt, data)
	all := w.replies(opt)
	return all[len(all)-1].typ
}

func str(s string) []byte { return append(be.AppendUint32(nil, uint32(len(s))), s...) }

func infoQuery(name string, items ...uint16) []byte {
	b := be.AppendUint16(str(name), uint16(len(items)))
	for _, i := range items {
		b = be.AppendUint16(b, i)
	}
	return b
}

func metaQuery(name string, queries ...string) []byte {
	b := be.AppendUint32(str(name), uint32(len(queries)))
	for _, q := range queries {
		b = append(b, str(q)...)
	}
	return b
}

// enter negotiates a transmission phase.
func (w wire) enter(structured bool) wire {
	w.t.Helper()
	w.greet(3)
	if structured {
		if w.ask(8, nil) != ackReply || w.ask(10, metaQuery("", "base:allocation")) != ackReply {
			w.t.Fatal("structured replies refused")
		}
	}
	if w.ask(7, infoQuery("")) != ackReply {
		w.t.Fatal("go refused")
	}
	return w
}

func (w wire) request(flags, cmd uint16, cookie, off uint64, n uint32, payload []byte) {
	w.t.Helper()
	b := be.AppendUint32(nil, reqMagic)
	b = be.AppendUint16(b, flags)
	b = be.AppendUint16(b, cmd)
	b = be.AppendUint64(b, cookie)
	b = be.AppendUint64(b, off)
	b = be.AppendUint32(b, n)
	w.put(append(b, payload...))
}

// simple reads a simple reply and returns its errno.
func (w wire) simple(cookie uint64) uint32 {
	w.t.Helper()
	b := w.get(16)
	if be.Uint32(b) != simple || be.Uint64(b[8:]) != cookie {
		w.t.Fatalf("simple reply %x, want cookie %d", b, cookie)
	}
	return be.Uint32(b[4:])
}

// chunk reads the one chunk of a structured reply.
func (w wire) chunk(cookie uint64) (typ uint16, payload []byte) {
	w.t.Helper()
	b := w.get(20)
	if be.Uint32(b) != chunk || be.Uint16(b[4:]) != 1 || be.Uint64(b[8:]) != cookie {
		w.t.Fatalf("chunk %x, want cookie %d", b, cookie)
	}
	return be.Uint16(b[6:]), w.get(int(be.Uint32(b[16:])))
}
