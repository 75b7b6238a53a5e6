package audit

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

type rig struct {
	*db.DB
	t   *testing.T
	ctx context.Context
}

func each(t *testing.T, f func(*rig)) {
	dbtest.Each(t, func(t *testing.T, u string) {
		d, err := db.Open(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		f(&rig{d, t, t.Context()})
	})
}

func (r *rig) append(entries ...Entry) {
	r.t.Helper()
	for _, e := range entries {
		if err := r.Tx(r.ctx, func(tx *db.Tx) error { return Append(r.ctx, tx, e) }); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) sql(query string, args ...any) {
	r.t.Helper()
	if err := r.Tx(r.ctx, func(tx *db.Tx) error { _, err := tx.Exec(r.ctx, query, args...); return err }); err != nil {
		r.t.Fatal(err)
	}
}

func some(n int) (list []Entry) {
	for i := range n {
		list = append(list, Entry{By: fmt.Sprintf("user%d", i%3), Operation: "put-plan", Object: fmt.Sprintf("plan p%d", i), Outcome: Done, Remote: "192.0.2.1", Detail: "{}"})
	}
	return list
}

func TestLog(t *testing.T) {
	each(t, func(r *rig) {
		if h, err := Verify(r.ctx, r.DB); err != nil || h != (Head{}) {
			r.t.Errorf("an empty log: %v, %v", h, err)
		}
		r.append(some(7)...)
		r.append(Entry{By: "x", Operation: strings.Repeat("y", 9000), Detail: "a\x00b\xff", Outcome: Refused})
		h, err := Verify(r.ctx, r.DB)
		if err != nil || h.Seq != 8 || len(h.Hash) != 64 {
			r.t.Fatalf("%v, %v", h, err)
		}
		if err := r.View(r.ctx, func(tx *db.Tx) error {
			list, err := List(r.ctx, tx, Filter{}, 0, 3)
			if len(list) != 3 || list[0].Seq != 8 || list[0].Detail != "a\uFFFDb\uFFFD" || len(list[0].Operation) != maxField || list[0].At == 0 {
				r.t.Errorf("%+v", list)
			}
			if err != nil {
				return err
			}
			list, err = List(r.ctx, tx, Filter{By: "user1", Operation: "put-plan"}, 6, 10)
			if len(list) != 2 || list[0].Seq != 5 || list[1].Seq != 2 {
				r.t.Errorf("%+v", list)
			}
			return err
		}); err != nil {
			r.t.Error(err)
		}
		// A transaction that fails has logged nothing, and leaves no hole.
		if err := r.Tx(r.ctx, func(tx *db.Tx) error {
			if err := Append(r.ctx, tx, Entry{}); err != nil {
				return err
			}
			return context.Canceled
		}); err == nil {
			r.t.Error("no error")
		}
		r.append(some(1)...)
		if h, err := Verify(r.ctx, r.DB, h); err != nil || h.Seq != 9 {
			r.t.Errorf("%v, %v", h, err)
		}
	})
}

func TestAppendAtOnce(t *testing.T) {
	each(t, func(r *rig) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 8 {
					if err := r.Tx(r.ctx, func(tx *db.Tx) error { return Append(r.ctx, tx, Entry{By: fmt.Sprint(i)}) }); err != nil {
						r.t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if h, err := Verify(r.ctx, r.DB); err != nil || h.Seq != 64 {
			r.t.Errorf("%v, %v", h, err)
		}
	})
}

// TestTamperingIsFound changes each column of each row, removes, inserts, swaps and
// cuts, and expects the place to be told.
func TestTamperingIsFound(t *testing.T) {
	each(t, func(r *rig) {
		const rows = 5
		r.append(some(rows)...)
		head, err := Verify(r.ctx, r.DB)
		if err != nil {
			r.t.Fatal(err)
		}
		r.sql(`CREATE TABLE kept AS SELECT * FROM audit`)
		restore := func() {
			r.sql(`DELETE FROM audit`)
			r.sql(`INSERT INTO audit SELECT * FROM kept`)
			r.sql(`UPDATE audit_head SET seq = $1, hash = $2`, head.Seq, head.Hash)
			if _, err := Verify(r.ctx, r.DB); err != nil {
				r.t.Fatal(err)
			}
		}
		found := func(what string, place int, kept ...Head) {
			r.t.Helper()
			_, err := Verify(r.ctx, r.DB, kept...)
			if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), fmt.Sprintf("entry %d:", place)) {
				r.t.Errorf("%s at %d: %v", what, place, err)
			}
			if _, err := Export(r.ctx, r.DB, &bytes.Buffer{}); err == nil && kept == nil {
				r.t.Errorf("%s at %d is exported", what, place)
			}
			restore()
		}
		for i := 1; i <= rows; i++ {
			for _, column := range []string{"done_by", "operation", "object", "outcome", "remote", "detail", "hash"} {
				r.sql(`UPDATE audit SET `+column+` = `+column+` || 'x' WHERE seq = $1`, i)
				found(column, i)
			}
			r.sql(`UPDATE audit SET at = at + 1 WHERE seq = $1`, i)
			found("at", i)
			// Text moved from one field to its neighbour.
			r.sql(`UPDATE audit SET done_by = done_by || operation, operation = '' WHERE seq = $1`, i)
			found("fields", i)
			r.sql(`DELETE FROM audit WHERE seq = $1`, i)
			found("removed", i)
			r.sql(`DELETE FROM audit WHERE seq >= $1`, i)
			found("cut", i)
			if i < rows {
				r.sql(`UPDATE audit SET seq = seq + 100 WHERE seq = $1`, i)
				r.sql(`UPDATE audit SET seq = seq - 1 WHERE seq = $1`, i+1)
				r.sql(`UPDATE audit SET seq = $1 WHERE seq = $2`, i+1, i+100)
				found("swapped", i)
			}
			r.sql(`INSERT INTO audit SELECT seq + 50, at, done_by, operation, object, outcome, remote, detail, hash FROM audit WHERE seq = $1`, i)
			r.sql(`UPDATE audit_head SET seq = $1`, i+50)
			found("inserted", rows+1)
		}
		// Who can write everything makes a chain that fits by itself; a head that was
		// kept elsewhere shows it.
		forge := func(from int) {
			r.sql(`DELETE FROM audit WHERE seq >= $1`, from)
			r.sql(`UPDATE audit_head SET seq = $1, hash = $2`, from-1, "")
			if from > 1 {
				r.sql(`UPDATE audit_head SET hash = (SELECT hash FROM audit WHERE seq = $1)`, from-1)
			}
		}
		forge(3)
		if _, err := Verify(r.ctx, r.DB); err != nil {
			r.t.Errorf("the forged log does not even fit: %v", err)
		}
		found("forged and cut", 3, head)
		forge(3)
		r.append(some(rows)...)
		found("forged", rows, head)
	})
}

func TestExport(t *testing.T) {
	each(t, func(r *rig) {
		r.append(some(5)...)
		var b bytes.Buffer
		head, err := Export(r.ctx, r.DB, &b)
		if err != nil {
			r.t.Fatal(err)
		}
		text := b.String()
		if got, err := VerifyExport(strings.NewReader(text), head); err != nil || got != head {
			r.t.Errorf("%v, %v", got, err)
		}
		// What cannot be written is told, also at the very end.
		if _, err := Export(r.ctx, r.DB, &full{20}); err == nil {
			r.t.Error("no room: no error")
		}
		if _, err := Export(r.ctx, r.DB, &full{len(text) - 1}); err == nil {
			r.t.Error("one byte too few: no error")
		}
		lines := strings.SplitAfter(text, "\n")
		for i := range 6 {
			// Without each of its lines, the head's too.
			if _, err := VerifyExport(strings.NewReader(strings.Join(lines[:i], "") + strings.Join(lines[i+1:], ""))); !errs.Is(err, errs.Corrupt) {
				r.t.Errorf("without line %d: %v", i+1, err)
			}
		}
		for what, bad := range map[string]string{
			"changed": strings.Replace(text, "plan p2", "plan p9", 1), "behind the head": text + text, "no JSON": "x\n" + text, "empty": "",
		} {
			if _, err := VerifyExport(strings.NewReader(bad)); !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Invalid) {
				r.t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// full has room for some bytes.
type full struct{ room int }

func (f *full) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, fs.ErrInvalid
	}
	return len(b), nil
}

func FuzzVerifyExport(f *testing.F) {
	f.Add([]byte(`{"seq":1,"at":1,"by":"a","operation":"b","object":"","outcome":"done","remote":"","hash":"00"}` + "\n" + `{"head":{"seq":1,"hash":"00"}}` + "\n"))
	f.Add([]byte(`{"head":{"seq":0,"hash":""}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := VerifyExport(bytes.NewReader(b))
		if err == nil && h.Seq != 0 && len(h.Hash) != 64 {
			t.Errorf("%q verifies as %v", b, h)
		}
	})
}

// TestAppendOnly: no statement of the product changes or deletes a row of audit.
func TestAppendOnly(t *testing.T) {
	forbidden := regexp.MustCompile(`(?i)(update|delete\s+from|drop\s+table|truncate)\s+audit\b`)
	if !forbidden.MatchString("DELETE FROM audit WHERE") || !forbidden.MatchString("UPDATE audit SET") || forbidden.MatchString("UPDATE audit_head SET") {
		t.Fatal("the rule does not catch what it is for")
	}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") || !strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, ".sql") {
			return err
		}
		b, err := os.ReadFile(path)
		if m := forbidden.Find(b); m != nil {
			t.Errorf("%s: %s", path, m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
