package nbd

import (
	"errors"
	"sync"
	"testing"
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
