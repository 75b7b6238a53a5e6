// Package iofilter is the host component: it stands in the disk path of the
// protected VMs of one hypervisor host, keeps their disks as they were before,
// and sends a copy of every write to the domain's DRVA, in order.
//
// A [Filter] serves each protected disk over NBD on a unix socket. A guest
// write goes through these steps:
//
//	arrival      the server's loop hands the operation to the disk's tap
//	range lock   overlapping writes of a disk go one after the other, so that
//	             the order in the stream is the order on the disk
//	sidecar      its region is open, or is opened first
//	primary      the write goes to the same disk as before
//	stream       on success its blocks, widened to 4 KiB, are copied once into
//	             the host's one stream (package stream), checksummed
//	ack rule     the guest hears of it: at once, when the DRVA has given it its
//	             place in the order, or when it is in the replication log
//
// The host is in one of two modes:
//
//	               the stream is full and does not drain, the DRVA
//	               does not answer, the stream was lost
//	streaming ───────────────────────────────────▶ tracking
//	    ▲                                              │
//	    └──────────────────────────────────────────────┘
//	      link up, buffer below half, what was sent is acknowledged
//
// While tracking, writes are acknowledged from the primary alone and only
// their chunks are remembered, in memory; their regions are open in the disk's
// sidecar (package sidecar), by which the next run knows after a sudden end. When streaming resumes, a TrackBegin
// record tells the DRVA so, and the sync cursor reads those chunks again; the
// same cursor makes the first copy. A host begins its life tracking, with those
// chunks dirty that the sidecars of its disks call open: all, if there is none.
//
// A disk of which the container has an earlier state is not copied but
// compared with it, block hash by block hash, and what differs goes into the
// stream: see compare.go.
//
// VMs and disks come and go while it runs (Protect, Unprotect, Resize,
// Reconfigure): see members. A single disk may stand aside, its writes tracked
// while the host streams: before the DRVA knows of it, and while it is paused.
//
// What people see is one word per disk and for the host: see States and
// docs/operate/states.md.
//
// Promises. Order: if a write was acknowledged before another was issued, it
// is before it in the stream; overlapping writes are in the stream as on the
// disk. Liveness: nothing the DRVA does or fails to do keeps a guest's write
// for more than 2 s; see limits.go. Truth: a write that is acknowledged is in
// the stream or its chunk is marked dirty, at every moment; the gate (package
// gate) confirms a checkpoint round only if it may.
//
// Goroutines: Run owns all of them: one watchdog, one vigil over images nobody
// has open, one link with its sender and receiver, one sync cursor, an opener and
// a closer of each disk's regions, and the NBD servers. Guest operations run in the
// servers' own goroutines. One mutex, that of the outlet, orders everything
// that touches the stream; each disk has a mutex for its range lock; no
// goroutine holds both.
package iofilter
