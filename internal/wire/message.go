package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Hello opens a connection: who the host is, what it serves, where its stream
// stands.
type Hello struct {
	Domain dr.DomainID `json:"domain"`
	Host   dr.HostID   `json:"host"`
	Name   string      `json:"name"`  // host name, for people
	Nonce  uint64      `json:"nonce"` // random, one per run of the host component; names its session
	Ack    string      `json:"ack"`   // ack rule, as dr.AckRule.String
	VMs    []HelloVM   `json:"vms"`
	// First and Next bound the records the host still holds un-durable:
	// [First, Next). Next is the HostSeq of the first new record.
	First dr.HostSeq `json:"first"`
	Next  dr.HostSeq `json:"next"`
	// Features are the frames this host takes besides those of the first
	// version, as FeatureFreeze. A DRVA sends them to nobody else. Words it does
	// not know mean nothing to it.
	Features []string `json:"features,omitempty"`
}

// HelloVM is a VM on the host, with its protected disks.
type HelloVM struct {
	Config dr.VMConfig `json:"config"`
	Disks  []HelloDisk `json:"disks"`
}

// HelloDisk binds a protected disk to the index its records carry.
type HelloDisk struct {
	Index uint16  `json:"index"`
	Disk  dr.Disk `json:"disk"`
	// Resume, if not nil, says that the host keeps a sidecar of the disk by
	// which it can go on where another run ended.
	Resume *HelloResume `json:"resume,omitempty"`
}

// MaxResumeRuns bounds HelloResume.Runs.
const MaxResumeRuns = 4

// HelloResume is what a sidecar vouches for: if one of Runs was the last to
// own the disk, the log's copy of it lacks nothing but what lies in regions
// the host is about to copy again.
type HelloResume struct {
	Runs []uint64 `json:"runs"` // nonces, the settled run first; 1 to MaxResumeRuns
	// Durable is the record of the first run's stream that the log must hold:
	// for nothing later was a region closed.
	Durable dr.HostSeq `json:"durable"`
	// Clean: the primary is what it was when the run released the disk.
	Clean bool `json:"clean,omitempty"`
}

// Welcome answers a Hello.
type Welcome struct {
	Session dr.Session `json:"session"`
	// Durable is the last record of this host run that the log holds; the host
	// forgets up to here and replays the rest.
	Durable dr.HostSeq `json:"durable"`
	// Known is false when the log has never heard of this run (or has lost
	// it): a host that already streamed something must then treat every disk
	// as unsynced.
	Known bool `json:"known"`
	// Unsynced lists the indices of disks whose baseline the log does not hold
	// as complete: the host syncs them from the start.
	Unsynced []uint16 `json:"unsynced"`
	// Resumed lists those whose sidecar is accepted: the host copies what that
	// calls open, and says SyncEnd even if that is nothing.
	Resumed []uint16 `json:"resumed,omitempty"`
	// Hashed lists those of Unsynced and Resumed of which the container has an
	// earlier state: the host may compare hashes and ship what differs.
	Hashed []uint16 `json:"hashed,omitempty"`
	// Features are what the DRVA offers besides the first version.
	Features []string `json:"features,omitempty"`
	// Track is the order in force when the host attaches, as Track.Reason; 0:
	// none.
	Track TrackReason `json:"track,omitempty"`
}

// Refuse ends a connection with a reason a person can act on.
type Refuse struct {
	Kind    errs.Kind `json:"kind"`
	Object  string    `json:"object"`
	Message string    `json:"message"`
	Remedy  string    `json:"remedy"`
}

// Err turns r into an error of its kind.
func (r *Refuse) Err(op string) error {
	return errs.New(op, r.Kind, r.Object, r.Message).WithRemedy(r.Remedy)
}

// EncodeJSON builds a whole frame of a JSON message.
func EncodeJSON(t Type, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, errs.E("wire.EncodeJSON", errs.Internal, "", err)
	}
	if len(body) > MaxBody {
		return nil, errs.E("wire.EncodeJSON", errs.Invalid, "", fmt.Errorf("message of %d bytes is over the bound of %d", len(body), MaxBody))
	}
	return Encode(t, body), nil
}

// DecodeJSON decodes a JSON body strictly; kind Invalid on failure.
func DecodeJSON(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return errs.E("wire.DecodeJSON", errs.Invalid, "message", err)
	}
	return nil
}

// Encode builds a whole frame without records.
func Encode(t Type, body []byte) []byte {
	return AppendFrame(make([]byte, 0, HeadSize+len(body)), t, body)
}

// AppendFrame appends a whole frame without records to dst.
func AppendFrame(dst []byte, t Type, body []byte) []byte {
	h := Head{Type: t, Body: uint32(len(body)), BodyCRC: record.Checksum(body)}
	n := len(dst)
	dst = append(dst, make([]byte, HeadSize)...)
	h.Put(dst[n:])
	return append(dst, body...)
}

