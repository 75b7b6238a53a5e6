package operate

import (
	"context"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// Agreement is a second person's word that an operation may begin. It counts for one
// run, of the version of the plan they have looked at, for plan.ApprovalHolds.
type Agreement struct {
	Plan      site.Name      `json:"plan"`
	Operation plan.Operation `json:"operation"`
	Version   site.Version   `json:"version"`
	By        string         `json:"by"`
	At        time.Time      `json:"at"`
}

// Agree keeps a second person's agreement to the next run of an operation; an earlier
// one is replaced. The caller has seen to it that they may. Kinds: NotFound, Invalid
// (the operation needs none), Conflict (the plan has changed since they looked).
func (o *Operator) Agree(ctx context.Context, tx *db.Tx, name site.Name, op plan.Operation, v site.Version, by string) error {
	const at = "operate.Agree"
	p, err := o.opts.World.Plan(ctx, tx, name)
	if err != nil {
		return err
	}
	switch {
	case by == "" || by != db.Text(by, maxKey):
		return errs.New(at, errs.Invalid, "user", "it is not said who agrees")
	case !plan.NeedsConfirmation(op):
		return errs.New(at, errs.Invalid, string(op), "this operation needs nobody's agreement")
	case !p.TwoPersons:
		return errs.New(at, errs.Invalid, site.Label(p), "the plan asks for no second person")
	case p.Version != v:
		return errs.New(at, errs.Conflict, site.Label(p), "the plan has changed since").WithRemedy("look at it again, then agree")
	}
	if _, err := tx.Exec(ctx, `INSERT INTO plan_approvals (plan, operation, version, agreed_by, agreed_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (plan, operation) DO UPDATE SET version = excluded.version, agreed_by = excluded.agreed_by, agreed_at = excluded.agreed_at`,
		name, op, int64(v), by, tx.Now()); err != nil {
		return err
	}
	return o.note(ctx, tx, name, "agreed to "+string(op), by)
}

// Withdraw takes an agreement back; no effect if there is none.
func Withdraw(ctx context.Context, tx *db.Tx, name site.Name, op plan.Operation) error {
	_, err := tx.Exec(ctx, `DELETE FROM plan_approvals WHERE plan = $1 AND operation = $2`, name, op)
	return err
}

// Agreements lists the agreements to a plan's operations that still count.
func Agreements(ctx context.Context, tx *db.Tx, name site.Name) (out []Agreement, err error) {
	err = tx.Rows(ctx, `SELECT plan, operation, version, agreed_by, agreed_at FROM plan_approvals WHERE plan = $1 AND agreed_at > $2 ORDER BY operation LIMIT $3`,
		[]any{name, tx.Now() - plan.ApprovalHolds.Milliseconds(), maxPage}, func(scan func(...any) error) error {
			a, err := scanAgreement(scan)
			out = append(out, a)
			return err
		})
	return out, err
}

// agreement returns the one to an operation; zero: there is none.
func agreement(ctx context.Context, tx *db.Tx, name site.Name, op plan.Operation) (a Agreement, err error) {
	err = tx.Rows(ctx, `SELECT plan, operation, version, agreed_by, agreed_at FROM plan_approvals WHERE plan = $1 AND operation = $2`, []any{name, op},
		func(scan func(...any) error) (err error) {
			a, err = scanAgreement(scan)
			return err
		})
	return a, err
}

func scanAgreement(scan func(...any) error) (a Agreement, err error) {
	var at, version int64
	err = scan(&a.Plan, &a.Operation, &version, &a.By, &at)
	a.At, a.Version = db.Time(at), site.Version(version)
	return a, err
}
