package nbd

import "encoding/binary"

// The numbers of the NBD protocol document (doc/proto.md of the NetworkBlockDevice
// project). All integers on the wire are big-endian.
const (
	magicInit     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicSimple   = 0x67446698
	magicChunk    = 0x668e33ef

	// Handshake flags, server and client alike.
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Options of the handshake.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Option replies.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repErr         = 1 << 31
	repErrUnsup    = repErr | 1
	repErrPolicy   = repErr | 2
	repErrInvalid  = repErr | 3
	repErrPlatform = repErr | 4
	repErrTLSReqd  = repErr | 5
	repErrUnknown  = repErr | 6
	repErrShutdown = repErr | 7
	repErrTooBig   = repErr | 9
)

// Information items of INFO and GO.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Transmission flags: what an export can do.
const (
	transHasFlags        = 1 << 0
	transReadOnly        = 1 << 1
	transSendFlush       = 1 << 2
	transSendFUA         = 1 << 3
	transSendTrim        = 1 << 5
	transSendWriteZeroes = 1 << 6
	transSendDF          = 1 << 7
	transCanMultiConn    = 1 << 8
	transSendCache       = 1 << 10
	transSendFastZero    = 1 << 11
)

// Commands of the transmission phase.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Command flags beyond those a Device sees.
const (
	flagDF     Flags = 1 << 2 // Read: do not fragment the reply
	flagReqOne Flags = 1 << 3 // BlockStatus: one extent, at most the length asked for
)

// Chunks of a structured reply.
const (
	chunkDone = 1 << 0 // flag: the last one

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkErrorBit    = 1 << 15
	chunkError       = chunkErrorBit | 1
	chunkErrorOffset = chunkErrorBit | 2
)

// Extent flags of base:allocation.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

// The one metadata context served, and the id given to it.
const (
	contextAllocation   = "base:allocation"
	contextAllocationID = 1
)

// Sizes of fixed headers in bytes.
const (
	requestSize   = 28
	simpleSize    = 16
	chunkSize     = 20
	readChunkSize = chunkSize + 8
	errChunkSize  = chunkSize + 6
)

var be = binary.BigEndian

// request is one parsed request header, with its payload where there is one.
//
//	 0  magic   u32
//	 4  flags   u16
//	 6  command u16
//	 8  cookie  u64   returned with the reply
//	16  offset  u64
//	24  length  u32
type request struct {
	flags   Flags
	cmd     uint16
	cookie  uint64
	offset  uint64
	length  uint32
	payload []byte  // Write only
	hold    *buffer // what payload lies in
}

// parseRequest reads a header of at least requestSize bytes. It reports false
// when the magic is wrong: the stream has lost its place.
func parseRequest(b []byte, r *request) bool {
	_ = b[requestSize-1]
	r.flags = Flags(be.Uint16(b[4:]))
	r.cmd = be.Uint16(b[6:])
	r.cookie = be.Uint64(b[8:])
	r.offset = be.Uint64(b[16:])
	r.length = be.Uint32(b[24:])
	r.payload, r.hold = nil, nil
	return be.Uint32(b) == magicRequest
}

// putRequest writes a header of requestSize bytes.
func putRequest(b []byte, r *request) {
	_ = b[requestSize-1]
	be.PutUint32(b, magicRequest)
	be.PutUint16(b[4:], uint16(r.flags))
	be.PutUint16(b[6:], r.cmd)
	be.PutUint64(b[8:], r.cookie)
	be.PutUint64(b[16:], r.offset)
	be.PutUint32(b[24:], r.length)
}

// payloadLen is how many bytes follow the header.
func (r *request) payloadLen() int64 {
	if r.cmd == cmdWrite {
		return int64(r.length)
	}
	return 0
}

// putSimple writes a simple reply of simpleSize bytes.
func putSimple(b []byte, cookie uint64, errno uint32) {
	_ = b[simpleSize-1]
	be.PutUint32(b, magicSimple)
	be.PutUint32(b[4:], errno)
	be.PutUint64(b[8:], cookie)
}

// putChunk writes a chunk header of chunkSize bytes for a payload of n bytes.
// Every reply of ours is one chunk, so it is always the last.
func putChunk(b []byte, cookie uint64, typ uint16, n uint32) {
	_ = b[chunkSize-1]
	be.PutUint32(b, magicChunk)
	be.PutUint16(b[4:], chunkDone)
	be.PutUint16(b[6:], typ)
	be.PutUint64(b[8:], cookie)
	be.PutUint32(b[16:], n)
}

// putErrorChunk writes an error chunk of errChunkSize bytes, without a message.
func putErrorChunk(b []byte, cookie uint64, errno uint32) {
	_ = b[errChunkSize-1]
	putChunk(b, cookie, chunkError, 6)
	be.PutUint32(b[chunkSize:], errno)
	be.PutUint16(b[chunkSize+4:], 0)
}
