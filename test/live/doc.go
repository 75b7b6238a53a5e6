// Package live proves live protection with everything real: the product's
// processes (a DRVA, a host component and its watchdog), a guest that somebody
// else started, on QEMU alone or on a libvirt daemon, and that commits to its
// ledger all the time, and the commands a user types.
//
//	guest ──▶ its own raw disk                        not protected
//	guest ──▶ host component ──▶ DRVA ──▶ container   "holdfast protect"
//
// A guest is never started again for any of it. What it acknowledged is seen
// from outside, with the time; after each event:
//
//   - the guest commits on, having seen no error;
//   - the newest checkpoint is restored from the container alone, and is a whole
//     ledger with every row that was acknowledged before it was cut;
//   - what was sent to make up for an absence is no more than what differs, and
//     a tenth.
//
// At the end the guest is powered off, and its own disk is judged likewise.
//
//	HOLDFAST_LIVE_N=100 go test -timeout 3h -v -run Cycles ./test/live
//
// protects and unprotects a guest that often.
package live
