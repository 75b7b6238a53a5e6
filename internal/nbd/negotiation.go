package nbd

import (
	"context"
	"crypto/tls"
	"io"
	"net"

	"holdfast/internal/errs"
)

// negotiation is the client's side of a handshake. Each step trusts nothing
// the server sends beyond its bounds.
type negotiation struct {
	conn   net.Conn
	export string
	tls    *tls.Config

	size        int64
	flags       uint16
	modes       replyModes
	name        string
	description string
	minBlock    uint32
	maxBlock    uint32
}

// maxReply bounds one option reply's payload; maxReplies how many may answer
// one option.
const (
	maxReply   = 16 << 10
	maxReplies = 4096
)

func (n *negotiation) run(ctx context.Context) error {
	if len(n.export) > maxName {
		return errs.New("nbd.Dial", errs.Invalid, n.export, "export name longer than 4096 bytes")
	}
	if err := n.greet(); err != nil {
		return err
	}
	if n.tls != nil {
		if err := n.startTLS(ctx); err != nil {
			return err
		}
	}
	if err := n.extend(); err != nil {
		return err
	}
	return n.goOn()
}

func (n *negotiation) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(n.conn, b[:]); err != nil {
		return unreachable(err)
	}
	if be.Uint64(b[:]) != magicInit || be.Uint64(b[8:]) != magicOption {
		return errs.New("nbd.Dial", errs.Invalid, "server", "not an NBD server")
	}
	flags := be.Uint16(b[16:])
	if flags&flagFixedNewstyle == 0 {
		return errs.New("nbd.Dial", errs.Invalid, "server", "an NBD server too old to negotiate with")
	}
	var reply [4]byte
	be.PutUint32(reply[:], uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	if _, err := n.conn.Write(reply[:]); err != nil {
		return unreachable(err)
	}
	return nil
}

func unreachable(err error) error { return errs.E("nbd.Dial", errs.Unavailable, "server", err) }

func (n *negotiation) startTLS(ctx context.Context) error {
	r, err := n.ask(optStartTLS, nil, nil)
	if err != nil {
		return err
	}
	if r != repAck {
		return refused(r, "the server does not offer TLS")
	}
	secure := tls.Client(n.conn, n.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		return errs.E("nbd.Dial", errs.Denied, "server", err)
	}
	n.conn = secure
	return nil
}

// extend asks for structured replies and base:allocation; a server may have
// neither.
func (n *negotiation) extend() error {
	r, err := n.ask(optStructuredReply, nil, nil)
	if err != nil {
		return err
	}
	if r == repErrTLSReqd {
		return refused(r, "the server requires TLS")
	}
	n.modes.structured = r == repAck
	if !n.modes.structured {
		return nil
	}
	q := appendString(nil, n.export)
	q = be.AppendUint32(q, 1)
	q = appendString(q, contextAllocation)
	_, err = n.ask(optSetMetaContext, q, func(typ uint32, b []byte) error {
		if typ == repMetaContext && len(b) >= 4 && string(b[4:]) == contextAllocation {
			n.modes.allocation, n.modes.contextID = true, be.Uint32(b)
		}
		return nil
	})
	return err
}

func appendString(b []byte, s string) []byte {
	return append(be.AppendUint32(b, uint32(len(s))), s...)
}

func (n *negotiation) goOn() error {
	q := appendString(nil, n.export)
	q = be.AppendUint16(q, 3)
	for _, item := range []uint16{infoName, infoDescription, infoBlockSize} {
		q = be.AppendUint16(q, item)
	}
	found := false
	r, err := n.ask(optGo, q, func(typ uint32, b []byte) error {
		if typ != repInfo || len(b) < 2 {
			return nil
		}
		found = found || be.Uint16(b) == infoExport
		return n.item(be.Uint16(b), b[2:])
	})
	if err != nil {
		return err
	}
	if r != repAck {
		return refused(r, "the server refused the export")
	}
	if !found {
		return errs.New("nbd.Dial", errs.Invalid, "server", "no word on the export")
	}
	return nil
}

