// Package segment is the byte format of the objects in a container: captured
// blocks packed, compressed, sealed and indexed so that one object can be
// checked and read alone, from anywhere, with nothing but a data key.
//
// A [Builder] makes an object of frames (blocks of one 64 KiB chunk of one
// disk), zero ranges and at most one checkpoint. A reader parses the tail,
// opens the [Footer], picks an [Entry] and opens that frame with an [Opener].
// A [Packer] makes an object of frames copied from others, seals and all.
// Fences ([SealFence]) and blobs ([SealBlob]) share header and tail.
//
//	0        header, 4096 bytes, clear
//	4096     frames, in the order they were added
//	         sealed footer (of a blob: its sealed content; of a fence: nothing)
//	end-64   tail
//
// All integers are little-endian; "uvarint" and "varint" are those of
// encoding/binary. docs/format/segment.md has the tables with every offset.
//
// Header: magic, format, the oldest format version a reader must know, kind,
// suite, window, object, domain, timeline and data key ids, epoch, number,
// previous digest, time, key check, form, zeroes, CRC-32C of all before it.
//
// Frame: AES-256-GCM of the zstd form of the blocks, or of the blocks as they
// are when compression saves less than 1/16. Key: HKDF-SHA256 of the data key
// with the object's uuid as salt; nonce: 8 zero bytes and the frame's counter,
// u32 big-endian; associated data: domain, disk, chunk u32, mask u16, seq u64.
//
// Footer and blob: AES-256-GCM, under the counters 2^32-1 and 2^32-2, of the
// plain length, u32, and the zstd form; associated data: the header. A
// footer's plain form holds columns one after the other:
//
//	uvarint  number of disks, of frames, of zero ranges, of block hashes
//	uvarint  first and last record covered
//	16 B     uuid of each disk
//	uvarint  frames of each disk; frames are sorted by disk, chunk, counter
//	uvarint  chunk of each frame, as difference to the one before on its disk
//	u16      mask of each frame
//	bits     whether each frame is raw, eight to a byte, lowest bit first
//	varint   seq of each frame, as difference to the one before (first record)
//	uvarint  stored bytes of each frame that is not raw
//	varint   counter of each frame, as difference to one above the one before
//	...      of each zero range: uvarint disk, first block, count; varint seq difference
//	u8       1 when a checkpoint follows: u8 kind, u8 scope, uvarint id and seq,
//	         i64 time, uvarint-counted tag, missing VMs, and disks (uuid, VM
//	         uuid, i64 size, u8 synced)
//	u64      hash of each block, in the order of the frames
//
// and of a packed object, whose frames were sealed for others:
//
//	uvarint  number of origins
//	32 B     object and data key of each origin
//	uvarint  origin of each frame
//	uvarint  counter of each frame in its origin
//
// Frames lie without gaps in the order of their counters, so that offsets
// follow from stored sizes.
//
// Tail: magic, CRC-32C, offset and length of the sealed footer, and the
// SHA-256 of everything before the tail.
//
// What holds: a frame opens only with the right key and only as the disk,
// chunk, blocks and record it was written as; the footer opens only with its
// header; no two sealed parts share key and nonce, because every object has
// its own random uuid and so its own key, and counters are used once. Copying a
// frame seals nothing. Parsing
// never panics and allocates no more than the bounds in limits.go, whatever
// the bytes are. The package is pure: no I/O, no goroutines.
package segment
