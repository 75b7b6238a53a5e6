package ondemand

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/nbd"
	"holdfast/internal/store/mem"
)

// TestLife: read before anything is there, write, hydrate, finish; nothing is
// left but the disks.
func TestLife(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 8, 3<<20, 1<<20+512)
	dir := t.TempDir()
	s := w.open(t, durable.OS{}, dir, Options{})
	a, b := s.Device(w.img.Disks[0].ID), s.Device(w.img.Disks[1].ID)
	same(t, "before anything was fetched", whole(t, a)[:1<<20], w.disks[0][:1<<20])
	odd := bytes.Repeat([]byte{0xee}, 100_000)
	write(t, b, odd, 5_001, 0)
	copy(w.disks[1][5_001:], odd)
	check(t, do(a, req{Kind: nbd.WriteZeroes, Offset: 70_001, Length: 200_000}))
	clear(w.disks[0][70_001:270_001])
	check(t, do(a, req{Kind: nbd.Trim, Offset: 1<<20 + 100, Length: 3 * dr.BlockSize}))
	clear(w.disks[0][1<<20+dr.BlockSize : 1<<20+3*dr.BlockSize])
	check(t, do(a, req{Kind: nbd.Flush}))
	if err := s.Finish(t.Context()); !errs.Is(err, errs.Conflict) {
		t.Fatalf("finished with blocks missing: %v", err)
	}
	check(t, s.Run(t.Context()))
	<-s.Whole()
	if p := s.Progress(); !p.Whole || p.Disks[0].Present != p.Disks[0].Content || p.Disks[0].Written == 0 || p.Fetched == 0 {
		t.Errorf("progress %+v", p)
	}
	if got := s.Written(w.img.Disks[1].ID); len(got) != 1 || got[0] != (extent.Range{Off: 4096, Len: 102400}) {
		t.Errorf("written %v", got)
	}
	check(t, s.Finish(t.Context()))
	same(t, "a device of a finished disk", whole(t, a), w.disks[0])
	write(t, a, odd, 0, nbd.FUA)
	copy(w.disks[0], odd)
	check(t, s.Close())
	for i, target := range w.targets(dir) {
		got, err := os.ReadFile(target.Path)
		check(t, err)
		same(t, target.Path, got, w.disks[i])
		if ok, err := Finished(nil, target.Path); !ok || err != nil {
			t.Errorf("finished: %v, %v", ok, err)
		}
	}
	if _, err := Open(t.Context(), w.c, w.img, w.targets(dir), Options{}); !errs.Is(err, errs.Exists) {
		t.Fatalf("a finished disk was opened: %v", err)
	}
}

// TestGoesOn: a closed Set is resumed with all that was written, and after
// Discard nothing is there.
func TestGoesOn(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 5, 2<<20)
	dir := t.TempDir()
	fs := durable.OS{}
	id := w.img.Disks[0].ID
	for i := range 4 {
		s := w.open(t, fs, dir, Options{BootID: string(rune('a' + i/2))})
		if _, err := Open(t.Context(), w.c, w.img, w.targets(dir), Options{}); !errs.Is(err, errs.Conflict) {
			t.Fatalf("opened twice: %v", err)
		}
		b := bytes.Repeat([]byte{byte(i + 1)}, 10_000)
		write(t, s.Device(id), b, int64(i)*100_000, 0)
		copy(w.disks[0][i*100_000:], b)
		if i == 3 {
			same(t, "the disk", whole(t, s.Device(id)), w.disks[0])
		}
		if got := s.Written(id); len(got) != i+1 {
			t.Fatalf("written %v", got)
		}
		check(t, s.Close())
		check(t, s.Close())
	}
	other := newWorld(t, mem.New(), seeded(t), 1, 2<<20)
	if _, err := Open(t.Context(), other.c, other.img, other.targets(dir), Options{}); !errs.Is(err, errs.Conflict) {
		t.Fatalf("another checkpoint's disk was taken up: %v", err)
	}
	if ok, err := Finished(fs, w.targets(dir)[0].Path); ok || err != nil {
		t.Errorf("finished: %v, %v", ok, err)
	}
	s := w.open(t, fs, dir, Options{})
	check(t, s.Discard())
	left, err := filepath.Glob(dir + "/*")
	check(t, err)
	if len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	check(t, Remove(nil, w.targets(dir)[0].Path))
}

