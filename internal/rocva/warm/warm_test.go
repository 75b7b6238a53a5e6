package warm

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store/mem"
)

func open(t testing.TB, s *source, fs durable.FS, dir string) *Standby {
	t.Helper()
	w, err := Open(t.Context(), s.c, dir, Options{Place: place, FS: fs, Parallel: 1, Poll: time.Millisecond})
	check(t, err)
	return w
}

// await waits for a status; the standby's Run is under way.
func await(t testing.TB, w *Standby, what string, ok func(Status) bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok(w.Status()) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", what, w.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFollows while the source goes on, is taken over, and gets another disk.
func TestFollows(t *testing.T) {
	s := newSource(t, mem.New(), seeded(t), 1<<20, 512<<10)
	dir := t.TempDir()
	w := open(t, s, durable.OS{}, dir)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(t.Context()) }()
	for i := range 6 {
		switch i {
		case 2:
			s.open() // the zombie's place is fenced
		case 4:
			s.attach(256 << 10)
		}
		cp := s.publish()
		await(t, w, "follow", func(v Status) bool { return v.Checkpoint == cp && v.Applying == nil })
		if v := w.Status(); v.Lag != 0 || v.LagBytes != 0 || v.State != Following {
			t.Fatalf("%+v", v)
		}
		if !missing(durable.OS{}, filepath.Join(dir, "disk0.raw")) {
			t.Fatal("a disk that follows has its own name")
		}
	}
	first := w.Status()
	if first.Applied < 6 || first.Compared != 0 {
		t.Fatalf("%+v", first)
	}
	h, err := w.FailoverTo(t.Context(), "latest")
	check(t, err)
	check(t, <-ended)
	s.same(durable.OS{}, dir, s.cp, "", "failover")
	if len(h.Disks) != 3 || h.Checkpoint.ID != s.cp || w.Status().State != HandedOver {
		t.Fatalf("%+v, %+v", h, w.Status())
	}
	again, err := w.FailoverTo(t.Context(), "latest")
	check(t, err)
	if again.Checkpoint.ID != h.Checkpoint.ID {
		t.Fatal("a second failover went elsewhere")
	}
	s.publish()
	check(t, w.Run(t.Context())) // does not follow any more
	s.same(durable.OS{}, dir, s.cp-1, "", "after another Run")
	check(t, w.Close())
	for _, suffix := range []string{".partial", ".cursor", ".lock"} {
		if left, _ := filepath.Glob(filepath.Join(dir, "disk*"+suffix)); len(left) != 0 {
			t.Fatalf("leftovers: %v", left)
		}
	}
}

