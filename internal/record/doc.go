// Package record is the 64-byte descriptor of one captured event of a
// protected domain: a write, a zeroing, a sync block, a checkpoint… The same
// bytes travel from the host component to the DRVA (package wire) and lie in
// the replication log (package replog), so nothing is translated on the way
// of a guest write. All integers are little-endian.
//
//	 0  kind     u8    what happened
//	 1  flags    u8    FromSync…
//	 2  disk     u16   index in the session's (wire) or log's (replog) disk dictionary
//	 4  length   u32   bytes covered; of data and control records also the payload's bytes
//	 8  seq      u64   place in the domain's order; 0 until the DRVA gave it one
//	16  offset   u64   bytes from the start of the disk
//	24  hostSeq  u64   place in the host session's stream; 0 for the DRVA's own records
//	32  session  u32   host session; 0 for the DRVA's own records
//	36  crc      u32   CRC-32C of the payload; 0 when there is none
//	40  time     i64   capture time, Unix nanoseconds, clock of who made the record
//	48  page     u32   first payload page in a log batch; 0 on the wire
//	52  reserved 8     zero
//	60  descCRC  u32   CRC-32C of bytes 0-59
//
// Payloads are not part of the descriptor. On the wire and in the log a
// payload occupies whole 4 KiB pages, zero-padded ([Record.PaddedLen]).
//
// The package is pure: no I/O, no goroutines, no allocation in Put and Parse.
package record
