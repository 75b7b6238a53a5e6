package rocva

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// point is a checkpoint and the disks as they were.
type point struct {
	hist  *journal.History
	cp    journal.CheckpointInfo
	disks [][]byte
}

func (p *point) ref() journal.PointRef { return p.hist.Ref(p.cp) }

// forked is a container in which one timeline left another: old is where, newer
// what the first went on to, and branch what the second did.
//
//	old ── newer
//	  └─── branch
type forked struct {
	*world
	old, newer, branch point
	ids                []dr.DiskID
}

// newForked publishes objects random writes each on the three stretches.
func newForked(t testing.TB, st store.Store, rng *rand.Rand, objects int, sizes ...int64) *forked {
	t.Helper()
	w := &forked{world: newWorld(t, st, rng, objects, sizes...)}
	for _, d := range w.img.Disks {
		w.ids = append(w.ids, d.ID)
	}
	w.old = w.at(t, w.c.Domain().Timeline)
	child, err := w.c.Fork(t.Context(), journal.ForkOptions{Checkpoint: w.old.cp.ID, Label: "b"})
	check(t, err)
	w.grow(t, rng, w.c.Domain().Timeline, objects)
	w.newer = w.at(t, w.c.Domain().Timeline)
	w.disks = clones(w.old.disks)
	w.grow(t, rng, child, objects)
	w.branch = w.at(t, child)
	return w
}

func clones(disks [][]byte) (out [][]byte) {
	for _, d := range disks {
		out = append(out, bytes.Clone(d))
	}
	return out
}

// at is the newest checkpoint of a timeline, with the disks as they are now.
func (w *forked) at(t testing.TB, tl dr.TimelineID) point {
	t.Helper()
	h, err := w.c.History(t.Context(), journal.HistoryOptions{Timeline: tl})
	check(t, err)
	cp, err := h.Find("latest")
	check(t, err)
	return point{h, cp, clones(w.disks)}
}

// grow publishes objects of random writes and a checkpoint.
func (w *forked) grow(t testing.TB, rng *rand.Rand, tl dr.TimelineID, objects int) {
	t.Helper()
	p, err := w.c.OpenPublisher(t.Context(), journal.PublisherOptions{Timeline: tl})
	check(t, err)
	defer p.Close()
	last, ok := p.LastCheckpoint()
	if !ok {
		t.Fatal("no checkpoint to go on from")
	}
	seq := max(p.LastSeq(), last.Seq) + 1
	for n := range objects {
		b := w.c.NewBuilder(segment.BuilderOptions{})
		b.SetSeqs(seq, seq)
		for d := range w.disks {
			if rng.IntN(3) > 0 {
				w.scribble(t, rng, b, w.ids[d], d, seq)
			}
		}
		if n == objects-1 {
			b.SetCheckpoint(dr.Checkpoint{ID: last.ID + 1, Seq: seq + 1, Time: time.Now(), Scope: dr.Group, Disks: last.Disks})
		}
		q, err := p.Publish(t.Context(), b)
		check(t, err)
		check(t, q.Wait(t.Context()))
		seq++
	}
}

// lay writes the disks of a point to files.
func (w *forked) lay(t testing.TB, fs durable.FS, dir string, p point) (out []Target) {
	t.Helper()
	check(t, durable.MkdirAll(fs, dir))
	for i, d := range p.disks {
		path := filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))
		check(t, durable.WriteFile(fs, path, d))
		out = append(out, Target{w.ids[i], path})
	}
	return out
}

func plan(from journal.PointRef, to point, targets []Target, own map[int][]extent.Range) Plan {
	p := Plan{History: to.hist, Checkpoint: to.cp, Base: from}
	for i, t := range targets {
		p.Targets = append(p.Targets, UpdateTarget{Target: t, Own: own[i]})
	}
	return p
}

