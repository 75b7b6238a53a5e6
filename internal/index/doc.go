// Package index keeps where the versions of a domain's blocks lie: sorted,
// immutable runs of entries, made from the footers of objects, merged, thinned,
// and resolved into the image of a checkpoint.
//
// An [Entry] is a version: what one frame, or one range of zeroes, says of
// blocks of a chunk as of a record. A run is entries in the order of disk,
// chunk and seq, the newest first, in one or more parts of which each can be
// read alone. A [Writer] makes parts, a [Reader] decodes one, a [Run] is the
// [Source] of all of them. [Merge] makes one run of several and keeps what a
// retained checkpoint or the head sees; a [Resolver] finds the frames that make
// disks at a checkpoint. Whatever takes part in one such operation numbers
// disks and objects by one [Catalog].
//
// A part, all integers little-endian:
//
//	0    header, 64 bytes: magic, format, the oldest format version a reader
//	     must know, disks u16, timelines u16, lowest and highest seq u64, entries,
//	     blocks and objects u32, bytes of the tables u32, zeroes
//	64   tables: uuid of each disk, ascending; uuid of each timeline; of the
//	     objects the columns timeline (from 1; 0 for a data object), number
//	     (zigzag difference to the journal object before), base (lowest seq in
//	     the part, difference to the one before); uuid of each data object; of
//	     the blocks the columns disk, first chunk, reach, entries, bytes
//	...  blocks, each with entries of one disk as the columns chunk, mask,
//	     object, seq, frame, saved
//
// A column is a byte with the width of its largest number, and one plane for
// each of these bytes, the lowest first: u8 form, then 0: the byte that all
// are; 1: the bytes; 2: uvarint length and a zstd frame of them.
// docs/format/index.md has the tables with every offset and how each column is
// made.
//
// What holds: decoding never panics and allocates within the bounds of
// limits.go, whatever the bytes are, and gives entries in order or an error.
// Parts are authenticated by what they are sealed in, not here. The package is
// pure: no I/O, no goroutines, no clock; memory is stated at each type.
package index
