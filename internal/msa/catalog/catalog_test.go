package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// rig is a catalog on one engine.
type rig struct {
	t *testing.T
	*Catalog
	db *db.DB
}

func each(t *testing.T, f func(r *rig)) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d, err := db.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		f(&rig{t, &Catalog{}, d})
	})
}

// tx runs f in a transaction and demands that it works.
func (r *rig) tx(f func(ctx context.Context, tx *db.Tx) error) {
	r.t.Helper()
	if err := r.try(f); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) try(f func(ctx context.Context, tx *db.Tx) error) error {
	return r.db.Tx(r.t.Context(), func(tx *db.Tx) error { return f(r.t.Context(), tx) })
}

func (r *rig) put(o site.Object) error {
	return r.try(func(ctx context.Context, tx *db.Tx) error {
		_, _, err := r.Put(ctx, tx, o, "ann")
		return err
	})
}

func (r *rig) mustPut(objects ...site.Object) {
	r.t.Helper()
	for _, o := range objects {
		if err := r.put(o); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) feed(after int64) (f Feed) {
	r.t.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		f, err = Since(ctx, tx, after, "", MaxPage)
		return err
	})
	return f
}

func aSite(name site.Name) *site.Site {
	return &site.Site{Meta: site.Meta{Name: name}, Platform: site.Fake}
}

func aStore(name, at site.Name) *site.Store {
	return &site.Store{Meta: site.Meta{Name: name}, URL: "file:///srv/" + string(name), Site: at}
}

func aDomain(name site.Name, vms ...site.Ref) *site.ProtectedDomain {
	return &site.ProtectedDomain{
		Meta: site.Meta{Name: name, Folder: "erp"}, From: "a", Stores: []site.Name{"s"}, VMs: vms, Mode: site.Failover,
		Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * 3600e9)}}},
	}
}

// base stores two sites and a store that is at none.
func (r *rig) base() { r.mustPut(aSite("a"), aSite("b"), aStore("s", "")) }

func TestLostUpdate(t *testing.T) {
	each(t, func(r *rig) {
		r.base()
		d := aDomain("erp", "db")
		r.mustPut(d)
		if d.Version != 1 || d.ID.IsZero() {
			t.Fatalf("stored as %+v", d.Meta)
		}
		// Ten who read version 1 change it at once: one wins, nine are told.
		var wg sync.WaitGroup
		outcomes := make(chan error, 10)
		for i := range cap(outcomes) {
			wg.Go(func() {
				c := aDomain("erp", "db")
				c.Version, c.Description = 1, fmt.Sprint(i)
				outcomes <- r.put(c)
			})
		}
		wg.Wait()
		won := 0
		for range cap(outcomes) {
			switch err := <-outcomes; {
			case err == nil:
				won++
			case !errs.Is(err, errs.Conflict) || !errors.Is(err, ErrStale) || errs.RemedyOf(err) == "":
				t.Errorf("a loser: %v", err)
			}
		}
		if won != 1 {
			t.Errorf("%d of ten won", won)
		}
		// What is so already is nobody's change.
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			s, err := Get(ctx, tx, site.KindDomain, "erp")
			if err != nil {
				return err
			}
			s.Object.Head().Version = 1
			_, changed, err := r.Put(ctx, tx, s.Object, "bob")
			if changed || s.Object.Head().Version != 2 || s.By != "ann" {
				t.Errorf("changed %v, version %d, by %s", changed, s.Object.Head().Version, s.By)
			}
			return err
		})
		if err := r.put(aDomain("erp", "other")); !errs.Is(err, errs.Exists) {
			t.Errorf("a second one of the name: %v", err)
		}
		gone := aDomain("gone", "x")
		gone.Version = 3
		if err := r.put(gone); !errs.Is(err, errs.NotFound) {
			t.Errorf("a change of what is not there: %v", err)
		}
	})
}

