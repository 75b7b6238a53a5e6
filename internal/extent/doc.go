// Package extent is arithmetic on byte ranges of a disk, and the bitmap that
// remembers which chunks of a disk are dirty.
//
// A [Range] is an offset and a length in bytes. Blocks (4 KiB) are the grain
// of capture, chunks (64 KiB) the grain of the index and of tracking; a mask
// is 16 bits, one per block of a chunk, bit 0 the first.
//
// Ranges are plain values. Offsets and lengths are never negative and a range
// ends at or below [MaxSize]; within that bound no operation overflows. The
// package starts no goroutines.
package extent
