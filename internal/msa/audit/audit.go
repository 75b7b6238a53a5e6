package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Bounds of an entry, bytes, and of what is read at once.
const (
	maxField  = 512
	maxDetail = 4096
	page      = 1000
)

// Outcome is how it ended. Names are stable.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // not allowed
	Failed  Outcome = "failed"  // allowed, and did not work
)

// Entry is one thing somebody did, or was refused.
type Entry struct {
	Seq       int64   `json:"seq"`       // given by Append
	At        int64   `json:"at"`        // UTC milliseconds by the database's clock; given by Append
	By        string  `json:"by"`        // auth.Principal.Name; "" for nobody known
	Operation string  `json:"operation"` // as the API's operationId
	Object    string  `json:"object"`    // as "plan erp"
	Outcome   Outcome `json:"outcome"`
	Remote    string  `json:"remote"`           // address it came from
	Detail    string  `json:"detail,omitempty"` // what changed; never a secret
	Hash      string  `json:"hash"`             // of this entry and all before; given by Append
}

// Head is the newest entry's place and hash. The zero value is that of an empty log.
type Head struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// columns are those of audit in the order of scan.
const columns = `seq, at, done_by, operation, object, outcome, remote, detail, hash`

func (e *Entry) scan() []any {
	return []any{&e.Seq, &e.At, &e.By, &e.Operation, &e.Object, &e.Outcome, &e.Remote, &e.Detail, &e.Hash}
}

// digest is the hash of e behind the entry that has the hash before.
func (e *Entry) digest(before string) string {
	h := sha256.New()
	h.Write([]byte("holdfast audit 1"))
	var last [sha256.Size]byte
	if len(before) == hex.EncodedLen(len(last)) {
		_, _ = hex.Decode(last[:], []byte(before)) // what is no hash makes one that fits nothing
	}
	h.Write(last[:])
	number := func(n int64) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	number(e.Seq)
	number(e.At)
	for _, s := range []string{e.By, e.Operation, e.Object, string(e.Outcome), e.Remote, e.Detail} {
		number(int64(len(s)))
		h.Write([]byte(s))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Append adds an entry; texts that are too long are cut. It is durable when the
// transaction is, together with what else that did.
func Append(ctx context.Context, tx *db.Tx, e Entry) error {
	var before string
	if found, err := tx.Row(ctx, `UPDATE audit_head SET seq = seq + 1 WHERE id = 'audit' RETURNING seq, hash`, nil, &e.Seq, &before); err != nil || !found {
		return errs.E("audit.Append", errs.Internal, "audit", err)
	}
	e.At = tx.Now()
	for _, f := range []*string{&e.By, &e.Operation, &e.Object, (*string)(&e.Outcome), &e.Remote} {
		*f = db.Text(*f, maxField)
	}
	e.Detail = db.Text(e.Detail, maxDetail)
	e.Hash = e.digest(before)
	if _, err := tx.Exec(ctx, `INSERT INTO audit (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.Seq, e.At, e.By, e.Operation, e.Object, e.Outcome, e.Remote, e.Detail, e.Hash); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE audit_head SET hash = $1 WHERE id = 'audit'`, e.Hash)
	return err
}

// Newest returns the head of the log.
func Newest(ctx context.Context, tx *db.Tx) (h Head, err error) {
	found, err := tx.Row(ctx, `SELECT seq, hash FROM audit_head WHERE id = 'audit'`, nil, &h.Seq, &h.Hash)
	if err == nil && !found {
		err = broken(0, "the head of the log is gone")
	}
	return h, err
}

// Filter chooses entries; what is zero chooses all.
type Filter struct {
	By, Operation, Object string // exact
	From, To              int64  // UTC milliseconds: From ≤ at < To
}

// List returns entries before a seq (0: from the newest), the newest first, at most
// a page.
func List(ctx context.Context, tx *db.Tx, f Filter, before int64, limit int) (list []Entry, err error) {
	err = tx.Rows(ctx, `SELECT `+columns+` FROM audit WHERE ($1 = 0 OR seq < $1) AND ($2 = '' OR done_by = $2) AND ($3 = '' OR operation = $3)
		AND ($4 = '' OR object = $4) AND at >= $5 AND ($6 = 0 OR at < $6) ORDER BY seq DESC LIMIT $7`,
		[]any{before, f.By, f.Operation, f.Object, f.From, f.To, min(max(limit, 1), page)}, func(scan func(...any) error) error {
			var e Entry
			err := scan(e.scan()...)
			list = append(list, e)
			return err
		})
	return list, err
}

func broken(seq int64, words string) error {
	return errs.New("audit.Verify", errs.Corrupt, fmt.Sprintf("audit entry %d", seq), words).
		WithRemedy("somebody wrote to the database by hand: compare with the last export, and find out who could")
}
