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
// After each fault is healed:
//
//   - the guests ran on: they commit again, having lost nothing acknowledged;
//     one that was killed has a whole ledger when it is up again;
//   - protection is whole again by itself: a recoverable group checkpoint taken
//     after the fault is published;
//   - the newest checkpoint, and one drawn from all that are listed as
//     recoverable, restore to disks with whole ledgers that are one instant of
//     both guests and hold every commit acknowledged before them;
//   - a host that tracked sent no more than it had to, plus a tenth.
//
// At the end every listed checkpoint is listed still, and the container is
// clean to the last byte.
package chaos
