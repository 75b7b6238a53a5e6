package inventory

import (
	"context"
	"math/rand/v2"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// hold is a keeper's lease on its site.
type hold struct {
	site  site.Name
	owner string
	epoch int64
}

// claim takes a site whose lease has ended, or that this owner has; false: another
// one has it.
func claim(ctx context.Context, tx *db.Tx, of site.Name, owner string) (h hold, ok bool, err error) {
	if _, err := tx.Exec(ctx, `INSERT INTO inventory_sites (site, generation, seen_at, away_since, words, owner, epoch, lease_until)
		VALUES ($1, 0, 0, 0, '', '', 0, 0) ON CONFLICT (site) DO NOTHING`, string(of)); err != nil {
		return h, false, err
	}
	h = hold{site: of, owner: owner}
	ok, err = tx.Row(ctx, `UPDATE inventory_sites SET owner = $2, epoch = epoch + 1, lease_until = $4
		WHERE site = $1 AND (lease_until <= $3 OR owner = $2) RETURNING epoch`,
		[]any{string(of), owner, tx.Now(), tx.Now() + LeaseFor.Milliseconds()}, &h.epoch)
	return h, ok, err
}

// guard locks the site's row for its keeper, extends the lease and returns the
// generation. Every transaction of a keeper begins with it. Kind Fenced: another one
// has the site.
func (h hold) guard(ctx context.Context, tx *db.Tx) (generation int64, err error) {
	ok, err := tx.Row(ctx, `UPDATE inventory_sites SET lease_until = $4 WHERE site = $1 AND owner = $2 AND epoch = $3 RETURNING generation`,
		[]any{string(h.site), h.owner, h.epoch, tx.Now() + LeaseFor.Milliseconds()}, &generation)
	if err == nil && !ok {
		err = errs.New("inventory.Keeper", errs.Fenced, string(h.site), "another replica of the manager keeps this site's inventory")
	}
	return generation, err
}

// release gives the site back, so that another replica need not wait.
func (h hold) release(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE inventory_sites SET lease_until = 0, owner = '' WHERE site = $1 AND owner = $2 AND epoch = $3`, string(h.site), h.owner, h.epoch)
	return err
}

// newGeneration is a number for a site's generation that no other transaction has:
// larger ones are later, up to a millisecond. A view that was made in a transaction
// which failed is then nobody's.
func newGeneration(tx *db.Tx) int64 { return tx.Now()<<20 | rand.Int64N(1<<20) }

// seen notes that the platform has answered, and what of it could not be read.
func (h hold) seen(ctx context.Context, tx *db.Tx, words string, changed bool) error {
	_, err := tx.Exec(ctx, `UPDATE inventory_sites SET seen_at = $2, away_since = 0, words = $3,
		generation = CASE WHEN $4 = 0 AND generation > 0 THEN generation WHEN generation >= $5 THEN generation + 1 ELSE $5 END WHERE site = $1`,
		string(h.site), tx.Now(), words, map[bool]int64{true: 1}[changed], newGeneration(tx))
	return err
}

// away notes that the platform does not answer; it reports whether that is new.
func (h hold) away(ctx context.Context, tx *db.Tx, words string) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE inventory_sites SET away_since = $2, words = $3 WHERE site = $1 AND away_since = 0`, string(h.site), tx.Now(), db.Text(words, maxWords))
	return n == 1, err
}

// wait reports whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
