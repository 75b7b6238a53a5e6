package nbd

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSyncerCoverage lets flushes arrive while a sync runs: none of them may
// be completed by it, and one more sync must do for all.
func TestSyncerCoverage(t *testing.T) {
	begun, proceed := make(chan int, 10), make(chan error)
	n := 0
	var s syncer
	s.init(func() error {
		n++
		begun <- n
		return <-proceed
	})
	done := make(chan error, 10)
	flush := func() { s.push(NewOp(func(_ *Op, err error) { done <- err })) }
	flush()
	<-begun
	for range 5 {
		flush()
	}
	proceed <- nil
	if err := <-done; err != nil {
		t.Errorf("first flush: %v", err)
	}
	if got := <-begun; got != 2 || len(done) != 0 {
		t.Errorf("sync %d began with %d flushes done too early", got, len(done))
	}
	failed := errors.New("disk on fire")
	proceed <- failed
	for range 5 {
		if err := <-done; err != failed {
			t.Errorf("flush: %v", err)
		}
	}
	s.close()
	if n != 2 {
		t.Errorf("%d syncs", n)
	}
}

// TestForcedWrites checks that FUA means a sync, begun after the write.
func TestForcedWrites(t *testing.T) {
	for _, direct := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := OpenFile(path, FileOptions{Direct: direct})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p, syncs := []byte("forced"), 0
		f.syncs.sync = func() error {
			syncs++
			got := make([]byte, len(p))
			if _, err := f.ReadAt(got, 5); err != nil || syncs == 1 && string(got) != string(p) {
				t.Errorf("synced before the write: %q, %v", got, err)
			}
			return f.datasync()
		}
		for i, kind := range []Kind{Write, WriteZeroes, Trim} {
			if err := f.wait(kind, FUA, p, 5, int64(len(p))); err != nil {
				t.Fatal(err)
			}
			if syncs != i+1 {
				t.Errorf("direct %v: %d syncs after %d forced operations", direct, syncs, i+1)
			}
			if err := f.wait(kind, 0, p, 100, int64(len(p))); err != nil || syncs != i+1 {
				t.Errorf("direct %v: an ordinary operation synced (%v)", direct, err)
			}
		}
	}
	if writeFlags(&Op{Flags: FUA}) != unix.RWF_DSYNC || writeFlags(&Op{}) != 0 {
		t.Error("a ring's forced write is not durable, or every write is")
	}
}

// TestFailedSync checks that no flush of a buffered file is believed after
// one has failed.
func TestFailedSync(t *testing.T) {
	f := &File{fd: -1}
	if err := f.datasync(); err == nil {
		t.Fatal("sync of no file succeeded")
	}
	f.fd = 1 << 20 // another error, were it asked
	first := *f.syncErr.Load()
	if err := f.datasync(); err != first {
		t.Errorf("second sync: %v, want the first error for good", err)
	}
}

// TestWorkersGrow has operations that wait for each other: each push must find
// a worker, up to the limit.
func TestWorkersGrow(t *testing.T) {
	var all sync.WaitGroup
	all.Add(4)
	var w workers
	w.init(4, func(op *Op) {
		all.Done()
		all.Wait()
		op.Complete(nil)
	})
	done := make(chan error, 4)
	for range 4 {
		w.push(NewOp(func(_ *Op, err error) { done <- err }))
	}
	for range 4 {
		<-done
	}
	w.close()
}
