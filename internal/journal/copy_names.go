package journal

import (
	"context"
	"errors"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// Names that package copies goes by, besides those of package maintain.
const (
	DomainName = keyDomain
	KeysPrefix = prefixKeys
	MetaPrefix = prefixMeta
	PinPrefix  = prefixPin
)

// HeadName is the key of a timeline's head.
func HeadName(t dr.TimelineID) string { return headKey(t) }

// EpochPrefix is what the keys of a timeline's claims begin with.
func EpochPrefix(t dr.TimelineID) string { return epochPrefix(t) }

// ManifestName is the key of a manifest.
func ManifestName(t dr.TimelineID, generation uint64) string { return manifestKey(t, generation) }

// ParsePinName tells of which pin a key is, and whether it is its release; ok is
// false for any other key.
func ParsePinName(key string) (id dr.UUID, release, ok bool) { return parsePinKey(key) }

// KeyCompletes reports whether a key below KeysPrefix is that of a rotation's end,
// which comes after the wrapped keys beside it.
func KeyCompletes(key string) bool { return strings.HasSuffix(key, "/"+completeName) }

// IsAdvice reports whether what lies under a key only helps: boot traces and a
// manager's settings. Nobody's history depends on it, and of two writers of one
// name either is as good.
func IsAdvice(key string) bool {
	rest, ok := strings.CutPrefix(key, prefixMeta)
	return ok && (strings.HasPrefix(rest, "settings/") || strings.Contains(rest, "/boot/"))
}

// Probe tries the properties of a store that a container rests on, as Create does. What
// it writes, below probe/, it deletes again if the store lets it. Kind Invalid, with
// the name of the property, for a store that lacks one.
func Probe(ctx context.Context, st store.Store) error { return probe(ctx, st) }

func checkDocument(key, magic string, body []byte, v any) error {
	err := parseDocument(magic, body, v)
	if errors.Is(err, errNotDocument) {
		return errs.E("journal.CheckObject", errs.Corrupt, key, err)
	}
	return wrapErr("journal.CheckObject", key, err)
}

// At is the same container as it lies in another store: a copy of it, opened by
// the same data keys. Nothing is read by this call: whether anything lies there,
// and whether it is the same container, is for the caller to find out.
func (c *Container) At(st store.Store) *Container {
	return newContainer(st, c.domain, c.digest, c.keys)
}

// CheckObject tells whether body is a whole object that may lie under key, as far
// as can be told without any key: nothing of it was damaged, and it names the
// place itself, where it names one. Kind Corrupt when not, Invalid when it is of
// a newer format.
func (c *Container) CheckObject(key string, body []byte) error {
	const op = "journal.CheckObject"
	if key == keyDomain {
		return checkDocument(key, magicDomain, body, &Domain{})
	}
	if strings.HasPrefix(key, prefixKeys) && !KeyCompletes(key) {
		return checkDocument(key, magicWrap, body, &wrap{})
	}
	h, err := segment.Check(body)
	if err != nil {
		return errs.E(op, errs.Internal, key, err)
	}
	if h.Domain != c.domain.ID {
		return errs.New(op, errs.Corrupt, key, "the object belongs to another container")
	}
	if id, ok := ParseObjectName(key); ok {
		if id.Data.IsZero() {
			err = c.checkPlace(&h, id.Timeline, id.Number)
		} else {
			err = c.checkData(&h, id.Data)
		}
		return wrapErr(op, key, err)
	}
	if rest, ok := strings.CutPrefix(key, prefixIndex); ok && h.Object.String() != rest {
		return errs.New(op, errs.Corrupt, key, "it is another part of an index")
	}
	return nil
}

// EpochName is the key of a claim; ParseEpochName is its inverse.
func EpochName(t dr.TimelineID, e dr.Epoch) string { return epochKey(t, e) }

// ParseEpochName tells which epoch a key claims; ok is false for any other key.
func ParseEpochName(t dr.TimelineID, key string) (e dr.Epoch, ok bool) { return parseEpochKey(t, key) }

// KnownName reports whether a key has a form that a container has.
func KnownName(key string) bool { return knownKey(key) }

// ParseManifestName tells which generation of a timeline's manifests a key is; ok is
// false for any other key.
func ParseManifestName(t dr.TimelineID, key string) (generation uint64, ok bool) {
	return parseManifestKey(t, key)
}
