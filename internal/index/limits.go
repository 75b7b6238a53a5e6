package index

import "holdfast/internal/dr"

// FormatVersion is the newest part format this package writes and reads.
const FormatVersion = 1

// Bounds of a part. A Writer never passes them and a Reader refuses what does,
// so that memory does not follow hostile counts.
const (
	// MaxPart bounds a part in bytes. Everything below at its maximum stays
	// under it.
	MaxPart = 16 << 20
	// MaxPartEntries bounds the entries of a part: 16 MiB at 32 bytes each
	// before coding, 1.5 to 4 MiB after it.
	MaxPartEntries = 1 << 19
	// MaxPartObjects bounds the objects a part refers to.
	MaxPartObjects = 1 << 16
	// BlockEntries bounds the entries of a block, the unit of decoding: large
	// enough for coding by columns, small enough to reach one chunk in a
	// fraction of a millisecond.
	BlockEntries = 4096
	// MaxBlocks bounds the blocks of a part: a block holds one disk's entries
	// and all but the last of each disk are full.
	MaxBlocks = MaxDisks + MaxPartEntries/BlockEntries
	// MaxDisks bounds the disks of a part and of a Catalog; a domain has no
	// more.
	MaxDisks = 4096
	// MaxFrames bounds frame counters: no object holds more frames.
	MaxFrames = 1 << 17
	// MaxChunks bounds chunk numbers: dr.MaxDiskSize in chunks, 2^30.
	MaxChunks = dr.MaxDiskSize / dr.ChunkSize
	// MaxObjects bounds the objects of a Catalog: 4 Mi objects of 4 MiB are
	// 16 TiB stored.
	MaxObjects = 1 << 22
	// MaxSorted bounds the entries a Sorter holds: 84 MB.
	MaxSorted = 1 << 21
	// MaxVersions bounds what Merge and Resolve hold of one chunk at a time:
	// 160 MB. A chunk written in every object of 5 s, never thinned, gets
	// there in 242 days.
	MaxVersions = 1 << 22
	// MaxRanges bounds the zero ranges that lie over one chunk.
	MaxRanges = 1 << 16
)

const (
	// fullMask is a chunk with all its blocks.
	fullMask = 1<<dr.BlocksPerChunk - 1
	// frameOverhead is what sealing adds to a frame, bytes: stored sizes are
	// coded as what compression saves of blocks and overhead.
	frameOverhead = 16
	// holdBack is how many entries a merge keeps back, at least, before it
	// cuts the zero ranges that are open.
	holdBack = 4096
)
