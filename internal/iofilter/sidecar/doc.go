// Package sidecar remembers, in a small file beside a disk, where the disk and
// the copy of it that the DRVA logs may differ when the host comes to a sudden
// end.
//
// A disk is divided into regions of 1 MiB. A region is open from before the
// first write to it until everything written to it is in the replication log,
// is flushed on the primary, and none of it waits to be copied. After a crash
// or a power loss only what lies in open regions is copied again.
//
// The nouns: a run is one life of a host component, named by its random nonce;
// the sidecar names the run whose stream, with what is in open regions, makes
// up the whole disk (and, for the moment of taking over, runs that announced to
// go on after it). A round is one try to close regions.
//
// # The file
//
//	page 0    head, copy A ┐ the valid copy with the higher serial counts
//	page 1    head, copy B ┘
//	page 2 …  sectors of 512 bytes, eight to a page: checksum, number,
//	          generation, 3968 bits; a set bit is an open region
//
// It is changed in place, one page of 4 KiB at a time, by direct synchronous
// writes. A page torn by a power loss is a mixture of old and new sectors, each
// whole, and so a valid set again: an opening that is half there belongs to a
// write that never began. A damaged sector is read as all open. The layout in
// bytes is in docs/format/sidecar.md.
//
// # Rules
//
//   - A region is open on the disk before the write that needs it is submitted.
//   - A region is closed in a round only if nothing touched it since the round
//     began, and the round began before its writes were waited for and flushed.
//   - The head says how far the log had come before any bit is cleared because
//     of that: a log that was set back is noticed, and its copy not trusted.
//   - A new run replaces the file: a process that should be dead and still
//     writes holds a file without a name.
//
// The package starts no goroutine. Hot is free of locks and memory allocation.
package sidecar
