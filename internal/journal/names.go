package journal

import (
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/index"
)

// ObjectName is the key of a journal or data object in the container's store.
func ObjectName(id index.ObjectID) string {
	if id.Data.IsZero() {
		return objectKey(id.Timeline, id.Number)
	}
	return prefixData + id.Data.String()
}

// ParseObjectName is the inverse of ObjectName; ok is false for any other key.
func ParseObjectName(key string) (id index.ObjectID, ok bool) {
	part, id, ok := parseTombKey(key)
	if part || !ok {
		return index.ObjectID{}, false
	}
	return id, true
}

// PartName is the key of an index part.
func PartName(id dr.UUID) string { return prefixIndex + id.String() }

func manifestPrefix(t dr.TimelineID) string { return timelineDir(t) + dirManifest }

func manifestKey(t dr.TimelineID, g uint64) string {
	return fmt.Sprintf("%s%016x", manifestPrefix(t), g)
}

func parseManifestKey(t dr.TimelineID, key string) (uint64, bool) {
	g, ok := parseHex(key, manifestPrefix(t), 16)
	return g, ok && g > 0
}

func droppedKey(t dr.TimelineID) string { return timelineDir(t) + "/" + droppedName }
