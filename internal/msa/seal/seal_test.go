package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

const secret = "s3cr3t-of-the-store-0123456789"

type rig struct {
	*Box
	t    *testing.T
	ctx  context.Context
	db   *db.DB
	url  string
	path string
}

func each(t *testing.T, f func(*rig)) {
	dbtest.Each(t, func(t *testing.T, u string) {
		d, err := db.Open(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		r := &rig{t: t, ctx: t.Context(), db: d, url: u, path: filepath.Join(t.TempDir(), "seal.key")}
		if err := Create(durable.OS{}, r.path, nil); err != nil {
			t.Fatal(err)
		}
		r.Box = r.open()
		f(r)
	})
}

func (r *rig) open() *Box {
	r.t.Helper()
	b, err := Open(r.ctx, r.db, durable.OS{}, r.path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) tx(f func(*db.Tx) error) error { return r.db.Tx(r.ctx, f) }

func (r *rig) put(b *Box, name, text string) {
	r.t.Helper()
	if err := r.tx(func(tx *db.Tx) error { return b.Put(r.ctx, tx, name, []byte(text), "root") }); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) get(b *Box, name string) (text string, err error) {
	err = r.tx(func(tx *db.Tx) error {
		return b.Use(r.ctx, tx, name, func(s []byte) error { text = string(s); return nil })
	})
	return text, err
}

func (r *rig) want(b *Box, name, text string) {
	r.t.Helper()
	if got, err := r.get(b, name); got != text || err != nil {
		r.t.Errorf("%s: %q, %v", name, got, err)
	}
}

func TestSecrets(t *testing.T) {
	each(t, func(r *rig) {
		r.put(r.Box, "store/lab", secret)
		r.want(r.Box, "store/lab", secret)
		r.want(r.open(), "store/lab", secret) // after a restart
		r.put(r.Box, "store/lab", "another")
		r.want(r.Box, "store/lab", "another")
		if err := r.tx(func(tx *db.Tx) error {
			list, err := List(r.ctx, tx, "", 10)
			if len(list) != 1 || list[0].Name != "store/lab" || list[0].Version != 2 || list[0].ChangedBy != "root" || strings.Contains(fmt.Sprint(list), "another") {
				r.t.Errorf("%+v", list)
			}
			return err
		}); err != nil {
			r.t.Error(err)
		}
		// What is used is gone from memory afterwards.
		var kept []byte
		if err := r.tx(func(tx *db.Tx) error {
			return r.Use(r.ctx, tx, "store/lab", func(s []byte) error { kept = s; return nil })
		}); err != nil || !bytes.Equal(kept, make([]byte, len("another"))) {
			r.t.Errorf("kept %q, %v", kept, err)
		}
		if err := r.tx(func(tx *db.Tx) error { return Delete(r.ctx, tx, "store/lab") }); err != nil {
			r.t.Error(err)
		}
		for name, err := range map[string]error{
			"used":    func() error { _, err := r.get(r.Box, "store/lab"); return err }(),
			"deleted": r.tx(func(tx *db.Tx) error { return Delete(r.ctx, tx, "store/lab") }),
			"marker":  r.tx(func(tx *db.Tx) error { return Delete(r.ctx, tx, "") }),
		} {
			if !errs.Is(err, errs.NotFound) {
				r.t.Errorf("%s: %v", name, err)
			}
		}
		for _, name := range []string{"", "/a", "a/", "a//b", "A", "a b", "a\x00", strings.Repeat("a", 300)} {
			if err := r.tx(func(tx *db.Tx) error { return r.Put(r.ctx, tx, name, []byte("x"), "") }); !errs.Is(err, errs.Invalid) {
				r.t.Errorf("%q: %v", name, err)
			}
		}
		for _, s := range [][]byte{nil, make([]byte, MaxSecret+1)} {
			if err := r.tx(func(tx *db.Tx) error { return r.Put(r.ctx, tx, "a", s, "") }); !errs.Is(err, errs.Invalid) {
				r.t.Errorf("%d bytes: %v", len(s), err)
			}
		}
	})
}

// TestSecretIsNowhere: neither the database's files nor errors tell a secret or a key.
func TestSecretIsNowhere(t *testing.T) {
	u := dbtest.SQLite(t)
	d, err := db.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := Create(durable.OS{}, path, nil); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, ctx: t.Context(), db: d, path: path}
	b := r.open()
	r.put(b, "store/lab", secret)
	if err := b.Rotate(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	key := b.newest().Key
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", st.Mode(), err)
	}
	look := func(what string) {
		t.Helper()
		files, _ := filepath.Glob(strings.TrimPrefix(u, "sqlite://") + "*")
		if len(files) == 0 {
			t.Fatal("no files")
		}
		for _, f := range files {
			content, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range map[string][]byte{"secret": []byte(secret), "key": key} {
				if bytes.Contains(content, s) {
					t.Errorf("%s: %s holds the %s", what, filepath.Base(f), name)
				}
			}
			if what == "control" && bytes.Contains(content, []byte("store/lab")) {
				return
			}
		}
		if what == "control" {
			t.Error("the test looks at the wrong bytes: not even the name is there")
		}
	}
	look("open")
	look("control")
	d.Close()
	look("closed")
}

func TestTamperedRows(t *testing.T) {
	each(t, func(r *rig) {
		r.put(r.Box, "a", secret)
		r.put(r.Box, "b", "of b")
		sql := func(q string, args ...any) {
			r.t.Helper()
			if err := r.tx(func(tx *db.Tx) error { _, err := tx.Exec(r.ctx, q, args...); return err }); err != nil {
				r.t.Fatal(err)
			}
		}
		sql(`UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'a') WHERE name = 'b'`)
		if _, err := r.get(r.Box, "b"); !errs.Is(err, errs.Corrupt) {
			r.t.Errorf("a's secret under b's name: %v", err)
		}
		for _, text := range []string{"", "AAAA", "not base64 at all", strings.Repeat("A", 200)} {
			sql(`UPDATE secrets SET sealed = $1 WHERE name = 'b'`, text)
			if _, err := r.get(r.Box, "b"); !errs.Is(err, errs.Corrupt) || strings.Contains(err.Error(), "of b") {
				r.t.Errorf("%q: %v", text, err)
			}
		}
		sql(`UPDATE secrets SET key_id = '0011223344556677' WHERE name = 'a'`)
		if _, err := r.get(r.Box, "a"); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
			r.t.Errorf("a key that there is not: %v", err)
		}
	})
}

