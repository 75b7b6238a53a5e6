// Package msa and what is below it are the manager: the one process, or several
// replicas of it, that knows a site's inventory, domains and recovery plans and
// carries plans out. It never touches replication data; it tells the boxes that
// do.
//
//	site, mapping, plan   what is configured, as plain data that checks itself
//	file                  the same as files
//	db                    the manager's database: SQLite in its own file, or PostgreSQL
//	catalog               what is configured, in it; drafts; the feed of all changes
//	runs                  the step journal: work that survives crashes and replicas
//	auth, audit, seal     who asks and what they may; what they did; secrets
//	pki, enrol, pair      certificates; the site's boxes; other sites' managers
//	api                   everything over REST; its types and client are holdfast/api
//	replica               one process of all this
//
// All the manager knows is in the database. Whatever a replica holds in memory
// may be lost at any moment and is found again there.
package msa
