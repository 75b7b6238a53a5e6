// Package copies keeps a copy of a container in another store: the same objects
// under the same names, byte for byte, opened by the same keys. It exists for the
// day on which the first store is gone.
//
// # Nouns
//
// The source is the store that the domain is published to, the copy the other one.
// A [Copier] makes passes; each brings the copy nearer to the source. A line is a
// timeline as far as the copy has it: up to which place of its chain, and which
// manifest.
//
// # What a reader of the copy finds
//
// At any instant, wherever a crash or a lost store ends the copying: a history that
// the source had, up to some place. That is so because
//
//   - what an object refers to is there before it. Of a timeline: the keys, its
//     claims, what its newest manifest names, that manifest, its head; then the journal objects behind the anchor in their order. VMs'
//     configurations go before journal objects, a pin before its release, a parent
//     before its branches, and `domain` last of all: before it there is no container;
//   - a journal object goes only where a publisher of that history could put it: at
//     most W-1 beyond the first number that is missing. Who takes the copy over fences
//     that number, and what was under way beyond it is dead by the rule for everybody;
//   - a later manifest goes only where the chain has been brought up to its anchor.
//     Where the source has freed numbers that the copy never got, because it was away
//     for days, the first of them is plugged before: nobody can fence there any more,
//     and the manifest steps over it.
//
// Every object is checked by its digest on the way, and every create is a create-once.
//
// # Whose copy it is
//
// Whoever recovers a domain from the copy claims an epoch there, and begins a timeline.
// A pass looks for both before it writes: a claim or a timeline in the copy that the
// source has not, or another object under a name of ours, is kind Fenced. The Copier
// stops for good and says so. Nothing is ever overwritten, and histories are not merged.
//
// Readers of the copy may pin checkpoints there and begin test branches. Pins, their
// releases, and the heads and ends of test branches are carried back to the source,
// whose upkeep then keeps what they need, and no manifest goes to the copy that has
// not what they hold.
//
// # Deletion
//
// An object of the copy is deleted when the source has it no more, no manifest of the
// copy that is younger than the grace nor the one before needs it, it is a day old by
// the copy's clock, and no pin or branch of the copy holds what the copy's manifest has
// not; of journal objects as journal's rules have it, counted in the copy. So what
// somebody deletes at the source beside the upkeep is not deleted in the copy: its
// manifests still name it. Wrapped keys and claims are never deleted here. What a lock
// holds stays until the lock has run out.
//
// Publishing never waits for any of this. Several Copiers may work on one copy.
package copies