func TestFileIsTheDatabases(t *testing.T) {
	each(t, func(r *rig) {
		other := filepath.Join(t.TempDir(), "other.key")
		if err := Create(durable.OS{}, other, nil); err != nil {
			r.t.Fatal(err)
		}
		if err := Create(durable.OS{}, other, nil); !errs.Is(err, errs.Exists) {
			r.t.Errorf("a second file in its place: %v", err)
		}
		if _, err := Open(r.ctx, r.db, durable.OS{}, other, nil); !errs.Is(err, errs.Denied) {
			r.t.Errorf("another database's file: %v", err)
		}
		if _, err := Open(r.ctx, r.db, durable.OS{}, other+"2", nil); !errs.Is(err, errs.NotFound) || errs.RemedyOf(err) == "" {
			r.t.Errorf("no file: %v", err)
		}
		if err := os.Chmod(r.path, 0o640); err != nil {
			r.t.Fatal(err)
		}
		if _, err := Open(r.ctx, r.db, durable.OS{}, r.path, nil); !errs.Is(err, errs.Denied) {
			r.t.Errorf("a file others may read: %v", err)
		}
	})
}

// TestRotation: all secrets open afterwards, the old key is gone, and a replica that
// has the old file in memory finds its way.
func TestRotation(t *testing.T) {
	each(t, func(r *rig) {
		for i := range batch + 10 { // more than one transaction's
			r.put(r.Box, fmt.Sprintf("s/%d", i), fmt.Sprintf("%s %d", secret, i))
		}
		replica := r.open()
		old := r.newest()
		if err := r.Rotate(r.ctx, r.db); err != nil {
			r.t.Fatal(err)
		}
		for i := range batch + 10 {
			r.want(replica, fmt.Sprintf("s/%d", i), fmt.Sprintf("%s %d", secret, i))
		}
		if b, err := os.ReadFile(r.path); err != nil || bytes.Contains(b, []byte(old.ID)) {
			r.t.Errorf("the old key is still in the file: %v", err)
		}
		// A replica that had not looked yet puts under the new key.
		if err := r.Rotate(r.ctx, r.db); err != nil {
			r.t.Fatal(err)
		}
		r.put(replica, "late", "x")
		r.want(r.open(), "late", "x")
	})
}

// TestPutDuringRotation: no secret is ever left under a key that was taken out.
func TestPutDuringRotation(t *testing.T) {
	each(t, func(r *rig) {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		written := make([]int, 3)
		for w := range written {
			replica := r.open()
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					err := r.tx(func(tx *db.Tx) error {
						return replica.Put(r.ctx, tx, fmt.Sprintf("w%d/%d", w, i), []byte(fmt.Sprint(i)), "")
					})
					if err != nil {
						r.t.Error(err)
						return
					}
					written[w] = i + 1
				}
			})
		}
		for range 3 {
			if err := r.Rotate(r.ctx, r.db); err != nil {
				r.t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
		b := r.open()
		for w, n := range written {
			for i := range n {
				r.want(b, fmt.Sprintf("w%d/%d", w, i), fmt.Sprint(i))
			}
		}
		if len(b.keys) != 1 {
			r.t.Errorf("%d keys in the file", len(b.keys))
		}
	})
}

