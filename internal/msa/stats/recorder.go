package stats

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// series is one metric of one object, as "domain erp".
type series struct {
	metric Metric
	object string
}

// bucket is what samples came to.
type bucket struct{ n, total, least, most int64 }

func (b *bucket) add(v int64) {
	if b.n == 0 {
		b.least, b.most = v, v
	}
	b.n, b.total, b.least, b.most = b.n+1, b.total+v, min(b.least, v), max(b.most, v)
}

// merge adds what other samples came to.
func (b *bucket) merge(o bucket) {
	b.n, b.total, b.least, b.most = b.n+o.n, b.total+o.total, min(b.least, o.least), max(b.most, o.most)
}

// last is the newest sample of a series.
type last struct {
	value int64
	at    time.Time
}

// Recorder takes samples. Make it with NewRecorder. Safe for concurrent use.
type Recorder struct {
	now func() time.Time // immutable

	mu      sync.Mutex
	pending map[series]map[int64]*bucket // guarded by mu, by minute
	newest  map[series]last              // guarded by mu
	dropped int64                        // guarded by mu: samples beyond the bounds
}

// NewRecorder returns an empty one; now is its clock, nil: the system's.
func NewRecorder(now func() time.Time) *Recorder {
	if now == nil {
		now = time.Now
	}
	return &Recorder{now: now, pending: map[series]map[int64]*bucket{}, newest: map[series]last{}}
}

// Observe takes a sample of an object, as "domain erp". A metric that is not declared
// is a mistake of ours, and dropped, as is what does not fit.
func (r *Recorder) Observe(m Metric, object string, value int64) {
	s := series{m, db.Text(object, maxObject)}
	value = min(max(value, -maxValue), maxValue)
	now := r.now()
	minute := now.UnixMilli() / time.Minute.Milliseconds() * time.Minute.Milliseconds()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.newest[s]; !m.Valid() || object == "" || !known && len(r.newest) >= maxSeries {
		r.dropped++
		return
	}
	r.newest[s] = last{value, now}
	by := r.pending[s]
	if by == nil {
		by = map[int64]*bucket{}
		r.pending[s] = by
	}
	if by[minute] == nil {
		if len(by) > 2 { // nobody flushes: the database is away
			r.dropped++
			return
		}
		by[minute] = &bucket{}
	}
	by[minute].add(value)
}

// row is a row of stats, of the minute level.
type row struct {
	series
	at int64
	bucket
}

// take returns what is pending and forgets it, and series nobody has seen for long.
func (r *Recorder) take() (rows []row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s, by := range r.pending {
		for at, b := range by {
			rows = append(rows, row{s, at, *b})
		}
	}
	clear(r.pending)
	old := r.now().Add(-freshFor)
	maps.DeleteFunc(r.newest, func(_ series, l last) bool { return l.at.Before(old) })
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), cmp.Compare(a.object, b.object), cmp.Compare(a.at, b.at))
	})
	return rows
}

// back returns to pending what could not be stored.
func (r *Recorder) back(rows []row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range rows {
		by := r.pending[x.series]
		if by == nil {
			by = map[int64]*bucket{}
			r.pending[x.series] = by
		}
		b := by[x.at]
		switch {
		case b == nil && len(by) > 2:
			r.dropped += x.n
		case b == nil:
			by[x.at] = &x.bucket
		default:
			b.merge(x.bucket)
		}
	}
}

// Flush stores what is pending. When it is not known whether that was done it is
// dropped: a sample is rather missing than counted twice.
func (r *Recorder) Flush(ctx context.Context, d *db.DB) error {
	rows := r.take()
	for len(rows) > 0 {
		part := rows[:min(batch, len(rows))]
		err := d.Tx(ctx, func(tx *db.Tx) error {
			for l := range levels {
				if err := store(ctx, tx, Level(l), Level(l).merged(part)); err != nil {
					return err
				}
			}
			return nil
		})
		if errs.Is(err, errs.Unavailable) {
			rows = rows[len(part):]
		}
		if err != nil {
			r.back(rows)
			return err
		}
		rows = rows[len(part):]
	}
	return nil
}

// store merges rows into those of a level.
func store(ctx context.Context, tx *db.Tx, l Level, rows []row) error {
	var text strings.Builder
	text.WriteString(`INSERT INTO stats (level, metric, object, at, n, total, least, most) VALUES`)
	args := make([]any, 0, 8*len(rows))
	for i, x := range rows {
		if i > 0 {
			text.WriteString(",")
		}
		n := len(args)
		fmt.Fprintf(&text, " ($%d, $%d, $%d, $%d, $%d, $%d, $%d, $%d)", n+1, n+2, n+3, n+4, n+5, n+6, n+7, n+8)
		args = append(args, int64(l), string(x.metric), x.object, x.at, x.n, x.total, x.least, x.most)
	}
	text.WriteString(` ON CONFLICT (level, metric, object, at) DO UPDATE SET n = stats.n + excluded.n, total = stats.total + excluded.total,
		least = CASE WHEN excluded.least < stats.least THEN excluded.least ELSE stats.least END,
		most = CASE WHEN excluded.most > stats.most THEN excluded.most ELSE stats.most END`)
	_, err := tx.Exec(ctx, text.String(), args...)
	return err
}

// Run flushes and prunes until ctx ends, and flushes once more.
func (r *Recorder) Run(ctx context.Context, d *db.DB, log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), scrapeFor)
			defer cancel()
			if err := r.Flush(ending, d); err != nil {
				log.Warn("the last statistics are not stored", "err", err)
			}
			return
		case <-tick.C:
		}
		err := r.Flush(ctx, d)
		for more := err == nil; more && err == nil; {
			err = d.Tx(ctx, func(tx *db.Tx) (err error) { more, err = Prune(ctx, tx); return err })
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("statistics are behind", "err", err)
		}
	}
}
