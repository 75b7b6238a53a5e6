package durabletest

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

func mustOpen(t *testing.T, fs *FS, path string, mode durable.Mode) durable.File {
	t.Helper()
	f, err := fs.OpenFile(path, mode)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustWrite(t *testing.T, f durable.File, b []byte, off int64) {
	t.Helper()
	if err := f.WriteAtv([][]byte{b}, off); err != nil {
		t.Fatal(err)
	}
}

func page(c byte, n int) []byte {
	b := durable.AlignedBytes(n * pageSize)
	for i := range b {
		b[i] = c
	}
	return b
}

// outcomes collects, over many seeds, which contents a crash leaves.
func outcomes(fs *FS, path string, loss Loss) map[string]int {
	got := map[string]int{}
	for seed := range uint64(300) {
		b, err := durable.ReadFile(fs.Image(seed, loss), path, 1<<20)
		switch {
		case errs.Is(err, errs.NotFound):
			got["missing"]++
		case err != nil:
			got[err.Error()]++
		default:
			// The letters of the sectors, runs folded.
			var s []byte
			for i := 0; i < len(b); i += sectorSize {
				if len(s) == 0 || s[len(s)-1] != b[i] {
					s = append(s, b[i])
				}
			}
			got[string(s)]++
		}
	}
	return got
}

func TestNameNeedsSyncDirAndContentNeedsSync(t *testing.T) {
	fs := New(Config{})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create)
	mustWrite(t, f, page('x', 2), 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	got := outcomes(fs, "a", PowerLoss)
	if got["missing"] == 0 || got["x"] == 0 || len(got) != 2 {
		t.Fatalf("synced file, unsynced name: %v", got)
	}
	if err := fs.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	if got := outcomes(fs, "a", PowerLoss); got["x"] != 300 {
		t.Fatalf("all synced: %v", got)
	}
	mustWrite(t, f, page('y', 2), 0)
	got = outcomes(fs, "a", PowerLoss)
	if got["x"] == 0 || got["y"] == 0 || got["yx"] == 0 || got["xy"] == 0 {
		t.Fatalf("overwritten, not synced; want old, new and torn: %v", got)
	}
	if got := outcomes(fs, "a", ProcessDeath); got["y"] != 300 {
		t.Fatalf("death of the process lost what the kernel holds: %v", got)
	}
}

func TestDSyncIsDurableAtReturnAndBeatsOlderWrites(t *testing.T) {
	fs := New(Config{})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create)
	if err := fs.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, page('x', 1), 0)
	d := mustOpen(t, fs, "a", durable.Write|durable.DSync|durable.Direct)
	mustWrite(t, d, page('y', 1), 0)
	if got := outcomes(fs, "a", PowerLoss); got["y"] != 300 {
		t.Fatalf("got %v; want y always", got)
	}
}

func TestWriteOnItsWayMayBeTorn(t *testing.T) {
	fs := New(Config{})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create|durable.DSync)
	mustWrite(t, f, page('x', 4), 0)
	if err := fs.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	var torn, dead map[string]int
	fs.SetHook(func(op Op) error {
		if op.Phase == During {
			torn, dead = outcomes(fs, "a", PowerLoss), outcomes(fs, "a", ProcessDeath)
		}
		return nil
	})
	mustWrite(t, f, page('y', 4), 0)
	if len(torn) < 10 || torn["x"] == 0 || torn["y"] == 0 {
		t.Fatalf("power loss: %v", torn)
	}
	if dead["y"] == 0 || dead["yx"] == 0 {
		t.Fatalf("process death: %v", dead)
	}
}

func TestFailedSyncIsNeverMadeGoodByALaterOne(t *testing.T) {
	fs := New(Config{})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create)
	mustWrite(t, f, page('x', 1), 0)
	if err := errors.Join(f.Sync(), fs.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, page('y', 1), 0)
	fs.SetHook(func(op Op) error {
		if op.Kind == Sync {
			return syscall.EIO
		}
		return nil
	})
	if err := f.Sync(); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("got %v, want unavailable", err)
	}
	fs.SetHook(nil)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := outcomes(fs, "a", PowerLoss); got["x"] == 0 || got["y"] == 0 {
		t.Fatalf("got %v; want either", got)
	}
	mustWrite(t, f, page('z', 1), 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := outcomes(fs, "a", PowerLoss); got["z"] != 300 {
		t.Fatalf("written again and synced: %v", got)
	}
}

