package runs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Request asks for a run.
type Request struct {
	// Key names the request: the same key starts one run, however often and
	// concurrently it is used. Keys of deleted runs are free again.
	Key       string
	Subject   string // what the run is about, such as a plan's id
	Operation string // what for, such as "test"; for people
	By        string // who asked
	// RerunOf is the id of an ended run whose done steps need not be done again:
	// those of the same name, kind, version and input become already-done.
	RerunOf string
	// Epoch is one that the epochs of all the run's owners are larger than: that of
	// the run before, of which a call may still be on the wire.
	Epoch    int64
	Snapshot Snapshot
}

// Start stores a run, in the caller's transaction: workers carry
// it out once that is committed. It returns the run's id, which is never used
// again, and whether this call made it; an earlier one with the same key may have.
// Kinds: Invalid (the request), Conflict (the key was used for something else; the
// run to be repeated has not ended), NotFound (the run to be repeated).
func Start(ctx context.Context, tx *db.Tx, q Request) (id string, started bool, err error) {
	const op = "runs.Start"
	for what, s := range map[string]string{"key": q.Key, "subject": q.Subject, "operation": q.Operation, "user": q.By} {
		if s == "" || s != db.Text(s, maxName) {
			return "", false, errs.New(op, errs.Invalid, what, fmt.Sprintf("it must be 1 to %d bytes of text", maxName))
		}
	}
	if err := q.Snapshot.Check(); err != nil {
		return "", false, err
	}
	if q.Epoch < 0 || q.Epoch >= 1<<53 {
		return "", false, errs.New(op, errs.Invalid, "epoch", fmt.Sprintf("%d is none", q.Epoch))
	}
	if err := checkRerun(ctx, tx, q.RerunOf); err != nil {
		return "", false, err
	}
	snapshot, err := json.Marshal(q.Snapshot)
	if err != nil || len(snapshot) > maxSnapshot {
		return "", false, errs.New(op, errs.Invalid, q.Subject, fmt.Sprintf("the snapshot has more than %d bytes", maxSnapshot))
	}
	text := string(snapshot)
	if !utf8.Valid(snapshot) { // PostgreSQL takes no such text
		return "", false, errs.New(op, errs.Invalid, q.Subject, "the snapshot holds bytes that are no text")
	}
	digest := q.digest(snapshot)
	id = dr.NewUUID().String()
	n, err := tx.Exec(ctx, `INSERT INTO runs (id, request, digest, subject, operation, started_by, rerun_of,
		state, phase, verdict, reason, unfolded, cancel_at, cancel_by, owner, epoch, lease_until, crashes, pokes, due_at, created_at, ended_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'active', 'forward', '', '', 0, 0, '', '', $9, 0, 0, 0, 0, $8, 0)
		ON CONFLICT (request) DO NOTHING`, id, q.Key, digest, q.Subject, q.Operation, q.By, q.RerunOf, tx.Now(), q.Epoch)
	if err == nil && n == 1 {
		_, err = tx.Exec(ctx, `INSERT INTO run_snapshots (run, snapshot) VALUES ($1, $2)`, id, text)
	}
	if err != nil || n == 1 {
		return id, n == 1, err
	}
	var had string
	if _, err := tx.Row(ctx, `SELECT id, digest FROM runs WHERE request = $1`, []any{q.Key}, &id, &had); err != nil {
		return "", false, err
	}
	if had != digest {
		return "", false, errs.New(op, errs.Conflict, q.Key, "this key started another run already").WithRemedy("use a new key for each request")
	}
	return id, false, nil
}

func (q *Request) digest(snapshot []byte) string {
	h := sha256.New()
	for _, s := range []string{q.Subject, q.Operation, q.RerunOf} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Write(snapshot)
	return hex.EncodeToString(h.Sum(nil))
}

func checkRerun(ctx context.Context, tx *db.Tx, id string) error {
	if id == "" {
		return nil
	}
	var state State
	found, err := tx.Row(ctx, `SELECT state FROM runs WHERE id = $1`, []any{id}, &state)
	if err != nil {
		return err
	}
	if !found {
		return noRun("runs.Start", id)
	}
	if !state.Ended() {
		return errs.New("runs.Start", errs.Conflict, id, "the run to be repeated is "+string(state)).WithRemedy("wait for its end, or cancel it")
	}
	return nil
}

func noRun(op, id string) error {
	return errs.New(op, errs.NotFound, db.Text(id, maxName), "there is no such run").WithRemedy("list the runs there are")
}
