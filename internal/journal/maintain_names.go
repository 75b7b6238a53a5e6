package journal

import "holdfast/internal/dr"

// JournalPrefix is what the keys of a timeline's journal objects begin with.
func JournalPrefix(t dr.TimelineID) string { return objectPrefix(t) }

// DataPrefix and PartPrefix are what the keys of data objects and of index
// parts begin with.
const (
	DataPrefix = prefixData
	PartPrefix = prefixIndex
)

// DroppedName is the key of the object that says that a timeline is given up.
func DroppedName(t dr.TimelineID) string { return droppedKey(t) }

// PinNames are the keys of a pin and of its release.
func PinNames(id dr.UUID) (pin, release string) { return pinKey(id), pinOffKey(id) }
