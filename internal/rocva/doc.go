// Package rocva builds disks from a domain's journal. [Full] rehydrates in
// full: every disk of a checkpoint becomes a raw file or block device. [Update]
// makes disks that are there hold a checkpoint, by what differs. Packages below
// it keep a standby, read on demand, and keep what a site had not published.
//
// # Order and durability
//
// [Full] fetches by journal object, in any order, a few objects at once. Each
// block of the image comes from exactly one frame, so order does not matter,
// and doing an object twice gives the same bytes. Frames are opened,
// decompressed and compared with the hashes taken at capture before a byte of
// them is written; what cannot be proven is an error, never zeroes.
//
// A worker opens frames straight into the memory they are written from and
// writes side-by-side blocks at once. Large writes go past the page cache
// through a second descriptor of the same file: that took 0.3 s of processor
// time off each GiB, and the disk works while frames are opened instead of at
// the last sync. Every block is written by one of the two ways, once.
//
// A file grows under the name PATH.partial and gets its own name only when it
// is whole and durable. PATH.cursor tells which objects are done; it is written
// after the data it speaks of was synced, so that a run that is killed at any
// point goes on where it was when it is started again.
//
//	             PATH.partial  PATH.cursor            PATH
//	begun        holes         -                      -
//	under way    some blocks   these objects are done -
//	all synced   whole         complete               -
//	renamed      -             complete               whole
//	finished     -             -                      whole
//
// A block device is written in place, after all of it was zeroed, and has no
// cursor: an interrupted run begins anew.
//
// # Updates
//
// An update writes into a disk that somebody had, so its cursor is there first:
// it says from which checkpoint to which, and what the disk was written to
// besides. Then the disk loses its name, and the rest is as above.
//
//	             PATH   PATH.partial  PATH.cursor
//	begun        base   -             -
//	marked       base   -             base, wanted, nothing done
//	under way    -      a mixture     base, wanted, these objects are done
//	all synced   -      wanted        complete
//	finished     wanted -             -
//
// Zeroes that no frame gives are written before anything is fetched, and again
// by whoever goes on. A mark of another pair of checkpoints says only that the
// disk is a mixture: it is compared then.
//
// Full owns the goroutines it starts and ends them before it returns.
package rocva
