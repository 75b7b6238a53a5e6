package replog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// place is where a part of a log lies on disk.
type place struct {
	path     string
	off, end int64
	name     string
	batch    uint64 // 0 for headers and carry areas
}

// filled makes a log of three files in use on a fresh file system, some files
// trimmed before them, and tells where everything lies. Without clean the
// process dies instead of closing it.
func filled(t *testing.T, clean bool) (*durabletest.FS, []place, dr.Seq) {
	t.Helper()
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 5))
	seq := dr.Seq(1)
	for l.nextNumber() <= 6 {
		l.append(write(seq, 3, 1), control(record.Disk, seq+1, int(seq%5), "disk"), control(record.Meta, seq+2, 1, "vm"))
		seq += 3
		if f := l.Usage(); f.Files == 4 {
			if err := l.Trim(l.firstFileEnd()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 4 {
		l.append(write(seq, 1, 1))
		seq++
	}
	image := fs.Image(1, durabletest.PowerLoss)
	places := l.places(t)
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	if clean {
		image = fs.Image(1, durabletest.PowerLoss)
	}
	return image, places, seq - 1
}

func (l *Log) nextNumber() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nextFile
}

func (l *Log) firstFileEnd() dr.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.files[0].lastSeq
}

// places lists headers, carry areas and batches of all files in use.
func (l *Log) places(t *testing.T) []place {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []place
	page := durable.AlignedBytes(pageSize)
	for _, f := range l.files {
		out = append(out, place{f.path, 0, pageSize, fmt.Sprintf("header of file %d", f.number), 0})
		if f.start > pageSize {
			out = append(out, place{f.path, pageSize, f.start, fmt.Sprintf("carry area of file %d", f.number), 0})
		}
		for off := f.start; off < f.durableEnd; {
			if _, err := f.f.ReadAt(page, off); err != nil {
				t.Fatal(err)
			}
			var h batchHead
			if !h.parse(page) {
				t.Fatalf("no batch at byte %d of %s", off, f.path)
			}
			out = append(out, place{f.path, off, off + h.size(), fmt.Sprintf("batch %d", h.number), h.number})
			off += h.size()
		}
	}
	return out
}

func open(fs *durabletest.FS, k knobs) (Recovery, error) {
	opts := testOptions(fs.Image(0, durabletest.ProcessDeath), "log", 5)
	opts.knobs = k
	l, err := Open(context.Background(), opts)
	if err != nil {
		return Recovery{}, err
	}
	return l.Recovered(), l.Close()
}

// wantCorrupt checks that err is what a user with a damaged log should get.
func wantCorrupt(err error, path string) error {
	switch {
	case !errs.Is(err, errs.Corrupt):
		return fmt.Errorf("got %v, want corrupt", err)
	case errs.RemedyOf(err) == "":
		return fmt.Errorf("no remedy: %v", err)
	case path != "" && !strings.Contains(err.Error(), path):
		return fmt.Errorf("%v does not name %s", err, path)
	case !strings.Contains(err.Error(), "seq "):
		return fmt.Errorf("%v does not name a seq", err)
	}
	return nil
}

