package pattern

import (
	"bytes"
	"testing"
)

// TestCheck writes as a guest would and then damages the disk in each way that
// a bad switch-over does.
func TestCheck(t *testing.T) {
	const acknowledged = 3000
	write := func(disk []byte, n uint64) {
		b := At(1, n)
		Fill(disk[b*Block:(b+1)*Block], b, n)
	}
	whole := make([]byte, DiskBytes)
	for n := uint64(1); n <= acknowledged; n++ {
		write(whole, n)
	}
	b := At(1, acknowledged)
	for name, c := range map[string]struct {
		damage func(disk []byte)
		bad    int
	}{
		"whole":         {func([]byte) {}, 0},
		"one under way": {func(d []byte) { write(d, acknowledged+1) }, 0},
		"lost": {func(d []byte) {
			clear(d[b*Block : (b+1)*Block])
		}, 1},
		"stale": {func(d []byte) { Fill(d[b*Block:(b+1)*Block], b, 1) }, 1},
		"torn":  {func(d []byte) { clear(d[b*Block+5*sector : (b+1)*Block]) }, 1},
		"misplaced": {func(d []byte) {
			Fill(d[b*Block:(b+1)*Block], b+1, acknowledged)
		}, 1},
	} {
		disk := bytes.Clone(whole)
		c.damage(disk)
		if got := Check(bytes.NewReader(disk), 1, acknowledged); len(got) != c.bad {
			t.Errorf("%s: %d problems, want %d: %v", name, len(got), c.bad, got)
		}
	}
}

func TestWorkersKeepToTheirRegions(t *testing.T) {
	for w := range Workers {
		for n := range uint64(5000) {
			if b := At(w, n); b/Region != uint64(w) {
				t.Fatalf("write %d of worker %d goes to block %d", n, w, b)
			}
		}
	}
}
