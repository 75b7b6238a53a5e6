package segment

import "holdfast/internal/dr"

// Sizes of the fixed parts of an object, in bytes. Part of the format.
const (
	// HeaderSize is the clear head: one page, read with one small range.
	HeaderSize = 4096
	// TailSize is the fixed end, from which a reader finds the footer.
	TailSize = 64
	// Overhead is what sealing adds to a frame, a footer or a blob: the tag.
	Overhead = 16
)

// Bounds. A Builder refuses to pass them with kind Full and a reader refuses
// objects that do, so that neither side's memory follows hostile counts.
const (
	// MaxObjectSize bounds an object in bytes: 32 MiB is twice what a
	// publisher aims at and half of what a store takes.
	MaxObjectSize = 32 << 20
	// MaxFooter bounds a footer in bytes before compression. All counts below
	// at their maximum together stay under it.
	MaxFooter = 16 << 20
	// MaxBlob bounds the content of a blob in bytes: a part of an index takes
	// up to 16 MiB.
	MaxBlob = 16 << 20
	// MaxFrames bounds the frames of an object: 128 Ki well-compressed chunks
	// of 250 bytes fill it.
	MaxFrames = 1 << 17
	// MaxBlocks bounds the blocks of an object: 1 Mi, 4 GiB before compression,
	// 8 MiB of hashes.
	MaxBlocks = 1 << 20
	// MaxZeros bounds the zero ranges of an object.
	MaxZeros = 1 << 16
	// MaxDisks bounds the disks of an object, and of a domain.
	MaxDisks = 4096
	// MaxMissing bounds the VMs a checkpoint lists as missing.
	MaxMissing = 4096
	// MaxTag bounds a checkpoint's tag in bytes.
	MaxTag = 1024
	// MaxOrigins bounds the objects from which a packed object has frames: an
	// idle domain's smallest objects, some 500 bytes of a frame each, fill it.
	MaxOrigins = 1 << 16
	// MaxChunks bounds chunk numbers: dr.MaxDiskSize in chunks, 2^30.
	MaxChunks = dr.MaxDiskSize / dr.ChunkSize
	// maxDiskBlocks is dr.MaxDiskSize in blocks.
	maxDiskBlocks = dr.MaxDiskSize / dr.BlockSize
)

// smallBlob is the largest content of a blob that version 1 of the format
// allows, in bytes.
const smallBlob = 4 << 20

// firstBuffer is what a Builder begins with, in bytes: an object of an idle
// domain fits.
const firstBuffer = 64 << 10

// Worst-case bytes in a footer before compression, for bounds known early.
const (
	entryBound  = 5 + 2 + 1 + 10 + 3 + 5 // chunk, mask, raw, seq, stored, counter
	zeroBound   = 3 + 5 + 5 + 10         // disk, first, count, seq
	diskBound   = 16 + 3                 // uuid, number of entries
	originBound = 16 + 16                // object, data key
	copiedBound = 3 + 3                  // origin, counter there
	fixedBound  = 128                    // counts, seqs, checkpoint's fixed part, compression frames
)

// Least bytes one element takes, so that a count is checked against what is
// left before anything is allocated for it.
const (
	entryLeast      = 1 + 2 + 1 + 1 // chunk, mask, seq, counter
	zeroLeast       = 4
	diskLeast       = 16 + 1
	missingSize     = 16
	checkpointDisk  = 16 + 16 + 8 + 1
	compressionSlop = 64 // zstd's own framing of content it cannot shrink, per 64 KiB
)
