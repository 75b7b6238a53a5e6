package db

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func mustOpen(t *testing.T, u string, ms []migration) *DB {
	t.Helper()
	db, err := open(t.Context(), u, ms)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

var counters = migration{1, "counters", split("CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY,\n value BIGINT NOT NULL);\nCREATE TABLE parts (\n name TEXT NOT NULL REFERENCES counters (name) ON DELETE CASCADE);\n")}

func TestEmbeddedMigrations(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		for range 2 { // the second finds them applied
			db, err := Open(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
		}
	})
}

// TestReplicasStartAtOnce: of many that open an empty database each finds the
// whole schema, and each migration ran once.
func TestReplicasStartAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		ms := []migration{counters, {2, "first", []string{"INSERT INTO counters (name, value) VALUES ('a', 1)"}}}
		var wg sync.WaitGroup
		errors := make(chan error, 12)
		for range cap(errors) {
			wg.Go(func() {
				db, err := open(t.Context(), u, ms)
				if err == nil {
					db.Close()
				}
				errors <- err
			})
		}
		wg.Wait()
		for range cap(errors) {
			if err := <-errors; err != nil {
				t.Error(err)
			}
		}
		var n int
		db := mustOpen(t, u, ms)
		if err := db.View(t.Context(), func(tx *Tx) error {
			_, err := tx.Row(t.Context(), "SELECT count(*) FROM schema_version", nil, &n)
			return err
		}); err != nil || n != 2 {
			t.Errorf("%d migrations noted, %v", n, err)
		}
	})
}

func TestSchemaIsRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		two := []migration{counters, {2, "more", []string{"CREATE TABLE more (a BIGINT NOT NULL)"}}}
		mustOpen(t, u, two)
		_, err := open(t.Context(), u, two[:1])
		if !errs.Is(err, errs.Conflict) || !strings.Contains(errs.RemedyOf(err), "newer") {
			t.Errorf("a newer schema: %v, remedy %q", err, errs.RemedyOf(err))
		}
		if _, err := open(t.Context(), u, []migration{counters, {2, "other", nil}}); !errs.Is(err, errs.Conflict) {
			t.Errorf("another schema: %v", err)
		}
		// A migration that fails leaves nothing of itself, nor of those before it.
		bad := append(two[:2:2], migration{3, "fine", []string{"CREATE TABLE fine (a BIGINT NOT NULL)"}}, migration{4, "bad", []string{"CREATE TABLE fine (a BIGINT NOT NULL)"}})
		if _, err := open(t.Context(), u, bad); err == nil || !strings.Contains(err.Error(), "0004_bad") {
			t.Errorf("a migration that fails: %v", err)
		}
		mustOpen(t, u, bad[:3])
	})
}

func TestForeignTablesAreNotTouched(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		db := mustOpen(t, u, []migration{{1, "x", []string{"CREATE TABLE history (a BIGINT NOT NULL)", "INSERT INTO history (a) VALUES (1)"}}})
		if _, err := db.write.Exec("DROP TABLE schema_version"); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t.Context(), u, []migration{counters}); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
			t.Errorf("a database of somebody else: %v", err)
		}
		var n int
		if err := db.read.QueryRow("SELECT count(*) FROM history").Scan(&n); err != nil || n != 1 {
			t.Errorf("their table: %d rows, %v", n, err)
		}
	})
}

func TestConcurrentTransactions(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		a, b := mustOpen(t, u, []migration{counters}), mustOpen(t, u, []migration{counters})
		ctx := t.Context()
		if err := a.Tx(ctx, func(tx *Tx) error {
			for _, name := range []string{"a", "b"} {
				if _, err := tx.Exec(ctx, "INSERT INTO counters (name, value) VALUES ($1, 0)", name); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		const workers, rounds = 8, 8
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				db, names := a, []string{"a", "b"}
				if w%2 == 1 {
					db = b // the other replica
				}
				for round := range rounds {
					if w == 1 && round == 0 {
						names = []string{"b", "a"} // PostgreSQL finds a deadlock after a second
					} else {
						names = []string{"a", "b"}
					}
					if err := db.Tx(ctx, func(tx *Tx) error {
						for _, name := range names {
							if _, err := tx.Exec(ctx, "UPDATE counters SET value = value + $2 WHERE name = $1", name, 1); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var sum int64
		if err := a.View(ctx, func(tx *Tx) error {
			_, err := tx.Row(ctx, "SELECT CAST(sum(value) AS BIGINT) FROM counters", nil, &sum)
			return err
		}); err != nil || sum != 2*workers*rounds {
			t.Errorf("sum %d, want %d: %v", sum, 2*workers*rounds, err)
		}
	})
}

func TestKinds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		db := mustOpen(t, u, []migration{counters})
		ctx := t.Context()
		try := func(q string, args ...any) error {
			return db.Tx(ctx, func(tx *Tx) error { _, err := tx.Exec(ctx, q, args...); return err })
		}
		const insert = "INSERT INTO counters (name, value) VALUES ($1, 0)"
		if err := try(insert, "x"); err != nil {
			t.Fatal(err)
		}
		if err := try(insert, "x"); !errs.Is(err, errs.Exists) {
			t.Errorf("twice: %v", err)
		}
		if err := try("INSERT INTO parts (name) VALUES ($1)", "nobody"); !errs.Is(err, errs.Conflict) {
			t.Errorf("foreign key: %v", err)
		}
		if err := db.View(ctx, func(tx *Tx) error { _, err := tx.Exec(ctx, insert, "y"); return err }); err == nil {
			t.Error("a view wrote")
		}
		calls := 0
		mine := errs.New("x", errs.Transient, "", "a caller's own")
		if err := db.Tx(ctx, func(*Tx) error { calls++; return mine }); !errors.Is(err, mine) || calls != 1 {
			t.Errorf("a caller's own error: %v after %d calls", err, calls)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := db.Tx(gone, func(*Tx) error { return nil }); !errs.Is(err, errs.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Tx(ctx, func(*Tx) error { panic("x") })
		}()
		if err := try(insert, "z"); err != nil {
			t.Errorf("after a panic: %v", err)
		}
	})
}

// TestNow: the database's time is UTC whatever zone server, session and process
// have (the test's server has Tokyo's), and is near ours: they share a machine.
func TestNow(t *testing.T) {
	local := time.Local
	t.Cleanup(func() { time.Local = local })
	time.Local = time.FixedZone("far", 9*3600)
	dbtest.Each(t, func(t *testing.T, u string) {
		db := mustOpen(t, u, []migration{counters})
		before := time.Now().UnixMilli()
		var now int64
		if err := db.Tx(t.Context(), func(tx *Tx) error { now = tx.Now(); return nil }); err != nil {
			t.Fatal(err)
		}
		if after := time.Now().UnixMilli(); now < before-1 || now > after+1 {
			t.Errorf("now %d, not in %d…%d", now, before, after)
		}
		if got := Time(now); got.Location() != time.UTC || got.UnixMilli() != now {
			t.Errorf("Time(%d) = %v", now, got)
		}
	})
}

func TestSQLiteFile(t *testing.T) {
	u := dbtest.SQLite(t)
	path := strings.TrimPrefix(u, "sqlite://")
	db := mustOpen(t, u, []migration{counters})
	for _, f := range []string{path, path + "-wal", path + "-shm"} {
		fi, err := os.Stat(f)
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", filepath.Base(f), fi, err)
		}
	}
	db.Close()
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context(), u, nil); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
		t.Errorf("a file others may read: %v", err)
	}
	odd := (&url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "a ?b%20#c", "msa.db")}).String()
	mustOpen(t, odd, []migration{counters})
}

