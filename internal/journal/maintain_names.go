package journal

import (
	"strings"

	"holdfast/internal/dr"
)

// JournalPrefix is what the keys of a timeline's journal objects begin with.
func JournalPrefix(t dr.TimelineID) string { return objectPrefix(t) }

// DataPrefix and PartPrefix are what the keys of data objects and of index
// parts begin with.
const (
	DataPrefix = prefixData
	PartPrefix = prefixIndex
)

// ManifestName is the key of a manifest.
func ManifestName(t dr.TimelineID, generation uint64) string { return manifestKey(t, generation) }

// DroppedName is the key of the object that says that a timeline is given up.
func DroppedName(t dr.TimelineID) string { return droppedKey(t) }

// PinNames are the keys of a pin and of its release.
func PinNames(id dr.UUID) (pin, release string) { return pinKey(id), pinOffKey(id) }

// ParsePartName is the inverse of PartName; ok is false for any other key.
func ParsePartName(key string) (id dr.UUID, ok bool) {
	rest, ok := strings.CutPrefix(key, prefixIndex)
	if !ok {
		return id, false
	}
	id, err := dr.ParseUUID(rest)
	return id, err == nil
}
