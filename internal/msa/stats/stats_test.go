package stats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func open(t *testing.T, url string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// key names a row of the model.
type key struct {
	level Level
	series
	at int64
}

// TestLevels: after random samples of several replicas, flushed at random and with
// transactions that fail, every level is what one computation over all samples gives.
func TestLevels(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		const seed = 4
		d, rng := open(t, url), rand.New(rand.NewPCG(seed, seed))
		now := time.Now().Add(-30 * time.Hour)
		model := map[key]*bucket{}
		replicas := []*Recorder{NewRecorder(func() time.Time { return now }), NewRecorder(func() time.Time { return now })}
		metrics := []Metric{RPO, LogUsed, PutLatency}
		for range 1500 {
			now = now.Add(time.Duration(rng.Int64N(int64(2 * time.Minute))))
			s := series{metrics[rng.IntN(3)], fmt.Sprintf("domain d%d", rng.IntN(4))}
			v := rng.Int64N(1000) - 300
			r := replicas[rng.IntN(2)]
			r.Observe(s.metric, s.object, v)
			for l := range levels {
				span := levels[l].span.Milliseconds()
				k := key{Level(l), s, now.UnixMilli() / span * span}
				if model[k] == nil {
					model[k] = &bucket{}
				}
				model[k].add(v)
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			switch rng.IntN(20) {
			case 0: // nothing was done: it is kept
				if err := r.Flush(gone, d); err != nil && !errs.Is(err, errs.Canceled) {
					t.Fatal(err)
				}
			case 1, 2:
				var wg sync.WaitGroup
				for _, r := range replicas {
					wg.Go(func() {
						if err := r.Flush(t.Context(), d); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			default:
				for _, by := range r.pending {
					if len(by) > 1 { // as once a minute would
						if err := r.Flush(t.Context(), d); err != nil {
							t.Fatal(err)
						}
						break
					}
				}
			}
		}
		for _, r := range replicas {
			if err := r.Flush(t.Context(), d); err != nil || r.dropped != 0 {
				t.Fatal(err, r.dropped)
			}
		}
		got := rows(t, d)
		if !maps.EqualFunc(got, model, func(a, b *bucket) bool { return *a == *b }) {
			t.Errorf("seed %d: %d rows, the model has %d", seed, len(got), len(model))
		}
		// The twin: one sample more is noticed.
		for _, b := range model {
			b.add(1)
			break
		}
		if maps.EqualFunc(got, model, func(a, b *bucket) bool { return *a == *b }) {
			t.Error("a sample that is missing is not noticed")
		}
	})
}

func rows(t *testing.T, d *db.DB) map[key]*bucket {
	t.Helper()
	got := map[key]*bucket{}
	err := d.View(t.Context(), func(tx *db.Tx) error {
		return tx.Rows(t.Context(), `SELECT level, metric, object, at, n, total, least, most FROM stats`, nil, func(scan func(...any) error) error {
			var k key
			var b bucket
			err := scan(&k.level, &k.metric, &k.object, &k.at, &b.n, &b.total, &b.least, &b.most)
			got[k] = &b
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestBounds: no series too many, nothing undeclared, no sum that overflows, and a
// database that is away costs a bounded memory.
func TestBounds(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewRecorder(func() time.Time { return now })
	r.Observe("nothing", "domain a", 1)
	r.Observe(RPO, "", 1)
	for i := range maxSeries + 10 {
		r.Observe(RPO, fmt.Sprintf("vm %d", i), 1)
	}
	if len(r.newest) != maxSeries || r.dropped != 12 {
		t.Errorf("%d series, %d dropped", len(r.newest), r.dropped)
	}
	for range 100 {
		now = now.Add(time.Minute)
		r.Observe(RPO, "vm 0", 1<<62)
	}
	if by := r.pending[series{RPO, "vm 0"}]; len(by) > 3 {
		t.Errorf("%d minutes wait", len(by))
	}
	b := bucket{}
	for range 86400 {
		b.add(maxValue)
	}
	if b.total < 0 {
		t.Error("a day of the largest samples overflows")
	}
	r.take()
	if len(r.newest) != 1 {
		t.Errorf("%d series are remembered that nobody sees any more", len(r.newest)-1)
	}
}

// TestReadAndPrune: answers are as fine as they can be, and what is too old goes.
func TestReadAndPrune(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		now := time.Now()
		at := now.Add(-50 * time.Hour).Truncate(time.Hour)
		r := NewRecorder(func() time.Time { return at })
		for ; at.Before(now); at = at.Add(10 * time.Minute) {
			r.Observe(RPO, "domain d", at.Unix()%1000)
			if err := r.Flush(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		read := func(span time.Duration) (l Level, p []Point) {
			if err := d.View(t.Context(), func(tx *db.Tx) (err error) {
				l, p, err = Read(t.Context(), tx, Query{RPO, "domain d", now.Add(-span), now})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return l, p
		}
		if l, p := read(time.Hour); l != Minutes || len(p) < 6 {
			t.Errorf("an hour: %d points by the %v", len(p), l)
		}
		if l, p := read(49 * time.Hour); l != Hours || len(p) != 50 {
			t.Errorf("two days: %d points by the %v", len(p), l)
		}
		if l, p := read(300 * 24 * time.Hour); l != Days || len(p) < 3 {
			t.Errorf("most of a year: %d points by the %v", len(p), l)
		}
		for more := true; more; {
			if err := d.Tx(t.Context(), func(tx *db.Tx) (err error) { more, err = Prune(t.Context(), tx); return err }); err != nil {
				t.Fatal(err)
			}
		}
		old := now.Add(-minutesFor - time.Minute).UnixMilli()
		for k := range rows(t, d) {
			if k.level == Minutes && k.at < old {
				t.Fatalf("a minute of %v is still there", db.Time(k.at))
			}
		}
		if _, p := read(49 * time.Hour); len(p) != 50 {
			t.Errorf("pruning minutes took hours along: %d", len(p))
		}
		err := d.View(t.Context(), func(tx *db.Tx) error {
			_, _, err := Read(t.Context(), tx, Query{"nothing", "", now, now})
			_, _, err2 := Read(t.Context(), tx, Query{RPO, "", now, now})
			if !errs.Is(err, errs.Invalid) || !errs.Is(err2, errs.Invalid) {
				t.Errorf("%v, %v", err, err2)
			}
			list, err := Objects(t.Context(), tx, RPO, "", 10)
			if !slices.Equal(list, []string{"domain d"}) {
				t.Errorf("objects: %q", list)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestPrometheus: a scrape has the newest samples and what the database counts, and
// says so when there is no database.
func TestPrometheus(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	now := time.Now()
	r := NewRecorder(func() time.Time { return now })
	r.Observe(RPO, "vm gone", 7)
	now = now.Add(2 * freshFor)
	r.Observe(RPO, "domain erp", 4200)
	r.Observe(RPO, "domain a\"b\n\xff", 1)
	err := d.Tx(t.Context(), func(tx *db.Tx) error {
		return errors.Join(alarm.Set(t.Context(), tx, alarm.RPOMissed, "domain erp", true, ""),
			alarm.Set(t.Context(), tx, alarm.RPOMissed, "domain b", true, ""))
	})
	if err != nil {
		t.Fatal(err)
	}
	e := NewExposition(r, d, nil)
	scrape := func() string {
		b, err := e.Text()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	text := scrape()
	for _, want := range []string{
		`holdfast_rpo_ms{kind="domain",name="erp"} 4200`, `holdfast_alarms{acknowledged="no",code="rpo-missed",severity="error"} 2`,
		"holdfast_database_up 1", "go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("a scrape lacks %s", want)
		}
	}
	if strings.Contains(text, "gone") {
		t.Error("what nobody sees any more is shown")
	}
	d.Close()
	if text := scrape(); !strings.Contains(text, "holdfast_database_up 0") || !strings.Contains(text, "4200") {
		t.Error("without a database a scrape has not what it could have")
	}
}
