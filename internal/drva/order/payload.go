package order

import (
	"bytes"
	"encoding/json"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// Modes of a round, as CutBody.Mode.
const (
	ModeHold = "hold" // markers in every stream, completions held meanwhile
	ModeMark = "mark" // placed at once
)

// Operations of a Disk record, as DiskBody.Op.
const (
	OpSet     = "set"     // DRVA: this is the disk's entry from here on
	OpRelease = "release" // host: handed over clean
	OpRemove  = "remove"  // host: no longer protected
	OpVoid    = "void"    // host: its sidecar cannot be trusted, the next run must not go by it
)

// CutBody is the payload of a Checkpoint record: what the checkpoint is, what
// it sees of the disks, and the highest numbers given out so far.
type CutBody struct {
	ID       dr.CheckpointID   `json:"id"`
	Round    wire.Round        `json:"round"`
	Mode     string            `json:"mode"`
	Kind     dr.CheckpointKind `json:"kind"`
	Tag      string            `json:"tag,omitempty"`
	LastSess dr.Session        `json:"last_session"`
	LastDisk uint16            `json:"last_index"`
	Disks    []DiskBody        `json:"disks"`
}

// ResultBody is the payload of a CheckpointResult record.
type ResultBody struct {
	ID    dr.CheckpointID `json:"id"`
	Scope string          `json:"scope"` // dr.Scope.String
	// Kind is AppConsistent when every guest was frozen at the cut; else it is
	// left out and the checkpoint is of the kind it was cut as.
	Kind    dr.CheckpointKind `json:"kind,omitempty"`
	Missing []dr.VMID         `json:"missing,omitempty"`
}

// SessionBody is the payload of a Session record.
type SessionBody struct {
	Session dr.Session `json:"session"`
	Host    dr.HostID  `json:"host"`
	Name    string     `json:"name"`
	Nonce   uint64     `json:"nonce"`
	Ack     string     `json:"ack"` // dr.AckRule.String
	Binds   []Bind     `json:"binds"`
	Last    dr.HostSeq `json:"last"` // last record of the session below this one
}

// Bind says which disk of the domain a session's wire index means.
type Bind struct {
	Wire uint16 `json:"wire"`
	Disk uint16 `json:"disk"`
}

// DiskBody is the payload of a Disk record in the log, and a disk as a
// Checkpoint record saw it. It is the whole entry, so that the latest one of a
// disk suffices. A host's own Disk record holds Op alone: the sequencer puts
// the entry in its place.
type DiskBody struct {
	Op     string    `json:"op"`
	Index  uint16    `json:"index"`
	ID     dr.DiskID `json:"id"`
	VM     dr.VMID   `json:"vm"`
	Size   int64     `json:"size"`
	Synced bool      `json:"synced"`
	// Syncing is the session that has begun to send the disk's content anew
	// since it was last taken for unsynced; 0 none.
	Syncing dr.Session `json:"syncing"`
	Owner   dr.Session `json:"owner"` // session whose stream carries it; 0 none
	Clean   bool       `json:"clean"` // no owner, and the last one released it
	// Run is, with Clean, the nonce of the run that released the disk.
	Run uint64 `json:"run,omitempty"`
	// Suspended: unsynced, yet a run that goes on from the owner's sidecar
	// knows what is missing. Void: the owner has no sidecar to go by.
	Suspended bool `json:"suspended,omitempty"`
	Void      bool `json:"void,omitempty"`
	// Seed: no host has brought the disk yet, its content is an image's. No
	// checkpoint speaks of it.
	Seed bool `json:"seed,omitempty"`
	// Origin: the disk is, in the order, what the checkpoint has of it that the
	// log began at. It is the nonce under which a sidecar vouches for that.
	Origin uint64 `json:"origin,omitempty"`
}

// encode renders v as a record's payload, padded to whole pages.
func encode(kind record.Kind, v any) (record.Record, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return record.Record{}, errs.E("order.encode", errs.Internal, kind.String(), err)
	}
	if len(body) > record.MaxPayload {
		return record.Record{}, errs.New("order.encode", errs.Invalid, kind.String(), "payload is longer than 1 MiB")
	}
	r := record.Record{Kind: kind, Length: uint32(len(body)), CRC: record.Checksum(body)}
	r.Payload = append(make([]byte, 0, r.PaddedLen()), body...)[:r.PaddedLen()]
	return r, nil
}

