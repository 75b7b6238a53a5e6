package dir

import (
	"bytes"
	"fmt"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// crashKeys share and do not share directories, so that every way of making
// one is met.
var crashKeys = []string{"domain", "t/0a/head", "t/0a/j/0001", "t/0a/j/0002", "meta/x/1"}

func crashBody(key string) []byte { return bytes.Repeat([]byte(key+"\n"), 2000) } // many sectors

func newContainer(t *testing.T) (*durabletest.FS, *Store) {
	t.Helper()
	fs := durabletest.New(durabletest.Config{})
	if err := durable.MkdirAll(fs, "/c"); err != nil {
		t.Fatal(err)
	}
	s, err := OpenFS(fs, "/c")
	if err != nil {
		t.Fatal(err)
	}
	return fs, s
}

// checkAfterCrash opens what a crash left: every object is absent or whole,
// those in must are there, what is listed can be read, and all can be created
// now.
func checkAfterCrash(t *testing.T, what string, fs *durabletest.FS, must map[string]bool) {
	t.Helper()
	s, err := OpenFS(fs, "/c")
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	listed := map[string]int64{}
	if err := store.Walk(t.Context(), s, "", func(i store.Info) error { listed[i.Key] = i.Size; return nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, key := range crashKeys {
		want := crashBody(key)
		p := make([]byte, len(want)+1)
		n, err := s.ReadRange(t.Context(), key, p, 0)
		switch size, inList := listed[key]; {
		case errs.Is(err, errs.NotFound) && must[key]:
			t.Fatalf("%s: %s was created and is lost", what, key)
		case errs.Is(err, errs.NotFound) && inList:
			t.Fatalf("%s: %s is listed and missing", what, key)
		case errs.Is(err, errs.NotFound):
		case err != nil:
			t.Fatalf("%s: %s: %v", what, key, err)
		case !bytes.Equal(p[:n], want):
			t.Fatalf("%s: %s has %d bytes that are not its content", what, key, n)
		case !inList || size != int64(len(want)):
			t.Fatalf("%s: %s is there, but listed as %d bytes (%v)", what, key, size, inList)
		}
		delete(listed, key)
		if err := s.Create(t.Context(), key, want); err != nil && !errs.Is(err, errs.Exists) {
			t.Fatalf("%s: create %s after the crash: %v", what, key, err)
		}
	}
	if len(listed) != 0 {
		t.Fatalf("%s: listed %v, which nobody made", what, listed)
	}
}

// TestCrashAtEveryStep stops the machine before and after each operation of
// the file system while objects are created, and looks at many of the disks
// that may be left.
func TestCrashAtEveryStep(t *testing.T) {
	const images = 12
	setup, _ := newContainer(t)
	first := setup.Ops() + 1
	crashes := 0
	for n := first; ; n++ {
		halted := false
		for _, phase := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			fs, s := newContainer(t)
			fs.CrashAt(n, phase)
			must := map[string]bool{}
			for _, key := range crashKeys {
				if s.Create(t.Context(), key, crashBody(key)) == nil {
					must[key] = true
				}
			}
			halted = halted || fs.Halted()
			for seed := range uint64(images) {
				for _, loss := range []durabletest.Loss{durabletest.PowerLoss, durabletest.ProcessDeath} {
					what := fmt.Sprintf("operation %d phase %d seed %d loss %d", n, phase, seed, loss)
					checkAfterCrash(t, what, fs.Image(seed, loss), must)
				}
			}
		}
		if !halted {
			break
		}
		crashes++
	}
	if crashes < 40 {
		t.Fatalf("only %d steps were crashed at", crashes)
	}
	t.Logf("crashed at %d operations, %d images each", crashes, 3*2*images)
}

// TestExistsIsDurable: a name found taken, perhaps made by a process that died
// before syncing, is still taken after a power loss. So are the directories
// that another process made and did not sync.
func TestExistsIsDurable(t *testing.T) {
	for n := int64(1); n < 60; n++ {
		fs, s := newContainer(t)
		fs.CrashAt(fs.Ops()+n, durabletest.After)
		_ = s.Create(t.Context(), "t/0a/j/0001", crashBody("t/0a/j/0001")) // dies somewhere
		next := fs.Image(uint64(n), durabletest.ProcessDeath)
		s2, err := OpenFS(next, "/c")
		if err != nil {
			t.Fatal(err)
		}
		must := map[string]bool{}
		for _, key := range []string{"t/0a/j/0001", "t/0a/j/0002"} {
			err := s2.Create(t.Context(), key, crashBody(key))
			if err != nil && !errs.Is(err, errs.Exists) {
				t.Fatalf("operation %d: %v", n, err)
			}
			must[key] = true
		}
		for seed := range uint64(8) {
			checkAfterCrash(t, fmt.Sprintf("process died at %d, power lost, seed %d", n, seed), next.Image(seed, durabletest.PowerLoss), must)
		}
	}
}

// TestDeleteSurvivesACrash: a deleted object does not come back.
func TestDeleteSurvivesACrash(t *testing.T) {
	fs, s := newContainer(t)
	for _, key := range crashKeys {
		if err := s.Create(t.Context(), key, crashBody(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "t/0a/j/0001"); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(32) {
		after, err := OpenFS(fs.Image(seed, durabletest.PowerLoss), "/c")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := after.Stat(t.Context(), "t/0a/j/0001"); !errs.Is(err, errs.NotFound) {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