// same compares files with a point; it returns how many of them are there.
func (p *point) same(t testing.TB, fs durable.FS, targets []Target, what string) (n int) {
	t.Helper()
	for i, tg := range targets {
		got, err := durable.ReadFile(fs, tg.Path, 1<<30)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		check(t, err)
		if !bytes.Equal(got, p.disks[i]) {
			at := 0
			for at < min(len(got), len(p.disks[i])) && got[at] == p.disks[i][at] {
				at++
			}
			t.Fatalf("%s: %s differs from the checkpoint at byte %d (%d bytes, want %d)", what, tg.Path, at, len(got), len(p.disks[i]))
		}
		n++
	}
	return n
}

func noLeftovers(t testing.TB, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*.*.*"))
	check(t, err)
	if len(left) != 0 {
		t.Fatalf("leftovers: %v", left)
	}
}

// TestUpdate goes between all checkpoints, back and forth and over the fork,
// knowing what the disks hold and not knowing.
func TestUpdate(t *testing.T) {
	rng := seeded(t)
	w := newForked(t, mem.New(), rng, 4, 3<<20, 1<<20+512)
	points := map[string]point{"old": w.old, "newer": w.newer, "branch": w.branch}
	for fromName, from := range points {
		for toName, to := range points {
			t.Run(fromName+" to "+toName, func(t *testing.T) {
				for _, base := range []journal.PointRef{from.ref(), {}} {
					dir := t.TempDir()
					targets := w.lay(t, durable.OS{}, dir, from)
					res, err := Update(t.Context(), w.c, plan(base, to, targets, nil), Options{})
					check(t, err)
					if to.same(t, durable.OS{}, targets, "updated") != 2 {
						t.Fatal("a disk is gone")
					}
					noLeftovers(t, dir)
					// What these disks hold behind their end, inside the last block, was made up.
					most := int64(0)
					if base.IsZero() {
						most = dr.BlockSize
					}
					if same := fromName == toName; same != (res.Changed <= most) || base.IsZero() != (res.Compared > 0) {
						t.Errorf("%s", res.String())
					}
				}
			})
		}
	}
}

// TestUpdateRewritesOwnChanges: what the disk was written to by itself is
// rewritten, whether it is said where that was or found by comparing.
func TestUpdateRewritesOwnChanges(t *testing.T) {
	rng := seeded(t)
	w := newForked(t, mem.New(), rng, 3, 2<<20, 1<<20)
	for name, base := range map[string]journal.PointRef{"told": w.newer.ref(), "compared": {}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			targets := w.lay(t, durable.OS{}, dir, w.newer)
			own := map[int][]extent.Range{}
			f, err := os.OpenFile(targets[0].Path, os.O_RDWR, 0)
			check(t, err)
			for range 20 {
				r := extent.Range{Off: rng.Int64N(2<<20 - 5000), Len: 1 + rng.Int64N(5000)}
				junk := make([]byte, r.Len)
				for i := range junk {
					junk[i] = byte(rng.Uint32()) | 1
				}
				_, err := f.WriteAt(junk, r.Off)
				check(t, err)
				own[0] = append(own[0], r)
			}
			check(t, f.Close())
			_, err = Update(t.Context(), w.c, plan(base, w.branch, targets, own), Options{})
			check(t, err)
			w.branch.same(t, durable.OS{}, targets, "updated")
			if base.IsZero() {
				return
			}
			// The twin: own changes nobody told of stay.
			targets = w.lay(t, durable.OS{}, t.TempDir(), w.newer)
			spoilt := bytes.Clone(w.newer.disks[0])
			at := w.unchanged(t) * dr.BlockSize
			spoilt[at] ^= 1
			check(t, os.WriteFile(targets[0].Path, spoilt, 0o600))
			_, err = Update(t.Context(), w.c, plan(base, w.branch, targets, nil), Options{})
			check(t, err)
			got, err := os.ReadFile(targets[0].Path)
			check(t, err)
			if bytes.Equal(got, w.branch.disks[0]) {
				t.Fatal("an update that was told nothing repaired a block that differs in neither checkpoint: the test proves nothing")
			}
		})
	}
}

