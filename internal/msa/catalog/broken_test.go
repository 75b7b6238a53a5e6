package catalog

import (
	"context"
	"sync"
	"testing"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/site"
)

// TestWithoutTurns: changes that do not take turns put a VM into two domains, which
// is what TestTwoDomainsClaimOneVM looks for. On SQLite there is one writer anyway.
func TestWithoutTurns(t *testing.T) {
	d, err := db.Open(t.Context(), dbtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	r := &rig{t, &Catalog{}, d}
	r.base()
	// Both have found nothing wrong before either has stored anything.
	var both sync.WaitGroup
	both.Add(2)
	r.Guards = []Guard{func(context.Context, *db.Tx, site.Object, site.Object) error {
		both.Done()
		both.Wait()
		return nil
	}}
	var wg sync.WaitGroup
	for _, n := range []site.Name{"erp", "crm"} {
		wg.Go(func() {
			o := aDomain(n, "db")
			if err := r.try(func(ctx context.Context, tx *db.Tx) error {
				_, err := r.apply(ctx, tx, []file.ObjectChange{{Action: file.Create, Kind: o.Kind(), Name: n, Object: o}}, "ann")
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		all, err := All(ctx, tx, site.KindDomain)
		if len(all) != 2 {
			t.Errorf("%d domains have the VM: turns are not what keeps it from two", len(all))
		}
		return err
	})
}

// TestNumbersOfTheirOwn: numbers that are given out before a line's transaction
// leave holes that are filled later, which is what TestFeedHasNoHoles looks for.
func TestNumbersOfTheirOwn(t *testing.T) {
	each(t, func(r *rig) {
		number := func() (n int64) {
			r.tx(func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Row(ctx, `UPDATE sequences SET value = value + 1 WHERE name = 'changes' RETURNING value`, nil, &n)
				return err
			})
			return n
		}
		line := func(n int64) {
			r.tx(func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO changes (seq, at, kind, name, folder, action, made_by) VALUES ($1, $2, 'x', 'x', '', 'x', '')`, n, tx.Now())
				return err
			})
		}
		first, second := number(), number()
		line(second)
		f := r.feed(0)
		if len(f.Changes) != 1 || f.Changes[0].Seq == 1 {
			t.Fatalf("no hole: %+v", f)
		}
		line(first)
		if late := r.feed(f.Changes[0].Seq); len(late.Changes) != 0 {
			t.Errorf("who goes on saw what came late: %+v", late)
		}
	})
}
