// Package verify finds out whether a real object store keeps the promises that
// package store makes in its name, before a container is trusted to it. It
// plays the adversary: many writers race for one name over several
// connections, readers look while they race, names are deleted and taken
// again, lists are read in pages of one, ranges are cut at every edge.
//
// What a [Report] says:
//
//   - A property is one promise or one right, named once and for all
//     ("create-once", "delete"): the names are part of scripts.
//   - A verdict is what the trial saw. [Pass] is never proof: a race that did
//     not happen today may happen tomorrow. [Fail] is proof.
//   - [Report.Usable] says whether a [Role] can work with the store; what each
//     role needs is the table in role.go.
//
// # Cost and traces
//
// What a trial asks for at most is known before it begins ([Options.Budget])
// and enforced. Everything it writes lies below one prefix, probe/<uuid>/, and is
// removed at the end, after a cancelation too. Where the store does not
// let the credentials delete, or holds an object by a lock, the report names
// what is left; nothing ever reads it again.
//
// Run owns the goroutines it starts; all have ended when it returns.
package verify
