package main

import (
	"path/filepath"
	"testing"

	"holdfast/internal/nbd"
)

// wasteful is a layer that allocates once for each request.
type wasteful struct {
	below nbd.Device
	last  *nbd.Op
}

func (w *wasteful) Submit(op *nbd.Op) {
	w.last = new(nbd.Op)
	w.below.Submit(op)
}

// TestAllocationsAreCounted: none for the server alone, one more for a layer
// that makes one.
func TestAllocationsAreCounted(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := makeDisk(t.Context(), disk, 64*mib, true); err != nil {
		t.Fatal(err)
	}
	f, err := nbd.OpenFile(disk, nbd.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		name  string
		layer func(nbd.Device) nbd.Device
		want  float64
	}{
		{"alone", nil, 0},
		{"wasteful", func(d nbd.Device) nbd.Device { return &wasteful{below: d} }, 1},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		stop, err := serveHere(t.Context(), socket, nbd.Export{File: f, Layer: c.layer})
		if err != nil {
			t.Fatal(err)
		}
		n, err := countAllocs(t.Context(), socket)
		if err != nil {
			t.Fatal(err)
		}
		if n != c.want {
			t.Errorf("%s: %g allocations per request, want %g", c.name, n, c.want)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}
