// Package ledger is the host's side of the test guest: it builds the guest's
// disk image, drives the guest over its serial port, and judges a disk that
// recovery made, without booting it.
//
// A [Console] speaks with one guest. It always knows the last row the guest's
// database acknowledged: what recovery may not lose. A [Driver] writes to two
// guests in lock-step, so that every row on the second was caused by one on
// the first; [CheckPair] then tells whether two recovered disks are one
// crash-consistent cut of both. [CheckImage] replays the file system's journal
// on a copy of a disk, demands that nothing else needed repair, and verifies
// the ledger in it (package chain) row by row.
//
// Each Console has one goroutine, which reads; it ends with the Console.
// Nothing else here starts any.
package ledger
