package db

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	_ "modernc.org/sqlite" // the engine

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// openSQLite opens a file, made with mode 0600 if it is missing. Every connection
// gets the same settings, also one that replaces a broken one.
func openSQLite(ctx context.Context, t target) (*DB, error) {
	if err := ensureFile(t.path); err != nil {
		return nil, err
	}
	settings := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyFor.Milliseconds()),
		"foreign_keys(1)", "journal_mode(WAL)", "synchronous(FULL)",
	}}
	writes, reads := clone(settings), clone(settings)
	// A transaction that reads first and writes then could find that another
	// process has written between, and would have to be given up.
	writes.Set("_txlock", "immediate")
	reads.Add("_pragma", "query_only(1)")
	db := &DB{name: t.path, engine: engine{
		clock:  `SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)`,
		tables: `SELECT count(*) FROM sqlite_schema WHERE type = 'table'`,
		reads:  nil,
	}}
	var err error
	if db.write, err = sql.Open("sqlite", sqliteDSN(t.path, writes)); err != nil {
		return nil, wrap("db.Open", t.name, err)
	}
	if db.read, err = sql.Open("sqlite", sqliteDSN(t.path, reads)); err != nil {
		return nil, wrap("db.Open", t.name, err)
	}
	pool(db.write, 1)
	pool(db.read, maxReaders)
	err = patient(ctx, func() error { return db.checkSQLite(ctx) })
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func clone(v url.Values) url.Values {
	c := url.Values{}
	for k, list := range v {
		c[k] = append([]string(nil), list...)
	}
	return c
}

// sqliteDSN renders a file URI: any path is right, also one with ? or %.
func sqliteDSN(path string, q url.Values) string {
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return u.String()
}

// ensureFile makes the file, durably and before SQLite does, which would let
// everybody read it. One that others may read is refused: it holds sealed secrets
// and hashes of passwords.
func ensureFile(path string) error {
	if err := durable.MkdirAll(durable.OS{}, filepath.Dir(path)); err != nil {
		return err
	}
	if err := durable.CreateOnce(durable.OS{}, path, nil); err != nil && !errs.Is(err, errs.Exists) {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return wrap("db.Open", path, err)
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0 {
		return errs.New("db.Open", errs.Denied, path, fmt.Sprintf("the file has mode %04o: others than its owner may use it", fi.Mode().Perm())).
			WithRemedy("chmod 600 " + strconv.Quote(path) + ", and change what may have been read")
	}
	return nil
}

// checkSQLite reads the settings back: a build or file system that does not take
// one (no WAL on some network file systems) would lose what it acknowledged.
func (db *DB) checkSQLite(ctx context.Context) error {
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := db.write.QueryRowContext(ctx, "PRAGMA "+name).Scan(&got); err != nil {
			return wrap("db.Open", db.name, err)
		}
		if got != want {
			return errs.New("db.Open", errs.Invalid, db.name, fmt.Sprintf("SQLite has %s %s here, not %s", name, got, want)).
				WithRemedy("put the database on a local file system")
		}
	}
	return nil
}