// item takes one information reply.
func (n *negotiation) item(item uint16, b []byte) error {
	switch item {
	case infoExport:
		if len(b) != 10 || be.Uint64(b) > maxDiskSize {
			return errs.New("nbd.Dial", errs.Invalid, "server", "impossible export size")
		}
		n.size, n.flags = int64(be.Uint64(b)), be.Uint16(b[8:])
	case infoName:
		n.name = string(b)
	case infoDescription:
		n.description = string(b)
	case infoBlockSize:
		if len(b) != 12 || be.Uint32(b) == 0 || be.Uint32(b[8:]) < be.Uint32(b) {
			return errs.New("nbd.Dial", errs.Invalid, "server", "impossible block sizes")
		}
		n.minBlock, n.maxBlock = be.Uint32(b), be.Uint32(b[8:])
	}
	return nil
}

// ask sends an option and reads replies until the last, whose type it
// returns; each hears of those before.
func (n *negotiation) ask(opt uint32, data []byte, each func(typ uint32, b []byte) error) (uint32, error) {
	b := make([]byte, 16, 16+len(data))
	be.PutUint64(b, magicOption)
	be.PutUint32(b[8:], opt)
	be.PutUint32(b[12:], uint32(len(data)))
	if _, err := n.conn.Write(append(b, data...)); err != nil {
		return 0, unreachable(err)
	}
	for range maxReplies {
		typ, payload, err := n.optionReply(opt)
		if err != nil {
			return 0, err
		}
		if typ == repAck || typ&repErr != 0 {
			return typ, nil
		}
		if each != nil {
			if err := each(typ, payload); err != nil {
				return 0, err
			}
		}
	}
	return 0, errs.New("nbd.Dial", errs.Invalid, "server", "endless replies")
}

func (n *negotiation) optionReply(opt uint32) (uint32, []byte, error) {
	var hdr [20]byte
	if _, err := io.ReadFull(n.conn, hdr[:]); err != nil {
		return 0, nil, unreachable(err)
	}
	size := be.Uint32(hdr[16:])
	if be.Uint64(hdr[:]) != magicOptReply || be.Uint32(hdr[8:]) != opt || size > maxReply {
		return 0, nil, errs.New("nbd.Dial", errs.Invalid, "server", "malformed option reply")
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(n.conn, payload); err != nil {
		return 0, nil, unreachable(err)
	}
	return be.Uint32(hdr[12:]), payload, nil
}

// refused maps an option's error reply to an error.
func refused(typ uint32, words string) error {
	kind := errs.Unavailable
	switch typ {
	case repErrUnknown:
		kind = errs.NotFound
	case repErrTLSReqd, repErrPolicy:
		kind = errs.Denied
	case repErrUnsup, repErrInvalid, repErrTooBig, repErrPlatform:
		kind = errs.Invalid
	}
	return errs.New("nbd.Dial", kind, "server", words)
}

// exportInfo sums up what was said.
func (n *negotiation) exportInfo() ExportInfo {
	has := func(f uint16) bool { return n.flags&transHasFlags != 0 && n.flags&f != 0 }
	i := ExportInfo{
		Name: n.name, Description: n.description,
		ReadOnly: has(transReadOnly), CanFlush: has(transSendFlush), CanFUA: has(transSendFUA),
		CanTrim: has(transSendTrim), CanZero: has(transSendWriteZeroes), CanFastZero: has(transSendFastZero),
		CanMultiConn: has(transCanMultiConn), CanCache: has(transSendCache),
		MinBlock: max(n.minBlock, 1), MaxPayload: maxPayload,
	}
	if i.Name == "" {
		i.Name = n.export
	}
	if n.maxBlock != 0 {
		i.MaxPayload = min(i.MaxPayload, n.maxBlock)
	}
	return i
}