// Round is the body of Hold, Release and Mark: the number of a checkpoint
// round, rising for the life of the domain.
type Round uint64

// RoundSize is the encoded size of a Round.
const RoundSize = 8

// Put encodes r into dst.
func (r Round) Put(dst []byte) { binary.LittleEndian.PutUint64(dst, uint64(r)) }

// ParseRound decodes a Round.
func ParseRound(body []byte) (Round, error) {
	if len(body) != RoundSize {
		return 0, errs.New("wire.ParseRound", errs.Invalid, "round", "body is not 8 bytes")
	}
	return Round(binary.LittleEndian.Uint64(body)), nil
}

// Reason says why a host did not confirm a round.
type Reason uint8

const (
	ReasonNone     Reason = 0 // it did confirm
	ReasonReleased Reason = 1 // its hold had ended by its own time limit
	ReasonUnknown  Reason = 2 // it does not hold this round
	ReasonOutside  Reason = 3 // it acknowledged writes outside the stream
	ReasonBusy     Reason = 4 // it could not place the marker in time
	maxReason      Reason = 4
	confirmSize           = 16
	ackHeadSize           = 16
	ackSpanSize           = 24
	// MaxAckSpans bounds the spans of one Ack.
	MaxAckSpans = 512
)

// String names the reason for people.
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "confirmed"
	case ReasonReleased:
		return "hold ended by its time limit"
	case ReasonUnknown:
		return "round is unknown to the host"
	case ReasonOutside:
		return "host acknowledged writes outside the stream"
	case ReasonBusy:
		return "host could not place the marker in time"
	}
	return "unknown reason"
}

// Confirm answers Release or Mark: OK iff the host kept what the round asks
// of it.
type Confirm struct {
	Round  Round
	OK     bool
	Reason Reason
}

// Append encodes c as a whole frame.
func (c Confirm) Append(dst []byte) []byte {
	var b [confirmSize]byte
	c.Round.Put(b[:])
	if c.OK {
		b[8] = 1
	}
	b[9] = byte(c.Reason)
	return AppendFrame(dst, TypeConfirm, b[:])
}

// ParseConfirm decodes a Confirm.
func ParseConfirm(body []byte) (Confirm, error) {
	if len(body) != confirmSize || body[8] > 1 || Reason(body[9]) > maxReason {
		return Confirm{}, errs.New("wire.ParseConfirm", errs.Invalid, "confirm", "malformed body")
	}
	return Confirm{Round: Round(binary.LittleEndian.Uint64(body)), OK: body[8] == 1, Reason: Reason(body[9])}, nil
}

// Span is a run of a host's records that got consecutive places in the order.
type Span struct {
	First dr.HostSeq
	Seq   dr.Seq
	Count uint32
}

// Ack tells a host which of its records are sequenced, and up to which one
// everything is durable in the log.
type Ack struct {
	Durable dr.HostSeq // 0: nothing yet
	Spans   []Span
}

// Append encodes a as a whole frame. At most MaxAckSpans spans.
func (a *Ack) Append(dst []byte) []byte {
	n := len(dst)
	size := ackHeadSize + len(a.Spans)*ackSpanSize
	dst = append(dst, make([]byte, HeadSize+size)...)
	body := dst[n+HeadSize:]
	binary.LittleEndian.PutUint64(body, uint64(a.Durable))
	binary.LittleEndian.PutUint32(body[8:], uint32(len(a.Spans)))
	for i, s := range a.Spans {
		b := body[ackHeadSize+i*ackSpanSize:]
		binary.LittleEndian.PutUint64(b, uint64(s.First))
		binary.LittleEndian.PutUint64(b[8:], uint64(s.Seq))
		binary.LittleEndian.PutUint32(b[16:], s.Count)
	}
	h := Head{Type: TypeAck, Body: uint32(size), BodyCRC: record.Checksum(body)}
	h.Put(dst[n:])
	return dst
}

// Parse decodes an Ack, reusing a.Spans.
func (a *Ack) Parse(body []byte) error {
	if len(body) < ackHeadSize {
		return errs.New("wire.ParseAck", errs.Invalid, "ack", "body is too short")
	}
	n := binary.LittleEndian.Uint32(body[8:])
	if n > MaxAckSpans || len(body) != ackHeadSize+int(n)*ackSpanSize {
		return errs.New("wire.ParseAck", errs.Invalid, "ack", "span count does not fit the body")
	}
	a.Durable = dr.HostSeq(binary.LittleEndian.Uint64(body))
	a.Spans = a.Spans[:0]
	for i := range int(n) {
		b := body[ackHeadSize+i*ackSpanSize:]
		a.Spans = append(a.Spans, Span{
			First: dr.HostSeq(binary.LittleEndian.Uint64(b)),
			Seq:   dr.Seq(binary.LittleEndian.Uint64(b[8:])),
			Count: binary.LittleEndian.Uint32(b[16:]),
		})
	}
	return nil
}
