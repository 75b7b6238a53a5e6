package chain

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
)

// Result is what a look at a whole ledger found.
type Result struct {
	Max      uint64   // highest row present; 0: the ledger is empty
	Bad      int      // rows, payloads and integrity complaints that are wrong; 0: sound
	Cause    uint64   // highest cause recorded
	Problems []string // the first few of Bad, in words
}

// complain counts one problem and keeps its words while there is room.
func (r *Result) complain(format string, args ...any) {
	r.Bad++
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// verify checks the database's own structure, every row's hash against the
// row before it, and every payload the last row says is kept. It leaves l
// ready for Put only when nothing is wrong.
func (l *Ledger) verify(ctx context.Context) (Result, error) {
	var res Result
	if err := integrity(ctx, l.db, &res); err != nil {
		return res, err
	}
	v := verifier{res: &res}
	if err := v.rows(ctx, l.db); err != nil {
		return res, err
	}
	if err := v.payloads(ctx, l.db); err != nil {
		return res, err
	}
	l.last, l.cause, l.window, l.kept = v.last, res.Cause, v.sizes, 0
	l.broken = res.Bad > 0
	for _, s := range v.sizes {
		l.kept += s
	}
	return res, nil
}

// integrity runs SQLite's own check of pages, indexes and constraints.
func integrity(ctx context.Context, db *sql.DB, res *Result) error {
	rows, err := db.QueryContext(ctx, `PRAGMA integrity_check(16)`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		if s != "ok" {
			res.complain("integrity_check: %.200s", s)
		}
	}
	return rows.Err()
}

// verifier walks the chain.
type verifier struct {
	res   *Result
	last  row      // the row before the one looked at
	kept  []row    // rows whose payload is expected, oldest first
	sizes []uint64 // their payload sizes
}

// rows checks the entry table in order.
func (v *verifier) rows(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `SELECT n, cause, oldest, size, payload_hash, hash FROM entry ORDER BY n`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var r row
		var n, cause, oldest, size int64
		var payload, hash sql.RawBytes
		if err := rows.Scan(&n, &cause, &oldest, &size, &payload, &hash); err != nil {
			return err
		}
		r.n, r.cause, r.oldest, r.size = uint64(n), uint64(cause), uint64(oldest), uint64(size)
		if len(payload) != len(r.payload) || len(hash) != len(r.hash) {
			v.res.complain("row %d: malformed hash", r.n)
		}
		copy(r.payload[:], payload)
		copy(r.hash[:], hash)
		v.row(r)
	}
	return rows.Err()
}

// row checks one row against the one before it.
func (v *verifier) row(r row) {
	if r.n != v.last.n+1 {
		v.res.complain("row %d follows row %d", r.n, v.last.n)
	}
	if r.sum(v.last.hash) != r.hash {
		v.res.complain("row %d: its hash does not follow from row %d", r.n, v.last.n)
	}
	if r.oldest < v.last.oldest || r.oldest > r.n || r.size > MaxPayload {
		v.res.complain("row %d: impossible window or size", r.n)
	}
	v.kept = append(v.kept, r)
	for len(v.kept) > 0 && v.kept[0].n < r.oldest {
		v.kept = v.kept[1:]
	}
	v.last = r
	v.res.Max = max(v.res.Max, r.n)
	v.res.Cause = max(v.res.Cause, r.cause)
}

// payloads checks that exactly the expected payloads are there, unharmed.
func (v *verifier) payloads(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `SELECT n, data FROM payload ORDER BY n`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	want := v.kept
	for rows.Next() {
		var n int64
		var data sql.RawBytes
		if err := rows.Scan(&n, &data); err != nil {
			return err
		}
		for len(want) > 0 && want[0].n < uint64(n) {
			v.res.complain("payload %d is missing", want[0].n)
			want = want[1:]
		}
		switch {
		case len(want) == 0 || want[0].n != uint64(n):
			v.res.complain("payload %d has no row that keeps it", n)
			continue
		case uint64(len(data)) != want[0].size || sha256.Sum256(data) != want[0].payload:
			v.res.complain("payload %d is not what was written", n)
		}
		v.sizes = append(v.sizes, want[0].size)
		want = want[1:]
	}
	for _, r := range want {
		v.res.complain("payload %d is missing", r.n)
	}
	return rows.Err()
}
