package wire

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// FeatureFreeze is offered by a host that takes Freeze and Thaw.
const FeatureFreeze = "freeze"

// Bounds of a FreezeReport.
const (
	// MaxFreezeVMs bounds the VMs of a report: a host protects 500 disks.
	MaxFreezeVMs = 500
	// MaxFreezeReason bounds the words about one VM, in bytes: they are shown
	// in one line.
	MaxFreezeReason = 256
	// MaxFreezeReport bounds the encoded body, in bytes: each of MaxFreezeVMs
	// with a reason of MaxFreezeReason, each byte of which JSON may write as six.
	MaxFreezeReport = MaxFreezeVMs * (6*MaxFreezeReason + 128)
	freezeSize      = 16
	// maxFreezeLimit bounds what a DRVA may ask for: applications wait.
	maxFreezeLimit = time.Minute
)

// Freeze asks a host to quiesce its guests, and to thaw them by itself Limit
// after it began, whatever happens meanwhile.
type Freeze struct {
	Round Round
	Limit time.Duration // whole milliseconds, 1 ms to 1 min
}

// Append encodes f as a whole frame.
func (f Freeze) Append(dst []byte) []byte {
	var b [freezeSize]byte
	f.Round.Put(b[:])
	binary.LittleEndian.PutUint32(b[8:], uint32(f.Limit/time.Millisecond))
	return AppendFrame(dst, TypeFreeze, b[:])
}

// ParseFreeze decodes a Freeze. Kind Invalid.
func ParseFreeze(body []byte) (Freeze, error) {
	if len(body) != freezeSize || binary.LittleEndian.Uint32(body[12:]) != 0 {
		return Freeze{}, errs.New("wire.ParseFreeze", errs.Invalid, "freeze", "malformed body")
	}
	f := Freeze{
		Round: Round(binary.LittleEndian.Uint64(body)),
		Limit: time.Duration(binary.LittleEndian.Uint32(body[8:])) * time.Millisecond,
	}
	if f.Limit <= 0 || f.Limit > maxFreezeLimit {
		return Freeze{}, errs.New("wire.ParseFreeze", errs.Invalid, "freeze", "a limit of "+f.Limit.String()+" is not within 1ms and 1m")
	}
	return f, nil
}

// FreezeState says how a VM took part. The zero value is Failed, so that
// nothing counts as frozen by omission.
type FreezeState uint8

// The states.
const (
	FreezeFailed FreezeState = 0 // Frozen: it is not; Thawed: it had not stayed so
	FreezeHeld   FreezeState = 1 // Frozen: it is; Thawed: it was, until the DRVA's word
	FreezeExempt FreezeState = 2 // by configuration it takes no part, or it is powered off
)

// FreezeVM is one VM of a FreezeReport.
type FreezeVM struct {
	VM     dr.VMID     `json:"vm"`
	State  FreezeState `json:"state"`
	Reason string      `json:"reason,omitempty"` // why not FreezeHeld, for people
}

// FreezeReport is the body of Frozen and of Thawed: what became of the host's
// VMs, each once.
type FreezeReport struct {
	Round Round      `json:"round"`
	VMs   []FreezeVM `json:"vms"`
}

// Append encodes r as a whole frame of type t, TypeFrozen or TypeThawed; longer
// reasons are cut. Kind Invalid for more than MaxFreezeVMs.
func (r FreezeReport) Append(dst []byte, t Type) ([]byte, error) {
	if len(r.VMs) > MaxFreezeVMs {
		return dst, errs.New("wire.FreezeReport", errs.Invalid, "freeze", "too many VMs in a report")
	}
	vms := make([]FreezeVM, len(r.VMs))
	for i, v := range r.VMs {
		v.Reason = cutText(v.Reason, MaxFreezeReason)
		vms[i] = v
	}
	frame, err := EncodeJSON(t, FreezeReport{Round: r.Round, VMs: vms})
	return append(dst, frame...), err
}

// cutText shortens s to at most n bytes, at the border of a character.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ParseFreezeReport decodes the body of Frozen or Thawed. Kind Invalid.
func ParseFreezeReport(body []byte) (FreezeReport, error) {
	var r FreezeReport
	bad := func(words string) (FreezeReport, error) {
		return FreezeReport{}, errs.New("wire.ParseFreezeReport", errs.Invalid, "freeze", words)
	}
	if len(body) > MaxFreezeReport {
		return bad("the report is over its bound")
	}
	if err := DecodeJSON(body, &r); err != nil {
		return FreezeReport{}, err
	}
	if len(r.VMs) > MaxFreezeVMs {
		return bad("too many VMs in a report")
	}
	seen := make(map[dr.VMID]bool, len(r.VMs))
	for _, v := range r.VMs {
		if v.VM.IsZero() || seen[v.VM] || v.State > FreezeExempt || len(v.Reason) > MaxFreezeReason {
			return bad("a VM without identity, twice, in an unknown state, or with too long a reason")
		}
		seen[v.VM] = true
	}
	return r, nil
}
