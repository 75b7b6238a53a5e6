// Package model is the whole pipeline under crashes, with every real part but
// the guests: host components with buffered and direct disks, TLS links, the
// appliance with its replication log, a container in a directory. Processes are
// killed, stopped and robbed of their state while writers work through the
// disks' NBD sockets; then every recoverable checkpoint of the container is
// restored and compared with what the writers know.
//
// # The writers
//
//	chain    a counter that hops over the disks of all hosts: it writes its
//	         next value only when the one before was acknowledged
//	region   a part of a disk with one writer, which does one random operation
//	         at a time: writes of any size and alignment, zeroes, trims
//	brawl    a part of a disk where two writers write over each other
//
// Chains and regions begin and end inside blocks and share them with their
// neighbours, so that writes of one block come from several sides.
//
// # What is checked of a checkpoint
//
//   - Group: each chain is the values 1 to m for some m, no effect without its
//     cause; m is at least what was acknowledged before the checkpoint's time.
//   - Group: each region is what its first k operations make, k at least those
//     acknowledged before that time. Of operation k+1, which nobody was told of,
//     any whole blocks may be there.
//   - Partial: the same for each VM that is not missing, by itself and without
//     the word about time.
//   - Later checkpoints never hold less than earlier ones.
//   - The newest equals the primary disks byte for byte.
//
// The checker is a pure function of the writers' knowledge and a point's
// disks, and a test of its own shows it what it must refuse.
package model
