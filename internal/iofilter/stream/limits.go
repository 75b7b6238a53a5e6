package stream

import "holdfast/internal/wire"

// Bounds of the two rings.
const (
	// MinPayload is the smallest payload ring that works: four whole frames,
	// so that one can be filled while one is sent and one is acknowledged.
	MinPayload = 4 * wire.MaxPayload
	// ControlReserve is how many descriptors only control records
	// (TrackBegin, SyncEnd) may use: a ring full of writes must not keep the end
	// of a sync from being told.
	ControlReserve = 64
	// pageSize aligns the payload ring.
	pageSize = 4096
)
