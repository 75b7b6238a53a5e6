package auth

import (
	"context"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Approval is a second person's word on one thing that one person is about to do.
type Approval struct {
	ID        string   `json:"id"`
	Subject   string   `json:"subject"`   // as "plan erp"
	Operation string   `json:"operation"` // as "disaster"
	Digest    string   `json:"digest"`    // of everything that was asked for: what was approved is what is done
	Folder    site.Ref `json:"folder,omitempty"`
	AskedBy   string   `json:"asked_by"`
	AskedAt   int64    `json:"asked_at"` // UTC milliseconds, as the others
	ExpiresAt int64    `json:"expires_at"`
	Verdict   Verdict  `json:"verdict,omitempty"`
	DecidedBy string   `json:"decided_by,omitempty"`
	DecidedAt int64    `json:"decided_at,omitempty"`
	UsedAt    int64    `json:"used_at,omitempty"` // 0: not yet; it is good once
}

// Verdict is what the second person said. Names are stable.
type Verdict string

// The verdicts.
const (
	Undecided Verdict = ""
	Approved  Verdict = "approved"
	Refused   Verdict = "refused"
)

const approvalColumns = `id, subject, operation, digest, folder, asked_by, asked_at, expires_at, verdict, decided_by, decided_at, used_at`

func (a *Approval) scan() []any {
	return []any{&a.ID, &a.Subject, &a.Operation, &a.Digest, &a.Folder, &a.AskedBy, &a.AskedAt, &a.ExpiresAt, &a.Verdict, &a.DecidedBy, &a.DecidedAt, &a.UsedAt}
}

// Ask enters that a principal wants to do something that needs a second person:
// subject, operation, a digest of all that decides what happens, and the folder the
// approver must be allowed in. Kind Invalid.
func Ask(ctx context.Context, tx *db.Tx, by *Principal, subject, operation, digest string, folder site.Ref) (Approval, error) {
	const op = "auth.Ask"
	for what, s := range map[string]string{"subject": subject, "operation": operation, "digest": digest, "user": by.User} {
		if s == "" || s != db.Text(s, maxFolder) {
			return Approval{}, errs.New(op, errs.Invalid, what, fmt.Sprintf("it must be 1 to %d bytes of text", maxFolder)).WithRemedy("shorten it, or fill it")
		}
	}
	if !validFolder(folder) {
		return Approval{}, errs.New(op, errs.Invalid, subject, "its folder is no path").WithRemedy("write a path as erp/prod, or nothing")
	}
	a := Approval{ID: dr.NewUUID().String(), Subject: subject, Operation: operation, Digest: digest, Folder: folder,
		AskedBy: by.User, AskedAt: tx.Now(), ExpiresAt: tx.Now() + approvalFor.Milliseconds()}
	_, err := tx.Exec(ctx, `INSERT INTO approvals (id, subject, operation, digest, folder, asked_by, asked_at, expires_at, verdict, decided_by, decided_at, used_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', 0, 0)`, a.ID, subject, operation, digest, folder, a.AskedBy, a.AskedAt, a.ExpiresAt)
	return a, err
}

// Decide enters the second person's word, once. It counts from then. The second
// person is another user than the first, whatever tokens either has, and may approve
// in the folder. Kinds: NotFound, Denied, Conflict (decided, or too late).
func Decide(ctx context.Context, tx *db.Tx, by *Principal, id string, v Verdict) (Approval, error) {
	const op = "auth.Decide"
	if v != Approved && v != Refused {
		return Approval{}, errs.New(op, errs.Invalid, id, "a verdict is approved or refused").WithRemedy("send one of these")
	}
	a, err := take(ctx, tx, op, id)
	if err != nil {
		return Approval{}, err
	}
	switch {
	case !by.May(PlanApprove, a.Folder):
		return Approval{}, errs.New(op, errs.Denied, a.Subject, by.Name()+" may not approve here").WithRemedy("have somebody approve whose role has " + string(PlanApprove))
	case by.User == a.AskedBy:
		return Approval{}, errs.New(op, errs.Denied, a.Subject, "who asks is not the second person").WithRemedy("have somebody else approve")
	case a.Verdict != Undecided:
		return Approval{}, errs.New(op, errs.Conflict, a.Subject, fmt.Sprintf("%s has %s it", a.DecidedBy, a.Verdict)).WithRemedy("ask again, if it is to be decided anew")
	case a.ExpiresAt <= tx.Now():
		return Approval{}, errs.New(op, errs.Conflict, a.Subject, "the question has expired").WithRemedy("ask again")
	}
	a.Verdict, a.DecidedBy, a.DecidedAt, a.ExpiresAt = v, by.User, tx.Now(), tx.Now()+approvalFor.Milliseconds()
	_, err = tx.Exec(ctx, `UPDATE approvals SET verdict = $2, decided_by = $3, decided_at = $4, expires_at = $5 WHERE id = $1`, id, v, a.DecidedBy, a.DecidedAt, a.ExpiresAt)
	return a, err
}

// Use spends an approval for exactly what was approved, by who asked for it, in the
// transaction that begins it. Kinds: NotFound, Denied (not approved, refused, or for
// something else), Conflict (used, or too old).
func Use(ctx context.Context, tx *db.Tx, by *Principal, id, subject, operation, digest string) (Approval, error) {
	const op = "auth.Use"
	a, err := take(ctx, tx, op, id)
	if err != nil {
		return Approval{}, err
	}
	switch {
	case a.AskedBy != by.User || a.Subject != subject || a.Operation != operation || a.Digest != digest:
		return Approval{}, errs.New(op, errs.Denied, a.Subject, "something else was approved").WithRemedy("ask for approval of what is to be done now")
	case a.Verdict != Approved:
		return Approval{}, errs.New(op, errs.Denied, a.Subject, "nobody has approved it").WithRemedy("have a second person approve " + id)
	case a.UsedAt > 0:
		return Approval{}, errs.New(op, errs.Conflict, a.Subject, "the approval was used").WithRemedy("ask again: each is good once")
	case a.ExpiresAt <= tx.Now():
		return Approval{}, errs.New(op, errs.Conflict, a.Subject, "the approval is too old").WithRemedy("ask again")
	}
	a.UsedAt = tx.Now()
	_, err = tx.Exec(ctx, `UPDATE approvals SET used_at = $2 WHERE id = $1`, id, a.UsedAt)
	return a, err
}

// Approvals lists what a subject was or is asked for, the newest first; "" is any.
func Approvals(ctx context.Context, tx *db.Tx, subject string, limit int) (list []Approval, err error) {
	err = tx.Rows(ctx, `SELECT `+approvalColumns+` FROM approvals WHERE $1 = '' OR subject = $1 ORDER BY asked_at DESC, id LIMIT $2`,
		[]any{subject, min(max(limit, 1), page)}, func(scan func(...any) error) error {
			var a Approval
			err := scan(a.scan()...)
			list = append(list, a)
			return err
		})
	return list, err
}

// take locks an approval's row and returns it.
func take(ctx context.Context, tx *db.Tx, op, id string) (a Approval, err error) {
	found, err := tx.Row(ctx, `UPDATE approvals SET id = id WHERE id = $1 RETURNING `+approvalColumns, []any{id}, a.scan()...)
	if err == nil && !found {
		err = errs.New(op, errs.NotFound, db.Text(id, maxName), "there is no such question").WithRemedy("list the approvals there are")
	}
	return a, err
}
