package ondemand

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/store/mem"
)

// A crash is a stop of machine or process in the middle of a script; whoever
// starts afterwards must find all that was acknowledged as durable, of the rest
// only what was written, and the checkpoint's bytes where nothing was.

const sector = 512

// oracle knows what each sector of a disk may hold after a crash.
type oracle struct {
	image []byte           // the checkpoint
	past  []history        // of each sector
	since map[int]struct{} // sectors of which more than one value is possible
	wrote map[int]struct{} // blocks that were ever begun to be written
}

// history is a sector's values since the last flush, oldest first.
type history []version

type version struct {
	b     []byte
	acked bool
}

func newOracle(image []byte) *oracle {
	o := &oracle{image: image, since: map[int]struct{}{}, wrote: map[int]struct{}{}}
	for at := 0; at < len(image); at += sector {
		o.past = append(o.past, history{{image[at:min(at+sector, len(image))], true}})
	}
	return o
}

// now is the newest acknowledged version.
func (h history) now() int {
	for i := len(h) - 1; i > 0; i-- {
		if h[i].acked {
			return i
		}
	}
	return 0
}

// begin notes a write on its way; the result acknowledges it. Ranges are whole
// sectors, but at the disk's end.
func (o *oracle) begin(b []byte, off int64) (acked func()) {
	first := int(off / sector)
	n := (len(b) + sector - 1) / sector
	for i := range n {
		s := first + i
		piece := append([]byte(nil), b[i*sector:min((i+1)*sector, len(b))]...)
		o.past[s] = append(o.past[s], version{b: piece})
		o.since[s] = struct{}{}
		o.wrote[s*sector/dr.BlockSize] = struct{}{}
	}
	return func() {
		for i := range n {
			h := o.past[first+i]
			// One client at a time writes a sector: its own is the last.
			h[len(h)-1].acked = true
		}
	}
}

// flush notes a flush on its way; the result acknowledges it.
func (o *oracle) flush() (acked func()) {
	keep := map[int]*byte{}
	for s := range o.since {
		h := o.past[s]
		keep[s] = &h[h.now()].b[0]
	}
	return func() {
		for s, first := range keep {
			for i, v := range o.past[s] {
				if &v.b[0] == first { // else a later flush was answered before
					o.past[s] = o.past[s][i:]
					break
				}
			}
			if len(o.past[s]) == 1 {
				delete(o.since, s)
			}
		}
	}
}

// allows is the versions a sector may have after a loss.
func (h history) allows(loss durabletest.Loss) history {
	if loss == durabletest.ProcessDeath {
		return h[h.now():]
	}
	return h
}

// settle compares what a disk holds after a loss with what it may hold, and
// takes it for what is there from now on.
func (o *oracle) settle(got []byte, loss durabletest.Loss) error {
	for s := range o.past {
		at := s * sector
		b := got[at:min(at+sector, len(got))]
		ok := false
		for _, v := range o.past[s].allows(loss) {
			ok = ok || bytes.Equal(v.b, b)
		}
		if !ok {
			return errs.New("oracle", errs.Corrupt, "", describe(s, b, o.past[s]))
		}
		o.past[s] = history{{append([]byte(nil), b...), true}}
	}
	clear(o.since)
	return nil
}