func TestCapacity(t *testing.T) {
	fs := New(Config{Capacity: 4 * pageSize})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create)
	mustWrite(t, f, page('x', 3), 0)
	if err := f.WriteAtv([][]byte{page('x', 2)}, 3*pageSize); !errs.Is(err, errs.Full) {
		t.Fatalf("got %v, want full", err)
	}
	mustWrite(t, f, page('y', 3), 0) // in place needs nothing
	if err := fs.Remove("a"); err != nil {
		t.Fatal(err)
	}
	g := mustOpen(t, fs, "b", durable.Write|durable.Create)
	mustWrite(t, g, page('x', 4), 0)
	if err := g.Truncate(pageSize); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, g, page('x', 3), pageSize)
}

func TestDirectNeedsAlignment(t *testing.T) {
	fs := New(Config{})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create|durable.Direct)
	for name, err := range map[string]error{
		"address": f.WriteAtv([][]byte{page('x', 2)[1 : pageSize+1]}, 0),
		"length":  f.WriteAtv([][]byte{page('x', 2)[:100]}, 0),
		"offset":  f.WriteAtv([][]byte{page('x', 1)}, 512),
	} {
		if !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	no := New(Config{NoDirect: true})
	if _, err := no.OpenFile("a", durable.Create|durable.Direct); !errors.Is(err, durable.ErrNoDirect) {
		t.Errorf("got %v, want ErrNoDirect", err)
	}
}

// crashEverywhere runs act on a fresh copy of a prepared file system with a
// crash at every phase of every operation, and checks every kind of image.
func crashEverywhere(t *testing.T, prepare, act func(*FS) error, check func(fs *FS, done bool) error) error {
	t.Helper()
	start := New(Config{})
	if err := prepare(start); err != nil {
		t.Fatal(err)
	}
	for n := start.Ops() + 1; ; n++ {
		reached := false
		for _, phase := range []Phase{Before, During, After} {
			fs := start.Image(0, ProcessDeath)
			fs.CrashAt(n, phase)
			err := act(fs)
			reached = reached || fs.Halted()
			for seed := range uint64(24) {
				if bad := check(fs.Image(seed, PowerLoss), err == nil); bad != nil {
					return fmt.Errorf("crash at operation %d, phase %d, seed %d: %w", n, phase, seed, bad)
				}
			}
		}
		if !reached {
			return nil
		}
	}
}

// oneOf checks that path holds one of the contents; "" stands for missing.
func oneOf(fs *FS, path string, want ...string) error {
	b, err := durable.ReadFile(fs, path, 1<<20)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	for _, w := range want {
		if string(b) == w && (err == nil) == (w != "") {
			return nil
		}
	}
	return fmt.Errorf("%s holds %d bytes, %v", path, len(b), err)
}

var (
	oldText = string(bytes.Repeat([]byte("old "), 3000))
	newText = string(bytes.Repeat([]byte("fresh"), 4000))
)

// The helpers under test, and broken copies of them that skip one step each.
func createWith(content, directory bool) func(*FS) error {
	return func(fs *FS) error {
		f, err := fs.OpenFile(".tmp-x", durable.Write|durable.Create)
		if err != nil {
			return err
		}
		err = f.WriteAtv([][]byte{[]byte(newText)}, 0)
		if err == nil && content {
			err = f.Sync()
		}
		if err == nil {
			err = fs.Link(".tmp-x", "a")
		}
		if err == nil {
			err = fs.Remove(".tmp-x")
		}
		if err == nil && directory {
			err = fs.SyncDir(".")
		}
		return err
	}
}

func TestCreateOnceSurvivesEveryCrash(t *testing.T) {
	empty := func(*FS) error { return nil }
	check := func(fs *FS, done bool) error {
		if done {
			return oneOf(fs, "a", newText)
		}
		return oneOf(fs, "a", "", newText)
	}
	real := func(fs *FS) error { return durable.CreateOnce(fs, "a", []byte(newText)) }
	if err := crashEverywhere(t, empty, real, check); err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]func(*FS) error{
		"content not synced": createWith(false, true), "directory not synced": createWith(true, false),
	} {
		if crashEverywhere(t, empty, broken, check) == nil {
			t.Errorf("%s: the harness noticed nothing", name)
		}
	}
	if err := crashEverywhere(t, empty, createWith(true, true), check); err != nil {
		t.Errorf("the unbroken copy: %v", err)
	}
}

