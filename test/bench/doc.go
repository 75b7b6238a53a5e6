// Command bench measures Holdfast beside its peers and says by how much it is
// faster or slower. `make bench` runs it; docs/performance.md explains every
// figure.
//
// Nouns. A [target] is a server under test (qemu-nbd, nbdkit, QEMU's mirror,
// our server alone, our server with protection). A [workload] is a load that
// fio puts on it. A [row] is one run of one workload on one target. A round
// runs every needed pair once, and the next round runs them in the opposite
// order. A [metric] is the median, over the rounds, of the ratio of two rows
// of the same round: what disturbs the machine for longer than a round then
// disturbs both sides.
//
// A row counts only when fio saw no error, the server is still alive, and a
// random sample of the disk's blocks changed as the reported writes say they
// must have: a server whose I/O is broken looks very fast. After every
// protected row the disk is rebuilt from the container alone and compared
// with the primary byte for byte; a difference ends the bench.
//
// The bench starts every server itself and ends it by its process; children
// also die with the bench. Files live in build/bench.tmp, sockets in a
// directory of their own, and both are removed at the end, also on Ctrl-C.
package main
