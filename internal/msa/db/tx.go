package db

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/internal/errs"
)

// Tx is a transaction under way: of the goroutine that got it, until the function
// it was given to returns.
type Tx struct {
	tx  *sql.Tx
	db  *DB
	now int64
}

// Tx runs f in a transaction that may write and commits what it did if it returns
// nil; then it is durable. When the engine says that the transaction lost against
// another, f runs again, a bounded number of times: it must keep what it does
// inside the transaction. An error of f is returned as it is, with nothing done.
// Kinds of its own: Transient (lost too often), Unavailable (also: the outcome of
// the commit is unknown), Full, Corrupt, Canceled.
func (db *DB) Tx(ctx context.Context, f func(*Tx) error) error {
	var err error
	for try, pause := 0, firstPause; try < tries; try, pause = try+1, 2*pause {
		// Who loses waits a random part, so that two do not meet again.
		if try > 0 && !wait(ctx, pause/2+rand.N(pause)) {
			return wrap("db.Tx", db.name, context.Cause(ctx))
		}
		if err = db.once(ctx, db.write, nil, f); !errs.Is(err, errs.Transient) || !lost(err) {
			return err
		}
	}
	return err
}

// View runs f in a transaction that only reads: one snapshot, beside writers.
// Kinds: Unavailable, Corrupt, Canceled.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	return db.once(ctx, db.read, db.reads, f)
}

func (db *DB) once(ctx context.Context, p *sql.DB, o *sql.TxOptions, f func(*Tx) error) (err error) {
	sqlTx, err := p.BeginTx(ctx, o)
	if err != nil {
		return wrap("db.Tx", db.name, err)
	}
	ended := false
	defer func() {
		if !ended { // also when f panics: a connection must not stay behind in a transaction
			sqlTx.Rollback() //nolint:errcheck // nothing is kept; the error that is returned says why
		}
	}()
	tx := &Tx{tx: sqlTx, db: db}
	if _, err := tx.Row(ctx, db.clock, nil, &tx.now); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	ended = true
	return wrap("db.Commit", db.name, sqlTx.Commit())
}

// Now is the time the transaction began by the database's clock, in UTC
// milliseconds since 1970: the one clock by which replicas agree.
func (t *Tx) Now() int64 { return t.now }

// Time turns a stored time into one for people; 0 is the zero time.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Exec runs a statement and returns how many rows it changed. Kinds: Exists (a
// unique key), Conflict (a foreign key), those of DB.Tx.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, wrap("db.Exec", t.db.name, err)
	}
	n, err := r.RowsAffected()
	return n, wrap("db.Exec", t.db.name, err)
}

// Row runs a statement that returns at most one row, scans it into dest and
// reports whether there was one. Kinds as of Exec.
func (t *Tx) Row(ctx context.Context, query string, args []any, dest ...any) (bool, error) {
	err := t.tx.QueryRowContext(ctx, query, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, wrap("db.Row", t.db.name, err)
}

// Rows runs a statement and gives each row's Scan to f. The statement bounds how
// many there are. Kinds as of Exec, and those of f.
func (t *Tx) Rows(ctx context.Context, query string, args []any, f func(scan func(dest ...any) error) error) error {
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return wrap("db.Rows", t.db.name, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return wrap("db.Rows", t.db.name, err)
		}
	}
	return wrap("db.Rows", t.db.name, rows.Err())
}

// Text makes what a program wrote fit for a TEXT column: at most limit bytes,
// valid UTF-8, no NUL. PostgreSQL takes nothing else.
func Text(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	limit = min(limit, maxText)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
