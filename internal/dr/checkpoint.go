package dr

import (
	"fmt"
	"time"
)

// CheckpointKind says how a checkpoint's content was quiesced.
type CheckpointKind uint8

const (
	CrashConsistent CheckpointKind = iota // a cut of the write order; nothing was quiesced
	AppConsistent                         // guests were frozen by their agents
	UserTagged                            // crash-consistent, asked for by a user
)

// String returns the stable name used in JSON and on the command line.
func (k CheckpointKind) String() string {
	switch k {
	case CrashConsistent:
		return "crash"
	case AppConsistent:
		return "app"
	case UserTagged:
		return "user"
	}
	return "unknown"
}

// MarshalText renders the stable name.
func (k CheckpointKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText accepts the stable names only.
func (k *CheckpointKind) UnmarshalText(b []byte) error {
	for _, v := range []CheckpointKind{CrashConsistent, AppConsistent, UserTagged} {
		if string(b) == v.String() {
			*k = v
			return nil
		}
	}
	return fmt.Errorf("%q is not a kind of checkpoint", b)
}

// Scope says over what a checkpoint is consistent.
type Scope uint8

const (
	// Partial: each VM that is not listed as missing is crash-consistent by
	// itself; no promise holds between VMs. The zero value, so that a point
	// is never offered as a group point by omission.
	Partial Scope = iota
	// Group: one crash-consistent cut of all VMs of the domain: if a write is
	// in the cut, so is every write that was acknowledged before it was issued.
	Group
)

// String returns "partial" or "group".
func (s Scope) String() string {
	if s == Group {
		return "group"
	}
	return "partial"
}

// MarshalText renders "partial" or "group".
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts "partial" and "group" only.
func (s *Scope) UnmarshalText(b []byte) error {
	switch string(b) {
	case "group":
		*s = Group
	case "partial":
		*s = Partial
	default:
		return fmt.Errorf("%q is not a scope of a checkpoint", b)
	}
	return nil
}

// Checkpoint is a point of a domain's history that recovery may choose. It
// becomes a recovery point when the journal object that carries it is
// published.
type Checkpoint struct {
	ID      CheckpointID     `json:"id"`
	Seq     Seq              `json:"seq"`  // it holds every record with a seq below this one
	Time    time.Time        `json:"time"` // when the cut was taken, DRVA clock, UTC
	Kind    CheckpointKind   `json:"kind"`
	Scope   Scope            `json:"scope"`
	Tag     string           `json:"tag,omitempty"`     // user's or agent's label; may be empty
	Missing []VMID           `json:"missing,omitempty"` // VMs the cut does not cover (Scope Partial)
	Disks   []CheckpointDisk `json:"disks"`             // every disk of the domain at this point
}

// CheckpointDisk is one disk as a checkpoint saw it.
type CheckpointDisk struct {
	ID     DiskID `json:"id"`
	VM     VMID   `json:"vm"`
	Size   int64  `json:"size"`   // bytes
	Synced bool   `json:"synced"` // its baseline was complete: the disk can be recovered at this point
}

// Recoverable reports whether the whole domain can be recovered at c, and if
// not, why.
func (c *Checkpoint) Recoverable() (ok bool, why string) {
	if len(c.Disks) == 0 {
		return false, "no disk was protected yet"
	}
	for _, d := range c.Disks {
		if !d.Synced {
			return false, "baseline of disk " + d.ID.String() + " was not complete"
		}
	}
	return true, ""
}
