// Package fleet decides what every appliance of the manager's site is to be, and hears
// what they are.
//
//	catalog, inventory,     ┌─ settle: which DRVA has which domain ─┐
//	enrolments, recoveries ─┤                                       ├─▶ Setup of a box
//	                        └─ containers: made, opened, keys added ┘        │
//	alarms, statistics, status of domains ◀── Heard ◀── Report ◀── box ◀─────┘
//
// # Which DRVA has a domain
//
//	nowhere ──▶ at a box ──▶ leaving it ──▶ nowhere
//	                             │   the box tells a setup without the domain,
//	                             └── or is lost: the next DRVA fences it at the container
//
// A domain is in the setup of one DRVA at most. It leaves a box that is drained, or
// that is not the one the domain names, only when another one has room; a box whose
// domain leaves has to say that it let go before another is given the domain. Each
// leaving gives the box a new serial, so that what it tells can only be of a setup
// made after it. A box that is not heard of for [LostAfter] is not waited for: whoever
// opens a container to publish fences who did before.
//
// Nothing is moved for balance alone: a move costs hosts a resync.
//
// # Where a domain is protected
//
// Its home site protects it, by a DRVA and the host components of its VMs' hosts, until
// it is committed elsewhere: what this manager's runs say (package operate), what the
// peer's manager says, and what boxes say of the recoveries that are in them. From then
// on the recovery protects it, wherever it is.
//
// # Keys
//
// The site has one key, made at the first start and sealed in the database, whose secret
// part opens the containers; boxes get it with their setups. A container is made with
// the own site's key, the peer's, and the domain's recipients; what of these it lacks
// later is added. Nothing is taken away by itself.
//
// A Fleet is for concurrent use, by several replicas of the manager: everything it
// decides is in the database, and decided in turns by the row "fleet" of sequences.
package fleet
