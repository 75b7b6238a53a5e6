// Package stream is the memory of a host's one stream to its DRVA: every
// record from the moment it enters until the DRVA's replication log holds it
// durably, so that a DRVA that restarts gets it again, in the same order and
// with the same place in the domain's order.
//
//	       durable        sequenced        sent           next
//	 freed    │  retained     │               │             │
//	──────────┼───────────────┼───────────────┼─────────────┼──────▶ hostSeq
//	          │ first         │ has its seq   │ may be      │ enters here
//	          │               │               │ anywhere    │
//
// Records get consecutive numbers (dr.HostSeq) in the order of Append. Two
// rings hold them: one of descriptors, one of payload pages. Both are
// allocated once and bound the host's memory; payload is copied once, into the
// ring, and sent from there.
//
// What the DRVA says is judged against what was sent to it: an answer that
// cannot be true is an error, after which the connection is useless, and never
// changes what is retained.
//
// The package is pure: no lock, no clock, no goroutine, no I/O. The caller
// serialises all calls; only the payload of a gathered frame may be read
// outside of that, until Unpin.
package stream
