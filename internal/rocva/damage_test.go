package rocva

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"

	"holdfast/internal/journal"
	"holdfast/internal/rocva/frame"
)

// TestDamagedFrameIsNamedAndNeverBecomesZeroes flips a bit in a frame of each
// object in turn.
func TestDamagedFrameIsNamedAndNeverBecomesZeroes(t *testing.T) {
	st := mem.New()
	w := newWorld(t, st, seeded(t), 6, 1<<20, 1<<20)
	for _, o := range w.img.Objects {
		p := o.Frames[len(o.Frames)/2]
		obj, err := w.c.OpenRef(t.Context(), o.Ref)
		check(t, err)
		e, err := obj.Entry(p.Frame)
		check(t, err)
		at := int(e.Offset) + int(e.Stored)/2
		flip := func(b []byte) []byte { b[at] ^= 4; return b }
		st.Damage(o.Key, flip)
		targets := w.targets(t.TempDir())
		_, err = Full(t.Context(), w.c, w.img, targets, Options{SkipHashes: true})
		if !errs.Is(err, errs.Corrupt) {
			t.Fatalf("object %s: %v", o.Key, err)
		}
		for _, want := range []string{o.Key, "disk " + w.img.Disks[p.Disk].ID.String(), fmt.Sprintf("chunk %d", e.Chunk), "checkpoint #1"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not name %s: %v", want, err)
			}
		}
		if errs.RemedyOf(err) == "" {
			t.Errorf("no remedy: %v", err)
		}
		for _, tg := range targets {
			if _, err := os.Stat(tg.Path); !os.IsNotExist(err) {
				t.Fatalf("a disk with a hole in it has its own name: %v", err)
			}
		}
		// Once the object is whole again the same run goes on.
		st.Damage(o.Key, flip)
		_, err = Full(t.Context(), w.c, w.img, targets, Options{})
		check(t, err)
		w.compare(t, targets)
	}
}

func TestStoreThatFlipsBitsOnTheWay(t *testing.T) {
	f := fault.New(mem.New())
	w := newWorld(t, f, seeded(t), 6, 1<<20)
	for k := range 14 {
		for _, do := range []fault.Action{fault.FlipBit(4096*8*3 + 5), fault.Short(5000)} {
			f.Clear()
			f.Add(fault.Rule{Op: fault.ReadRange, Prefix: "t/", Skip: k, Do: do})
			targets := w.targets(t.TempDir())
			_, err := Full(t.Context(), w.c, w.img, targets, Options{Parallel: 1})
			if err == nil { // the bit was none that is needed
				w.compare(t, targets)
			} else if !errs.Is(err, errs.Corrupt) {
				t.Fatalf("read %d: %v", k, err)
			}
		}
	}
}

// TestBlocksAreComparedWithTheirHashes: a frame whose seal is good and whose
// blocks are not those that were captured is refused.
func TestBlocksAreComparedWithTheirHashes(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 1, 1<<20)
	for _, skip := range []bool{false, true} {
		targets, err := pickTargets(durable.OS{}, w.img, w.targets(t.TempDir()))
		check(t, err)
		check(t, targets[0].openFile(true))
		r := &run{c: w.c, img: w.img, opts: Options{SkipHashes: skip}, byDisk: map[uint16]*target{0: targets[0]}, openObject: w.c.OpenSized}
		o, err := w.c.OpenRef(t.Context(), w.img.Objects[0].Ref)
		check(t, err)
		e, err := o.Entry(w.img.Objects[0].Frames[0].Frame)
		check(t, err)
		o.Footer.Hashes[e.FirstHash] ^= 1
		f := &fetcher{r: r}
		opened, err := frame.Open(w.img, &w.img.Objects[0], o)
		check(t, err)
		first := []frame.Part{opened.Part(0)}
		err = f.span(t.Context(), opened, frame.Spans(first, rangeSize)[0])
		if skip != (err == nil) || !skip && !errs.Is(err, errs.Corrupt) {
			t.Fatalf("skip %v: %v", skip, err)
		}
		targets[0].close()
	}
}

