// Package replica is one process of the manager: the API over TLS, the worker that
// carries out runs and tasks, the calls to paired managers, and what deletes rows
// that are over. Several processes on one PostgreSQL share the work and take over
// from one that is dead; nothing any of them knows is not in the database.
//
//	r, err := replica.Open(ctx, replica.Options{Data: "/var/lib/holdfast/msa", Site: "site-a", Listen: ":8443"})
//	fmt.Println(r.Fingerprint(), r.SetupToken())
//	err = r.Run(ctx)
//
// # Starting
//
// The first process makes the database, the key that seals secrets (DIR/seal.key)
// and the site's authority, which signs the manager's own certificate. As long as
// nobody can administer, each start makes a set-up token, which makes one admin.
//
// A second replica needs the first one's seal.key: the database alone opens nothing.
//
// # Ending
//
// When ctx ends, streams end at once, requests under way have some seconds, runs are
// let go of so that another replica takes them at once. A kill loses nothing that was
// acknowledged: what was answered is in the database, durably.
package replica
