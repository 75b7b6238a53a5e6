package wire

import (
	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// FeatureBoot is the word in Features of a DRVA that keeps boot traces.
const FeatureBoot = "boot"

// MaxBootTrace bounds the body of a BootTrace, in bytes.
const MaxBootTrace = len(dr.UUID{}) + boottrace.MaxSize

// BootTrace is what a VM of the host read when it booted: the VM's identity,
// then the trace as package boottrace encodes it. It is advice, and nobody
// answers it.
type BootTrace struct {
	VM    dr.VMID
	Trace boottrace.Trace
}

// Append encodes t as a whole frame.
func (t BootTrace) Append(dst []byte) []byte {
	return AppendFrame(dst, TypeBootTrace, append(t.VM.UUID[:], t.Trace.Encode()...))
}

// ParseBootTrace decodes a BootTrace. Kinds Invalid, Corrupt.
func ParseBootTrace(body []byte) (BootTrace, error) {
	const op = "wire.ParseBootTrace"
	var t BootTrace
	if len(body) < len(t.VM.UUID) || len(body) > MaxBootTrace {
		return t, errs.New(op, errs.Invalid, "boot trace", "body is too short or over its bound")
	}
	copy(t.VM.UUID[:], body)
	if t.VM.IsZero() {
		return BootTrace{}, errs.New(op, errs.Invalid, "boot trace", "it names no VM")
	}
	var err error
	if t.Trace, err = boottrace.Decode(body[len(t.VM.UUID):]); err != nil {
		return BootTrace{}, err
	}
	return t, nil
}