func describe(s int, b []byte, h history) string {
	what := "something else"
	if bytes.Equal(b, make([]byte, len(b))) {
		what = "zeroes"
	}
	return strings.Join([]string{"sector", itoa(s), "of chunk", itoa(s * sector / dr.ChunkSize), "holds", what, "of", itoa(len(h)), "possible"}, " ")
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// checkWritten: every block that differs from the checkpoint is told as
// written; exact says that nothing else is.
func (o *oracle) checkWritten(s *Set, id dr.DiskID, got []byte, exact bool) error {
	told := map[int]bool{}
	for _, r := range s.Written(id) {
		for b := int(r.Off / dr.BlockSize); int64(b)*dr.BlockSize < r.End(); b++ {
			told[b] = true
			if _, wrote := o.wrote[b]; exact && !wrote {
				return errs.New("oracle", errs.Corrupt, "", "block "+itoa(b)+" is told as written and was not")
			}
		}
	}
	for at := 0; at < len(got); at += dr.BlockSize {
		end := min(at+dr.BlockSize, len(got))
		if !bytes.Equal(got[at:end], o.image[at:end]) && !told[at/dr.BlockSize] {
			return errs.New("oracle", errs.Corrupt, "", "block "+itoa(at/dr.BlockSize)+" differs from the checkpoint and is not told as written")
		}
	}
	return nil
}

// script is what one guest does, from Open to Finish; it stops at the first error.
func script(w *world, fs durable.FS, boot string, o *oracle, rng *rand.Rand) error {
	s, err := Open(context.Background(), w.c, w.img, w.targets("/d"), Options{FS: fs, BootID: boot, Parallel: 1, BootWindow: -1})
	if err != nil {
		return err
	}
	defer s.shut()
	defer s.stop()
	dev := s.Device(w.img.Disks[0].ID)
	size := dev.Size()
	for i := range 10 {
		off := rng.Int64N(size/sector) * sector
		n := min(1+rng.Int64N(40)*sector+sector-1, size-off) / sector * sector
		switch i {
		case 4, 8:
			acked := o.flush()
			if err := do(dev, req{Kind: nbd.Flush}); err != nil {
				return err
			}
			acked()
		case 6:
			if err := do(dev, req{Kind: nbd.Read, Offset: off, Length: n, Data: make([]byte, n)}); err != nil {
				return err
			}
		default:
			b := make([]byte, n)
			flags := nbd.Flags(0)
			if i == 5 {
				flags = nbd.FUA
			}
			for j := range b {
				b[j] = byte(rng.Uint32()) | 1
			}
			r := req{Kind: nbd.Write, Flags: flags, Offset: off, Length: n, Data: b}
			if i == 7 {
				clear(b)
				r = req{Kind: nbd.WriteZeroes, Offset: off, Length: n}
			}
			acked := o.begin(b, off)
			if err := do(dev, r); err != nil {
				return err
			}
			acked()
		}
	}
	if err := s.Run(context.Background()); err != nil {
		return err
	}
	acked := o.flush()
	if err := s.Finish(context.Background()); err != nil {
		return err
	}
	acked()
	return nil
}

// after opens what a crash left, or reads the disk if it is finished, and
// returns what is there.
func after(w *world, fs durable.FS, boot string, o *oracle, exact bool) ([]byte, error) {
	path := w.targets("/d")[0].Path
	if plain, err := Finished(fs, path); err != nil {
		return nil, err
	} else if plain {
		return durable.ReadFile(fs, path, 1<<30)
	}
	s, err := Open(context.Background(), w.c, w.img, w.targets("/d"), Options{FS: fs, BootID: boot, Parallel: 1, BootWindow: -1})
	if err != nil {
		return nil, err
	}
	dev := s.Device(w.img.Disks[0].ID)
	got := make([]byte, dev.Size())
	_, err = dev.ReadAt(got, 0)
	if err == nil {
		err = o.checkWritten(s, w.img.Disks[0].ID, got, exact)
	}
	return got, errors.Join(err, s.Close())
}

// crashes runs the script on a file system that stops at each of its operations,
// in each phase, by each loss, and looks what is there afterwards.
func crashes(t *testing.T, w *world, rng *rand.Rand, wrap func(durable.FS) durable.FS) (n int, err error) {
	seed := rng.Uint64()
	made := func() *durabletest.FS {
		fs := durabletest.New(durabletest.Config{})
		check(t, durable.MkdirAll(fs, "/d"))
		return fs
	}
	script := func(fs *durabletest.FS, o *oracle) error {
		return script(w, wrap(fs), "boot", o, rand.New(rand.NewPCG(seed, 1)))
	}
	dry := made()
	begun := dry.Ops()
	check(t, script(dry, newOracle(w.disks[0])))
	total := dry.Ops()
	for op := begun + 1; op <= total; op++ {
		for _, phase := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			for _, loss := range []durabletest.Loss{durabletest.PowerLoss, durabletest.ProcessDeath} {
				fs := made()
				o := newOracle(w.disks[0])
				fs.CrashAt(op, phase)
				if script(fs, o) == nil && !fs.Halted() {
					continue
				}
				n++
				if err := afterCrash(w, fs.Image(rng.Uint64(), loss), o, loss, rng); err != nil {
					return n, errs.E("crash at operation "+itoa(int(op)), errs.Internal, "phase "+itoa(int(phase))+", loss "+itoa(int(loss)), err)
				}
			}
		}
	}
	return n, nil
}

// afterCrash checks an image, and that what is acknowledged as whole afterwards
// outlives a power loss.
func afterCrash(w *world, fs *durabletest.FS, o *oracle, loss durabletest.Loss, rng *rand.Rand) error {
	if err := w.removed(fs.Image(rng.Uint64(), durabletest.ProcessDeath)); err != nil {
		return err
	}
	boot := "boot"
	if loss == durabletest.PowerLoss {
		boot = "another"
	}
	got, err := after(w, fs, boot, o, loss == durabletest.ProcessDeath)
	if err == nil {
		err = o.settle(got, loss)
	}
	if err != nil {
		return err
	}
	// Close has flushed: all of it is durable now.
	fs = fs.Image(rng.Uint64(), durabletest.PowerLoss)
	if got, err = after(w, fs, "third", o, false); err == nil {
		err = o.settle(got, durabletest.PowerLoss)
	}
	return err
}

