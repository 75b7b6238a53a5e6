package db

import (
	"context"
	"database/sql"
	"time"

	"holdfast/internal/errs"
)

// DB is an open database with the newest schema.
type DB struct {
	name  string
	write *sql.DB
	read  *sql.DB
	engine
}

// engine is what differs between SQLite and PostgreSQL.
type engine struct {
	schema string // PostgreSQL's; empty: SQLite
	clock  string // statement: UTC milliseconds now
	tables string // statement: how many tables there are
	reads  *sql.TxOptions
}

// Open opens the database a URL names, makes it if it is SQLite and missing, and
// brings its schema up to date. The caller closes it. Kinds: Invalid (the URL, or
// a server that would lose what it acknowledged), Conflict (a newer or somebody
// else's schema), Denied, Unavailable, Corrupt.
func Open(ctx context.Context, url string) (*DB, error) {
	ms, err := embedded()
	if err != nil {
		return nil, err
	}
	return open(ctx, url, ms)
}

func open(ctx context.Context, url string, ms []migration) (*DB, error) {
	t, err := parse(url)
	if err != nil {
		return nil, err
	}
	d := openPostgres
	if t.path != "" {
		d = openSQLite
	}
	ctx, cancel := context.WithTimeout(ctx, openFor)
	defer cancel()
	db, err := d(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, ms); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Name names the database for people; it holds no secret.
func (db *DB) Name() string { return db.name }

// Shared reports whether replicas on several machines can share the database.
func (db *DB) Shared() bool { return db.schema != "" }

// Close closes all connections. Transactions under way fail.
func (db *DB) Close() error {
	err := db.write.Close()
	if rerr := db.read.Close(); err == nil {
		err = rerr
	}
	return err
}

// pool sets the bounds of a pool of connections.
func pool(p *sql.DB, most int) {
	p.SetMaxOpenConns(most)
	p.SetMaxIdleConns(most)
	p.SetConnMaxIdleTime(idleFor)
}

// patient runs f again while the database is busy, as long as ctx lasts.
func patient(ctx context.Context, f func() error) error {
	for pause := firstPause; ; pause = min(2*pause, time.Second) {
		err := f()
		if !errs.Is(err, errs.Transient) || !wait(ctx, pause) {
			return err
		}
	}
}

// wait reports whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