func TestReferencesHold(t *testing.T) {
	each(t, func(r *rig) {
		if err := r.put(aStore("s", "nowhere")); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), `no site "nowhere"`) {
			t.Errorf("a name that leads nowhere: %v", err)
		}
		r.base()
		r.mustPut(aDomain("erp", "db"))
		remove := func(k site.Kind, n site.Name) error {
			return r.try(func(ctx context.Context, tx *db.Tx) error {
				_, err := r.Delete(ctx, tx, k, n, site.Meta{}.ID, 0, "ann")
				return err
			})
		}
		if err := remove(site.KindStore, "s"); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "domain erp") {
			t.Errorf("deleting what is named: %v", err)
		}
		// The rows say so too, whatever the program does.
		err := r.try(func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM objects WHERE kind = 'store'`)
			return err
		})
		if !errs.Is(err, errs.Conflict) {
			t.Errorf("deleting the row of what is named: %v", err)
		}
		// A VM is in one domain.
		if err := r.put(aDomain("crm", "db")); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "in domain") {
			t.Errorf("a VM in two domains: %v", err)
		}
		for _, x := range []struct {
			k site.Kind
			n site.Name
		}{{site.KindDomain, "erp"}, {site.KindStore, "s"}, {site.KindSite, "a"}, {site.KindSite, "a"}} {
			if err := remove(x.k, x.n); err != nil {
				t.Errorf("deleting %s %s: %v", x.k, x.n, err)
			}
		}
	})
}

// TestTwoDomainsClaimOneVM: each is right by itself; one of them is stored.
func TestTwoDomainsClaimOneVM(t *testing.T) {
	each(t, func(r *rig) {
		r.base()
		for round := range 5 {
			var wg sync.WaitGroup
			outcomes := make(chan error, 4)
			for i := range cap(outcomes) {
				wg.Go(func() {
					outcomes <- r.put(aDomain(site.Name(fmt.Sprintf("d%d-%d", round, i)), site.Ref(fmt.Sprintf("vm%d", round))))
				})
			}
			wg.Wait()
			won := 0
			for range cap(outcomes) {
				if err := <-outcomes; err == nil {
					won++
				} else if !errs.Is(err, errs.Invalid) {
					t.Error(err)
				}
			}
			if won != 1 {
				t.Fatalf("round %d: %d domains have the VM", round, won)
			}
		}
	})
}

func TestGuard(t *testing.T) {
	each(t, func(r *rig) {
		r.base()
		var seen []string
		r.Guards = []Guard{func(_ context.Context, _ *db.Tx, old, now site.Object) error {
			switch {
			case old == nil:
				seen = append(seen, "new "+site.Label(now))
			case now == nil:
				seen = append(seen, "gone "+site.Label(old))
			default:
				return errs.New("test", errs.Conflict, site.Label(old), "it is in use")
			}
			return nil
		}}
		d := aDomain("erp", "db")
		r.mustPut(d)
		d.Description = "x"
		if err := r.put(d); !errs.Is(err, errs.Conflict) {
			t.Errorf("a change the guard refuses: %v", err)
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := r.Delete(ctx, tx, site.KindDomain, "erp", site.Meta{}.ID, 0, "ann")
			return err
		})
		if got := strings.Join(seen, ", "); got != "new domain erp, gone domain erp" {
			t.Error(got)
		}
	})
}

func TestListPages(t *testing.T) {
	each(t, func(r *rig) {
		r.base()
		want := map[site.Name]bool{}
		for i := range 25 {
			d := aDomain(site.Name(fmt.Sprintf("d%02d", i)), site.Ref(fmt.Sprint("vm", i)))
			d.Folder = []site.Ref{"erp", "erp/prod", "erp2", ""}[i%4]
			r.mustPut(d)
			want[d.Name] = d.Folder.Below("erp") && i%3 != 0
		}
		var after site.Name
		pages, got := 0, map[site.Name]bool{}
		for ; ; pages++ {
			var page []Stored
			r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
				page, after, err = List(ctx, tx, Query{Kind: site.KindDomain, Folder: "erp", After: after, Limit: 3, Keep: func(o site.Object) bool {
					var n int
					fmt.Sscanf(string(o.Head().Name), "d%d", &n)
					return n%3 != 0
				}})
				return err
			})
			for _, s := range page {
				if got[s.Object.Head().Name] {
					t.Errorf("%s is on two pages", s.Object.Head().Name)
				}
				got[s.Object.Head().Name] = true
			}
			if after == "" {
				break
			}
			if len(page) != 3 {
				t.Errorf("a page of %d that is not the last", len(page))
			}
		}
		for n, w := range want {
			if got[n] != w {
				t.Errorf("%s: listed %v, want %v", n, got[n], w)
			}
		}
	})
}

func TestFeed(t *testing.T) {
	each(t, func(r *rig) {
		r.base()
		start := r.feed(0).Last
		d := aDomain("erp", "db")
		r.mustPut(d)
		d.Folder = "crm"
		r.mustPut(d)
		if err := r.put(aDomain("other", "db")); err == nil {
			t.Fatal("stored")
		}
		var got []string
		f := r.feed(start)
		for i, c := range f.Changes {
			got = append(got, fmt.Sprintf("%s %s %s %s %s", c.Action, c.Kind, c.Name, c.Folder, c.By))
			if c.Seq != start+int64(i)+1 {
				t.Errorf("number %d at place %d", c.Seq, i)
			}
		}
		// Who sees the old folder alone sees it go.
		if want := "create domain erp erp ann|delete domain erp erp ann|change domain erp crm ann"; strings.Join(got, "|") != want {
			t.Errorf("feed %q, want %q", strings.Join(got, "|"), want)
		}
		if f.Gap || f.Last != start+3 || !r.feed(f.Last+1).Gap || r.feed(f.Last).Gap {
			t.Errorf("gaps: %+v", f)
		}
		// Old lines go from the oldest on, and who stands before them is told.
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE changes SET at = $1 WHERE seq <= $2`, tx.Now()-FeedFor.Milliseconds()-1, start); err != nil {
				return err
			}
			n, err := PruneFeed(ctx, tx)
			if n != start {
				t.Errorf("%d lines deleted, want %d", n, start)
			}
			return err
		})
		if !r.feed(start-1).Gap || r.feed(start).Gap {
			t.Error("the gap is not where lines were deleted")
		}
	})
}

