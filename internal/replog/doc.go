// Package replog is the replication log: the DRVA's durable queue of captured
// records, between giving them their place in the domain's order and
// publishing them. It survives the DRVA; what it acknowledged is never lost
// silently.
//
// The nouns: a [Log] is a directory of log files of one fixed size, pre-written
// once and recycled for ever; a slot is such a file on disk, a log file is one
// life of a slot. Records are written in batches, the unit of group commit: what
// arrived while the device was busy is the next batch. A [Reader] gives durable
// records back in order. Trimming frees the files whose records are published.
//
// # Promises
//
// A record is durable when its Append's done was called without error: written
// with one direct synchronous write per batch, at most two batches in flight,
// acknowledged in order. After a crash [Open] holds every acknowledged record,
// byte for byte, followed by a prefix of those that were not acknowledged.
//
// Recovery accepts batches from the first file on while log, number, chain and
// checksums hold. Let k be the first that does not. Batch k+1 may have been in
// flight together with k; a batch k+2, or the header of a later file, was begun
// only after k was durable. So if any of these is found, or the noted durable
// end lies behind k, something acknowledged is damaged, and Open fails with
// kind Corrupt and changes nothing. Otherwise k and k+1 were never
// acknowledged and are dropped. That is the only thing ever dropped, and
// [Recovery.TornTail] tells of it.
//
// Every Open raises the log's incarnation, which each batch carries, so that
// what was dropped can never continue what is written in its place.
//
// Every file starts with the records still in force at its beginning (the
// carry area), so that trimming the files before loses no state: see
// [Recovery]. A Disk, Session or Meta record without payload withdraws what it
// names, and is not carried.
//
// After a failed write the log stops; nothing is written again to the same
// files by this process.
//
// # Goroutines
//
// [Log.Run] owns the two writers and the one that pre-writes files. Callbacks
// and nothing else run on the writers. A Reader belongs to its caller's
// goroutine. Lock order: stateMu, then mu; neither is held over a write of
// records or over a callback.
//
// The bytes are drawn in docs/format/replog.md; a test holds it to the code.
package replog