// Whoever is told that the name exists may act on it: the name must stay.
func TestExistsIsDurable(t *testing.T) {
	prepare := func(fs *FS) error { return createWith(true, false)(fs) } // its maker died before SyncDir
	act := func(fs *FS) error {
		err := durable.CreateOnce(fs, "a", []byte(newText))
		if errs.Is(err, errs.Exists) {
			return nil
		}
		return err
	}
	err := crashEverywhere(t, prepare, act, func(fs *FS, done bool) error {
		if done {
			return oneOf(fs, "a", newText)
		}
		return oneOf(fs, "a", "", newText)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The same for a directory that was made and not synced.
func TestFoundDirectoryIsDurable(t *testing.T) {
	prepare := func(fs *FS) error { return fs.Mkdir("d") }
	act := func(fs *FS) error { return durable.MkdirAll(fs, "d") }
	err := crashEverywhere(t, prepare, act, func(fs *FS, done bool) error {
		if _, err := fs.Stat("d"); err != nil && done {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteFileSurvivesEveryCrash(t *testing.T) {
	prepare := func(fs *FS) error { return durable.WriteFile(fs, "a", []byte(oldText)) }
	act := func(fs *FS) error { return durable.WriteFile(fs, "a", []byte(newText)) }
	err := crashEverywhere(t, prepare, act, func(fs *FS, done bool) error {
		if done {
			return oneOf(fs, "a", newText)
		}
		return oneOf(fs, "a", oldText, newText)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMkdirAllAndPrewriteSurviveEveryCrash(t *testing.T) {
	act := func(fs *FS) error {
		if err := durable.MkdirAll(fs, "d/e"); err != nil {
			return err
		}
		return durable.Prewrite(t.Context(), fs, "d/e/slot", 3*pageSize)
	}
	err := crashEverywhere(t, func(*FS) error { return nil }, act, func(fs *FS, done bool) error {
		whole := string(make([]byte, 3*pageSize))
		if done {
			return oneOf(fs, "d/e/slot", whole)
		}
		return oneOf(fs, "d/e/slot", "", whole)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPrewriteFullLeavesNothing(t *testing.T) {
	fs := New(Config{Capacity: 2 << 20})
	if err := durable.Prewrite(t.Context(), fs, "slot", 4<<20); !errs.Is(err, errs.Full) {
		t.Fatalf("got %v, want full", err)
	}
	if list, err := fs.ReadDir("."); err != nil || len(list) != 0 {
		t.Fatalf("left %v, %v", list, err)
	}
	if err := durable.Prewrite(t.Context(), fs, "slot", 2<<20); err != nil {
		t.Fatalf("the space was not given back: %v", err)
	}
}

func TestImagesRepeatAndLeaveTheOriginalAlone(t *testing.T) {
	fs := New(Config{})
	f := mustOpen(t, fs, "a", durable.Write|durable.Create)
	mustWrite(t, f, page('x', 8), 0)
	for seed := range uint64(20) {
		a, errA := durable.ReadFile(fs.Image(seed, PowerLoss), "a", 1<<20)
		b, errB := durable.ReadFile(fs.Image(seed, PowerLoss), "a", 1<<20)
		if !bytes.Equal(a, b) || (errA == nil) != (errB == nil) {
			t.Fatalf("seed %d gave two images", seed)
		}
	}
	got := make([]byte, 8*pageSize)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, page('x', 8)) {
		t.Fatal("the original changed")
	}
	if err := fs.Flip(filepath.Join(".", "a"), 5000, 0x40); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(got, 0); err != nil || got[5000] != 'x'^0x40 {
		t.Fatal("the flipped byte is not there")
	}
	if fs.Flip("a", 1<<20, 1) == nil || fs.Flip("a", 0, 0) == nil || fs.Flip("b", 0, 1) == nil {
		t.Fatal("a flip that changes nothing was accepted")
	}
}

func TestLock(t *testing.T) {
	fs := New(Config{})
	l, err := durable.LockDir(fs, ".")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.LockDir(fs, "."); !errs.Is(err, errs.Conflict) {
		t.Fatalf("got %v, want conflict", err)
	}
	if _, err := durable.LockDir(fs.Image(0, ProcessDeath), "."); err != nil {
		t.Fatalf("a lock outlived its process: %v", err)
	}
	l.Close()
	if _, err := durable.LockDir(fs, "."); err != nil {
		t.Fatal(err)
	}
}