// TestFeedHasNoHoles: readers that go on behind the last number they saw miss
// nothing that writers, at once, commit or give up.
func TestFeedHasNoHoles(t *testing.T) {
	each(t, func(r *rig) {
		const writers, rounds = 6, 15
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range rounds {
					err := r.try(func(ctx context.Context, tx *db.Tx) error {
						if err := Note(ctx, tx, "test", fmt.Sprintf("%d-%d", w, i), "tick", ""); err != nil {
							return err
						}
						if i%5 == 4 {
							return errs.New("test", errs.Invalid, "", "given up")
						}
						return nil
					})
					if err != nil && !errs.Is(err, errs.Invalid) {
						t.Error(err)
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		var last int64
		n := 0
		for ended := false; ; {
			select {
			case <-done:
				ended = true
			default:
			}
			f := r.feed(last)
			for _, c := range f.Changes {
				if c.Seq != last+1 {
					t.Fatalf("%d follows %d", c.Seq, last)
				}
				last = c.Seq
				n++
			}
			if ended && len(f.Changes) == 0 {
				break
			}
		}
		if want := writers * rounds * 4 / 5; n != want {
			t.Errorf("read %d lines, want %d", n, want)
		}
	})
}

func TestApply(t *testing.T) {
	each(t, func(r *rig) {
		wanted := func() []site.Object {
			return []site.Object{aDomain("erp", "db"), aStore("s", ""), aSite("a"), aSite("b")}
		}
		diff := func(want []site.Object, prune bool) (c *file.Changes, l problem.List) {
			t.Helper()
			r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
				c, l, err = r.Diff(ctx, tx, want, prune, nil)
				return err
			})
			return c, l
		}
		apply := func(c *file.Changes) error {
			return r.try(func(ctx context.Context, tx *db.Tx) error {
				_, err := r.Apply(ctx, tx, c, "ann")
				return err
			})
		}
		c, l := diff(wanted(), false)
		if len(c.All) != 4 || l.Blocked() {
			t.Fatalf("%d changes, %v", len(c.All), l.All)
		}
		// Half of it cannot be: none of it is.
		bad := append(wanted(), aDomain("crm", "db"))
		cb, lb := diff(bad, false)
		if err := apply(cb); !errs.Is(err, errs.Invalid) || !lb.Blocked() {
			t.Errorf("%v %v", err, lb.All)
		}
		if f := r.feed(0); len(f.Changes) != 0 {
			t.Errorf("%v", f.Changes)
		}
		if err := apply(c); err != nil {
			t.Fatal(err)
		}
		// What was compared is not what is there any more.
		if err := apply(c); !errors.Is(err, ErrStale) {
			t.Errorf("applied twice: %v", err)
		}
		if again, _ := diff(wanted(), true); len(again.All) != 0 || again.Unchanged != 4 {
			t.Errorf("not idempotent: %+v", again)
		}
		// The domain leaves the store, which goes, in one.
		next := []site.Object{aDomain("erp", "db"), aStore("t", ""), aSite("a")}
		next[0].(*site.ProtectedDomain).Stores = []site.Name{"t"}
		c, _ = diff(next, true)
		if err := apply(c); err != nil {
			t.Fatal(err)
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			all, err := All(ctx, tx)
			if len(all) != 3 {
				t.Errorf("%d objects", len(all))
			}
			users, err2 := Referrers(ctx, tx, site.KindStore, "t", 10)
			if len(users) != 1 || users[0] != "domain erp" {
				t.Errorf("referrers %v", users)
			}
			return errors.Join(err, err2)
		})
	})
}

