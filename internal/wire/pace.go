package wire

import (
	"encoding/binary"
	"time"

	"holdfast/internal/errs"
)

// What a host offers that takes the frames of this file.
const (
	FeatureThrottle = "throttle"
	FeatureTrack    = "track"
	FeaturePlace    = "place"
)

const (
	throttleSize = 16
	trackSize    = 8
	// MaxThrottleDelay bounds how long a DRVA may have one write kept waiting:
	// more is an outage to a database.
	MaxThrottleDelay = time.Second
)

// Throttle slows a host's guests down: acknowledgements of writes are spread so
// that no more than Rate is acknowledged, and none for that reason waits longer
// than Delay. It holds until the next one, or until the link ends.
type Throttle struct {
	Rate  uint64        // bytes of writes a second; 0: no limit any more
	Delay time.Duration // whole microseconds, at most MaxThrottleDelay
}

// Append encodes t as a whole frame.
func (t Throttle) Append(dst []byte) []byte {
	var b [throttleSize]byte
	binary.LittleEndian.PutUint64(b[:], t.Rate)
	binary.LittleEndian.PutUint32(b[8:], uint32(t.Delay/time.Microsecond))
	return AppendFrame(dst, TypeThrottle, b[:])
}

// ParseThrottle decodes a Throttle. Kind Invalid.
func ParseThrottle(body []byte) (Throttle, error) {
	if len(body) != throttleSize || binary.LittleEndian.Uint32(body[12:]) != 0 {
		return Throttle{}, errs.New("wire.ParseThrottle", errs.Invalid, "throttle", "malformed body")
	}
	t := Throttle{
		Rate:  binary.LittleEndian.Uint64(body),
		Delay: time.Duration(binary.LittleEndian.Uint32(body[8:])) * time.Microsecond,
	}
	if t.Delay > MaxThrottleDelay {
		return Throttle{}, errs.New("wire.ParseThrottle", errs.Invalid, "throttle", "a delay of "+t.Delay.String()+" is over 1s")
	}
	return t, nil
}

// TrackReason says why a DRVA has a host track. Values are part of the protocol.
type TrackReason uint8

// The reasons.
const (
	TrackNone       TrackReason = 0 // no order: the host streams as soon as it may
	TrackLogFull    TrackReason = 1 // the replication log is nearly full
	TrackPausedUser TrackReason = 2 // a person paused the domain's protection
	maxTrackReason  TrackReason = 2
)

// String says the reason to people.
func (r TrackReason) String() string {
	switch r {
	case TrackNone:
		return "no order"
	case TrackLogFull:
		return "the DRVA's replication log is nearly full"
	case TrackPausedUser:
		return "protection of the domain is paused by a user"
	}
	return "unknown order"
}

// Track orders a host to acknowledge its guests' writes from the primary alone
// and to remember what they change, or with TrackNone to end that. It holds
// until the next one or until the link ends; a Welcome says what holds then.
type Track struct {
	Reason TrackReason
}

// Append encodes t as a whole frame.
func (t Track) Append(dst []byte) []byte {
	return AppendFrame(dst, TypeTrack, []byte{byte(t.Reason), 0, 0, 0, 0, 0, 0, 0})
}

// ParseTrack decodes a Track. Kind Invalid.
func ParseTrack(body []byte) (Track, error) {
	if len(body) != trackSize || TrackReason(body[0]) > maxTrackReason || [7]byte(body[1:]) != [7]byte{} {
		return Track{}, errs.New("wire.ParseTrack", errs.Invalid, "track", "malformed body")
	}
	return Track{Reason: TrackReason(body[0])}, nil
}
