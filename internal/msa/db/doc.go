// Package db opens the manager's database and runs transactions in it: SQLite in
// a file of its own, or PostgreSQL when several replicas share the work. One URL
// decides, one set of statements and of migrations serves both:
//
//	sqlite:///var/lib/holdfast/msa.db
//	postgres://user:secret@host/database?sslmode=verify-full&schema=holdfast
//
// # Rules for statements
//
// What both engines take alike is all there is: placeholders $1, $2, … (each may
// be used more than once); columns TEXT and BIGINT, all NOT NULL, empty and 0 for
// "none"; INSERT … ON CONFLICT, UPDATE … RETURNING, WITH; no engine's own
// functions, no booleans, no automatic numbers. TEXT holds valid UTF-8 without
// NUL: see [Text].
//
// Times are integers: UTC milliseconds since 1970 by the database's clock, which
// [Tx.Now] read when the transaction began. No text that names a zone is ever
// stored or compared, and replicas whose clocks differ agree.
//
// # Transactions
//
// [DB.Tx] runs a function in a transaction and repeats it when the engine asks
// for that, so the function keeps what it does inside the transaction. SQLite has
// one writer at a time. PostgreSQL runs several at READ COMMITTED: whoever decides
// by a row first takes it with an UPDATE of it, which locks it on both engines,
// and decides by what that returns. When Tx returns nil, what it did is durable.
// When it returns Unavailable the outcome may be unknown (the connection broke
// while committing): look before repeating.
//
// [DB.View] reads: one snapshot on both engines, beside writers.
//
// # Schema
//
// Files migrations/NNNN_name.sql are applied in order when the database is
// opened, all that are missing in one transaction, which both engines can: after
// a crash there is the old schema or the new one. Replicas that start at once
// take turns. A statement ends with a semicolon at the end of a line. A database
// with a migration that this release does not have is refused. On PostgreSQL all
// tables are in a schema of their own, search_path names it alone, and a schema
// with foreign tables is refused: nobody else's table is ever touched.
//
// A DB is for concurrent use. It owns no goroutine of its own.
package db
