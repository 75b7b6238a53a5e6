package operate

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// Status is where a plan stands, as its row says.
type Status struct {
	Plan site.Name `json:"plan"`
	plan.Standing
	Run    string `json:"run,omitempty"`    // the plan's last run, or the one under way
	Reason string `json:"reason,omitempty"` // why it was interrupted
	// Alone is set when the protected site was not reached by the recovery.
	Alone   bool              `json:"alone,omitempty"`
	Decide  plan.CommitPolicy `json:"decide,omitempty"` // before a commit: what happens by itself, and when
	Due     time.Time         `json:"due,omitzero"`
	Tested  time.Time         `json:"tested,omitzero"` // when a test ended last; zero: never
	TestOK  bool              `json:"test_ok,omitempty"`
	Changed time.Time         `json:"changed,omitzero"`
}

// scope is what a test or recovery was asked for, besides its plan. What follows it,
// to the commit, rollback or reprotect, is about the same.
type scope struct {
	Point plan.Point `json:"point,omitzero"`
	VMs   []site.Ref `json:"vms,omitempty"`
	// Rest is set when the VMs are those of the domains that another plan had not
	// recovered yet.
	Rest bool `json:"rest,omitempty"`
}

// row is a row of plan_states.
type row struct {
	Status
	epoch int64
	scope scope
	fresh bool // it is not there yet
}

const planColumns = `plan, state, doing, paused, reversed, run, epoch, alone, scope, decide, decide_at, reason, last_test, last_test_ok, changed_at`

func scanPlan(scan func(...any) error) (*row, error) {
	r := new(row)
	var reversed, alone, due, tested, ok, changed int64
	var sc string
	if err := scan(&r.Plan, &r.State, &r.Doing, &r.Paused, &reversed, &r.Run, &r.epoch, &alone, &sc, &r.Decide, &due, &r.Reason, &tested, &ok, &changed); err != nil {
		return nil, err
	}
	r.Reversed, r.Alone, r.TestOK = reversed != 0, alone != 0, ok != 0
	r.Due, r.Tested, r.Changed = db.Time(due), db.Time(tested), db.Time(changed)
	if err := json.Unmarshal([]byte(sc), &r.scope); err != nil {
		return nil, errs.E("operate.load", errs.Corrupt, "plan "+string(r.Plan), err)
	}
	return r, nil
}

// read returns a plan's row; of one nobody has run, how it begins.
func read(ctx context.Context, tx *db.Tx, name site.Name) (*row, error) {
	r := &row{Status: Status{Plan: name, Standing: plan.Begin()}, fresh: true}
	err := tx.Rows(ctx, `SELECT `+planColumns+` FROM plan_states WHERE plan = $1`, []any{name}, func(scan func(...any) error) (err error) {
		r, err = scanPlan(scan)
		return err
	})
	return r, err
}

// lock takes a plan's rows, its run's first: a worker that ends the run takes them in
// that order, too.
func lock(ctx context.Context, tx *db.Tx, name site.Name) (*row, error) {
	before, err := read(ctx, tx, name)
	if err != nil {
		return nil, err
	}
	for {
		if before.Run != "" {
			if _, err := tx.Exec(ctx, `UPDATE runs SET pokes = pokes WHERE id = $1`, before.Run); err != nil {
				return nil, err
			}
		}
		// The row is made if it is missing, so that two who begin the first run meet. Its epoch
		// is larger than those of a plan that had the name before, which boxes have seen: by
		// the clock, since owners do not follow each other every millisecond.
		if _, err := tx.Exec(ctx, `INSERT INTO plan_states (`+planColumns+`) VALUES ($1, $2, '', '', 0, '', $3, 0, '{}', '', 0, '', 0, 0, $3)
			ON CONFLICT (plan) DO UPDATE SET plan = excluded.plan`, name, plan.Ready, tx.Now()); err != nil {
			return nil, err
		}
		r, err := read(ctx, tx, name)
		if err != nil || r.Run == before.Run {
			return r, err
		}
		before = r // another run was begun between the two looks: the row is ours now, and cannot change again
	}
}

// save stores a plan's row.
func (r *row) save(ctx context.Context, tx *db.Tx) error {
	sc, err := json.Marshal(r.scope)
	if err != nil {
		return errs.E("operate.save", errs.Internal, string(r.Plan), err)
	}
	_, err = tx.Exec(ctx, `UPDATE plan_states SET state = $2, doing = $3, paused = $4, reversed = $5, run = $6, epoch = $7, alone = $8, scope = $9,
		decide = $10, decide_at = $11, reason = $12, last_test = $13, last_test_ok = $14, changed_at = $15 WHERE plan = $1`,
		r.Plan, r.State, r.Doing, r.Paused, number(r.Reversed), r.Run, r.epoch, number(r.Alone), db.Text(string(sc), 1<<20),
		r.Decide, ms(r.Due), db.Text(r.Reason, maxWords), ms(r.Tested), number(r.TestOK), tx.Now())
	return err
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// claimSQL takes a domain, unless a plan has it: $1 domain, $2 plan. A test takes the
// condition away, and is told.
var claimSQL = `INSERT INTO plan_claims (domain, plan) VALUES ($1, $2) ON CONFLICT (domain) DO NOTHING`

// take gives the plan's domains to it. Kind Conflict: another plan has one; nothing is
// taken then, as the caller's transaction ends.
func take(ctx context.Context, tx *db.Tx, name site.Name, domains []site.Name) error {
	claims := plan.Claims{}
	for _, d := range slices.Sorted(slices.Values(domains)) { // in one order, so that two do not wait for each other
		if _, err := tx.Exec(ctx, claimSQL, d, name); err != nil {
			return err
		}
		var has site.Name
		found, err := tx.Row(ctx, `SELECT plan FROM plan_claims WHERE domain = $1`, []any{d}, &has)
		if err != nil {
			return err
		}
		if found {
			claims[d] = has
		}
	}
	return claims.Take(name, domains)
}

func release(ctx context.Context, tx *db.Tx, name site.Name) error {
	_, err := tx.Exec(ctx, `DELETE FROM plan_claims WHERE plan = $1`, name)
	return err
}

// stopped returns the VMs of the protected site that runs of the plan have shut down.
func stopped(ctx context.Context, tx *db.Tx, name site.Name) (map[dr.VMID]bool, error) {
	out := map[dr.VMID]bool{}
	err := tx.Rows(ctx, `SELECT vm FROM plan_stopped WHERE plan = $1`, []any{name}, func(scan func(...any) error) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		u, err := dr.ParseUUID(id)
		out[dr.VMID{UUID: u}] = true
		return err
	})
	return out, err
}

// Removed forgets a plan that is deleted: its state and claims. Its history
// stays. The caller has been admitted to delete it.
func Removed(ctx context.Context, tx *db.Tx, name site.Name) error {
	for _, s := range []string{
		`DELETE FROM plan_states WHERE plan = $1`, `DELETE FROM plan_claims WHERE plan = $1`, `DELETE FROM plan_stopped WHERE plan = $1`,
		`DELETE FROM plan_schedules WHERE plan = $1`,
	} {
		if _, err := tx.Exec(ctx, s, name); err != nil {
			return err
		}
	}
	return nil
}
