// Package demo shows the main job with nothing faked: two guests on two host
// components and one DRVA are site A; they are protected while they run and
// write; at a random moment every process of site A is killed and its directory
// removed; site B, which has only the container and a recovery key, rebuilds
// the disks at the newest group checkpoint, boots both guests and checks what
// they hold.
//
// The appliances are real processes of the holdfast binary, the guests real
// QEMU machines that boot from the protected disks. The guests keep a
// hash-chained ledger (package ledger); each commit of the second is caused by
// one of the first, so that a cut that is not consistent over both shows.
//
// [Run] owns every process, socket and file it makes and leaves none behind,
// however it ends.
package demo
