package writerguest

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/hypervisor/hypervisortest/pattern"
)

// port is a serial port that says words and is over.
type port struct {
	io.Reader
	strings.Builder
}

func hear(words string) *Guest {
	g := Follow(&port{Reader: strings.NewReader(words)})
	<-g.Over()
	return g
}

func TestGuestIsHeard(t *testing.T) {
	g := hear("SeaBIOS\n\nREADY disks=1\n\nP 1,2 slow=70\n\nREADY disks=1\nP 3,4 slow=9\nP 9\n\nBYE 5,6\nP 7,7 slow=1\n")
	if g.Fatal() != "" || !slices.Equal(g.Last(), []uint64{5, 6}) {
		t.Errorf("fatal %q, last %v", g.Fatal(), g.Last())
	}
	if g.Written() != 7 || !slices.Equal(g.Counts(), []uint64{3, 4}) || g.Slowest() != 70*time.Microsecond {
		t.Errorf("written %d, counts %v, slowest %v", g.Written(), g.Counts(), g.Slowest())
	}
	<-g.Ready()
	for _, words := range []string{"READY disks=1\nFATAL write 7: EIO\nBYE 1\n", "READY disks=1\n", "P", ""} {
		if g := hear(words); g.Fatal() == "" || g.Last() != nil {
			t.Errorf("after %q: fatal %q, last %v", words, g.Fatal(), g.Last())
		}
	}
}

// TestCheckImage: an image is whole until one acknowledged write is missing.
func TestCheckImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	disk := make([]byte, pattern.DiskBytes)
	counts := []uint64{9, 5, 3, 1}
	for w, last := range counts {
		for n := uint64(1); n <= last; n++ {
			b := pattern.At(w, n)
			pattern.Fill(disk[b*pattern.Block:(b+1)*pattern.Block], b, n)
		}
	}
	check := func(want int) {
		t.Helper()
		if err := os.WriteFile(path, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := CheckImage(path, "raw", t.TempDir(), counts)
		if err != nil || len(got) != want {
			t.Errorf("%d problems %q, %v; want %d", len(got), got, err, want)
		}
	}
	check(0)
	b := pattern.At(1, 5)
	clear(disk[b*pattern.Block : (b+1)*pattern.Block])
	check(1)
	clear(disk)
	check(maxProblems + 1 + 5 + 3 + 1) // the first worker's nine are cut short
}
