package drva

import (
	"holdfast/internal/segment"
)

// levelFor is how hard the next object is compressed: as configured, until the
// log is filled to burstFill. Then the backlog counts, and what limits it: while
// the store has all its requests under way, smaller objects drain faster and
// the level stays; while it waits for objects, packing is what limits, and the
// level is the fastest that saves space, or, near the throttle, none.
func levelFor(set segment.Level, fill float64, underWay int) segment.Level {
	switch {
	case set == segment.None || fill < burstFill || underWay >= busyStore:
		return set
	case fill >= bounds[LevelThrottle].leave:
		return segment.None
	}
	return segment.Fastest
}

// ParseCompression reads a level's word; the empty word is "fastest".
func ParseCompression(s string) (l segment.Level, ok bool) {
	switch s {
	case "", "fastest":
		return segment.Fastest, true
	case "default":
		return segment.Balanced, true
	case "better":
		return segment.Smallest, true
	case "none":
		return segment.None, true
	}
	return 0, false
}

// wordOf is the inverse of ParseCompression.
func wordOf(l segment.Level) string {
	return map[segment.Level]string{segment.Fastest: "fastest", segment.Balanced: "default", segment.Smallest: "better", segment.None: "none"}[l]
}
