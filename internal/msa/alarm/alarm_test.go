package alarm_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/problem"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// patience ends a wait for what does not come.
const patience = 2 * time.Minute

type rig struct {
	*testing.T
	d *db.DB
}

func newRig(t *testing.T, url string) *rig {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &rig{t, d}
}

func each(t *testing.T, f func(r *rig)) {
	dbtest.Each(t, func(t *testing.T, url string) { f(newRig(t, url)) })
}

func (r *rig) tx(f func(ctx context.Context, tx *db.Tx) error) {
	r.Helper()
	if err := r.d.Tx(r.Context(), func(tx *db.Tx) error { return f(r.Context(), tx) }); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) set(c alarm.Code, object string, holds bool, detail string) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) error { return alarm.Set(ctx, tx, c, object, holds, detail) })
}

func (r *rig) events() (list []alarm.Event) {
	r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		list, _, err = alarm.Events(ctx, tx, "", 1000)
		return err
	})
	return list
}

func (r *rig) alarms(all bool) (list []alarm.Alarm) {
	r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		list, _, err = alarm.List(ctx, tx, all, alarm.Cursor{}, 1000)
		return err
	})
	return list
}

var rewrite = flag.Bool("rewrite", false, "write the table into docs/operate/alarms.md")

// TestDocumentHasTheTable keeps docs/operate/alarms.md equal to the codes, of which
// each says what it means and what to do.
func TestDocumentHasTheTable(t *testing.T) {
	seen := map[alarm.Code]bool{}
	for _, d := range alarm.Table() {
		if seen[d.Code] || d.Words == "" || d.Remedy == "" || d.Object == "" || !d.Severity.Valid() || strings.ContainsAny(d.Words+d.Remedy, "|\n") {
			t.Errorf("%+v", d)
		}
		seen[d.Code] = true
	}
	const path, begin, end = "../../../docs/operate/alarms.md", "<!-- codes -->\n", "<!-- end -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the document has no place for the table")
	}
	want := head + begin + alarm.Markdown() + end + tail
	if *rewrite {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(b) {
		t.Error("the document's table is another: go test ./internal/msa/alarm -run Document -rewrite")
	}
}

// TestOnce: a condition is told once for each time it begins and ends, whoever finds
// it out how often, and a transaction that fails tells nothing.
func TestOnce(t *testing.T) {
	each(t, func(r *rig) {
		var wg sync.WaitGroup
		for i := range 8 { // replicas that all see it
			wg.Go(func() { r.set(alarm.StoreAway, "s", true, fmt.Sprint(i)) })
		}
		wg.Wait()
		if n := len(r.events()); n != 1 {
			r.Fatalf("%d events of one outage", n)
		}
		crash := errors.New("crash")
		if err := r.d.Tx(r.Context(), func(tx *db.Tx) error {
			return errors.Join(alarm.Set(r.Context(), tx, alarm.StoreAway, "s", false, ""), crash)
		}); !errors.Is(err, crash) {
			r.Fatal(err)
		}
		if len(r.events()) != 1 || len(r.alarms(false)) != 1 {
			r.Error("a transaction that failed told something")
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			return alarm.Acknowledge(ctx, tx, alarm.StoreAway, "s", "ada", "looking at it")
		})
		if a := r.alarms(false)[0]; a.By != "ada" || a.Note == "" || a.Acknowledged.IsZero() {
			r.Errorf("acknowledged: %+v", a)
		}
		for range 2 {
			r.set(alarm.StoreAway, "s", false, "")
		}
		if len(r.alarms(false)) != 0 || len(r.events()) != 2 {
			r.Errorf("after its end: %v, %v", r.alarms(false), r.events())
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			if err := alarm.Acknowledge(ctx, tx, alarm.StoreAway, "s", "ada", ""); !errs.Is(err, errs.NotFound) {
				r.Errorf("acknowledging what is over: %v", err)
			}
			return nil
		})
		r.set(alarm.StoreAway, "s", true, "again")
		if a := r.alarms(false)[0]; a.Count != 2 || a.By != "" || a.Detail != "again" || a.Severity != alarm.Error {
			r.Errorf("raised anew: %+v", a)
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			f, err := catalog.Since(ctx, tx, 0, "alarm", 100)
			if len(f.Changes) != 4 {
				r.Errorf("the feed: %+v", f.Changes)
			}
			for _, bad := range []error{
				alarm.Set(ctx, tx, alarm.Adopted, "x", true, ""), alarm.Set(ctx, tx, "nothing", "x", true, ""), alarm.Tell(ctx, tx, alarm.StoreAway, "x", ""),
			} {
				if !errs.Is(bad, errs.Internal) {
					r.Errorf("a code that is not declared so: %v", bad)
				}
			}
			return err
		})
	})
}