// TestAnotherObjectInItsPlace: an image that does not fit the footer that is
// found is refused before a frame is opened.
func TestAnotherObjectInItsPlace(t *testing.T) {
	for what, change := range map[string]func(*journal.ImageObject){
		"frame that is not there":   func(o *journal.ImageObject) { o.Frames[0].Frame = 1 << 20 },
		"frame of another chunk":    func(o *journal.ImageObject) { o.Frames[0].Chunk++ },
		"frames of another size":    func(o *journal.ImageObject) { o.Stored++ },
		"frame of another disk":     func(o *journal.ImageObject) { o.Frames[0].Disk ^= 1 },
		"blocks that are not there": func(o *journal.ImageObject) { o.Frames[0].Take = 0 },
		"object of another size":    func(o *journal.ImageObject) { o.Size-- },
	} {
		w := newWorld(t, mem.New(), seeded(t), 2, 1<<20, 1<<20)
		change(&w.img.Objects[0])
		_, err := Full(t.Context(), w.c, w.img, w.targets(t.TempDir()), Options{})
		if !errs.Is(err, errs.Corrupt) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDeletedObject(t *testing.T) {
	st := mem.New()
	w := newWorld(t, st, seeded(t), 6, 1<<20)
	check(t, st.Delete(t.Context(), w.img.Objects[0].Key))
	_, err := Full(t.Context(), w.c, w.img, w.targets(t.TempDir()), Options{})
	if !errs.Is(err, errs.NotFound) {
		t.Fatalf("%v", err)
	}
}

// fullFS has room for some bytes and then none.
type fullFS struct {
	durable.FS
	room atomic.Int64
}

func (f *fullFS) OpenFile(path string, m durable.Mode) (durable.File, error) {
	file, err := f.FS.OpenFile(path, m)
	if err != nil {
		return nil, err
	}
	return &fullFile{file, f}, nil
}

type fullFile struct {
	durable.File
	fs *fullFS
}

func (f *fullFile) WriteAtv(bs [][]byte, off int64) error {
	for _, b := range bs {
		if f.fs.room.Add(-int64(len(b))) < 0 {
			return durable.Wrap("test", "", unix.ENOSPC)
		}
	}
	return f.File.WriteAtv(bs, off)
}

// TestDiskFull: the error says so, and the run goes on when there is room.
func TestDiskFull(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 8, 1<<20)
	targets := w.targets(t.TempDir())
	fs := &fullFS{FS: durable.OS{}}
	fs.room.Store(300 << 10)
	_, err := Full(t.Context(), w.c, w.img, targets, Options{Parallel: 1, FS: fs})
	if !errs.Is(err, errs.Full) || errs.RemedyOf(err) == "" {
		t.Fatalf("%v, remedy %q", err, errs.RemedyOf(err))
	}
	_, err = Full(t.Context(), w.c, w.img, targets, Options{})
	check(t, err)
	w.compare(t, targets)
}

func TestNoRoomIsSeenBeforehand(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 1, 1<<20)
	w.img.Disks[0].Bytes = 1 << 60
	_, err := Full(t.Context(), w.c, w.img, w.targets(t.TempDir()), Options{})
	if !errs.Is(err, errs.Full) || !strings.Contains(err.Error(), "room") {
		t.Fatalf("%v", err)
	}
}

// syncFS fails the nth sync of a partial file, and none after: as a kernel
// does that has dropped what it could not write.
type syncFS struct {
	durable.FS
	left atomic.Int64
}

func (f *syncFS) OpenFile(path string, m durable.Mode) (durable.File, error) {
	file, err := f.FS.OpenFile(path, m)
	if err != nil || !strings.HasSuffix(path, partialSuffix) {
		return file, err
	}
	return &syncFile{file, f}, nil
}

type syncFile struct {
	durable.File
	fs *syncFS
}

func (f *syncFile) Sync() error {
	if f.fs.left.Add(-1) == 0 {
		return durable.Wrap("test", "", unix.EIO)
	}
	return f.File.Sync()
}

func TestAFailedSyncIsNotRepeated(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 8, 1<<20)
	targets := w.targets(t.TempDir())
	fs := &syncFS{FS: durable.OS{}}
	fs.left.Store(1)
	_, err := Full(t.Context(), w.c, w.img, targets, Options{FS: fs, SaveEvery: 1})
	if !errs.Is(err, errs.Unavailable) {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(targets[0].Path + cursorSuffix); !os.IsNotExist(err) {
		t.Fatal("a cursor speaks of data that a failed sync may have lost")
	}
	fs.left.Store(-1)
	res, err := Full(t.Context(), w.c, w.img, targets, Options{FS: fs})
	check(t, err)
	if res.Skipped != 0 {
		t.Fatalf("%+v", res)
	}
	w.compare(t, targets)
}