var errCrash = errors.New("the test's crash")

// TestRotationCrashes: whatever a crash at any step of a rotation leaves of the file,
// every secret opens, and the next rotation ends.
func TestRotationCrashes(t *testing.T) {
	u := dbtest.SQLite(t)
	d, err := db.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := &rig{t: t, ctx: t.Context(), db: d}
	fs := durabletest.New(durabletest.Config{})
	if err := durable.MkdirAll(fs, "/k"); err != nil {
		t.Fatal(err)
	}
	if err := Create(fs, "/k/seal.key", nil); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), d, fs, "/k/seal.key", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.put(b, "a", secret)
	crashes := 0
	for step := int64(1); ; step++ {
		for _, at := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			from := fs.Ops()
			fs.CrashAt(from+step, at)
			b, err := Open(t.Context(), d, fs, "/k/seal.key", nil)
			if err == nil {
				err = b.Rotate(t.Context(), d)
			}
			if err == nil && fs.Ops() < from+step {
				t.Logf("%d crashes", crashes)
				if crashes < 10 {
					t.Error("the test has hardly crashed anything")
				}
				return
			}
			crashes++
			fs = fs.Image(uint64(step), durabletest.PowerLoss)
			if b, err = Open(t.Context(), d, fs, "/k/seal.key", nil); err != nil {
				t.Fatalf("step %d phase %d: %v", step, at, err)
			}
			r.want(b, "a", secret)
			if len(b.keys) > maxKeys-2 { // crashes leave keys; one that ends takes them out
				if err := b.Rotate(t.Context(), d); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestRotationStops: between any two steps, as far as the database sees it.
func TestRotationStops(t *testing.T) {
	each(t, func(r *rig) {
		r.put(r.Box, "a", secret)
		for _, at := range []string{"row", "rows", "file"} {
			err := r.rotate(r.ctx, r.db, func(step string) error {
				if step == at {
					return errCrash
				}
				return nil
			})
			if !errors.Is(err, errCrash) {
				r.t.Fatal(err)
			}
			b := r.open()
			r.want(b, "a", secret)
			r.put(b, "b", "at "+at)
		}
		if err := r.open().Rotate(r.ctx, r.db); err != nil {
			r.t.Fatal(err)
		}
		b := r.open()
		r.want(b, "a", secret)
		r.want(b, "b", "at file")
		if len(b.keys) != 1 {
			r.t.Errorf("%d keys", len(b.keys))
		}
	})
}

func TestPassphrase(t *testing.T) {
	d, err := db.Open(t.Context(), dbtest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	path := filepath.Join(t.TempDir(), "seal.key")
	cheap := kdf{Memory: 64, Passes: 1, Threads: 1}
	words := []byte("six words at random are enough")
	if err := create(durable.OS{}, path, []byte("short"), cheap); !errs.Is(err, errs.Invalid) {
		t.Errorf("a short one: %v", err)
	}
	if err := create(durable.OS{}, path, words, cheap); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), d, durable.OS{}, path, nil); !errs.Is(err, errs.Denied) {
		t.Errorf("none: %v", err)
	}
	if _, err := Open(t.Context(), d, durable.OS{}, path, append(words, 'x')); !errs.Is(err, errs.Denied) {
		t.Errorf("a wrong one: %v", err)
	}
	b, err := Open(t.Context(), d, durable.OS{}, path, words)
	if err != nil {
		t.Fatal(err)
	}
	b.cost = cheap
	r := &rig{t: t, ctx: t.Context(), db: d}
	r.put(b, "a", secret)
	if err := b.Rotate(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(t.Context(), d, durable.OS{}, path, words); err != nil {
		t.Fatal(err)
	}
	r.want(b, "a", secret)
	if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte(`"keys"`)) {
		t.Errorf("the keys lie open after a rotation: %v", err)
	}
}

func FuzzFile(f *testing.F) {
	text, err := encodeFile([]key{newKey(), newKey()}, nil, kdf{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, []byte(nil))
	text, err = encodeFile([]key{newKey()}, []byte("x"), kdf{Memory: 8, Passes: 1, Threads: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, []byte("x"))
	f.Fuzz(func(t *testing.T, b, passphrase []byte) {
		if bytes.Contains(b, []byte(`"kdf"`)) && len(passphrase) > 0 && !bytes.Contains(b, []byte(`"memory": 8,`)) {
			return // the cost is bounded, and not below a fuzzer's patience
		}
		keys, err := decodeFile("x", b, passphrase)
		if err == nil && (len(keys) == 0 || !keys[0].valid()) {
			t.Errorf("%q gives %d keys", b, len(keys))
		}
	})
}
