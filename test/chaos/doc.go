// Package chaos is a protected site with everything real (two QEMU guests under
// load on two hosts, TLS links, one DRVA, an S3 store) to which bad things
// happen, one after the other, drawn from a seed:
//
//	HOLDFAST_CHAOS_N=200 HOLDFAST_CHAOS_SEED=7 go test -timeout 3h -v ./test/chaos
//
// or "make chaos N=200 SEED=7". The guests keep hash-chained ledgers in
// lock-step: guest 1's commit n causes guest 2's commit n, which causes guest
// 1's n+1. What they acknowledged is seen from outside.
//
// The faults: processes of all sorts are killed or stopped, links and the store
// are cut, disks (a primary, a sidecar's, the DRVA's) give errors or are full,
// clocks are set. HOLDFAST_CHAOS_ONLY takes those with that word in their names.
// Clocks are set for a process alone (rig.StartOnClock), disks are behind a
// server that errs when told to (package power); needs root.
//
// After each fault is healed:
//
//   - the guests ran on: they commit again, having lost nothing acknowledged;
//     one that was killed has a whole ledger when it is up again;
//   - protection is whole again by itself: a recoverable group checkpoint taken
//     after the fault is published;
//   - the newest checkpoint, and one drawn from all that are listed as
//     recoverable, restore to disks with whole ledgers that are one instant of
//     both guests and hold every commit acknowledged before them;
//   - a host that tracked sent no more than it had to, plus a tenth;
//   - of every stretch of the history that retention keeps something of, there
//     is a recoverable checkpoint still.
//
// At the end the container is clean to the last byte.
package chaos
