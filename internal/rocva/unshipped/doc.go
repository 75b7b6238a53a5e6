// Package unshipped keeps what a site wrote and never published: its host
// component was ahead of the store when the site was lost, or its guests ran on
// for a while after others had taken over.
//
// When such a site returns, its disks are about to be overwritten by what the
// domain has become elsewhere. What they hold beyond the last checkpoint they
// published is on no line of the domain's history, and nothing may merge it into
// one. [Keep] compares the disks with that checkpoint, and publishes what differs
// as a checkpoint of a branch of its own, which is never the current timeline by
// itself. From there it can be recovered, mounted or cloned like any other point, and
// is given up by dropping the branch.
//
//	timeline of A  ──o──o──o base
//	                       ├───o──o──o      the branch B went on with, now current
//	                       └╌╌╌* unshipped  the branch made here
//
// Keep is resumable: it goes on with a branch that an interrupted call left, by
// comparing with what that one holds already. It reads the disks, which nobody
// may write to meanwhile, and never writes to them.
package unshipped
