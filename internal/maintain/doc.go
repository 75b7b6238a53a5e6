// Package maintain keeps a timeline's history bounded and cheap to read: it
// decides which checkpoints stay, merges the index, packs and repacks data,
// and deletes what nothing needs any more.
//
// # Nouns
//
// A [Schedule] says how dense the history is kept; [Retained] turns it, with
// tags, pins and forks, into one [Decision] for each checkpoint. A pass reads
// the newest manifest and what was published behind it, and writes the next
// manifest. A victim is an object whose live frames are copied, sealed as they
// are, into a data object. Gathering does so with small objects at once, while
// their bytes are at hand. A tombstone is an object that the newest manifest
// refers to no more.
//
// # The rules
//
//   - A version of a block is kept if and only if some retained checkpoint, or
//     the open head, sees it.
//   - Order: data, then index, then manifest, and much later deletion. A crash
//     anywhere leaves objects that nothing refers to, never the reverse.
//   - The manifest's generation is created once, so of several maintainers one
//     wins and the others begin anew from what it wrote.
//   - An object is deleted only when a manifest older than the grace had its
//     tombstone, no manifest younger than that, no branch and no pin refers to
//     it (all looked at again after that manifest), the store's lock has run
//     out, and for a journal object: it is older than a day and not among the
//     2W newest. Ages count by the store's clock and by ours, and the younger
//     one is believed.
//   - What no manifest of any timeline knows is swept after two days, and only
//     after a manifest was written: a maintainer that slept in the middle of
//     its pass then loses the race for its own manifest.
//   - No clock set ahead ages a history to death: see [Clock].
//
// Replication never waits for any of this.
package maintain
