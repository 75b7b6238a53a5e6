package dr

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// UUID is a 128-bit random identity. The zero value means "none".
type UUID [16]byte

// NewUUID returns a random (version 4) UUID.
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails: crypto/rand.Read stops the program instead
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// String renders the canonical lower-case form, 8-4-4-4-12.
func (u UUID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	b[8] = '-'
	hex.Encode(b[9:13], u[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], u[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], u[8:10])
	b[23] = '-'
	hex.Encode(b[24:36], u[10:16])
	return string(b[:])
}

// IsZero reports whether u means "none".
func (u UUID) IsZero() bool { return u == UUID{} }

// MarshalText renders the canonical form.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText parses the canonical form.
func (u *UUID) UnmarshalText(b []byte) error {
	v, err := ParseUUID(string(b))
	if err != nil {
		return err
	}
	*u = v
	return nil
}

// ParseUUID parses the canonical 36-character form and nothing else.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("%q is not a UUID of the form 8-4-4-4-12", s)
	}
	h := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(u[:], []byte(h)); err != nil {
		return UUID{}, fmt.Errorf("%q is not a UUID: %w", s, err)
	}
	return u, nil
}

// The identities. Distinct types, so that a disk is never passed for a VM.
type (
	// DomainID names a protected domain: one container, one order of writes.
	DomainID struct{ UUID }
	// TimelineID names one branch of a domain's history.
	TimelineID struct{ UUID }
	// VMID names a protected VM; it survives moves between sites.
	VMID struct{ UUID }
	// DiskID names a protected disk; it survives moves between sites.
	DiskID struct{ UUID }
	// HostID names a hypervisor host with a host component.
	HostID struct{ UUID }
)
