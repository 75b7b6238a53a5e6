package rocva

import (
	"bytes"
	"os"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store/mem"
)

// TestDeviceIsZeroedFirst writes in place over a target full of old bytes, as
// a block device is: what the checkpoint does not give must read as zeroes,
// and what lies behind the disk's end is left alone.
func TestDeviceIsZeroedFirst(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 3, 1<<20+512)
	targets := w.targets(t.TempDir())
	const size = 2 << 20
	old := bytes.Repeat([]byte{0xa5}, size)
	check(t, os.WriteFile(targets[0].Path, old, 0o600))

	ts, err := pickTargets(durable.OS{}, w.img, targets)
	check(t, err)
	ts[0].device = true
	if err := ts[0].openDevice(t.Context(), w.img.Disks[0].Size-1); !errs.Is(err, errs.Full) || errs.RemedyOf(err) == "" {
		t.Fatalf("too small a device: %v", err)
	}
	got, err := os.ReadFile(targets[0].Path)
	check(t, err)
	if !bytes.Equal(got, old) {
		t.Fatal("a device that is too small was written to")
	}
	check(t, ts[0].openDevice(t.Context(), size))
	r := &run{c: w.c, img: w.img, fs: durable.OS{}, opts: Options{Parallel: 2, SaveEvery: cursorEvery}, targets: ts, byDisk: map[uint16]*target{0: ts[0]}, openObject: w.c.OpenSized,
		done: make([]bool, len(w.img.Objects))}
	check(t, r.fetch(t.Context()))
	check(t, ts[0].sync())
	ts[0].close()
	got, err = os.ReadFile(targets[0].Path)
	check(t, err)
	n := len(w.disks[0])
	if !bytes.Equal(got[:n], w.disks[0]) {
		t.Fatal("the device is not the disk that was protected")
	}
	if !bytes.Equal(got[n:], old[n:]) {
		t.Fatal("bytes behind the disk's end were changed")
	}
}
