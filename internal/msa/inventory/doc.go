// Package inventory knows what sites have: hosts, VMs with their disks and cards,
// networks, folders, pools, datastores. A [Provider] tells what a platform has and
// what changes there; a [Keeper] brings that into SQL, a few rows at a time; a
// [Store] answers from there, also while the platform is away.
//
//	platform ──events──▶ Provider ──Update──▶ Keeper ──rows that differ──▶ SQL
//	                                             │                          │
//	                                             ├─▶ adopt VMs by rule      ├─▶ pages, one VM
//	                                             └─▶ placeholders           └─▶ site.View
//
// # Updates
//
// A [Watcher] gives the whole inventory first, and then what is different. What
// happens while nobody asks is gathered, not queued: a VM that changed a hundred
// times is looked at once, and nothing is lost when there is too much, because then
// all is looked at. What a platform cannot be reached for is not gone: its rows stay
// as they were, and the site says since when it has not been seen.
//
// # One keeper for each site
//
// Every replica of the manager has a Keeper for every site; the one that holds the
// lease on the site's row works, and each of its transactions begins with an UPDATE
// of that row under its epoch. Who lost the lease writes nothing any more.
//
// # Adoption
//
// [Adoptions] decides by the rules of domains which VMs are added to them: only
// what is in no domain, and what the rules of one domain alone match. A placeholder
// never is. What is refused is told, not guessed.
//
// # Placeholders
//
// [Decide] compares the placeholders that should be with those that are noted and
// those that the platform has, and says what to do. What is no placeholder is never
// touched, whatever its name.
//
// Drivers are not known here: the door opens them and hands them in as
// [Endpoint]s. Package fake is a provider by script; every provider passes
// inventorytest.
package inventory
