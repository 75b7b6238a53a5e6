package stats

import (
	"context"
	"time"

	"holdfast/internal/msa/db"
)

// Level is how fine rows are.
type Level int

// The levels.
const (
	Minutes Level = iota
	Hours
	Days
)

// levels says of each how long a row is and how long it is kept.
var levels = [...]struct {
	name string
	span time.Duration
	keep time.Duration
}{{"minute", time.Minute, minutesFor}, {"hour", time.Hour, hoursFor}, {"day", 24 * time.Hour, daysFor}}

// String returns the stable name.
func (l Level) String() string { return levels[l].name }

// merged is rows of a level, of the minutes' rows. They are in order of series.
func (l Level) merged(minutes []row) (rows []row) {
	span := levels[l].span.Milliseconds()
	for _, m := range minutes {
		m.at -= m.at % span
		if n := len(rows); n > 0 && rows[n-1].series == m.series && rows[n-1].at == m.at {
			rows[n-1].merge(m.bucket)
			continue
		}
		rows = append(rows, m)
	}
	return rows
}

// Prune deletes a part of what is older than its level is kept; more says that there
// is more.
func Prune(ctx context.Context, tx *db.Tx) (more bool, err error) {
	for l := range levels {
		old := tx.Now() - levels[l].keep.Milliseconds()
		var oldest int64
		some, err := tx.Row(ctx, `SELECT at FROM stats WHERE level = $1 ORDER BY at LIMIT 1`, []any{int64(l)}, &oldest)
		if err != nil {
			return false, err
		}
		if !some || oldest >= old {
			continue
		}
		until := min(old, oldest+max(pruneSpan, levels[l].span).Milliseconds())
		if _, err := tx.Exec(ctx, `DELETE FROM stats WHERE level = $1 AND at < $2`, int64(l), until); err != nil {
			return false, err
		}
		more = more || until < old
	}
	return more, nil
}
