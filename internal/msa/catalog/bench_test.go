package catalog

import (
	"context"
	"fmt"
	"testing"
	"time"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

// BenchmarkLarge is a site with 200 domains and settings for 2,000 VMs: one change,
// and one page of a list.
func BenchmarkLarge(b *testing.B) {
	d, err := db.Open(b.Context(), dbtest.SQLite(b))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	c := &Catalog{}
	do := func(f func(ctx context.Context, tx *db.Tx) error) {
		b.Helper()
		if err := d.Tx(b.Context(), func(tx *db.Tx) error { return f(b.Context(), tx) }); err != nil {
			b.Fatal(err)
		}
	}
	objects := []site.Object{aSite("a"), aSite("b"), aStore("s", "")}
	for i := range 200 {
		var vms []site.Ref
		for v := range 10 {
			vm := site.Ref(fmt.Sprintf("vm-%04d", 10*i+v))
			vms = append(vms, vm)
			objects = append(objects, &site.RecoverySettings{Meta: site.Meta{Name: site.Name(vm)}, Site: "b", VM: vm, MemoryMiB: 4096})
		}
		objects = append(objects, aDomain(site.Name(fmt.Sprintf("d-%03d", i)), vms...))
	}
	begun := time.Now()
	do(func(ctx context.Context, tx *db.Tx) error {
		changes, _, err := c.Diff(ctx, tx, objects, false, nil)
		if err != nil {
			return err
		}
		_, err = c.Apply(ctx, tx, changes, "ann")
		return err
	})
	b.Logf("%d objects applied in %s", len(objects), time.Since(begun))
	b.Run("put", func(b *testing.B) {
		for i := range b.N {
			do(func(ctx context.Context, tx *db.Tx) error {
				s, err := Get(ctx, tx, site.KindDomain, "d-007")
				if err != nil {
					return err
				}
				s.Object.(*site.ProtectedDomain).Description = fmt.Sprint(b.N, i)
				_, _, err = c.Put(ctx, tx, s.Object, "ann")
				return err
			})
		}
	})
	b.Run("page", func(b *testing.B) {
		for range b.N {
			do(func(ctx context.Context, tx *db.Tx) error {
				_, _, err := List(ctx, tx, Query{Kind: site.KindSettings, After: "vm-1000", Limit: 100})
				return err
			})
		}
	})
}