// TestRefusals: what makes no sense is said before anything is made.
func TestRefusals(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 2, 1<<20, 1<<20)
	dir := t.TempDir()
	good := w.targets(dir)
	twice, unknown, nowhere := w.targets(dir), w.targets(dir), w.targets(dir)
	twice[1].Path = twice[0].Path
	unknown[0].Disk = dr.DiskID{UUID: dr.NewUUID()}
	nowhere[0].Path = ""
	for what, err := range map[string]error{
		"twice":    opened(Open(t.Context(), w.c, w.img, twice, Options{})),
		"nowhere":  opened(Open(t.Context(), w.c, w.img, nowhere, Options{})),
		"nothing":  opened(Open(t.Context(), w.c, w.img, nil, Options{})),
		"parallel": opened(Open(t.Context(), w.c, w.img, good, Options{Parallel: 1000})),
	} {
		if !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := opened(Open(t.Context(), w.c, w.img, unknown, Options{})); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown disk: %v", err)
	}
	check(t, os.WriteFile(good[0].Path, []byte("mine"), 0o600))
	if err := opened(Open(t.Context(), w.c, w.img, good, Options{})); !errs.Is(err, errs.Exists) {
		t.Errorf("a user's file: %v", err)
	}
}

func opened(s *Set, err error) error {
	if err == nil {
		s.Close()
	}
	return err
}

// TestReadOnly: a checkpoint's disk reads as it was, with a cache much smaller
// than it, and takes no writes.
func TestReadOnly(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 6, 4<<20+512)
	d, closer, err := ReadOnly(t.Context(), w.c, w.img, w.img.Disks[0].ID, Options{})
	check(t, err)
	d.(*view).keep = 4
	same(t, "the disk", whole(t, d), w.disks[0])
	same(t, "once more", whole(t, d), w.disks[0])
	if n := len(d.(*view).chunks); n > 5 {
		t.Errorf("%d chunks are kept", n)
	}
	if err := do(d, req{Kind: nbd.Write, Length: 4, Data: []byte("oops")}); !errs.Is(err, errs.Denied) {
		t.Errorf("a write: %v", err)
	}
	check(t, do(d, req{Kind: nbd.Flush}))
	data := int64(0)
	for off := int64(0); off < d.Size(); {
		start, end, err := d.NextData(off)
		check(t, err)
		same(t, "what is told to be zeroes", w.disks[0][off:start], make([]byte, start-off))
		data, off = data+end-start, max(end, off+1)
		if start == d.Size() {
			break
		}
	}
	if data == 0 || data > d.Size() {
		t.Errorf("%d bytes of data", data)
	}
	check(t, closer.Close())
	if _, err := d.ReadAt(make([]byte, 1), 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("read after close: %v", err)
	}
}

// TestFullDisk: no room for what is fetched is an error of the read that says
// so, and goes away with the room.
func TestFullDisk(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 5, 2<<20)
	fs := durabletest.New(durabletest.Config{Capacity: 512 << 10})
	check(t, durable.MkdirAll(fs, "/d"))
	s := w.open(t, fs, "/d", Options{StallLimit: 1})
	dev := s.Device(w.img.Disks[0].ID)
	err := do(dev, req{Kind: nbd.Read, Length: 2 << 20, Data: make([]byte, 2<<20)})
	if err == nil {
		t.Fatal("2 MiB were read into half of one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for s.Progress().Why == nil {
		select {
		case err := <-done:
			t.Fatalf("run ended: %v", err)
		default:
		}
	}
	if p := s.Progress(); !errs.Is(p.Why, errs.Full) || p.Stalled.IsZero() {
		t.Errorf("stalled by %v", p.Why)
	}
	cancel()
	if err := <-done; !errs.Is(err, errs.Canceled) {
		t.Errorf("run: %v", err)
	}
	check(t, s.Discard())
}
