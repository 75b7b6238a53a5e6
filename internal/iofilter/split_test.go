package iofilter

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// bubble runs a test on virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestAsyncAcknowledgesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.drva.with(func() { r.drva.mute = true })
		c := r.write(0, 4096, fill(7, 8192))
		if !c.over() {
			t.Fatal("an asynchronous write did not complete inside Submit")
		}
		r.must(c)
		time.Sleep(10 * time.Millisecond)
		r.sameImages()
	})
}

func TestOrderedWaitsForThePlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Ordered, 1<<20).synced()
		defer r.end()
		r.drva.with(func() { r.drva.mute = true })
		c := r.write(0, 0, fill(1, 4096))
		r.mustWait(c)
		r.sameImages() // it has arrived, though
		next := r.status().Stream.Next
		ack := wire.Ack{Spans: []wire.Span{{First: next - 1, Seq: dr.Seq(next - 1), Count: 1}}}
		r.drva.tell(ack.Append(nil))
		r.must(c)
		if s := r.status(); s.Stream.Durable >= next-1 || s.State != Streaming {
			t.Fatalf("status %+v", s)
		}
	})
}

func TestSyncWaitsForTheLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Sync, 1<<20).synced()
		defer r.end()
		r.drva.with(func() { r.drva.volatile = true })
		c := r.write(0, 0, fill(1, 3<<19)[:1<<20])
		r.mustWait(c)
		f := r.submit(0, nbd.Flush, 0, 0, nil)
		r.must(f) // a flush concerns the primary
		last := r.status().Stream.Next - 1
		r.drva.tell((&wire.Ack{Durable: last - 1}).Append(nil))
		r.mustWait(c)
		r.drva.tell((&wire.Ack{Durable: last}).Append(nil))
		r.must(c)
	})
}

// The completions of writes behind the marker wait for the release; those
// before it, and reads, do not.
func TestHoldKeepsBackWhatIsBehindTheMarker(t *testing.T) {
	for _, rule := range []dr.AckRule{dr.Async, dr.Ordered, dr.Sync} {
		t.Run(rule.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, rule, 1<<20)
				r.drva.gather = true // answers must not wait for company
				r.synced()
				defer r.end()
				r.drva.with(func() { r.drva.mute = true })
				before := r.write(0, 0, fill(1, 4096))
				synctest.Wait()
				r.drva.round(wire.TypeHold, 1)
				synctest.Wait()
				if got := <-r.drva.markers; got != 1 {
					t.Fatalf("marker of round %d", got)
				}
				r.drva.with(func() { r.drva.mute = false })
				r.drva.tell((&wire.Ack{Durable: r.status().Stream.Next - 1}).Append(nil))
				r.must(before)
				behind := r.write(0, 8192, fill(2, 4096))
				r.must(r.submit(0, nbd.Read, 0, 4096, make([]byte, 4096)))
				time.Sleep(50 * time.Millisecond)
				r.mustWait(behind)
				r.drva.round(wire.TypeRelease, 1)
				r.must(behind)
				if c := <-r.drva.confirms; c != (wire.Confirm{Round: 1, OK: true}) {
					t.Fatalf("confirm %+v", c)
				}
				r.drva.round(wire.TypeMark, 2)
				if c := <-r.drva.confirms; c != (wire.Confirm{Round: 2, OK: true}) {
					t.Fatalf("mark: %+v", c)
				}
				if s := r.status(); s.Rounds.Holds != 1 || s.Rounds.LongestHoldMS < 50 || s.Rounds.Refused != 0 {
					t.Fatalf("rounds %+v", s.Rounds)
				}
			})
		})
	}
}

// A marker alone keeps nothing back: it comes behind what was acknowledged, and what
// is written after it is acknowledged at once.
func TestPlaceKeepsNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20)
		r.synced()
		defer r.end()
		hang := make(chan struct{})
		r.drva.with(func() { r.drva.hang = hang })
		for i := range int64(3) { // acknowledged, and on its way for as long as the link hangs
			r.must(r.write(0, 4096*i, fill(1, 4096)))
		}
		last := r.status().Stream.Next - 1
		r.drva.round(wire.TypePlace, 1)
		synctest.Wait()
		r.must(r.write(0, 16384, fill(2, 4096)))
		r.drva.with(func() { r.drva.hang = nil })
		close(hang)
		<-r.drva.markers
		synctest.Wait()
		if r.drva.with(func() {}); r.drva.markedAt < last {
			t.Errorf("the marker came behind record %d, %d was acknowledged", r.drva.markedAt, last)
		}
		r.must(r.write(0, 8192, fill(2, 4096)))
		r.drva.round(wire.TypeMark, 1)
		if c := <-r.drva.confirms; c != (wire.Confirm{Round: 1, OK: true}) {
			t.Fatalf("confirm %+v", c)
		}
		if s := r.status(); s.Rounds.Holds != 0 || s.Rounds.Refused != 0 {
			t.Fatalf("rounds %+v", s.Rounds)
		}
	})
}

