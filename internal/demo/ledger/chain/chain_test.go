package chain

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/errs"
)

func open(t *testing.T, path string) (*Ledger, Result) {
	t.Helper()
	l, res, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, res
}

// written returns the path of a closed ledger of n rows.
func written(t *testing.T, n uint64, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, _ := open(t, path)
	for i := range n {
		if err := l.Put(t.Context(), i+1, i, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHash computes two rows' hashes by hand, from the words of the package
// comment alone: writer and checker share code, so that code has a witness.
func TestHash(t *testing.T) {
	path := written(t, 2, 3)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	prev := make([]byte, 32)
	for n := uint64(1); n <= 2; n++ {
		var data, stored []byte
		row := db.QueryRow(`SELECT data, hash FROM payload JOIN entry USING (n) WHERE n = ?`, int64(n))
		if err := row.Scan(&data, &stored); err != nil {
			t.Fatal(err)
		}
		if len(data) != 3 {
			t.Fatalf("row %d has %d bytes of payload, want 3", n, len(data))
		}
		h := sha256.New()
		h.Write(prev)
		for _, v := range []uint64{n, n - 1, 1, 3} { // n, cause, oldest, size
			binary.Write(h, binary.BigEndian, v)
		}
		payload := sha256.Sum256(data)
		h.Write(payload[:])
		if prev = h.Sum(nil); string(prev) != string(stored) {
			t.Errorf("row %d: stored hash %x, want %x", n, stored, prev)
		}
	}
}

func TestReopen(t *testing.T) {
	path := written(t, 5, 100)
	l, res := open(t, path)
	if res.Max != 5 || res.Bad != 0 || res.Cause != 4 {
		t.Fatalf("reopened: %+v, want max 5, cause 4, nothing bad", res)
	}
	if err := l.Put(t.Context(), 6, 9, 0); err != nil {
		t.Fatal(err)
	}
	if l.Max() != 6 || l.Cause() != 9 {
		t.Errorf("after row 6: max %d cause %d, want 6 and 9", l.Max(), l.Cause())
	}
}

func TestPutRefuses(t *testing.T) {
	l, _ := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	for name, c := range map[string]struct {
		n    uint64
		size int
	}{
		"row 0": {0, 1}, "gap": {2, 1}, "too large": {1, MaxPayload + 1}, "negative": {1, -1},
	} {
		if err := l.Put(t.Context(), c.n, 0, c.size); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want kind invalid", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Put(ctx, 1, 0, 1); err == nil {
		t.Error("Put with an ended context succeeded")
	}
	if err := l.Put(t.Context(), 1, 0, 1); !errs.Is(err, errs.Corrupt) {
		t.Errorf("Put after one in doubt: %v, want kind corrupt", err)
	}
}

// TestWindow writes several windows and expects one to be kept, by a file that
// does not grow with it.
func TestWindow(t *testing.T) {
	seed := uint64(7)
	rng := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, _ := open(t, path)
	total := 0
	for n := uint64(1); total < 3*windowBytes; n++ {
		size := rng.IntN(MaxPayload)
		total += size
		if err := l.Put(t.Context(), n, 0, size); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if l.kept > windowBytes {
			t.Fatalf("seed %d: %d bytes kept after row %d", seed, l.kept, n)
		}
	}
	if err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() > 2*windowBytes {
		t.Errorf("database has %d bytes for a window of %d", fi.Size(), windowBytes)
	}
	sizes := len(l.window)
	l.Close()
	if again, res := open(t, path); res.Bad != 0 || len(again.window) != sizes {
		t.Errorf("reopened: %+v with %d payloads, want nothing bad and %d", res, len(again.window), sizes)
	}
}

// TestDurability asks the database itself: no test that only kills a process
// can tell a commit that was synced from one that was not.
func TestDurability(t *testing.T) {
	l, _ := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "locking_mode": "exclusive"} {
		var got string
		if err := l.db.QueryRow(`PRAGMA ` + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", pragma, got, err, want)
		}
	}
}

// TestCrash opens a copy of the files as a kill would leave them: every row
// that Put acknowledged must be in it.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, filepath.Join(dir, "ledger.db"))
	for n := uint64(1); n <= 40; n++ {
		if err := l.Put(t.Context(), n, 0, DefaultPayload); err != nil {
			t.Fatal(err)
		}
		if n%13 != 0 {
			continue
		}
		to := t.TempDir()
		for _, name := range []string{"ledger.db", "ledger.db-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, res := open(t, filepath.Join(to, "ledger.db")); res.Max != n || res.Bad != 0 {
			t.Errorf("copy after row %d: %+v", n, res)
		}
	}
}

// TestVerifyFinds breaks a ledger in each way it can be broken.
func TestVerifyFinds(t *testing.T) {
	for name, statement := range map[string]string{
		"cause changed":     `UPDATE entry SET cause = 77 WHERE n = 4`,
		"hash changed":      `UPDATE entry SET hash = zeroblob(32) WHERE n = 4`,
		"hash shortened":    `UPDATE entry SET hash = x'00' WHERE n = 8`,
		"size changed":      `UPDATE entry SET size = size + 1 WHERE n = 4`,
		"window moved":      `UPDATE entry SET oldest = 5 WHERE n = 8`,
		"row lost":          `DELETE FROM entry WHERE n = 4`,
		"first row lost":    `DELETE FROM entry WHERE n = 1`,
		"last row lost":     `DELETE FROM entry WHERE n = 8`,
		"row renumbered":    `UPDATE entry SET n = 20 WHERE n = 8`,
		"payload changed":   `UPDATE payload SET data = zeroblob(100) WHERE n = 3`,
		"payload shortened": `UPDATE payload SET data = substr(data, 2) WHERE n = 3`,
		"payload lost":      `DELETE FROM payload WHERE n = 3`,
		"last payload lost": `DELETE FROM payload WHERE n = 8`,
		"payload too many":  `INSERT INTO payload VALUES (9, x'00')`,
		"payloads swapped":  `UPDATE payload SET data = (SELECT data FROM payload WHERE n = 5) WHERE n = 6`,
	} {
		t.Run(name, func(t *testing.T) {
			path := written(t, 8, 100)
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
			db.Close()
			l, res := open(t, path)
			if res.Bad == 0 || len(res.Problems) == 0 {
				t.Errorf("found nothing wrong: %+v", res)
			}
			if err := l.Put(t.Context(), res.Max+1, 0, 1); !errs.Is(err, errs.Corrupt) {
				t.Errorf("Put to a bad ledger: %v, want kind corrupt", err)
			}
		})
	}
}

// TestDamagedPages flips bytes all over the file. Whatever they hit that is in
// use must show, as an error or as something bad, and nothing may panic.
func TestDamagedPages(t *testing.T) {
	path := written(t, 60, DefaultPayload)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	pages := len(sound) / 4096
	for page := 0; page < pages; page += max(1, pages/24) {
		b := append([]byte(nil), sound...)
		for i := range 64 {
			b[page*4096+1000+i] ^= 0x5a
		}
		broken := filepath.Join(t.TempDir(), "ledger.db")
		if err := os.WriteFile(broken, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, res, err := Open(t.Context(), broken)
		if err != nil || res.Bad > 0 {
			found++
		}
		if err == nil {
			l.Close()
		}
	}
	if found < 18 { // of about 24; what is left hit unused space inside a page
		t.Errorf("only %d damaged copies were found", found)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	path := written(t, 50, 1)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`UPDATE entry SET hash = zeroblob(32)`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, res := open(t, path)
	if res.Bad < 50 || len(res.Problems) != maxProblems || !strings.Contains(res.Problems[0], "row 1") {
		t.Errorf("%d bad, %d named, first %q", res.Bad, len(res.Problems), res.Problems[0])
	}
}
