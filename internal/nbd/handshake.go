package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"holdfast/internal/errs"
)

// errAbort ends a handshake the client gave up; no fault of anybody.
var errAbort = errors.New("client aborted the handshake")

// handshake is the negotiation on one connection:
//
//	greet ──▶ options ──GO / EXPORT_NAME──▶ transmission
//	            │  ▲
//	            └──┘ LIST, INFO, STRUCTURED_REPLY, meta contexts, STARTTLS
//
// Reads are exact, never ahead: what follows belongs to whoever takes over,
// a TLS layer or a transmission loop.
type handshake struct {
	conn       net.Conn
	exports    *exports
	tls        *tls.Config
	requireTLS bool
	deadline   time.Time

	noZeroes   bool
	secure     bool
	structured bool
	metaFor    *Export // export that base:allocation was selected for
	chosen     *Export // set by the option that ends the handshake
}

// bad is a client that breaks the protocol.
func bad(words string) error { return errs.New("nbd.handshake", errs.Invalid, "", words) }

// run negotiates until an export is chosen.
func (h *handshake) run(ctx context.Context) error {
	if err := h.conn.SetDeadline(h.deadline); err != nil {
		return err
	}
	if err := h.greet(); err != nil {
		return err
	}
	for range maxOptions {
		if err := h.option(ctx); err != nil {
			return err
		}
		if h.chosen != nil {
			return h.conn.SetDeadline(time.Time{})
		}
	}
	return bad("too many options")
}

// greet sends the server's greeting and reads the client's flags.
func (h *handshake) greet() error {
	var hello [18]byte
	be.PutUint64(hello[:], magicInit)
	be.PutUint64(hello[8:], magicOption)
	be.PutUint16(hello[16:], flagFixedNewstyle|flagNoZeroes)
	if _, err := h.conn.Write(hello[:]); err != nil {
		return err
	}
	var reply [4]byte
	if _, err := io.ReadFull(h.conn, reply[:]); err != nil {
		return err
	}
	flags := be.Uint32(reply[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return bad("unknown client flags")
	}
	if flags&flagFixedNewstyle == 0 {
		return bad("the client does not speak fixed newstyle")
	}
	h.noZeroes = flags&flagNoZeroes != 0
	return nil
}

// options maps an option to its function. data is the option's payload.
var options = map[uint32]func(h *handshake, ctx context.Context, data []byte) error{
	optExportName:      (*handshake).exportName,
	optAbort:           (*handshake).abort,
	optList:            (*handshake).list,
	optStartTLS:        (*handshake).startTLS,
	optInfo:            (*handshake).info,
	optGo:              (*handshake).goOn,
	optStructuredReply: (*handshake).structuredReply,
	optListMetaContext: (*handshake).listMetaContext,
	optSetMetaContext:  (*handshake).setMetaContext,
}

// option reads and serves one option.
func (h *handshake) option(ctx context.Context) error {
	var hdr [16]byte
	if _, err := io.ReadFull(h.conn, hdr[:]); err != nil {
		return err
	}
	if be.Uint64(hdr[:]) != magicOption {
		return bad("wrong option magic")
	}
	opt, n := be.Uint32(hdr[8:]), be.Uint32(hdr[12:])
	if n > maxOption {
		return h.refuseBig(opt, n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(h.conn, data); err != nil {
		return err
	}
	if h.requireTLS && !h.secure && opt != optAbort && opt != optStartTLS {
		if opt == optExportName {
			return bad("export name before TLS, which is required") // this option has no error reply
		}
		return h.refuse(opt, repErrTLSReqd, "this server requires TLS")
	}
	if f, ok := options[opt]; ok {
		return f(h, ctx, data)
	}
	return h.refuse(opt, repErrUnsup, "option not supported")
}

// refuseBig reads an oversize option away and refuses it, within reason.
func (h *handshake) refuseBig(opt, n uint32) error {
	if n > maxOptionDrain || opt == optExportName {
		return bad("option too large")
	}
	if _, err := io.CopyN(io.Discard, h.conn, int64(n)); err != nil {
		return err
	}
	return h.refuse(opt, repErrTooBig, "option too large")
}

// reply sends one option reply.
func (h *handshake) reply(opt, typ uint32, data []byte) error {
	b := make([]byte, 20, 20+len(data))
	be.PutUint64(b, magicOptReply)
	be.PutUint32(b[8:], opt)
	be.PutUint32(b[12:], typ)
	be.PutUint32(b[16:], uint32(len(data)))
	_, err := h.conn.Write(append(b, data...))
	return err
}

func (h *handshake) ack(opt uint32) error { return h.reply(opt, repAck, nil) }

// refuse sends an error reply with words for a person.
func (h *handshake) refuse(opt, typ uint32, words string) error {
	return h.reply(opt, typ, []byte(words))
}
