// Package journal is a domain's history in the object store: the container,
// its keys, who may write it, and how it is read again with no help of the
// site that wrote it.
//
// # Nouns
//
// A [Container] holds one protected domain. A timeline is one branch of its
// history: a chain of journal objects under dense numbers, each naming the
// digest of the one before it. An epoch is the reign of one [Publisher] over a
// timeline. A checkpoint becomes a recovery point when the journal object that
// carries it is published.
//
// A [Manifest] says what a timeline is up to its anchor: the parts of the
// index, the objects they refer to, the checkpoints that are retained. Journal
// objects at or below the anchor may be gone. A [History] is the newest
// manifest and, behind its anchor, the walked chain; it resolves a checkpoint
// into an [Image]. A branch ([Container.Fork]) is a timeline that begins at a
// checkpoint of another and reads through to it. A pin ([Container.Pin]) keeps
// a checkpoint. Package maintain writes manifests; this package has their form,
// and the rules of what may be deleted.
//
// # The rules of publishing
//
// A number's name is the commit and the fence, because the store creates a
// name once and for ever:
//
//   - A publisher claims an epoch, then writes n, n+1… with at most W numbers
//     beyond its published prefix. A number is published when all its own
//     objects up to it have landed.
//   - Takeover: claim the next epoch, walk the history to the first missing
//     number n, create a FENCE there. If the name is taken by then, walk on. If
//     not, continue at n+W: what a slower publisher still had under way can
//     only land on n+1…n+W-1, which nobody reads.
//   - A foreign object under my name means that I am fenced: stop for good.
//   - A reader accepts dense numbers: the same epoch, or a FENCE of a higher
//     one; the digest of the object before must match; after a FENCE it jumps
//     W; it stops at the first missing number.
//   - Deleted is only what a manifest contains and what lies 2W below the newest
//     object: whoever meets a freed name finds others W beyond it, and so
//     knows that it is not the end. A taker looks there after its FENCE.
//
// chain.go, writer.go and taker.go hold these rules as pure steps; the engine
// and the interleaving model of the tests drive the same code.
//
// # Promises
//
// What [Pending.Wait] reported published is in the history every reader sees,
// for ever. Nothing in a container is ever overwritten. Bytes that are not
// what was written are reported, never handed out and never replaced by zeroes.
//
// A Publisher owns one goroutine that owns its state, and one goroutine per
// object under way. All else runs on its caller's goroutine and on helpers
// that end before the call does.
//
// docs/format/journal.md draws the bytes of every object but the journal
// object itself, which is package segment's.
package journal