// TestFollowsAgain takes disks up again that VMs have written to.
func TestFollowsAgain(t *testing.T) {
	s := newSource(t, mem.New(), seeded(t), 1<<20)
	dir := t.TempDir()
	w := open(t, s, durable.OS{}, dir)
	s.publish()
	_, err := w.FailoverTo(t.Context(), "latest")
	check(t, err)
	check(t, w.Close())
	f, err := os.OpenFile(filepath.Join(dir, "disk0.raw"), os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt([]byte("written by the VM"), 300_000)
	check(t, err)
	check(t, f.Close())
	s.publish()
	w, err = Open(t.Context(), s.c, dir, Options{Place: place, Again: true, Poll: time.Millisecond})
	check(t, err)
	if v := w.Status(); v.State != Beginning || v.Checkpoint != 0 {
		t.Fatalf("disks that were handed over stand at a checkpoint: %+v", v)
	}
	if _, err := w.FailoverTo(t.Context(), AsIs); !errs.Is(err, errs.Conflict) {
		t.Fatalf("as they are: %v", err)
	}
	check(t, w.step(t.Context()))
	s.same(durable.OS{}, dir, s.cp, ".partial", "again")
	check(t, w.Close())
}

// TestRewinds to each older point, and back.
func TestRewinds(t *testing.T) {
	s := newSource(t, mem.New(), seeded(t), 1<<20, 300<<10)
	for range 5 {
		s.publish()
	}
	for cp := dr.CheckpointID(1); cp <= 5; cp++ {
		dir := t.TempDir()
		w := open(t, s, durable.OS{}, dir)
		check(t, w.step(t.Context()))
		before := w.Status()
		h, err := w.FailoverTo(t.Context(), "#"+strconv.Itoa(int(cp)))
		check(t, err)
		s.same(durable.OS{}, dir, cp, "", "rewound")
		after := w.Status()
		if h.Checkpoint.ID != cp || after.Compared != 0 || cp == 5 && after.Written != before.Written {
			t.Fatalf("to #%d: %+v, %+v", cp, h.Checkpoint, after)
		}
		check(t, w.Close())
	}
}

// TestAsIs hands over without the container, and not in the middle of an apply.
func TestAsIs(t *testing.T) {
	s := newSource(t, mem.New(), seeded(t), 1<<20)
	dir := t.TempDir()
	if _, err := HandOver(durable.OS{}, dir); !errs.Is(err, errs.NotFound) {
		t.Fatalf("nothing there: %v", err)
	}
	w := open(t, s, durable.OS{}, dir)
	if _, err := w.FailoverTo(t.Context(), AsIs); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Fatalf("nothing applied: %v", err)
	}
	s.publish()
	check(t, w.step(t.Context()))
	s.publish() // which the store has and the standby has not
	if _, err := HandOver(durable.OS{}, dir); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a standby that is open: %v", err)
	}
	check(t, w.Close())
	h, err := HandOver(durable.OS{}, dir)
	check(t, err)
	s.same(durable.OS{}, dir, 1, "", "as it is")
	if h.Checkpoint.ID != 1 || len(h.Disks) != 1 {
		t.Fatalf("%+v", h)
	}
}