// unchanged is a block of the first disk that newer and branch have from the
// same record.
func (w *forked) unchanged(t *testing.T) int {
	t.Helper()
	d, err := w.branch.hist.Delta(t.Context(), w.branch.cp, journal.DeltaOptions{From: w.newer.ref(),
		Disks: []journal.DeltaDisk{{Disk: w.ids[0], Known: true}}})
	check(t, err)
	for i := range len(w.newer.disks[0]) / dr.BlockSize {
		if d.Changed(0).Mask(uint32(i/dr.BlocksPerChunk))>>(i%dr.BlocksPerChunk)&1 == 0 {
			return i
		}
	}
	t.Fatal("everything was written")
	return 0
}

// TestUpdateFetchesOnlyWhatDiffers counts what is read from the store.
func TestUpdateFetchesOnlyWhatDiffers(t *testing.T) {
	rng := seeded(t)
	w := newForked(t, mem.New(), rng, 1, 16<<20)
	targets := w.lay(t, durable.OS{}, t.TempDir(), w.old)
	res, err := Update(t.Context(), w.c, plan(w.old.ref(), w.branch, targets, nil), Options{})
	check(t, err)
	w.branch.same(t, durable.OS{}, targets, "updated")
	differ := int64(0)
	for i := 0; i < len(w.branch.disks[0]); i += dr.BlockSize {
		if !bytes.Equal(w.branch.disks[0][i:i+dr.BlockSize], w.old.disks[0][i:i+dr.BlockSize]) {
			differ += dr.BlockSize
		}
	}
	if res.Changed > 2*differ || res.Written > res.Changed || res.Fetched > res.Changed+res.Changed/16 {
		t.Errorf("%d bytes differ; %s, written %d", differ, res.String(), res.Written)
	}
}

// TestUpdateOfWhatIsMissing builds a disk that is not there, and refuses two
// that are.
func TestUpdateOfWhatIsMissing(t *testing.T) {
	w := newForked(t, mem.New(), seeded(t), 2, 1<<20, 1<<20)
	dir := t.TempDir()
	targets := w.lay(t, durable.OS{}, dir, w.newer)
	check(t, os.Remove(targets[1].Path))
	_, err := Update(t.Context(), w.c, plan(w.newer.ref(), w.branch, targets, nil), Options{})
	check(t, err)
	if w.branch.same(t, durable.OS{}, targets, "updated") != 2 {
		t.Fatal("the missing disk was not built")
	}
	check(t, os.WriteFile(targets[0].Path+partialSuffix, []byte("half"), 0o600))
	_, err = Update(t.Context(), w.c, plan(w.newer.ref(), w.branch, targets, nil), Options{})
	if !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Fatalf("two disks: %v", err)
	}
	_, err = Update(t.Context(), w.c, plan(journal.PointRef{}, w.branch, []Target{{dr.DiskID{UUID: dr.NewUUID()}, filepath.Join(dir, "x")}}, nil), Options{})
	if !errs.Is(err, errs.NotFound) {
		t.Fatalf("a disk of none: %v", err)
	}
}

// TestUpdateWithWrongSize compares a file that cannot hold the base.
func TestUpdateWithWrongSize(t *testing.T) {
	w := newForked(t, mem.New(), seeded(t), 2, 1<<20)
	targets := w.lay(t, durable.OS{}, t.TempDir(), w.newer)
	check(t, os.WriteFile(targets[0].Path, bytes.Repeat([]byte("other"), 100_000), 0o600))
	res, err := Update(t.Context(), w.c, plan(w.newer.ref(), w.branch, targets, nil), Options{})
	check(t, err)
	w.branch.same(t, durable.OS{}, targets, "updated")
	if res.Compared == 0 {
		t.Error("it was not compared")
	}
}

