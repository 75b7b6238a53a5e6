// Package msa and what is below it are the manager: the one process, or several
// replicas of it, that knows a site's inventory, domains and recovery plans and
// carries plans out. It never touches replication data; it tells the boxes that
// do.
//
//	db     the manager's database: SQLite in its own file, or PostgreSQL
//	runs   the step journal: plans being carried out, over crashes and replicas
//
// All the manager knows is in the database. Whatever a replica holds in memory
// may be lost at any moment and is found again there.
package msa
