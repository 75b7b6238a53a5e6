package stats

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Point is what the samples of a span came to.
type Point struct {
	At      time.Time // the span's begin
	Samples int64
	Mean    int64
	Least   int64
	Most    int64
}

// Query says which points are wanted.
type Query struct {
	Metric   Metric
	Object   string // as "domain erp"
	From, To time.Time
}

// Read returns the points of a series, the oldest first, as fine as they are kept and
// fit an answer. Kinds: Invalid.
func Read(ctx context.Context, tx *db.Tx, q Query) (l Level, points []Point, err error) {
	const op = "stats.Read"
	if !q.Metric.Valid() {
		return 0, nil, errs.New(op, errs.Invalid, string(q.Metric), "there is no such metric").WithRemedy("see the list of metrics")
	}
	if !q.From.Before(q.To) || q.From.UnixMilli() < 0 {
		return 0, nil, errs.New(op, errs.Invalid, string(q.Metric), "the time ends before it begins").WithRemedy("give from before to")
	}
	for l = Minutes; ; l++ {
		fits := q.To.Sub(q.From)/levels[l].span <= maxPoints
		kept := !q.From.Before(db.Time(tx.Now()).Add(-levels[l].keep))
		if l == Days || fits && kept {
			break
		}
	}
	span := levels[l].span.Milliseconds()
	err = tx.Rows(ctx, `SELECT at, n, total, least, most FROM stats WHERE level = $1 AND metric = $2 AND object = $3 AND at >= $4 AND at < $5 ORDER BY at LIMIT $6`,
		[]any{int64(l), string(q.Metric), db.Text(q.Object, maxObject), q.From.UnixMilli() / span * span, q.To.UnixMilli(), maxPoints + 1}, func(scan func(...any) error) error {
			var p Point
			var at, total int64
			if err := scan(&at, &p.Samples, &total, &p.Least, &p.Most); err != nil {
				return err
			}
			if p.Samples < 1 {
				return errs.New(op, errs.Corrupt, string(q.Metric), fmt.Sprintf("the point at %d has no samples", at))
			}
			p.At, p.Mean = db.Time(at), total/p.Samples
			points = append(points, p)
			return nil
		})
	return l, points, err
}

// Objects returns the objects that have samples of a metric, in order, behind one
// that was seen; at most limit, and at most 1000.
func Objects(ctx context.Context, tx *db.Tx, m Metric, after string, limit int) (list []string, err error) {
	err = tx.Rows(ctx, `SELECT DISTINCT object FROM stats WHERE level = $1 AND metric = $2 AND object > $3 ORDER BY object LIMIT $4`,
		[]any{int64(Hours), string(m), db.Text(after, maxObject), min(max(1, limit), 1000)}, func(scan func(...any) error) error {
			var o string
			err := scan(&o)
			list = append(list, o)
			return err
		})
	return list, err
}
