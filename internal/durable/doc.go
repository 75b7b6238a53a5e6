// Package durable is the one place that makes bytes survive: it alone creates,
// renames, links and syncs files in the product, so that the order of those
// steps is written, and tested against crashes, exactly once.
//
// The nouns: an [FS] is a tree of files with the few operations we need; a
// [File] is an open log file or object; [OS] is the real file system; package
// durabletest has an FS in memory that can crash at every step and hand back
// whatever a disk may then hold.
//
// Promises. [CreateOnce], [WriteFile], [MkdirAll] and [Prewrite] are durable
// and complete when they return nil: content first, then name, then directory.
// After a crash a name holds either its whole old content, its whole new
// content, or does not exist; never a part. A crash may leave a temporary file,
// recognisable by [IsTemp]; [ReadDir] does not show those; [SweepTemps]
// removes them, [SweepTempsOf] those of one name.
//
// A sync that failed is never repeated on the same file: the kernel may have
// dropped the pages and would report success the second time. Whoever sees a
// failed [File.Sync], or a failed write to a file opened with [DSync], closes
// the file and stops trusting what was written since the last good sync.
//
// Everything made here has mode 0600 (files) or 0700 (directories). The
// package starts no goroutine and holds no state.
package durable