// TestOpenRefuses what is not this standby.
func TestOpenRefuses(t *testing.T) {
	s := newSource(t, mem.New(), seeded(t), 1<<20)
	other := newSource(t, mem.New(), seeded(t), 1<<20)
	dir := t.TempDir()
	s.publish()
	w := open(t, s, durable.OS{}, dir)
	if _, err := Open(t.Context(), s.c, dir, Options{Place: place}); !errs.Is(err, errs.Conflict) {
		t.Fatalf("twice: %v", err)
	}
	check(t, w.step(t.Context()))
	check(t, w.Close())
	if _, err := Open(t.Context(), other.c, dir, Options{Place: place}); !errs.Is(err, errs.Invalid) {
		t.Fatalf("another domain: %v", err)
	}
	if _, err := Open(t.Context(), s.c, dir, Options{}); !errs.Is(err, errs.Invalid) {
		t.Fatalf("no place: %v", err)
	}
	check(t, os.WriteFile(filepath.Join(dir, stateFile), []byte("{}"), 0o600))
	if _, err := Open(t.Context(), s.c, dir, Options{Place: place}); !errs.Is(err, errs.Corrupt) || errs.RemedyOf(err) == "" {
		t.Fatalf("damaged: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check(t, os.Remove(filepath.Join(dir, stateFile)))
	w = open(t, s, durable.OS{}, dir)
	if err := w.Run(ctx); !errs.Is(err, errs.Canceled) {
		t.Fatalf("canceled: %v", err)
	}
	check(t, w.step(t.Context())) // the disks are there, nobody says what they hold
	s.same(durable.OS{}, dir, s.cp, ".partial", "compared")
	if w.Status().Compared == 0 {
		t.Fatal("disks of which nothing is known were not compared")
	}
	check(t, w.Close())
}

// TestPowerLoss stops the machine in every phase of every file operation of a
// standby's life: first sync, two checkpoints that follow, a failover to one
// between.
func TestPowerLoss(t *testing.T) {
	rng := seeded(t)
	s := newSource(t, mem.New(), rng, 128<<10, 64<<10)
	const dir = "/warm"
	for range 3 {
		s.publish()
	}
	// life goes through the checkpoints one by one, whatever the newest is.
	life := func(fs durable.FS) error {
		w, err := Open(t.Context(), s.c, dir, Options{Place: place, FS: fs, Parallel: 1})
		if err != nil {
			return err
		}
		defer w.Close()
		for _, spec := range []string{"#1", "#2", "#3"} {
			if err := w.look(t.Context(), true); err != nil {
				return err
			}
			cp, err := w.hist.Find(spec)
			check(t, err)
			if err := w.follow(t.Context(), cp, false); err != nil {
				return err
			}
		}
		_, err = w.FailoverTo(t.Context(), "#2")
		return err
	}
	dry := durabletest.New(durabletest.Config{})
	check(t, durable.MkdirAll(dry, dir))
	begun := dry.Ops()
	check(t, life(dry))
	s.same(dry, dir, 2, "", "dry")
	total, crashes, handed := dry.Ops(), 0, 0
	for op := begun + 1; op <= total; op++ {
		for _, phase := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			fs := durabletest.New(durabletest.Config{})
			check(t, durable.MkdirAll(fs, dir))
			fs.CrashAt(op, phase)
			if life(fs) == nil && !fs.Halted() {
				continue
			}
			crashes++
			image := fs.Image(rng.Uint64(), durabletest.PowerLoss)
			st, err := readState(image, dir)
			check(t, err)
			if st != nil && st.Handed {
				handed++ // nothing but to give the names may be left
				_, err := HandOver(image, dir)
				check(t, err)
				s.same(image, dir, 2, "", "handed over")
				continue
			}
			for _, name := range []string{"disk0.raw", "disk1.raw"} {
				if !missing(image, filepath.Join(dir, name)) {
					t.Fatalf("operation %d: a disk has its own name and was not handed over", op)
				}
			}
			if st != nil && !st.At.IsZero() && st.To.IsZero() {
				s.same(image, dir, st.Checkpoint.ID, ".partial", "where it stands")
			}
			w := open(t, s, image, dir)
			check(t, w.step(t.Context()))
			s.same(image, dir, 3, ".partial", "went on")
			_, err = w.FailoverTo(t.Context(), "latest")
			check(t, err)
			s.same(image, dir, 3, "", "handed over")
			check(t, w.Close())
		}
	}
	t.Logf("%d crashes over %d operations, %d of them after the handover", crashes, total-begun, handed)
	if crashes < 100 || handed < 3 {
		t.Fatal("too few crashes to prove anything")
	}
}

// TestBrokenHandover: were a disk named before the standby has noted that it is
// not its own any more, a crash in between would have it written to under a VM.
func TestBrokenHandover(t *testing.T) {
	s := newSource(t, mem.New(), seeded(t), 256<<10)
	dir := t.TempDir()
	s.publish()
	w := open(t, s, durable.OS{}, dir)
	check(t, w.step(t.Context()))
	name := filepath.Join(dir, "disk0.raw")
	check(t, os.Rename(name+".partial", name)) // the wrong order, and a crash
	s.publish()
	check(t, w.step(t.Context()))
	if !missing(durable.OS{}, name) {
		t.Fatal("the standby left the disk alone: the order of a handover would not matter")
	}
	check(t, w.Close())
}

// TestBaseThatIsGone compares when what the disks hold is not retained any more,
// also in the middle of an apply.
func TestBaseThatIsGone(t *testing.T) {
	for _, under := range []bool{false, true} {
		s := newSource(t, mem.New(), seeded(t), 512<<10)
		dir := t.TempDir()
		s.publish()
		w := open(t, s, durable.OS{}, dir)
		check(t, w.step(t.Context()))
		gone := journal.PointRef{Timeline: s.tl, Checkpoint: 77, Seq: 1}
		w.state.At, w.state.Disks[0].At = gone, gone
		if under {
			w.state.To = journal.PointRef{Timeline: s.tl, Checkpoint: 78, Seq: 1}
		}
		s.publish()
		check(t, w.step(t.Context()))
		s.same(durable.OS{}, dir, s.cp, ".partial", "compared")
		if w.Status().Compared == 0 {
			t.Fatal("it was not compared")
		}
		check(t, w.Close())
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"domain":"0190c1b2-7f3e-4a5b-8c6d-112233445566","timeline":"0190c1b2-7f3e-4a5b-8c6d-112233445567","disks":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err == nil && (s.Format != stateFormat || s.Handed && s.At.IsZero()) {
			t.Fatal("a state that makes no sense was taken")
		}
	})
}
