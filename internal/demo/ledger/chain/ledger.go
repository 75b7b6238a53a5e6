package chain

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // registers the "sqlite" driver

	"holdfast/internal/errs"
)

const schema = `
CREATE TABLE IF NOT EXISTS entry (
	n INTEGER PRIMARY KEY, cause INTEGER NOT NULL, oldest INTEGER NOT NULL,
	size INTEGER NOT NULL, payload_hash BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS payload (n INTEGER PRIMARY KEY, data BLOB NOT NULL);`

// Ledger is an open ledger database. It is not safe for concurrent use.
type Ledger struct {
	db     *sql.DB
	last   row      // zero when the ledger is empty
	cause  uint64   // highest cause recorded
	window []uint64 // payload sizes of rows last.n-len+1 … last.n, oldest first
	kept   uint64   // sum of window, bytes
	broken bool     // found bad, or left in doubt by a failed commit
}

// Open opens the ledger at path, making an empty one if there is none, and
// verifies it whole. A ledger with bad rows opens too: the Result says so, and
// Put refuses. The error is for a database that cannot be opened or read at
// all (errs.Corrupt when SQLite says the file is not a sound database).
func Open(ctx context.Context, path string) (*Ledger, Result, error) {
	db, err := openDB(path)
	if err != nil {
		return nil, Result{}, err
	}
	l := &Ledger{db: db}
	if _, err = db.ExecContext(ctx, schema); err == nil {
		var res Result
		if res, err = l.verify(ctx); err == nil {
			return l, res, nil
		}
	}
	return nil, Result{}, errors.Join(errs.E("chain.Open", errs.Corrupt, path, err), db.Close())
}

// openDB opens the database file with the settings every ledger is used with.
func openDB(path string) (*sql.DB, error) {
	q := url.Values{"_pragma": {
		"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)",
		fmt.Sprintf("wal_autocheckpoint(%d)", walPages),
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, errs.E("chain.Open", errs.Unavailable, path, err)
	}
	db.SetMaxOpenConns(1) // exclusive locking: a second connection would only wait
	return db, nil
}

// Put commits row n, which must be Max()+1, with size bytes of payload, and
// returns once it is durable. Kinds: Invalid (wrong n or size), otherwise what
// the database reported. After an error the ledger is unchanged.
func (l *Ledger) Put(ctx context.Context, n, cause uint64, size int) error {
	if l.broken {
		return errs.New("chain.Put", errs.Corrupt, "", "the ledger is bad or in doubt")
	}
	if n != l.last.n+1 {
		return errs.New("chain.Put", errs.Invalid, "", fmt.Sprintf("row %d does not follow row %d", n, l.last.n))
	}
	if size < 0 || size > MaxPayload {
		return errs.New("chain.Put", errs.Invalid, "", fmt.Sprintf("%d bytes of payload are not in 0…%d", size, MaxPayload))
	}
	data := make([]byte, size)
	payloadOf(n, data)
	r := row{n: n, cause: cause, size: uint64(size), payload: sha256.Sum256(data)}
	drop := l.dropFor(r.size)
	r.oldest = n - uint64(len(l.window)-drop)
	r.hash = r.sum(l.last.hash)
	if err := l.insert(ctx, &r, data); err != nil {
		l.broken = true
		return errs.E("chain.Put", errs.Unavailable, fmt.Sprintf("row %d", n), err)
	}
	for _, s := range l.window[:drop] {
		l.kept -= s
	}
	l.window = append(l.window[drop:], r.size)
	l.kept += r.size
	l.last, l.cause = r, max(l.cause, cause)
	return nil
}

// dropFor returns how many of the oldest payloads must go for size more bytes
// to fit the window.
func (l *Ledger) dropFor(size uint64) (drop int) {
	for kept := l.kept; kept+size > windowBytes && drop < len(l.window); drop++ {
		kept -= l.window[drop]
	}
	return drop
}

// insert commits r and its payload, and forgets payloads before r.oldest.
func (l *Ledger) insert(ctx context.Context, r *row, data []byte) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	if _, err := tx.ExecContext(ctx, `DELETE FROM payload WHERE n < ?`, int64(r.oldest)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)`,
		int64(r.n), int64(r.cause), int64(r.oldest), int64(r.size), r.payload[:], r.hash[:]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO payload VALUES (?, ?)`, int64(r.n), data); err != nil {
		return err
	}
	return tx.Commit()
}

// Max returns the highest row committed; 0 when there is none.
func (l *Ledger) Max() uint64 { return l.last.n }

// Cause returns the highest cause recorded; 0 when there is none.
func (l *Ledger) Cause() uint64 { return l.cause }

// Checkpoint copies the write-ahead log into the database file.
func (l *Ledger) Checkpoint(ctx context.Context) error {
	if _, err := l.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		return errs.E("chain.Checkpoint", errs.Unavailable, "", err)
	}
	return nil
}

// Close closes the database.
func (l *Ledger) Close() error { return l.db.Close() }
