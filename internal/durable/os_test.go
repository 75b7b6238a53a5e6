package durable_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
)

func TestCreateOnceOneWinner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "name")
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			switch err := durable.CreateOnce(durable.OS{}, path, bytes.Repeat([]byte{byte(i)}, 5000)); {
			case err == nil:
				won.Add(1)
			case errs.Is(err, errs.Exists):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 7 {
		t.Fatalf("%d won, %d lost", won.Load(), lost.Load())
	}
	got, err := durable.ReadFile(durable.OS{}, path, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 5000 || !bytes.Equal(got, bytes.Repeat(got[:1], 5000)) {
		t.Fatal("content is mixed")
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 {
		t.Fatalf("left behind: %v, %v", names, err)
	}
}

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "name")
	for _, want := range []string{"first", "", "third and longer"} {
		if err := durable.WriteFile(durable.OS{}, path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := durable.ReadFile(durable.OS{}, path, 100)
		if err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	if _, err := durable.ReadFile(durable.OS{}, path, 3); !errs.Is(err, errs.Invalid) {
		t.Fatalf("too large a file: got %v, want invalid", err)
	}
	p := make([]byte, 10)
	n, err := durable.ReadRange(durable.OS{}, path, p, 10)
	if err != nil || string(p[:n]) != "longer" {
		t.Fatalf("range: got %q, %v", p[:n], err)
	}
}

func TestReadDirHidesAndSweepRemovesTemps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", ".tmp-1", ".tmp-2"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := durable.ReadDir(durable.OS{}, dir)
	if err != nil || len(list) != 1 || list[0].Name != "x" {
		t.Fatalf("got %v, %v; want x alone", list, err)
	}
	if err := durable.SweepTemps(durable.OS{}, dir, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 3 {
		t.Fatal("a young temporary file was swept")
	}
	if err := durable.SweepTemps(durable.OS{}, dir, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Fatalf("left: %v", all)
	}
	if err := durable.Remove(durable.OS{}, filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Remove(durable.OS{}, filepath.Join(dir, "x")); err != nil {
		t.Fatalf("removing a missing file: %v", err)
	}
	if err := durable.MkdirAll(durable.OS{}, filepath.Join(dir, "f", "g")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.MkdirAll(durable.OS{}, filepath.Join(dir, "file")); !errs.Is(err, errs.Invalid) {
		t.Fatalf("directory over a file: got %v, want invalid", err)
	}
}

func TestLockDir(t *testing.T) {
	dir := t.TempDir()
	first, err := durable.LockDir(durable.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = durable.LockDir(durable.OS{}, dir)
	if !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Fatalf("second lock: got %v, want conflict with a remedy", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := durable.LockDir(durable.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestWriteAtvDirect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := durable.Prewrite(t.Context(), durable.OS{}, path, 1<<20+durable.PageSize); err != nil {
		t.Fatal(err)
	}
	mode := durable.Write | durable.Direct | durable.DSync
	f, err := durable.OS{}.OpenFile(path, mode)
	if errors.Is(err, durable.ErrNoDirect) {
		t.Log("no direct I/O here; buffered instead")
		f, err = durable.OS{}.OpenFile(path, durable.Write|durable.DSync)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.Size(); err != nil || n != 1<<20+durable.PageSize {
		t.Fatalf("size %d, %v", n, err)
	}
	a, b := durable.AlignedBytes(8192), durable.AlignedBytes(4096)
	copy(a, bytes.Repeat([]byte{1}, 8192))
	copy(b, bytes.Repeat([]byte{2}, 4096))
	if err := f.WriteAtv([][]byte{a, nil, b}, 4096); err != nil {
		t.Fatal(err)
	}
	got := durable.AlignedBytes(5 * 4096)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := append(append(append(make([]byte, 4096), a...), b...), make([]byte, 4096)...)
	if !bytes.Equal(got, want) {
		t.Fatal("read back differs")
	}
	if n := testing.AllocsPerRun(10, func() {
		if err := f.WriteAtv([][]byte{a, b}, 0); err != nil {
			t.Fatal(err)
		}
	}); n > 1 { // the literal of slices itself
		t.Fatalf("%v allocations", n)
	}
	if err := f.WriteAtv(make([][]byte, durable.MaxVectors+1), 0); !errs.Is(err, errs.Invalid) {
		t.Fatalf("too many slices: got %v, want invalid", err)
	}
}

// TestAllocate: content stays, holes read as zeroes, and the file grows only
// as far as it must.
func TestAllocate(t *testing.T) {
	f, err := durable.OS{}.OpenFile(filepath.Join(t.TempDir(), "f"), durable.Write|durable.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.WriteAtv([][]byte{[]byte("content")}, 4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 10); err != nil {
		t.Fatal(err)
	}
	if err := f.(durable.Allocator).Allocate(0, 64<<10); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 64<<10)
	copy(want[4096:], "content")
	got := make([]byte, len(want)+1)
	if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], want) {
		t.Fatalf("%d bytes, not as they were", n)
	}
	if err := f.(durable.Allocator).Allocate(0, 1<<62); !errs.Is(err, errs.Full) && !errs.Is(err, errs.Invalid) {
		t.Fatalf("more than any device has: %v", err)
	}
}

func TestPrewriteCanceledLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := durable.Prewrite(ctx, durable.OS{}, filepath.Join(dir, "log"), 1<<20)
	if !errs.Is(err, errs.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 0 {
		t.Fatalf("left: %v", all)
	}
}

func TestAlignedBytes(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 4096, 12288, 1 << 20} {
		b := durable.AlignedBytes(n)
		if len(b) != max(n, 0) || cap(b) != len(b) {
			t.Fatalf("%d: len %d cap %d", n, len(b), cap(b))
		}
		if n > 0 && n%4096 == 0 && !durable.Aligned(b) {
			t.Fatalf("%d: not aligned", n)
		}
	}
	if durable.Aligned(durable.AlignedBytes(8192)[1:4097]) {
		t.Fatal("unaligned memory was called aligned")
	}
}

func TestErrorKinds(t *testing.T) {
	dir := t.TempDir()
	if _, err := (durable.OS{}).OpenFile(filepath.Join(dir, "none"), 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := (durable.OS{}).OpenFile(dir, durable.Write); !errs.Is(err, errs.Invalid) {
		t.Errorf("directory opened for writing: %v", err)
	}
	if err := (durable.OS{}).Mkdir(dir); !errs.Is(err, errs.Exists) {
		t.Errorf("directory exists: %v", err)
	}
}

// TestZero: the range reads as zeroes, what is around it and the size stay.
func TestZero(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := durable.OS{}.OpenFile(path, durable.Write|durable.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := bytes.Repeat([]byte{7}, 64<<10)
	if err := f.WriteAtv([][]byte{all}, 0); err != nil {
		t.Fatal(err)
	}
	err = f.(durable.Zeroer).Zero(5000, 20000)
	if errors.Is(err, durable.ErrNoZero) {
		t.Fatal("this file system cannot punch holes; the tests need one that can")
	} else if err != nil {
		t.Fatal(err)
	}
	clear(all[5000:25000])
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, all) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// TestSweepTempsOf removes what writes to one name left, and no other's.
func TestSweepTempsOf(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	if err := durable.MkdirAll(fs, "/d"); err != nil {
		t.Fatal(err)
	}
	at := fs.Ops() + 3 // the content is written, the name is not
	for _, path := range []string{"/d/a", "/d/b"} {
		fs.CrashAt(at, durabletest.Before)
		if err := durable.WriteFile(fs, path, []byte("x")); err == nil {
			t.Fatal("no crash")
		}
		fs = fs.Image(1, durabletest.ProcessDeath)
		at = fs.Ops() + 3
	}
	if err := durable.SweepTempsOf(fs, "/d/a"); err != nil {
		t.Fatal(err)
	}
	left, err := fs.ReadDir("/d")
	if err != nil || len(left) != 1 || !durable.IsTemp(left[0].Name) {
		t.Fatalf("left %v, %v; want the other's alone", left, err)
	}
	if err := errors.Join(durable.SweepTempsOf(fs, "/d/b"), durable.SweepTempsOf(fs, "/d/c")); err != nil {
		t.Fatal(err)
	}
	if left, _ := fs.ReadDir("/d"); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
}
