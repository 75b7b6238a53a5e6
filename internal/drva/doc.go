// Package drva is the DR virtual appliance of one protected domain: it takes
// what the domain's hosts capture, gives it one order (package order), makes it
// durable in the replication log, cuts checkpoints and publishes them to the
// domain's container.
//
//	host ──conn: reader──┐                         ┌─ shipper ── settler
//	                     ├─► sequencer ─► replog ──┘    │            │
//	host ◄─conn: writer──┘   (order.Core)               └► publisher ┘► trim
//
// One goroutine, the sequencer, owns the order. Each connection has a reader,
// which brings frames in buffers of its own, and a writer, which gathers
// acknowledgements. The shipper reads what is durable in the log, from the
// first record the container does not hold: there is no other path, so that a
// restart is the normal case. The settler waits for publications in order and
// trims the log.
//
// Promises: a host is told "sequenced" when a record has its place in the
// domain's order, "durable" when the replication log holds it through a crash;
// a record is trimmed only after the object that covers it was counted as
// published under the current epoch; a checkpoint's object holds exactly the
// newest state of each block below its Seq that no earlier object holds.
//
// Several appliances may run in one process: a [Front] hands each host to the
// appliance of its domain, and [Shared] divides memory and processors among
// them by weight. Nothing of the order is shared.
//
// Overload: as the log fills up, hosts are slowed down, then told to track,
// before the order must stop for want of room; see [Level]. Above half the
// quota draining comes before compressing well.
//
// Bounds: each host has Buffers frames of 1 MiB under way; when they are full,
// its connection is not read. A log without room stops the order, hosts then
// notice and track. Publishing holds at most maxBuilders objects in memory.
package drva
