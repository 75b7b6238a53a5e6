package replica

import (
	"path/filepath"
	"slices"
	"testing"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/db"
)

// TestOwnAlarms: a changed audit log and a full disk are told, and when that is over.
func TestOwnAlarms(t *testing.T) {
	r, err := Open(t.Context(), Options{Data: filepath.Join(t.TempDir(), "msa"), Listen: "127.0.0.1:0", Site: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tx := func(f func(tx *db.Tx) error) {
		t.Helper()
		if err := r.DB.Tx(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, codes ...alarm.Code) {
		t.Helper()
		var got []alarm.Code
		tx(func(tx *db.Tx) error {
			page, _, err := alarm.List(t.Context(), tx, false, alarm.Cursor{}, 10)
			got = nil
			for _, a := range page {
				got = append(got, a.Code)
			}
			return err
		})
		if !slices.Equal(got, codes) {
			t.Errorf("%s: %v, want %v", when, got, codes)
		}
	}
	verify := func() {
		t.Helper()
		if err := r.verifyAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		tx(func(tx *db.Tx) error { return audit.Append(t.Context(), tx, audit.Entry{By: "x", Object: "o"}) })
	}
	verify()
	want("a whole log")
	change := func(by string) {
		tx(func(tx *db.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE audit SET done_by = $1 WHERE seq = 2`, by)
			return err
		})
	}
	change("y")
	verify()
	want("a changed one", alarm.AuditBroken)
	change("x")
	verify()
	want("it is put right")
	for _, full := range []bool{true, true, false} {
		if err := r.set(t.Context(), alarm.DatabaseSmall, full, "words"); err != nil {
			t.Fatal(err)
		}
		if full {
			want("a full disk", alarm.DatabaseSmall)
		}
	}
	want("there is room")
	if err := r.lookAtDisk(t.Context()); err != nil {
		t.Error(err)
	}
	for _, x := range []struct {
		free, size int64
		small      bool
	}{{2 << 30, 1 << 40, false}, {1<<30 - 1, 1 << 40, true}, {100 << 20, 1 << 30, false}, {10 << 20, 1 << 30, true}} {
		if small(x.free, x.size) != x.small {
			t.Errorf("%+v", x)
		}
	}
}
