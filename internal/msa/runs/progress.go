package runs

import (
	"context"

	"holdfast/internal/msa/db"
)

// Progress is how far a run is, seen from afar.
type Progress struct {
	Steps, Ended int64   // of what it was started for, without what undoes it
	Part         float64 // 0 to 1: what part of the steps is done, steps under way in part
}

// ProgressOf returns how far a run is; the zero value, if no worker has looked at it
// yet, or there is no such run.
func ProgressOf(ctx context.Context, tx *db.Tx, id string) (p Progress, err error) {
	var sum float64
	err = tx.Rows(ctx, `SELECT status, done, total FROM run_steps WHERE run = $1 AND phase <> 'undo' ORDER BY seq LIMIT $2`, []any{id, maxSteps},
		func(scan func(...any) error) error {
			var status Status
			var done, total int64
			if err := scan(&status, &done, &total); err != nil {
				return err
			}
			p.Steps++
			switch {
			case status != Inactive && status != Running:
				p.Ended++
				sum++
			case status == Running && total > 0:
				sum += min(1, max(0, float64(done)/float64(total)))
			}
			return nil
		})
	if p.Steps > 0 {
		p.Part = sum / float64(p.Steps)
	}
	return p, err
}
