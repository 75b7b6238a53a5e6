// Package boottrace is what a VM reads while it boots: a [Recorder] notes it at
// a disk, a [Trace] tells it in order, and its encoding is kept in the container,
// so that an instant recovery fetches first what the guest will ask for.
//
// A trace is advice. One that is wrong, old, or of another VM costs a recovery
// time and nothing else.
//
// The encoding:
//
//	| version u8 = 1 | disks uvarint | disk ids, 16 each | chunks uvarint |
//	| disk uvarint | chunk, as the difference to the one before, varint | …
//
// The package has no clock: who records says when a boot is over.
package boottrace
