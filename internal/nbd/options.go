package nbd

import (
	"context"
	"crypto/tls"
)

// exportName is the oldest way into transmission: no reply but the export's
// size and flags, and no way to say no but to hang up.
func (h *handshake) exportName(_ context.Context, data []byte) error {
	e := h.exports.find(string(data))
	if e == nil {
		return bad("unknown export")
	}
	b := make([]byte, 10+124)
	be.PutUint64(b, uint64(e.disk().Size()))
	be.PutUint16(b[8:], e.flags(h.structured))
	if h.noZeroes {
		b = b[:10]
	}
	if _, err := h.conn.Write(b); err != nil {
		return err
	}
	h.chosen = e
	return nil
}

// abort lets the client leave with a goodbye.
func (h *handshake) abort(_ context.Context, _ []byte) error {
	// The client may be gone before it reads this: no matter.
	_ = h.ack(optAbort)
	return errAbort
}

// list names every export.
func (h *handshake) list(_ context.Context, data []byte) error {
	if len(data) != 0 {
		return h.refuse(optList, repErrInvalid, "list takes no data")
	}
	for _, e := range h.exports.all() {
		b := make([]byte, 4, 4+len(e.Name)+len(e.Description))
		be.PutUint32(b, uint32(len(e.Name)))
		b = append(b, e.Name...)
		if err := h.reply(optList, repServer, append(b, e.Description...)); err != nil {
			return err
		}
	}
	return h.ack(optList)
}

// startTLS puts the rest of the connection under TLS and forgets what was
// negotiated in the clear, where anybody could have said it.
func (h *handshake) startTLS(ctx context.Context, data []byte) error {
	switch {
	case len(data) != 0:
		return h.refuse(optStartTLS, repErrInvalid, "starttls takes no data")
	case h.secure:
		return h.refuse(optStartTLS, repErrInvalid, "TLS is already on")
	case h.tls == nil:
		return h.refuse(optStartTLS, repErrPolicy, "this server has no TLS configured")
	}
	if err := h.ack(optStartTLS); err != nil {
		return err
	}
	secure := tls.Server(h.conn, h.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	h.conn, h.secure = secure, true
	h.structured, h.metaFor = false, nil
	return nil
}

// info describes an export; goOn does and goes on to transmission.
func (h *handshake) info(_ context.Context, data []byte) error {
	_, err := h.describe(optInfo, data)
	return err
}

func (h *handshake) goOn(_ context.Context, data []byte) error {
	e, err := h.describe(optGo, data)
	h.chosen = e
	return err
}

// describe answers INFO and GO. It returns the export if all was well.
func (h *handshake) describe(opt uint32, data []byte) (*Export, error) {
	name, infos, ok := parseInfo(data)
	if !ok {
		return nil, h.refuse(opt, repErrInvalid, "malformed information request")
	}
	e := h.exports.find(name)
	if e == nil {
		return nil, h.refuse(opt, repErrUnknown, "no such export")
	}
	b := make([]byte, 12)
	be.PutUint16(b, infoExport)
	be.PutUint64(b[2:], uint64(e.disk().Size()))
	be.PutUint16(b[10:], e.flags(h.structured))
	if err := h.reply(opt, repInfo, b); err != nil {
		return nil, err
	}
	for _, i := range infos {
		if b := infoItem(e, i); b != nil {
			if err := h.reply(opt, repInfo, b); err != nil {
				return nil, err
			}
		}
	}
	return e, h.ack(opt)
}

// infoItem renders one requested item; nil when there is nothing to say.
func infoItem(e *Export, item uint16) []byte {
	b := be.AppendUint16(nil, item)
	switch item {
	case infoName:
		return append(b, e.Name...)
	case infoDescription:
		if e.Description == "" {
			return nil
		}
		return append(b, e.Description...)
	case infoBlockSize:
		least, preferred, most := e.blockSizes()
		b = be.AppendUint32(b, least)
		b = be.AppendUint32(b, preferred)
		return be.AppendUint32(b, most)
	}
	return nil
}

// parseInfo reads the payload of INFO and GO:
// name length u32, name, number of items u16, items u16 each.
func parseInfo(data []byte) (name string, infos []uint16, ok bool) {
	s, data, ok := cutString(data)
	if !ok || len(data) < 2 {
		return "", nil, false
	}
	n := int(be.Uint16(data))
	data = data[2:]
	if n > maxInfos || len(data) != 2*n {
		return "", nil, false
	}
	for i := range n {
		infos = append(infos, be.Uint16(data[2*i:]))
	}
	return s, infos, true
}

// cutString takes a string with its u32 length off the front of data.
func cutString(data []byte) (s string, rest []byte, ok bool) {
	if len(data) < 4 {
		return "", nil, false
	}
	n := be.Uint32(data)
	data = data[4:]
	if n > maxName || uint64(n) > uint64(len(data)) {
		return "", nil, false
	}
	return string(data[:n]), data[n:], true
}

// structuredReply switches reads to structured replies.
func (h *handshake) structuredReply(_ context.Context, data []byte) error {
	if len(data) != 0 {
		return h.refuse(optStructuredReply, repErrInvalid, "structured reply takes no data")
	}
	h.structured = true
	return h.ack(optStructuredReply)
}
