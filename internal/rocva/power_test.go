package rocva

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/store/mem"
)

// whole compares the targets on fs that have their own names; it returns how
// many these are.
func (w *world) whole(t *testing.T, fs durable.FS, targets []Target, what string) int {
	t.Helper()
	n := 0
	for i, tg := range targets {
		got, err := durable.ReadFile(fs, tg.Path, 1<<30)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		check(t, err)
		if !bytes.Equal(got, w.disks[i]) {
			t.Fatalf("%s: %s has its own name and is not the disk that was protected", what, tg.Path)
		}
		n++
	}
	return n
}

// TestPowerLossAtEveryFileOperation stops the machine in every phase of every
// file operation, with what was not synced lost in part, and starts again.
func TestPowerLossAtEveryFileOperation(t *testing.T) {
	rng := seeded(t)
	t.Run("scattered", func(t *testing.T) { powerLoss(t, rng, newWorld(t, mem.New(), rng, 3, 96<<10, 64<<10+512)) })
	// Large enough that most of it is written past the page cache.
	t.Run("full", func(t *testing.T) { powerLoss(t, rng, newFullWorld(t, mem.New(), rng, 2, 2*directFrom+512, 64<<10)) })
}

func powerLoss(t *testing.T, rng *rand.Rand, w *world) {
	const dir = "/power"
	targets := w.targets(dir)
	run := func(fs durable.FS) error {
		_, err := Full(t.Context(), w.c, w.img, targets, Options{Parallel: 1, SaveEvery: 1, FS: fs})
		return err
	}
	dry := durabletest.New(durabletest.Config{})
	check(t, durable.MkdirAll(dry, dir))
	begun := dry.Ops()
	check(t, run(dry))
	total := dry.Ops()
	crashes, finished := 0, 0
	for op := begun + 1; op <= total; op++ {
		for _, phase := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			fs := durabletest.New(durabletest.Config{})
			check(t, durable.MkdirAll(fs, dir))
			fs.CrashAt(op, phase)
			if run(fs) == nil && !fs.Halted() {
				continue
			}
			crashes++
			image := fs.Image(rng.Uint64(), durabletest.PowerLoss)
			w.whole(t, image, targets, "after the crash")
			if err := run(image); errs.Is(err, errs.Exists) {
				finished++ // only tidying up was left
			} else {
				check(t, err)
			}
			if n := w.whole(t, image, targets, "after going on"); n != len(targets) {
				t.Fatalf("operation %d: %d of %d disks are there", op, n, len(targets))
			}
			// What was reported whole stays so.
			w.whole(t, image.Image(rng.Uint64(), durabletest.PowerLoss), targets, "after another crash")
		}
	}
	t.Logf("%d crashes over %d operations, %d of them after all was done", crashes, total-begun, finished)
	// How many operations there are is the seed's; each has one crash at least.
	if ops := int(total - begun); ops < 20 || crashes < ops || filepath.Dir(targets[0].Path) != dir {
		t.Fatal("too few crashes to prove anything")
	}
}
