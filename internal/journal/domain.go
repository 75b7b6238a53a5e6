package journal

import (
	"errors"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Format says which software may read a container. Major is the shape of
// everything. Compat and Incompat are bit sets of additions: an unknown bit of
// Compat may be ignored, an unknown bit of Incompat may not.
type Format struct {
	Major    uint32 `json:"major"`
	Compat   uint64 `json:"compat"`
	Incompat uint64 `json:"incompat"`
}

const (
	formatMajor = 1
	// incompatHistory: the container may have manifests, data objects, branches,
	// pins and several data keys, and journal objects below a manifest's anchor
	// may be gone. A reader that knows nothing of these would take deleted
	// objects for lost ones, and so offer nothing.
	incompatHistory = 1 << 0
	knownIncompat   = incompatHistory

	cipherName    = "zstd+aes-256-gcm"
	blockHashName = "blake3-keyed-64"
)

// Domain is what a container says about itself in the clear. It is immutable.
type Domain struct {
	Format    Format        `json:"format"`
	ID        dr.DomainID   `json:"domain"`
	Name      string        `json:"name"`
	Created   time.Time     `json:"created"`
	Cipher    string        `json:"cipher"`     // how frames are packed and sealed
	BlockHash string        `json:"block_hash"` // the hash kept of every block
	BlockSize int           `json:"block_size"` // bytes
	ChunkSize int           `json:"chunk_size"` // bytes
	Window    int           `json:"window"`     // W, in object numbers
	DataKey   dr.UUID       `json:"data_key"`   // the first data key's id
	Timeline  dr.TimelineID `json:"timeline"`   // the first timeline
}

func newDomain(id dr.DomainID, name string, now time.Time) Domain {
	return Domain{
		Format:    Format{Major: formatMajor, Incompat: incompatHistory},
		ID:        id,
		Name:      name,
		Created:   now.UTC().Truncate(time.Second),
		Cipher:    cipherName,
		BlockHash: blockHashName,
		BlockSize: dr.BlockSize,
		ChunkSize: dr.ChunkSize,
		Window:    Window,
		DataKey:   dr.NewUUID(),
		Timeline:  dr.TimelineID{UUID: dr.NewUUID()},
	}
}

// parseDomain decodes the domain object and refuses what this release cannot read.
func parseDomain(body []byte) (Domain, error) {
	const op = "journal.Open"
	var d Domain
	err := parseDocument(magicDomain, body, &d)
	switch {
	case errors.Is(err, errNotDocument):
		return d, errs.New(op, errs.Invalid, keyDomain, "this is not a Holdfast container: "+err.Error()).
			WithRemedy("check the store's address; a container's domain object begins with \"holdfast container\"")
	case errs.Is(err, errs.Corrupt):
		return d, errs.E(op, errs.Corrupt, keyDomain, err).
			WithRemedy("restore the domain object from another copy of the container, or from the store's own versions")
	case err != nil:
		return d, errs.E(op, errs.Internal, keyDomain, err)
	}
	return d, d.validate()
}

func (d *Domain) validate() error {
	const op = "journal.Open"
	if d.Format.Major != formatMajor || d.Format.Incompat&^knownIncompat != 0 {
		return errs.New(op, errs.Invalid, keyDomain, fmt.Sprintf(
			"the container has format %d (incompatible features %#x); this release reads format %d (features %#x)",
			d.Format.Major, d.Format.Incompat, formatMajor, knownIncompat)).
			WithRemedy("use a newer release of Holdfast")
	}
	bad := func(what string) error {
		return errs.New(op, errs.Invalid, keyDomain, "the container's "+what+" is not one of format 1").
			WithRemedy("use the release of Holdfast that wrote the container")
	}
	switch {
	case d.ID.IsZero() || d.DataKey.IsZero() || d.Timeline.IsZero():
		return bad("identity")
	case d.Cipher != cipherName:
		return bad("cipher")
	case d.BlockHash != blockHashName:
		return bad("block hash")
	case d.BlockSize != dr.BlockSize || d.ChunkSize != dr.ChunkSize:
		return bad("block or chunk size")
	case d.Window != Window:
		return bad("window")
	case len(d.Name) > maxName:
		return bad("name")
	}
	return nil
}
