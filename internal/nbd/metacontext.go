package nbd

import "context"

// listMetaContext names the contexts an export has that match a query.
func (h *handshake) listMetaContext(_ context.Context, data []byte) error {
	e, queries, ok, err := h.metaRequest(optListMetaContext, data)
	if !ok || err != nil {
		return err
	}
	_ = e // every export has the same contexts
	if len(queries) == 0 || matchesAllocation(queries, true) {
		if err := h.metaContext(optListMetaContext, 0); err != nil {
			return err
		}
	}
	return h.ack(optListMetaContext)
}

// setMetaContext selects contexts for block status, in place of what was
// selected before.
func (h *handshake) setMetaContext(_ context.Context, data []byte) error {
	h.metaFor = nil
	e, queries, ok, err := h.metaRequest(optSetMetaContext, data)
	if !ok || err != nil {
		return err
	}
	if matchesAllocation(queries, false) {
		if err := h.metaContext(optSetMetaContext, contextAllocationID); err != nil {
			return err
		}
		h.metaFor = e
	}
	return h.ack(optSetMetaContext)
}

// metaRequest checks what both options have in common. When ok is false the
// refusal has been sent.
func (h *handshake) metaRequest(opt uint32, data []byte) (e *Export, queries []string, ok bool, err error) {
	if !h.structured {
		return nil, nil, false, h.refuse(opt, repErrInvalid, "structured replies must be negotiated first")
	}
	name, queries, ok := parseMeta(data)
	if !ok {
		return nil, nil, false, h.refuse(opt, repErrInvalid, "malformed metadata context request")
	}
	e = h.exports.find(name)
	if e == nil {
		return nil, nil, false, h.refuse(opt, repErrUnknown, "no such export")
	}
	return e, queries, true, nil
}

func (h *handshake) metaContext(opt, id uint32) error {
	return h.reply(opt, repMetaContext, append(be.AppendUint32(nil, id), contextAllocation...))
}

// matchesAllocation reports whether a query asks for base:allocation, by its
// name or, when listing, by its namespace.
func matchesAllocation(queries []string, listing bool) bool {
	for _, q := range queries {
		if q == contextAllocation || listing && q == "base:" {
			return true
		}
	}
	return false
}

// parseMeta reads the payload of both options:
// name length u32, name, number of queries u32, queries as u32 length and text.
func parseMeta(data []byte) (name string, queries []string, ok bool) {
	name, data, ok = cutString(data)
	if !ok || len(data) < 4 {
		return "", nil, false
	}
	n := be.Uint32(data)
	data = data[4:]
	if n > maxQueries {
		return "", nil, false
	}
	for range n {
		var q string
		if q, data, ok = cutString(data); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return name, queries, len(data) == 0
}
