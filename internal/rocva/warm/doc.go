// Package warm keeps disks that follow a timeline: a standby. Whatever
// checkpoint is published, what differs from the one before it is fetched and
// written, so that a failover takes as long as a boot.
//
// # What stands where
//
// A standby is a directory. Its disks lie under the names of half-made ones,
// PATH.partial, until they are handed over: nothing that follows a timeline is
// ever taken for a disk to boot. standby.json says what they hold:
//
//	at  to  handed    the disks hold
//	A   -   no        checkpoint A
//	A   B   no        A, but what differs from B may be either's
//	A   -   yes       A, under their own names or about to get them: nobody
//	                  but their VMs writes to them any more
//
// It is written, durably, before the first byte of B and after the last one was
// synced. Whoever finds "at A, to B" applies B to A again, which gives the same
// bytes; if A or B is not retained any more, the disks are compared with the
// newest checkpoint by their hashes.
//
// A checkpoint is applied as a whole, to all disks, or the standby does not
// stand at it. Only recoverable group checkpoints are followed; when several
// were published meanwhile, the newest one is applied at once.
//
// # Following
//
// Run asks for the name of the next journal object: one request when there is
// nothing new. A takeover of the timeline, thinning and packing change nothing
// of that: the history is read by its own rules, and what differs is found by the
// places of records in the domain's order.
//
// A [Standby] has one worker at a time, Run's or that of a failover; Status never
// waits for it.
package warm
