package iofilter

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// strays is a rig of two disks that nobody has open, with files that tell when
// somebody wrote to them.
type strays struct {
	*rig
	round wire.Round
	mtime time.Time
}

func newStrays(t *testing.T) *strays {
	s := &strays{rig: newRig(t, dr.Async, 4<<20, 1<<20), mtime: time.Unix(1e9, 0)}
	for _, d := range s.o.disks {
		d.seen.image = filepath.Join(t.TempDir(), "image")
		if f, err := os.Create(d.seen.image); err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		d.attachable = true
		d.renew()
	}
	s.synced()
	return s
}

// outside writes to a disk past the host component.
func (s *strays) outside(disk int, off int64, b byte) {
	s.t.Helper()
	copy(s.mem[disk].data[off:], fill(b, dr.BlockSize))
	s.mtime = s.mtime.Add(time.Second)
	if err := os.Chtimes(s.o.disks[disk].seen.image, s.mtime, s.mtime); err != nil {
		s.t.Fatal(err)
	}
}

// confirmed asks for a mark round and returns the answer.
func (s *strays) confirmed() bool {
	s.t.Helper()
	s.round++
	s.drva.round(wire.TypeMark, s.round)
	synctest.Wait()
	select {
	case c := <-s.drva.confirms:
		if c.Round != s.round {
			s.t.Fatalf("an answer to round %d, not %d", c.Round, s.round)
		}
		return c.OK
	default:
		s.t.Fatal("no answer")
		return false
	}
}

// begins is how often the DRVA was told that writes of a disk are missing.
func (s *strays) begins(disk uint16) (n int) {
	s.drva.with(func() {
		for _, l := range s.drva.log {
			if l.rec.Kind == record.TrackBegin && l.rec.Disk == disk {
				n++
			}
		}
	})
	return n
}

// TestNoRoundCountsOnADiskWrittenUnseen: between any write past the host
// component and the end of a comparison after the last of them, no round is
// confirmed for the disk, however early the round comes.
func TestNoRoundCountsOnADiskWrittenUnseen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStrays(t)
		defer s.end()
		if !s.confirmed() {
			t.Fatal("refused, and nothing happened")
		}
		before := s.begins(0)
		s.outside(0, 4096, 7)
		if s.confirmed() {
			t.Error("a round counts on a disk that was written unseen")
		}
		if s.begins(0) == before || s.begins(1) != before {
			t.Error("the DRVA was not told which disk")
		}
		if d := s.status().Disks; d[0].State != Tracking || d[0].Cause != causeStray || d[0].Remedy == "" || d[1].State != NotActive {
			t.Errorf("%+v", d)
		}
		for range 5 { // a guest that runs writes now and then: nothing is read meanwhile
			time.Sleep(strayCalm / 2)
			s.outside(0, 8192, 8)
		}
		if got := s.status().Disks[0]; got.DirtyBytes != 4<<20 || got.State != Tracking {
			t.Errorf("it was read while somebody wrote: %+v", got)
		}
		time.Sleep(strayCalm + 2*strayEvery)
		s.settle(time.Minute)
		s.sameImages()
		if !s.confirmed() {
			t.Error("refused, although all is compared")
		}
	})
}

// TestWrittenWhileCompared: who writes again while the disk is compared makes it
// stray again.
func TestWrittenWhileCompared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStrays(t)
		defer s.end()
		s.outside(0, 0, 1)
		s.confirmed()
		time.Sleep(strayCalm + 2*strayEvery)
		s.settle(time.Minute)
		s.outside(0, 1<<20, 2) // behind the cursor, for all anybody knows
		if s.confirmed() {
			t.Error("confirmed")
		}
		// Its guest comes back: all is compared, at once.
		leave := s.o.disks[0].enter()
		s.settle(time.Second)
		s.sameImages()
		if !s.confirmed() {
			t.Error("refused, although its guest is back and all is compared")
		}
		// What goes through the host component moves the time, too.
		s.must(s.write(0, 0, fill(9, 4096)))
		s.mtime = s.mtime.Add(time.Minute)
		if err := os.Chtimes(s.o.disks[0].seen.image, s.mtime, s.mtime); err != nil {
			t.Fatal(err)
		}
		if !s.confirmed() {
			t.Error("refused while its guest has it open")
		}
		leave()
		if !s.confirmed() {
			t.Error("refused, although its guest wrote last")
		}
		s.settle(time.Minute)
		s.sameImages()
	})
}

// TestStrayedBeforeItsGuestComes: what was written unseen since the last look is
// found when the guest connects.
func TestStrayedBeforeItsGuestComes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStrays(t)
		defer s.end()
		s.outside(1, 0, 1)
		defer s.o.disks[1].enter()()
		s.settle(time.Minute)
		s.sameImages()
	})
}

// TestAClientThatOnlyReads: its coming and going does not hide what others write
// meanwhile.
func TestAClientThatOnlyReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStrays(t)
		defer s.end()
		leave := s.o.disks[0].enter()
		s.outside(0, 4096, 1)
		leave()
		if s.status().Disks[0].Cause != causeStray {
			t.Errorf("%+v", s.status().Disks[0])
		}
		time.Sleep(strayCalm + 2*strayEvery)
		s.settle(time.Minute)
		s.sameImages()
	})
}

// TestHeldOrSyncedIsNotWatched: a disk that is held is known to be written; who
// asks for it to be compared takes it as it is.
func TestHeldOrSyncedIsNotWatched(t *testing.T) {
	r := runFilter(t, 1<<20)
	r.synced()
	d := r.Protected()[0].Disks[0]
	one := Target{Disks: []dr.DiskID{d.ID}}
	ask := func() bool {
		t.Helper()
		r.drva.round(wire.TypeMark, wire.Round(time.Now().UnixNano()))
		select {
		case c := <-r.drva.confirms:
			return c.OK
		case <-time.After(time.Minute):
			t.Fatal("no answer")
			return false
		}
	}
	touch := func(b byte) {
		t.Helper()
		if err := os.WriteFile(d.Path, fill(b, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(b) * time.Hour)
		if err := os.Chtimes(d.Path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Hold(one); err != nil {
		t.Fatal(err)
	}
	touch(1)
	ask()
	if got, _ := r.disk(d.ID); got.Cause != causeHeld {
		t.Errorf("held: %+v", got)
	}
	if err := r.Vouch(one, SyncBitmap); err != nil {
		t.Fatal(err)
	}
	r.synced()
	if !ask() {
		t.Error("refused, although it was synced as it is")
	}
	touch(2)
	if ask() {
		t.Error("confirmed, although it was written past a real Filter")
	}
	if err := r.Sync(one, SyncBitmap); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.disk(d.ID); got.Cause != causeStray {
		t.Errorf("a sync of what is known to have changed hides what is not: %+v", got)
	}
	if err := r.Sync(one, SyncHash); err != nil {
		t.Fatal(err)
	}
	r.synced()
	want, _ := os.ReadFile(d.Path)
	if img := r.drva.image(0, 1<<20); string(img) != string(want) {
		t.Error("the copy differs")
	}
}
