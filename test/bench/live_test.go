package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/hypervisor/hypervisortest/pattern"
)

// TestLostWriteEndsTheBench: a disk that misses one write its guest was
// acknowledged, or holds half of it, is no figure.
func TestLostWriteEndsTheBench(t *testing.T) {
	counts := []uint64{300, 200, 100, 50}
	spec := liveSpec{name: "twin", image: filepath.Join(t.TempDir(), "disk"), format: "raw"}
	whole := make([]byte, pattern.DiskBytes)
	for w, last := range counts {
		for n := uint64(1); n <= last; n++ {
			b := pattern.At(w, n)
			pattern.Fill(whole[b*pattern.Block:(b+1)*pattern.Block], b, n)
		}
	}
	check := func(counts []uint64) (uint64, error) {
		if err := os.WriteFile(spec.image, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		return checkWrites(spec, t.TempDir(), counts)
	}
	if n, err := check(counts); err != nil || n != 650 {
		t.Fatalf("a whole disk: %d, %v", n, err)
	}
	if _, err := check(counts[:3]); err == nil {
		t.Error("a worker is missing, and nobody minds")
	}
	more := []uint64{300, 200, 102, 50} // one beyond the last may be under way, two may not
	if _, err := check(more); !errors.Is(err, errLostWrites) {
		t.Errorf("lost writes: %v, want %v", err, errLostWrites)
	}
	last := pattern.At(1, counts[1])
	clear(whole[last*pattern.Block+pattern.Block/2 : (last+1)*pattern.Block])
	if _, err := check(counts); !errors.Is(err, errLostWrites) {
		t.Errorf("a torn write: %v, want %v", err, errLostWrites)
	}
}
