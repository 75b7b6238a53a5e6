// Package durabletest is a file system in memory that forgets like a disk
// does. It answers for durable.FS, numbers every operation, and can at any
// moment, in the middle of a write too, hand back an image of what a machine
// would find after the lights went out.
//
// What an image may hold:
//
//   - content that was synced, or written through a file opened with DSync and
//     returned, is there: always;
//   - any other write is there whole, in part or not at all, in units of 512
//     or 4096 bytes, in any order;
//   - names not yet covered by SyncDir are there or not, in any combination;
//     a rename is one step;
//   - what was pending when a Sync failed is never made durable by a later
//     Sync, although reading it back works until the crash. That is how real
//     kernels treat pages whose write-back failed.
//
// Images are drawn from a seed, so a failure repeats. [ProcessDeath] keeps
// everything the kernel would keep, still not durable: a program that takes
// what it reads after a restart for durable is found out by a later
// [PowerLoss].
//
// Faults come from the [Hook]: an error returned before an operation makes it
// fail, a write in part, a Sync with loss. [FS.Flip] damages content at rest.
package durabletest