// TestUpdateFromAPointThatIsGone compares when the base is not retained.
func TestUpdateFromAPointThatIsGone(t *testing.T) {
	w := newForked(t, mem.New(), seeded(t), 2, 1<<20)
	targets := w.lay(t, durable.OS{}, t.TempDir(), w.newer)
	gone := w.newer.ref()
	gone.Checkpoint += 17
	res, err := Update(t.Context(), w.c, plan(gone, w.branch, targets, nil), Options{})
	check(t, err)
	w.branch.same(t, durable.OS{}, targets, "updated")
	if res.Compared == 0 || res.Written >= 1<<20 {
		t.Errorf("%s, %d written", res.String(), res.Written)
	}
}

// TestUpdateGoesOnAfterACrashAtEveryStep stops at every change of a file; then
// the same update goes on, or another takes the disks over.
func TestUpdateGoesOnAfterACrashAtEveryStep(t *testing.T) {
	w := newForked(t, mem.New(), seeded(t), 2, 256<<10, 128<<10+512)
	for k := int64(0); ; k++ {
		fs := &crashFS{FS: durable.OS{}}
		fs.left.Store(k)
		targets := w.lay(t, durable.OS{}, t.TempDir(), w.newer)
		own := map[int][]extent.Range{0: {{Off: 8192, Len: 5000}}}
		_, err := Update(t.Context(), w.c, plan(w.newer.ref(), w.branch, targets, own), Options{Parallel: 1, FS: fs})
		if err == nil {
			w.branch.same(t, durable.OS{}, targets, "done")
			t.Logf("crashed and continued at each of %d steps", k)
			if k < 20 {
				t.Fatalf("only %d steps", k)
			}
			return
		}
		w.afterCrash(t, durable.OS{}, targets, k)
		to := w.branch
		if k%3 == 2 { // somebody decides otherwise, and does not know what the disks hold
			to = w.old
			_, err = Update(t.Context(), w.c, Plan{History: to.hist, Checkpoint: to.cp,
				Targets: []UpdateTarget{{Target: targets[0]}, {Target: targets[1]}}}, Options{})
		} else {
			_, err = Update(t.Context(), w.c, plan(w.newer.ref(), to, targets, own), Options{})
		}
		if err != nil {
			t.Fatalf("step %d: %v", k, err)
		}
		if to.same(t, durable.OS{}, targets, fmt.Sprintf("step %d", k)) != 2 {
			t.Fatalf("step %d: a disk is gone", k)
		}
		noLeftovers(t, filepath.Dir(targets[0].Path))
	}
}

// afterCrash: a disk under its own name is what it was, or what it becomes.
func (w *forked) afterCrash(t *testing.T, fs durable.FS, targets []Target, step int64) {
	t.Helper()
	for i, tg := range targets {
		got, err := durable.ReadFile(fs, tg.Path, 1<<30)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		check(t, err)
		if !bytes.Equal(got, w.newer.disks[i]) && !bytes.Equal(got, w.branch.disks[i]) {
			t.Fatalf("step %d: a half-made disk has its own name", step)
		}
	}
}

// TestUpdateAfterAnotherUpdate: a disk that was on its way to one checkpoint is
// not taken for the base by an update to another, though its caller thinks so.
func TestUpdateAfterAnotherUpdate(t *testing.T) {
	w := newForked(t, mem.New(), seeded(t), 2, 512<<10)
	for k := int64(3); k < 40; k++ {
		fs := &crashFS{FS: durable.OS{}}
		fs.left.Store(k)
		targets := w.lay(t, durable.OS{}, t.TempDir(), w.newer)
		_, err := Update(t.Context(), w.c, plan(w.newer.ref(), w.branch, targets, nil), Options{Parallel: 1, FS: fs, SaveEvery: 1})
		if err == nil {
			return
		}
		if there, err := exists(durable.OS{}, targets[0].Path); err != nil || there {
			continue // not begun, or ended: then its caller knows
		}
		if _, ok, err := Marked(durable.OS{}, targets[0].Path); err != nil || !ok {
			if c, _ := readCursor(durable.OS{}, targets[0].Path+cursorSuffix); c == nil || !c.Complete {
				t.Fatalf("step %d: nothing says that the disk is under update: %v", k, err)
			}
		}
		_, err = Update(t.Context(), w.c, plan(w.newer.ref(), w.old, targets, nil), Options{})
		check(t, err)
		if w.old.same(t, durable.OS{}, targets, fmt.Sprintf("step %d", k)) != 1 {
			t.Fatal("the disk is gone")
		}
	}
}