// decode is the strict inverse: one JSON value, known fields only.
func decode(r *record.Record, v any) error {
	n := r.PayloadLen()
	if n > len(r.Payload) {
		return errs.New("order.decode", errs.Corrupt, r.Kind.String(), "payload is shorter than its length")
	}
	d := json.NewDecoder(bytes.NewReader(r.Payload[:n]))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return errs.E("order.decode", errs.Invalid, r.Kind.String(), err)
	}
	if d.More() {
		return errs.New("order.decode", errs.Invalid, r.Kind.String(), "more than one value")
	}
	return nil
}

// DecodeCut decodes and validates a Checkpoint record's payload.
func DecodeCut(r *record.Record) (CutBody, error) {
	var b CutBody
	if err := decode(r, &b); err != nil {
		return b, err
	}
	switch {
	case b.ID == 0 || b.Mode != ModeHold && b.Mode != ModeMark || b.Kind > dr.UserTagged:
		return b, badBody(r, "id, mode or kind")
	case len(b.Tag) > MaxTag || len(b.Disks) > MaxDisks:
		return b, badBody(r, "size")
	}
	for i := range b.Disks {
		if err := b.Disks[i].check(); err != nil {
			return b, badBody(r, err.Error())
		}
	}
	return b, nil
}

// DecodeResult decodes and validates a CheckpointResult record's payload.
func DecodeResult(r *record.Record) (ResultBody, error) {
	var b ResultBody
	if err := decode(r, &b); err != nil {
		return b, err
	}
	if b.ID == 0 || b.Scope != dr.Group.String() && b.Scope != dr.Partial.String() || len(b.Missing) > MaxDisks {
		return b, badBody(r, "id, scope or missing VMs")
	}
	if b.Scope == dr.Group.String() && len(b.Missing) > 0 {
		return b, badBody(r, "a group checkpoint misses VMs")
	}
	if b.Kind != 0 && (b.Kind != dr.AppConsistent || b.Scope != dr.Group.String()) {
		return b, badBody(r, "kind")
	}
	return b, nil
}

// ScopeOf returns the scope in dr's terms.
func (b *ResultBody) ScopeOf() dr.Scope {
	if b.Scope == dr.Group.String() {
		return dr.Group
	}
	return dr.Partial
}

// DecodeSession decodes and validates a Session record's payload.
func DecodeSession(r *record.Record) (SessionBody, error) {
	var b SessionBody
	if err := decode(r, &b); err != nil {
		return b, err
	}
	if err := b.check(); err != nil {
		return b, badBody(r, err.Error())
	}
	return b, nil
}

// DecodeDisk decodes and validates a Disk record of the log.
func DecodeDisk(r *record.Record) (DiskBody, error) {
	var b DiskBody
	if err := decode(r, &b); err != nil {
		return b, err
	}
	if b.Op != OpSet || b.Index != r.Disk {
		return b, badBody(r, "op or index")
	}
	if err := b.check(); err != nil {
		return b, badBody(r, err.Error())
	}
	return b, nil
}

// decodeHostDisk decodes and validates a Disk record as a host sends it.
func decodeHostDisk(r *record.Record) (op string, err error) {
	var b struct {
		Op string `json:"op"`
	}
	if err := decode(r, &b); err != nil {
		return "", err
	}
	if b.Op != OpRelease && b.Op != OpRemove && b.Op != OpVoid {
		return "", badBody(r, "op")
	}
	return b.Op, nil
}

// DecodeMeta decodes and validates a Meta record's payload.
func DecodeMeta(r *record.Record) (dr.VMConfig, error) {
	var cfg dr.VMConfig
	if err := decode(r, &cfg); err != nil {
		return cfg, err
	}
	if cfg.ID.IsZero() {
		return cfg, badBody(r, "VM has no id")
	}
	return cfg, nil
}

func (b *DiskBody) check() error {
	if b.ID.IsZero() || b.VM.IsZero() || !validSize(b.Size) {
		return fmt.Errorf("disk entry %d", b.Index)
	}
	return nil
}

func (b *SessionBody) check() error {
	if b.Session == 0 || b.Host.IsZero() || len(b.Name) > MaxName || len(b.Binds) > MaxDisks {
		return fmt.Errorf("session %d", b.Session)
	}
	if _, ok := dr.ParseAckRule(b.Ack); !ok {
		return fmt.Errorf("ack rule of session %d", b.Session)
	}
	return nil
}

// validSize reports whether a disk may have this size in bytes. It need not be
// whole blocks: what the last block holds beyond the end is zero.
func validSize(size int64) bool { return size > 0 && size <= dr.MaxDiskSize }

func badBody(r *record.Record, what string) error {
	return errs.New("order.decode", errs.Invalid, r.Kind.String(), "malformed: "+what)
}
