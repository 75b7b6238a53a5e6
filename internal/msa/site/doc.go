// Package site holds the manager's nouns: what an admin configures (sites and
// their pairs, stores, appliances, protected domains, recovery settings), and what
// a site's platform has (hosts, VMs, networks, folders, pools, datastores), with
// the placeholders that stand for VMs at their recovery site.
//
// # Names and references
//
// A configured object has a [Name], which is unique among objects of its kind and
// never changes, a title for people, an id, and a [Version] that rises with every
// change: who writes says which version they read, and loses if it is no longer
// the newest. Objects refer to each other by name, so that a file can be read,
// compared and applied at another site.
//
// What a platform has is known by the platform's own name, a [Ref]. A VM is
// referred to by name or by id; a name that two VMs have is ambiguous and refused,
// with the ids.
//
// # Validation
//
// Check methods find every problem of an object by itself, and add it to a
// problem list: nothing is checked one mistake at a time. What needs other objects
// (a domain's VMs in an inventory, a VM in two domains) is checked by [CheckSet].
//
// JSON and YAML forms are the same: the field names of the json tags, durations
// as "5s", addresses and ids as text. Everything is plain data, safe to share once
// it is built; nothing here does I/O, reads a clock or starts a goroutine.
package site