func TestRefusedTargets(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 2, 1<<20, 1<<20)
	good := w.targets(t.TempDir())
	other := Target{dr.DiskID{UUID: dr.NewUUID()}, filepath.Join(t.TempDir(), "x")}
	for name, c := range map[string]struct {
		targets []Target
		opts    Options
		kind    errs.Kind
	}{
		"none":         {nil, Options{}, errs.Invalid},
		"no path":      {[]Target{{Disk: good[0].Disk}}, Options{}, errs.Invalid},
		"same path":    {[]Target{good[0], {good[1].Disk, good[0].Path}}, Options{}, errs.Invalid},
		"same disk":    {[]Target{good[0], {good[0].Disk, good[1].Path}}, Options{}, errs.Invalid},
		"unknown disk": {[]Target{other}, Options{}, errs.NotFound},
		"no directory": {[]Target{{good[0].Disk, "/nonexistent/dir/disk"}}, Options{}, errs.NotFound},
		"a directory":  {[]Target{{good[0].Disk, t.TempDir()}}, Options{}, errs.Invalid},
		"a tty":        {[]Target{{good[0].Disk, "/dev/null"}}, Options{}, errs.Invalid},
		"too many":     {good, Options{Parallel: maxParallel + 1}, errs.Invalid},
		"negative":     {good, Options{Parallel: -1}, errs.Invalid},
	} {
		if _, err := Full(t.Context(), w.c, w.img, c.targets, c.opts); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v (%v), want %v", name, err, errs.KindOf(err), c.kind)
		}
	}
	// A target another run is writing.
	lock, err := durable.OS{}.Lock(good[0].Path + lockSuffix)
	check(t, err)
	if _, err := Full(t.Context(), w.c, w.img, good, Options{}); !errs.Is(err, errs.Conflict) {
		t.Errorf("locked: %v", err)
	}
	check(t, lock.Close())
}

// TestAnotherRunsLeftoversAreNotTaken: a cursor is good for its own checkpoint
// and its own set of targets alone.
func TestAnotherRunsLeftoversAreNotTaken(t *testing.T) {
	rng := seeded(t)
	a := newWorld(t, mem.New(), rng, 5, 512<<10, 256<<10)
	b := newWorld(t, mem.New(), rng, 5, 512<<10, 256<<10)
	dir := t.TempDir()
	stop := func(w *world) { // in the middle, with a cursor that says so
		for left := int64(20); ; left++ {
			fs := &crashFS{FS: durable.OS{}}
			fs.left.Store(left)
			if _, err := Full(t.Context(), w.c, w.img, w.targets(dir), Options{FS: fs, Parallel: 1, SaveEvery: 1}); !errors.Is(err, errCrash) {
				t.Fatalf("%v", err)
			}
			done := 0
			for _, tg := range w.targets(dir) {
				if c, err := readCursor(durable.OS{}, tg.Path+cursorSuffix); err == nil && c != nil && len(c.Done) > 0 {
					done++
				}
			}
			if done == 2 {
				return
			}
		}
	}
	stop(a)
	stop(b)
	_, err := Full(t.Context(), a.c, a.img, a.targets(dir), Options{})
	check(t, err)
	a.compare(t, a.targets(dir))
	// A cursor that was tampered with, or cut, is as none.
	dir = t.TempDir()
	stop(a)
	for _, tg := range a.targets(dir) {
		if c, err := os.ReadFile(tg.Path + cursorSuffix); err == nil {
			check(t, os.WriteFile(tg.Path+cursorSuffix, bytes.Replace(c, []byte(`"done":[`), []byte(`"done":[[1,99],`), 1), 0o600))
		}
	}
	res, err := Full(t.Context(), a.c, a.img, a.targets(dir), Options{})
	check(t, err)
	if res.Skipped != 0 {
		t.Fatalf("%d objects skipped on the word of a forged cursor", res.Skipped)
	}
	a.compare(t, a.targets(dir))
}

func FuzzCursor(f *testing.F) {
	const n = 10
	f.Add(uint64(0), uint64(5), uint64(9), uint64(100))
	f.Add(uint64(27), uint64(27), uint64(5), uint64(1))
	f.Fuzz(func(t *testing.T, a, b, c, d uint64) {
		rs := [][2]int{{int(a), int(b)}, {int(c), int(d)}}
		done := doneOf(n, rs)
		again := doneOf(n, ranges(done))
		for i := range done {
			if done[i] != again[i] {
				t.Fatalf("%v: object %d", rs, i)
			}
		}
	})
}

// cpu is the processor time this process has used, in seconds.
func cpu(b *testing.B) float64 {
	var u unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkFull compares with a plain copy of the same bytes to a file. On a
// busy machine the processor time tells more than the clock.
func BenchmarkFull(b *testing.B) {
	w := newWorld(b, mem.New(), seededB(), 20, 64<<20)
	run := func(name string, write func(dir string)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(w.img.Disks[0].Bytes)
			from, n := cpu(b), 0
			for b.Loop() {
				dir := b.TempDir()
				write(dir)
				check(b, os.RemoveAll(dir))
				n++
			}
			b.ReportMetric((cpu(b)-from)*1000/float64(n), "cpu-ms/op")
		})
	}
	run("rehydrate", func(dir string) {
		_, err := Full(b.Context(), w.c, w.img, w.targets(dir), Options{Parallel: 2})
		check(b, err)
	})
	run("copy", func(dir string) {
		f, err := os.Create(filepath.Join(dir, "copy"))
		check(b, err)
		_, err = f.Write(w.disks[0])
		check(b, errors.Join(err, f.Sync(), f.Close()))
	})
}
