// Package wire is the language between a host component (iofilter) and its
// DRVA: frames over one connection, mutually authenticated by TLS 1.3. One
// host has one connection, and everything it says is one FIFO stream.
//
// Frame, little-endian:
//
//	 0  magic    u32   "HFW1"
//	 4  type     u8    see Type
//	 5  version  u8    1
//	 6  count    u16   records in a Records frame, else 0
//	 8  body     u32   bytes of body that follow the head
//	12  payload  u32   bytes of payload that follow the body (Records only), whole 4 KiB pages
//	16  reserved 8     zero
//	24  bodyCRC  u32   CRC-32C of the body
//	28  headCRC  u32   CRC-32C of bytes 0-27
//	32  body           Records: count descriptors of 64 bytes (package record); else the message
//	..  payload        the records' payloads in order, each padded with zeroes to whole pages
//
// A Records frame holds at most 256 records and 1 MiB of payload, so that a
// frame can become a batch of the replication log as it is. Payload bytes are
// covered by the records' own checksums. A Marker record is always the last of
// its frame.
//
// Conversation: the host says Hello; the DRVA answers Welcome, or Refuse and
// closes. The host then replays what the DRVA has not made durable (Replayed
// records keep the seq they had), says ReplayEnd, and goes on with new
// records. The DRVA answers with Acks: which records have their place in the
// order, and up to where everything is durable. Hold, Release and Mark are the
// rounds of checkpoints, answered by Confirm. Either side Pings when it has
// said nothing for a while.
//
// Frames 12 to 17 go only to a side that offered them by Hello.Features, so
// that old and new boxes understand each other: Freeze, Frozen, Thaw and Thawed
// are the quiescing of guests around a cut (freeze.go); Throttle slows guests
// down and Track takes a host out of its stream, both because the DRVA's log
// fills up (pace.go).
//
// A host whose tracking state is lost may ask what the container holds
// (HashAsk, answered by HashAnswer) and ship what differs, if both sides have
// the word "hash" among their Features. What its VMs read when they boot
// (BootTrace) it tells a DRVA that has the word "boot" among its own.
//
// The package is pure: it encodes, decodes and validates; it never blocks.
package wire
