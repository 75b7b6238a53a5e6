// Package catalog keeps what admins configure: the objects of package site,
// mapping and plan, in the manager's database, with the drafts people work on and
// the one feed in which everything that changes in the manager is told.
//
// # Objects
//
// An object is stored as the JSON of its type, beside what is searched by. Whoever
// changes one says which version they read; if that is no longer the newest they
// lose, unless what they want is what is there already. [Catalog.Apply] changes
// many at once, all or none.
//
// Nothing is stored that contradicts what is there: names of other objects lead
// somewhere, a VM is in one domain, and what others name is not deleted. So all
// changes of objects take turns, by the row "catalog" of sequences, over all
// replicas of the manager: who decides by what he read decides by what is true.
// The foreign keys of object_refs say the same once more. Configurations change
// by hand; readers do not wait.
//
// # The feed
//
// [Note] adds a line to the feed in the transaction that makes the change, so that
// a change and its line are there together or not at all. Numbers are given out
// one by one and become visible in order, so whoever asks again behind the last
// one he got misses nothing. Old lines are deleted by [PruneFeed]; a reader whose
// place is gone is told ([Since]) to read everything anew.
//
// # Drafts
//
// A draft is an object that somebody edits and that nothing acts on yet: it may be
// wrong in every way but its form. It remembers the version it began from.
// Committing it is a change like any other, and ends the draft.
//
// All functions work in the transaction they are given, and are for concurrent use.
package catalog