// removed removes what a crash left, and demands that nothing is left of it but
// what is another disk's.
func (w *world) removed(fs *durabletest.FS) error {
	left := func() (names []string, temps int, err error) {
		entries, err := fs.ReadDir("/d")
		for _, e := range entries {
			names = append(names, e.Name)
			if durable.IsTemp(e.Name) {
				temps++
			}
		}
		return names, temps, err
	}
	_, temps, err := left()
	if err != nil {
		return err
	}
	w.temps += temps
	others := "/d/other.raw" + presentSuffix
	if err := errors.Join(durable.WriteFile(fs, others, []byte("x")), Remove(fs, w.targets("/d")[0].Path)); err != nil {
		return err
	}
	if names, _, err := left(); err != nil || len(names) != 1 || "/d/"+names[0] != others {
		return errs.E("ondemand.Remove", errs.Internal, strings.Join(names, " "), errors.Join(errors.New("not what is to be left"), err))
	}
	return nil
}

// TestCrashAtEveryStep stops machine and process at every file operation.
func TestCrashAtEveryStep(t *testing.T) {
	rng := seeded(t)
	w := newWorld(t, mem.New(), rng, 3, 256<<10+sector)
	n, err := crashes(t, w, rng, func(fs durable.FS) durable.FS { return fs })
	check(t, err)
	t.Logf("%d crashes, %d temporary files left", n, w.temps)
	if n < 200 || w.temps == 0 {
		t.Fatal("too few crashes to prove anything")
	}
}

// brokenFS breaks one rule of the order in which things become durable.
type brokenFS struct {
	durable.FS
	skipSync func(path string) bool                // syncs that are only said to be done
	drop     func(path string, bufs [][]byte) bool // writes that are only said to be done
}

type brokenFile struct {
	durable.File
	fs   *brokenFS
	path string
}

func (f *brokenFS) OpenFile(path string, m durable.Mode) (durable.File, error) {
	file, err := f.FS.OpenFile(path, m)
	if err != nil {
		return nil, err
	}
	return &brokenFile{file, f, path}, nil
}

func (f *brokenFile) Sync() error {
	if f.fs.skipSync != nil && f.fs.skipSync(f.path) {
		return nil
	}
	return f.File.Sync()
}

func (f *brokenFile) WriteAtv(bufs [][]byte, off int64) error {
	if f.fs.drop != nil && f.fs.drop(f.path, bufs) {
		return nil
	}
	return f.File.WriteAtv(bufs, off)
}

func (f *brokenFile) Zero(off, n int64) error { return f.File.(durable.Zeroer).Zero(off, n) }

func isMap(path string) bool  { return strings.HasSuffix(path, presentSuffix) }
func isDisk(path string) bool { return strings.HasSuffix(path, ".raw") }

// isKind is a write of one record of a kind.
func isKind(kind byte) func(string, [][]byte) bool {
	return func(path string, bufs [][]byte) bool { return isMap(path) && len(bufs[0]) > 4 && bufs[0][4] == kind }
}

// broken are the ways to keep a map wrong.
func broken() iter.Seq2[string, *brokenFS] {
	return func(yield func(string, *brokenFS) bool) {
		_ = yield("blocks are recorded before they are durable", &brokenFS{skipSync: isDisk}) &&
			yield("a flush is answered before its record is durable", &brokenFS{skipSync: isMap}) &&
			yield("the guest's writes are not recorded until a flush", &brokenFS{drop: isKind(kindWriting)})
	}
}

// TestBrokenMapsAreNoticed: the crash test sees each of the rules broken.
func TestBrokenMapsAreNoticed(t *testing.T) {
	rng := seeded(t)
	for what, fs := range broken() {
		caught := error(nil)
		for range 4 {
			w := newWorld(t, mem.New(), rng, 3, 256<<10+sector)
			if _, caught = crashes(t, w, rng, func(inner durable.FS) durable.FS {
				b := *fs
				b.FS = inner
				return &b
			}); caught != nil {
				break
			}
		}
		if caught == nil {
			t.Errorf("%s: not noticed", what)
		}
		t.Logf("%s: %v", what, caught)
	}
}