func TestDrafts(t *testing.T) {
	each(t, func(r *rig) {
		r.base()
		var d Draft
		// A draft may be wrong.
		r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
			d, err = NewDraft(ctx, tx, &site.ProtectedDomain{Meta: site.Meta{Name: "erp"}}, 0, "ann")
			return err
		})
		id := d.ID.String()
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			l, err := r.CheckDraft(ctx, tx, id)
			if len(l.All) < 3 {
				t.Errorf("an empty domain has %d problems: %v", len(l.All), l.All)
			}
			return err
		})
		commit := func(v site.Version) (err error) {
			return r.try(func(ctx context.Context, tx *db.Tx) error {
				_, _, err = r.CommitDraft(ctx, tx, id, v, "ann")
				return err
			})
		}
		if err := commit(1); !errs.Is(err, errs.Invalid) {
			t.Errorf("a wrong draft: %v", err)
		}
		save := func(v site.Version) error {
			return r.try(func(ctx context.Context, tx *db.Tx) (err error) {
				d, err = SaveDraft(ctx, tx, id, v, aDomain("erp", "db"), "bob")
				return err
			})
		}
		if err := errors.Join(save(1)); err != nil || d.Version != 2 {
			t.Fatalf("version %d, %v", d.Version, err)
		}
		if err := save(1); !errors.Is(err, ErrStale) {
			t.Errorf("a lost update of a draft: %v", err)
		}
		// Somebody makes one of this name meanwhile.
		r.mustPut(aDomain("erp", "other"))
		if err := commit(2); !errs.Is(err, errs.Exists) {
			t.Errorf("a draft of what is there: %v", err)
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := r.Delete(ctx, tx, site.KindDomain, "erp", site.Meta{}.ID, 0, "ann")
			return err
		})
		if err := commit(2); err != nil {
			t.Fatal(err)
		}
		if err := commit(2); !errs.Is(err, errs.NotFound) {
			t.Errorf("committed twice: %v", err)
		}
		// A draft of what was changed since loses.
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			s, err := Get(ctx, tx, site.KindDomain, "erp")
			if err != nil {
				return err
			}
			d, err = NewDraft(ctx, tx, s.Object, s.Object.Head().Version, "ann")
			id = d.ID.String()
			return err
		})
		now := aDomain("erp", "db", "web")
		now.Version = 1
		r.mustPut(now)
		if err := r.try(func(ctx context.Context, tx *db.Tx) error {
			l, err := r.CheckDraft(ctx, tx, id)
			if !l.Has(problem.Contrary) {
				t.Errorf("%v", l.All)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if err := commit(0); !errors.Is(err, ErrStale) {
			t.Errorf("a draft of an old version: %v", err)
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error { return DiscardDraft(ctx, tx, id, 0, "ann") })
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			if list, err := Drafts(ctx, tx); err != nil || len(list) != 0 {
				t.Errorf("%v %v", list, err)
			}
			return nil
		})
	})
}