// TestUpdatePowerLoss stops the machine in every phase of every file operation,
// with what was not synced lost in part, and starts again.
func TestUpdatePowerLoss(t *testing.T) {
	rng := seeded(t)
	w := newForked(t, mem.New(), rng, 2, 96<<10, 64<<10+512)
	const dir = "/power"
	own := map[int][]extent.Range{1: {{Off: 4096, Len: 1}}}
	var targets []Target
	run := func(fs durable.FS) error {
		_, err := Update(t.Context(), w.c, plan(w.newer.ref(), w.branch, targets, own), Options{Parallel: 1, SaveEvery: 1, FS: fs})
		return err
	}
	dry := durabletest.New(durabletest.Config{})
	targets = w.lay(t, dry, dir, w.newer)
	begun := dry.Ops()
	check(t, run(dry))
	total, crashes := dry.Ops(), 0
	for op := begun + 1; op <= total; op++ {
		for _, phase := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			fs := durabletest.New(durabletest.Config{})
			w.lay(t, fs, dir, w.newer)
			fs.CrashAt(op, phase)
			if run(fs) == nil && !fs.Halted() {
				continue
			}
			crashes++
			image := fs.Image(rng.Uint64(), durabletest.PowerLoss)
			w.afterCrash(t, image, targets, op)
			check(t, run(image))
			if n := w.branch.same(t, image, targets, fmt.Sprintf("operation %d", op)); n != 2 {
				t.Fatalf("operation %d: %d of 2 disks are there", op, n)
			}
			w.branch.same(t, image.Image(rng.Uint64(), durabletest.PowerLoss), targets, "after another crash")
		}
	}
	t.Logf("%d crashes over %d operations", crashes, total-begun)
	if crashes < 100 {
		t.Fatal("too few crashes to prove anything")
	}
}

// TestUpdateIsStopped at every read of the store and goes on.
func TestUpdateIsStopped(t *testing.T) {
	w := newForked(t, mem.New(), seeded(t), 3, 512<<10)
	cut := &cutStore{Store: w.st}
	c, err := journal.Open(t.Context(), cut, w.key.Identity())
	check(t, err)
	for k := int64(1); ; k++ {
		targets := w.lay(t, durable.OS{}, t.TempDir(), w.newer)
		h, err := c.History(t.Context(), journal.HistoryOptions{Timeline: w.branch.hist.Timeline()})
		check(t, err)
		to := point{h, w.branch.cp, nil}
		ctx, cancel := context.WithCancel(t.Context())
		cut.cancel = cancel
		cut.left.Store(k)
		_, err = Update(ctx, c, plan(w.newer.ref(), to, targets, nil), Options{Parallel: 2})
		cut.left.Store(0)
		if err == nil {
			if k < 4 {
				t.Fatalf("only %d reads", k)
			}
			cancel()
			return
		}
		if !errs.Is(err, errs.Canceled) && !errors.Is(err, context.Canceled) {
			t.Fatalf("read %d: %v", k, err)
		}
		_, err = Update(t.Context(), c, plan(w.newer.ref(), to, targets, nil), Options{})
		check(t, err)
		w.branch.same(t, durable.OS{}, targets, "went on")
		cancel()
	}
}