// TestSettingsOnEveryConnection: what keeps data is set on each connection of a
// pool, not on the first alone.
func TestSettingsOnEveryConnection(t *testing.T) {
	db := mustOpen(t, dbtest.SQLite(t), []migration{counters})
	for range maxReaders {
		c, err := db.read.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for name, want := range map[string]int{"foreign_keys": 1, "synchronous": 2, "query_only": 1, "busy_timeout": int(busyFor.Milliseconds())} {
			var got int
			if err := c.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %d, not %d: %v", name, got, want, err)
			}
		}
	}
}

func TestPostgresRestart(t *testing.T) {
	db := mustOpen(t, dbtest.Postgres(t), []migration{counters})
	ctx := t.Context()
	nothing := func(tx *Tx) error { _, err := tx.Exec(ctx, "UPDATE counters SET value = 0"); return err }
	for _, how := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		if err := db.Tx(ctx, nothing); err != nil {
			t.Fatal(err)
		}
		dbtest.Restart(t, how, func() {
			if err := db.Tx(ctx, nothing); !errs.Is(err, errs.Unavailable) {
				t.Errorf("%v: server away: %v", how, err)
			}
		})
		// A pooled connection may still be one of the old server's: each such is
		// found out once.
		var err error
		for range maxWriters + 1 {
			if err = db.Tx(ctx, nothing); err == nil {
				break
			}
		}
		if err != nil {
			t.Errorf("%v: server back: %v", how, err)
		}
	}
}

func TestURLs(t *testing.T) {
	for u, want := range map[string]target{
		"sqlite:///a/b.db": {name: "/a/b.db", path: "/a/b.db"},
		"sqlite:/a/b.db":   {name: "/a/b.db", path: "/a/b.db"},
		"postgres://u:secret@h/d?schema=x_1&sslmode=require": {name: "postgres://u:xxxxx@h/d?sslmode=require schema x_1", schema: "x_1", dsn: "postgres://u:secret@h/d?sslmode=require"},
		"postgresql://h/d": {name: "postgresql://h/d schema holdfast", schema: "holdfast", dsn: "postgresql://h/d"},
	} {
		if got, err := parse(u); err != nil || got != want {
			t.Errorf("%s: %+v, %v", u, got, err)
		}
	}
	for _, u := range []string{
		"", "mysql://h/d", "sqlite://host/a.db", "sqlite:///a.db?_pragma=synchronous(0)", "sqlite:///dir/",
		"postgres://u:s3cret@h/d?schema=public", "postgres://u:s3cret@h/d?schema=pg_x", "postgres://u:s3cret@h/d?schema=a%22b",
		"postgres://u:s3cret@h:port/d", "postgres://u:s3cret@h/d?sslmode=perhaps",
	} {
		_, err := open(t.Context(), u, nil)
		if !errs.Is(err, errs.Invalid) || strings.Contains(fmt.Sprint(err, errs.RemedyOf(err)), "s3cret") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("sqlite:///a/b.db")
	f.Add("postgres://u:p@h/d?schema=x")
	f.Fuzz(func(t *testing.T, u string) {
		got, err := parse(u)
		if err == nil && (got.path == "") == (got.schema == "") {
			t.Errorf("%q is both or neither: %+v", u, got)
		}
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"abc": "abc", "a\x00b": "a\uFFFDb", "a\xff": "a\uFFFD", "ééé": "éé"} {
		if got := Text(in, 5); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSplit(t *testing.T) {
	got := split("-- a; b\nCREATE TABLE a (\n\tb TEXT); \nINSERT INTO a VALUES (';');\nlast")
	if len(got) != 3 || !strings.Contains(got[0], "b TEXT)") || strings.Contains(strings.Join(got, ""), "--") || got[2] != "last" {
		t.Errorf("%q", got)
	}
}