// However late the marker is sent, it is sent at its place.
func TestMarkerIsAtItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		hang := make(chan struct{})
		r.drva.with(func() { r.drva.hang = hang })
		before := r.write(0, 0, fill(1, 4096))
		time.Sleep(10 * time.Millisecond) // read before the DRVA noticed that it hangs
		stuck := r.write(0, 4096, fill(1, 4096))
		time.Sleep(10 * time.Millisecond) // the sender cannot get rid of it
		more := r.write(0, 8192, fill(2, 4096))
		last := r.status().Stream.Next - 1
		r.drva.round(wire.TypeHold, 1)
		synctest.Wait()
		behind := r.write(0, 16384, fill(3, 4096))
		r.must(before)
		r.must(stuck)
		r.must(more)
		r.mustWait(behind)
		r.drva.with(func() { r.drva.hang = nil })
		close(hang)
		<-r.drva.markers
		synctest.Wait()
		if r.drva.with(func() {}); r.drva.markedAt != last {
			t.Fatalf("the marker came behind record %d, not %d", r.drva.markedAt, last)
		}
		r.drva.round(wire.TypeRelease, 1)
		r.must(behind)
		r.settle(time.Second)
		r.sameImages()
	})
}

func TestHoldEndsByItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.drva.round(wire.TypeHold, 5)
		synctest.Wait()
		c := r.write(0, 0, fill(1, 4096))
		<-c.done
		if c.took != 100*time.Millisecond {
			t.Fatalf("held for %v", c.took)
		}
		r.drva.round(wire.TypeRelease, 5)
		if c := <-r.drva.confirms; c != (wire.Confirm{Round: 5, Reason: wire.ReasonReleased}) {
			t.Fatalf("confirm %+v", c)
		}
		r.drva.round(wire.TypeHold, 6) // the next round finds everything in order
		synctest.Wait()
		r.drva.round(wire.TypeRelease, 6)
		if c := <-r.drva.confirms; !c.OK {
			t.Fatalf("confirm %+v", c)
		}
	})
}

func TestHoldEndsWithTheLink(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.drva.round(wire.TypeHold, 1)
		synctest.Wait()
		c := r.write(0, 0, fill(1, 4096))
		r.mustWait(c)
		r.drva.cutLink()
		r.must(c)
	})
}

func TestFailedWriteIsPassedOnAndReadAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20)
		half := fill(9, 4096)
		r.mem[0].failOn = func(op *nbd.Op) error {
			if op.Kind == nbd.Write && op.Offset == 65536 {
				copy(r.mem[0].data[op.Offset:], half[:2048]) // torn
				return errBroken
			}
			return nil
		}
		r.synced()
		defer r.end()
		c := r.write(0, 65536, half)
		synctest.Wait()
		if !c.over() || c.err != error(errBroken) {
			t.Fatalf("over %v, error %v", c.over(), c.err)
		}
		r.settle(time.Second)
		r.sameImages()
		if s := r.status(); s.Stream.Trackings != 0 {
			t.Fatal("a failed write is no reason to track")
		}
	})
}

// Odd writes are widened with what the primary holds around them.
func TestOddWritesAreWidened(t *testing.T) {
	const size = 5<<20 + 1536 // the last block is partial
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, size)
		rng := source(1)
		for i := range r.mem[0].data {
			r.mem[0].data[i] = byte(rng.Uint32())
		}
		r.synced()
		defer r.end()
		for _, c := range []struct {
			kind   nbd.Kind
			off, n int64
		}{
			{nbd.Write, 0, 1}, {nbd.Write, 4095, 2}, {nbd.Write, 4097, 10}, {nbd.Write, 8192, 4096},
			{nbd.Write, 12288 + 512, 8192}, {nbd.Write, 20480, 4608}, {nbd.Write, size - 1, 1},
			{nbd.Write, size - 1536, 1536}, {nbd.Write, size - 5000, 5000}, {nbd.Write, size - 100, 50},
			{nbd.Write, 1000, 3 << 20}, {nbd.Write, 1 << 20, 1 << 20}, {nbd.Write, 4096, 2<<20 + 1},
			{nbd.WriteZeroes, 100, 50}, {nbd.WriteZeroes, 5000, 100000}, {nbd.WriteZeroes, size - 9000, 9000},
			{nbd.WriteZeroes, 4096, 4096}, {nbd.WriteZeroes, 8000, 300}, {nbd.WriteZeroes, 0, size},
			{nbd.Write, 300000, 500000},
			{nbd.Trim, 300100, 40}, {nbd.Trim, 300000, 100000}, {nbd.Trim, size - 1, 1}, {nbd.Trim, 327680, 4096},
		} {
			p := make([]byte, c.n)
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			r.must(r.submit(0, c.kind, c.off, c.n, p))
			r.settle(time.Second)
			r.sameImages()
		}
		if s := r.status(); s.Stream.Trackings != 0 {
			t.Fatalf("tracked: %+v", s)
		}
	})
}

// An overlapping write waits for the one before it; one beside it does not.
func TestOverlappingWritesGoOneAfterTheOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		slow := true
		r.mem[0].slow = func() time.Duration {
			if slow {
				return 10 * time.Millisecond
			}
			return 0
		}
		first := r.write(0, 0, fill(1, 8192))
		slow = false
		second := r.write(0, 4096, fill(2, 8192))
		third := r.write(0, 8192+100, fill(3, 10)) // waits for the second only
		beside := r.write(0, 16384, fill(4, 4096))
		r.must(beside)
		r.mustWait(first)
		r.mustWait(second)
		r.mustWait(third)
		<-first.done
		r.must(second)
		r.must(third)
		r.settle(time.Second)
		r.sameImages()
		if d := r.mem[0].data; d[0] != 1 || d[4096] != 2 || d[8292] != 3 {
			t.Fatalf("disk holds %d %d %d", d[0], d[4096], d[8292])
		}
	})
}
