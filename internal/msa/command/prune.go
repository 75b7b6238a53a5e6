package command

import (
	"context"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Sweep cancels, once, the commands for which nobody has come for three minutes.
func (d *Desk) Sweep(ctx context.Context) error {
	idle := false
	err := d.DB.View(ctx, func(tx *db.Tx) error {
		var n int
		_, err := tx.Row(ctx, `SELECT count(*) FROM commands WHERE state IN ($1, $2) AND asked_at < $3 AND cancelled = 0`, []any{waiting, taken, tx.Now() - orphanFor.Milliseconds()}, &n)
		idle = n == 0
		return err
	})
	if err != nil || idle {
		return err
	}
	return d.tx(ctx, func(tx *db.Tx, ring ringing) error {
		return cancel(ctx, tx, ring, `asked_at < $1`, tx.Now()-orphanFor.Milliseconds())
	})
}

// Prune deletes rows that nobody will ask for, a bounded number at once; it returns how
// many.
func Prune(ctx context.Context, tx *db.Tx) (int64, error) {
	if _, err := tx.Exec(ctx, `DELETE FROM command_members WHERE ref = '' AND named_at < $1 OR domain NOT IN (SELECT name FROM objects WHERE kind = $2)`,
		tx.Now()-memberFor.Milliseconds(), string(site.KindDomain)); err != nil {
		return 0, err
	}
	return tx.Exec(ctx, `DELETE FROM commands WHERE id IN (SELECT id FROM commands WHERE
		asked_at < $1 OR state = $2 AND deadline > 0 AND asked_at < $3 ORDER BY asked_at LIMIT $4)`,
		tx.Now()-keepFor.Milliseconds(), done, tx.Now()-keepQuestionFor.Milliseconds(), pruneBatch)
}
