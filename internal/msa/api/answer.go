package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/db"
)

// view runs f in a transaction that only reads.
func (s *server) view(ctx context.Context, f func(*db.Tx) error) error { return s.DB.View(ctx, f) }

// change runs f in a transaction, which may be repeated, with the line in the audit
// log, and returns its answer. Of two requests with one Idempotency-Key the second
// gets the first one's answer, at once or, if they come at once, when that has
// ended; if the first failed, nothing was done and the second does it. object is
// what is changed, as "plan erp".
func change[O any](ctx context.Context, s *server, object string, f func(tx *db.Tx) (*O, error)) (*O, error) {
	const op = "api.change"
	c := callOf(ctx)
	c.object = object
	var out *O
	replayed := false
	err := s.DB.Tx(ctx, func(tx *db.Tx) error {
		stored, err := c.claim(ctx, tx)
		if err != nil {
			return err
		}
		if replayed = stored != ""; replayed {
			out = new(O)
			if err := json.Unmarshal([]byte(stored), out); err != nil {
				return errs.E(op, errs.Corrupt, "the answer that was kept", err)
			}
			return nil
		}
		if out, err = f(tx); err != nil {
			return err
		}
		if c.op.Scoped && !c.allowed {
			return errs.New(op, errs.Internal, c.op.ID, "the operation has not asked whether it may")
		}
		if err := s.Audit(ctx, tx, audit.Entry{By: c.name(), Operation: c.op.ID, Object: c.object, Outcome: audit.Done, Remote: c.remote, Detail: c.detail}); err != nil {
			return err
		}
		return c.store(ctx, tx, out)
	})
	if err != nil {
		return nil, err
	}
	c.audited = true
	s.hub.poke()
	if replayed {
		c.context.SetHeader("Idempotency-Replayed", "true")
	}
	return out, nil
}

func (c *call) name() string {
	if c.who == nil {
		return ""
	}
	return c.who.Name()
}

// auditFailure notes what was asked for and not done. That it cannot be noted does
// not change the answer. What nobody known asked for is not put there: whoever
// knocks all day would fill it. Log-ins note themselves.
func (s *server) auditFailure(ctx context.Context, c *call, status int) {
	if c.who == nil {
		return
	}
	outcome := audit.Failed
	if status == http.StatusForbidden {
		outcome = audit.Refused
	}
	// Who has gone away meanwhile is noted as well.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.DB.Tx(ctx, func(tx *db.Tx) error {
		return s.Audit(ctx, tx, audit.Entry{By: c.name(), Operation: c.op.ID, Object: c.object, Outcome: outcome, Remote: c.remote, Detail: http.StatusText(status)})
	})
	if err != nil {
		s.Logger.Warn("the audit log does not have a refused request", "request", c.id, "operation", c.op.ID, "err", err)
	}
}

// row is the key of the answer in its table: nobody gets another one's answer.
func (c *call) row() string {
	h := sha256.New()
	for _, part := range []string{c.who.User, c.op.ID, c.key} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// claim takes the request's key, and waits for whoever has it now; it returns the
// answer that is there already, or "".
func (c *call) claim(ctx context.Context, tx *db.Tx) (string, error) {
	const op = "api.change"
	if c.key == "" {
		return "", nil
	}
	old := tx.Now() - answersFor.Milliseconds()
	n, err := tx.Exec(ctx, `INSERT INTO answers (id, digest, answer, made_at) VALUES ($1, $2, '', $3)
		ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, answer = '', made_at = excluded.made_at WHERE answers.made_at < $4`,
		c.row(), c.digest, tx.Now(), old)
	if err != nil || n == 1 {
		return "", err
	}
	var digest, answer string
	if _, err := tx.Row(ctx, `SELECT digest, answer FROM answers WHERE id = $1`, []any{c.row()}, &digest, &answer); err != nil {
		return "", err
	}
	switch {
	case digest != c.digest:
		return "", errs.New(op, errs.Conflict, "Idempotency-Key "+c.key, "this key was used for another request").WithRemedy("use a new key for each request")
	case answer == "":
		return "", errs.New(op, errs.Conflict, "Idempotency-Key "+c.key, "the request was done, and its answer is not kept").
			WithRemedy("look at what it has done; use a new key to do it again")
	}
	return answer, nil
}

// store keeps the answer for who asks again.
func (c *call) store(ctx context.Context, tx *db.Tx, out any) error {
	if c.key == "" || c.op.Secret {
		return nil
	}
	b, err := json.Marshal(out)
	if err != nil {
		return errs.E("api.change", errs.Internal, c.op.ID, err)
	}
	if len(b) > maxAnswer {
		return nil // it was done, which is known; what it said is not
	}
	_, err = tx.Exec(ctx, `UPDATE answers SET answer = $2 WHERE id = $1`, c.row(), string(b))
	return err
}

// PruneAnswers deletes answers that are too old to be repeated, a bounded number at
// once; it returns how many.
func PruneAnswers(ctx context.Context, tx *db.Tx) (int64, error) {
	return tx.Exec(ctx, `DELETE FROM answers WHERE id IN (SELECT id FROM answers WHERE made_at < $1 ORDER BY made_at LIMIT 1000)`,
		tx.Now()-answersFor.Milliseconds())
}