// flipEverywhere damages single bytes all over a log, one at a time, and
// checks that each is found. The last two batches of a log that was not closed
// cannot be told from a torn tail: they, and nothing else, may be dropped.
func flipEverywhere(t *testing.T, clean bool, k knobs) error {
	fs, places, last := filled(t, clean)
	if rec, err := open(fs, k); err != nil || rec.Last != last || rec.TornTail {
		t.Fatalf("undamaged: %+v, %v", rec, err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	newest := places[len(places)-1].batch
	lastKept := last - maxInFlight // the last batches hold a record each
	for _, p := range places {
		offs := []int64{p.off, p.off + 57, p.off + 60, p.off + headSize + 3, p.end - 1}
		for range 6 {
			offs = append(offs, p.off+r.Int64N(p.end-p.off))
		}
		for _, off := range offs {
			bad := fs.Image(0, durabletest.ProcessDeath)
			if err := bad.Flip(p.path, off, 1<<r.IntN(8)); err != nil {
				t.Fatal(err)
			}
			rec, err := open(bad, k)
			if !clean && p.batch+maxInFlight > newest && err == nil {
				if rec.Last >= last || rec.Last < lastKept {
					return fmt.Errorf("%s, byte %d: recovered to %d of %d", p.name, off, rec.Last, last)
				}
				continue
			}
			path := p.path
			if p.batch == 0 || p.batch+maxInFlight > newest {
				path = "" // the file is what may be missing
			}
			if err := wantCorrupt(err, path); err != nil {
				return fmt.Errorf("%s, byte %d: %w", p.name, off, err)
			}
		}
	}
	return nil
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	for _, clean := range []bool{true, false} {
		if err := flipEverywhere(t, clean, knobs{}); err != nil {
			t.Errorf("closed first: %v: %v", clean, err)
		}
	}
}

func TestFlipHarnessNoticesBrokenRule(t *testing.T) {
	err := flipEverywhere(t, false, knobs{noEvidence: true})
	if err == nil {
		t.Fatal("every bad batch was taken for a torn tail, and nothing noticed")
	}
	t.Logf("noticed: %v", err)
}

// A device that acknowledged a write and kept the old content is found by the
// chain, although the old content may be a sound batch.
func TestLostWriteIsFound(t *testing.T) {
	fs, places, _ := filled(t, false)
	empty := make([]byte, 1<<20)
	for _, p := range places[:len(places)-2] {
		bad := fs.Image(0, durabletest.ProcessDeath)
		if err := bad.Poke(p.path, empty[:p.end-p.off], p.off); err != nil {
			t.Fatal(err)
		}
		if _, err := open(bad, knobs{}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s lost: got %v, want corrupt", p.name, err)
		}
	}
	// An earlier batch of equal size in the place of a later one.
	var of = map[int64]place{}
	for _, p := range places[:len(places)-2] {
		old, ok := of[p.end-p.off]
		of[p.end-p.off] = p
		if !ok || p.batch == 0 || old.batch == 0 {
			continue
		}
		bad, b := fs.Image(0, durabletest.ProcessDeath), empty[:p.end-p.off]
		if err := bad.Peek(old.path, b, old.off); err != nil {
			t.Fatal(err)
		}
		if err := bad.Poke(p.path, b, p.off); err != nil {
			t.Fatal(err)
		}
		if _, err := open(bad, knobs{}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s in the place of %s: got %v, want corrupt", old.name, p.name, err)
		}
	}
}

func TestMissingFilesAreFound(t *testing.T) {
	fs, places, last := filled(t, true)
	seen := map[string]bool{}
	for _, p := range places {
		if seen[p.path] {
			continue
		}
		seen[p.path] = true
		bad := fs.Image(0, durabletest.ProcessDeath)
		if err := bad.Remove(p.path); err != nil {
			t.Fatal(err)
		}
		if _, err := open(bad, knobs{}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s removed: got %v, want corrupt", p.path, err)
		}
	}
	bad := fs.Image(0, durabletest.ProcessDeath)
	if err := bad.Remove("log/STATE"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(bad, knobs{}); wantCorrupt(err, "log/STATE") != nil {
		t.Errorf("state removed: %v", err)
	}
	for i := range 3 { // either copy, then both
		bad := fs.Image(0, durabletest.ProcessDeath)
		for copy := range 2 {
			if i == 2 || i == copy {
				if err := bad.Flip("log/STATE", int64(copy)*pageSize+100, 4); err != nil {
					t.Fatal(err)
				}
			}
		}
		rec, err := open(bad, knobs{})
		if i < 2 && (err != nil || rec.Last != last) || i == 2 && !errs.Is(err, errs.Corrupt) {
			t.Errorf("state damaged, case %d: %+v, %v", i, rec, err)
		}
	}
}

// A reader tells of damage that happened after Open, and where.
func TestReaderFindsDamage(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 5))
	for seq := dr.Seq(1); seq <= 9; seq++ {
		l.append(write(seq, 2, 1))
	}
	p := l.places(t)[5]
	if err := fs.Flip(p.path, p.end-100, 1); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(l.Log, 0)
	if len(got) != int(p.batch)-1 {
		t.Errorf("read %d records before the damaged batch %d", len(got), p.batch)
	}
	if err := wantCorrupt(err, p.path); err != nil {
		t.Error(err)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
}