// TestPagesAndPruning: every alarm and event is on one page, and old ones go.
func TestPagesAndPruning(t *testing.T) {
	each(t, func(r *rig) {
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			for i := range 25 { // in one millisecond
				if err := alarm.Set(ctx, tx, alarm.RPOMissed, fmt.Sprintf("domain %d", i), true, ""); err != nil {
					return err
				}
			}
			return nil
		})
		seen := map[string]bool{}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			var after alarm.Cursor
			for more := true; more; more = after != (alarm.Cursor{}) {
				page, next, err := alarm.List(ctx, tx, false, after, 4)
				if err != nil {
					return err
				}
				for _, a := range page {
					seen[a.Object] = true
				}
				after = next
			}
			n := 0
			for before, more := "", true; more; more = before != "" {
				page, next, err := alarm.Events(ctx, tx, before, 4)
				if err != nil {
					return err
				}
				n, before = n+len(page), next
			}
			if n != 25 {
				r.Errorf("%d events on pages, not 25", n)
			}
			return nil
		})
		if len(seen) != 25 {
			r.Errorf("%d alarms on pages, not 25", len(seen))
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			old := tx.Now() - alarm.EventsFor.Milliseconds() - 1
			if _, err := tx.Exec(ctx, `UPDATE events SET at = $1 WHERE object < $2`, old, "domain 2"); err != nil {
				return err
			}
			n, err := alarm.Prune(ctx, tx)
			if n != 12 { // 0, 1, 10 to 19
				r.Errorf("%d pruned, not 12", n)
			}
			return err
		})
		if len(r.alarms(false)) != 25 {
			r.Error("alarms that hold were pruned")
		}
	})
}

// TestOutletChecks: all mistakes are told at once, and what would leak or mislead is
// refused.
func TestOutletChecks(t *testing.T) {
	for name, o := range map[string]alarm.Outlet{
		"2 name":              {Name: "X", Sort: alarm.Syslog, Address: "h:1"},
		"sort":                {Name: "x", Sort: "pager", Address: "h:1"},
		"address":             {Name: "x", Sort: alarm.Syslog, Address: "h"},
		"address, webhook":    {Name: "x", Sort: alarm.Webhook, Address: "https://user:secret@h/"},
		"address, file":       {Name: "x", Sort: alarm.Webhook, Address: "file:///etc/passwd"},
		"tls, clear password": {Name: "x", Sort: alarm.Mail, Address: "h:25", From: "a@b.c", To: []string{"d@e.f"}, User: "u"},
		"from":                {Name: "x", Sort: alarm.Mail, Address: "h:25", From: "a@b.c\r\nBcc: x@y.z", To: []string{"d@e.f"}},
		"to[0]":               {Name: "x", Sort: alarm.Mail, Address: "h:25", From: "a@b.c", To: []string{"Eve <d@e.f>"}},
		"to":                  {Name: "x", Sort: alarm.Mail, Address: "h:25", From: "a@b.c"},
		"ca":                  {Name: "x", Sort: alarm.Syslog, Address: "h:1", CA: "nothing"},
		"codes[0]":            {Name: "x", Sort: alarm.Syslog, Address: "h:1", Codes: []alarm.Code{"nothing"}},
		"severity":            {Name: "x", Sort: alarm.Syslog, Address: "h:1", Least: "loud"},
		"facility":            {Name: "x", Sort: alarm.Syslog, Address: "h:1", Facility: 24},
	} {
		var l problem.List
		o.Check(&l)
		field, _, _ := strings.Cut(strings.TrimPrefix(name, "2 "), ",")
		if len(l.All) != 1 || l.All[0].Field != field {
			t.Errorf("%s: %v", name, l.All)
		}
	}
}

// TestOutlets: optimistic locks, and a bound.
func TestOutlets(t *testing.T) {
	each(t, func(r *rig) {
		put := func(o *alarm.Outlet) (err error) {
			r.d.Tx(r.Context(), func(tx *db.Tx) error { err = alarm.PutOutlet(r.Context(), tx, o, "ada"); return err })
			return err
		}
		o := alarm.Outlet{Name: "log", Sort: alarm.Syslog, Address: "h:1"}
		if err := put(&o); err != nil || o.Version != 1 {
			r.Fatal(o.Version, err)
		}
		again := alarm.Outlet{Name: "log", Sort: alarm.Syslog, Address: "h:2"}
		if err := put(&again); !errs.Is(err, errs.Exists) {
			r.Errorf("a second one: %v", err)
		}
		o.Least = alarm.Info
		if err := put(&o); err != nil || o.Version != 2 {
			r.Error(o.Version, err)
		}
		o.Version = 1
		if err := put(&o); !errors.Is(err, catalog.ErrStale) {
			r.Errorf("a lost update: %v", err)
		}
		gone := alarm.Outlet{Name: "gone", Version: 3, Sort: alarm.Syslog, Address: "h:2"}
		if err := put(&gone); !errs.Is(err, errs.NotFound) {
			r.Errorf("a change of what is not there: %v", err)
		}
		for i := range alarm.MaxOutlets {
			o := alarm.Outlet{Name: fmt.Sprintf("o%d", i), Sort: alarm.Syslog, Address: "h:1", Off: true}
			if err := put(&o); (i == alarm.MaxOutlets-1) != errs.Is(err, errs.Full) {
				r.Errorf("outlet %d: %v", i, err)
			}
		}
		r.set(alarm.StoreAway, "s", true, "")
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			if err := alarm.Tell(ctx, tx, alarm.Adopted, "d", ""); err != nil {
				return err
			}
			_, s, err := alarm.GetOutlet(ctx, tx, "log")
			if s.Pending != 2 {
				r.Errorf("%d wait, not 2", s.Pending)
			}
			return err
		})
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			if err := alarm.DeleteOutlet(ctx, tx, "log", 1, "ada"); !errors.Is(err, catalog.ErrStale) {
				r.Errorf("deleting an old version: %v", err)
			}
			return alarm.DeleteOutlet(ctx, tx, "log", 2, "ada")
		})
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			if err := alarm.DeleteOutlet(ctx, tx, "log", 0, "ada"); !errs.Is(err, errs.NotFound) {
				r.Errorf("deleting what is gone: %v", err)
			}
			return nil
		})
	})
}
