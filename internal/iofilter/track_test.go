package iofilter

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// longest is the longest a guest may wait for the DRVA, whatever it does.
const longest = 2 * time.Second

func TestFirstCopy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 3<<20+512, 1<<20)
		copy(r.mem[0].data[1<<20:], fill(5, 300<<10))
		copy(r.mem[1].data[65536:], fill(6, 1))
		s := r.status()
		if s.State != Tracking || s.Cause != causeStarting || s.Disks[0].DirtyBytes != 3<<20+512 {
			t.Fatalf("before: %+v", s)
		}
		r.must(r.write(0, 0, fill(1, 4096))) // a guest does not wait for a DRVA that was never there
		r.synced()
		defer r.end()
		r.sameImages()
		s = r.status()
		if s.State != Streaming || s.Disks[0].State != Streaming || s.Disks[1].SyncDone != 1<<20 && s.Disks[1].SyncTotal != 0 {
			t.Fatalf("after: %+v", s)
		}
		for i := range uint16(2) {
			if b, e := r.drva.count(record.TrackBegin, i), r.drva.count(record.SyncEnd, i); b != 1 || e != 1 {
				t.Fatalf("disk %d: %d TrackBegin, %d SyncEnd", i, b, e)
			}
		}
		if n := r.drva.count(record.Data, 0); n != 2 {
			t.Fatalf("%d data records for two runs of content", n)
		}
	})
}

// fillRing writes until the stream has no room; the DRVA must take nothing.
func (r *rig) fillRing() {
	r.t.Helper()
	for i := 0; r.status().Stream.RingUsed+1<<19 <= r.status().Stream.RingBytes; i++ {
		r.must(r.write(0, int64(i%4)<<20, fill(byte(i), 1<<19)))
	}
}

func TestFullStreamBecomesTrackingAndComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 8<<20, 1<<20).synced()
		defer r.end()
		hang := make(chan struct{})
		r.drva.with(func() { r.drva.hang = hang })
		r.fillRing()
		c := r.write(0, 7<<20, fill(77, 1<<20))
		<-c.done
		if c.err != nil || c.took != DefaultStallLimit {
			t.Fatalf("the write that found no room took %v, error %v", c.took, c.err)
		}
		s := r.status()
		if s.State != Tracking || s.Cause != causeFull || s.Disks[0].DirtyBytes != 1<<20 || s.Disks[1].DirtyBytes != 0 {
			t.Fatalf("status %+v", s)
		}
		r.must(r.write(0, 6<<20, fill(78, 4096))) // now nobody waits
		r.drva.round(wire.TypeMark, 1)
		r.drva.with(func() { r.drva.hang = nil })
		close(hang)
		if c := <-r.drva.confirms; c.OK || c.Reason != wire.ReasonOutside {
			t.Fatalf("confirmed a round while tracking: %+v", c)
		}
		r.settle(time.Minute)
		r.sameImages()
		if b, e := r.drva.count(record.TrackBegin, 0), r.drva.count(record.SyncEnd, 0); b != 2 || e != 2 {
			t.Fatalf("%d TrackBegin, %d SyncEnd", b, e)
		}
		if b := r.drva.count(record.TrackBegin, 1); b != 1 {
			t.Fatalf("an untouched disk has %d TrackBegin", b)
		}
		r.drva.round(wire.TypeMark, 2)
		if c := <-r.drva.confirms; !c.OK {
			t.Fatalf("not confirmed: %+v", c)
		}
	})
}

// Without a link writes go on into the stream until it is full, then the host
// tracks without making anyone wait.
func TestDisconnectedHostGathersThenTracks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 8<<20).synced()
		defer r.end()
		r.drva.with(func() { r.drva.down = true })
		r.drva.cutLink()
		synctest.Wait()
		if s := r.status(); s.State != Disconnected || s.Link.Up || s.Link.Error == "" {
			t.Fatalf("status %+v", s)
		}
		r.fillRing()
		if r.state() != Disconnected {
			t.Fatalf("state %v before the stream was full", r.state())
		}
		r.must(r.write(0, 7<<20, fill(1, 1<<20)))
		if s := r.status(); s.State != Tracking || s.Cause != causeCutOff {
			t.Fatalf("status %+v", s)
		}
		r.drva.with(func() { r.drva.down = false })
		r.settle(time.Minute)
		r.sameImages()
	})
}

// A DRVA that takes the writes but never answers costs a guest one wait.
func TestSilentDRVABecomesTracking(t *testing.T) {
	for _, rule := range []dr.AckRule{dr.Ordered, dr.Sync} {
		t.Run(rule.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, rule, 4<<20).synced()
				defer r.end()
				r.drva.with(func() { r.drva.mute = true })
				var calls []*call
				for i := range 8 {
					calls = append(calls, r.write(0, int64(i)<<16, fill(byte(i), 4096)))
					time.Sleep(50 * time.Millisecond)
				}
				for i, c := range calls {
					if <-c.done; c.err != nil || c.took >= longest {
						t.Fatalf("write %d took %v, error %v", i, c.took, c.err)
					}
				}
				if s := r.status(); s.State != Tracking || s.Cause != causeSilent {
					t.Fatalf("status %+v", s)
				}
				for i := range 20 { // it stays so while the DRVA does
					c := r.write(0, int64(i)<<16, fill(byte(i), 4096))
					r.must(c)
					time.Sleep(500 * time.Millisecond)
				}
				r.drva.with(func() { r.drva.mute = false })
				r.drva.tell((&wire.Ack{Durable: r.status().Stream.Next - 1}).Append(nil))
				r.settle(time.Minute)
				r.sameImages()
			})
		})
	}
}

// A DRVA that restarts gets what it lost again, with the places it had given.
func TestRestartedDRVAGetsReplay(t *testing.T) {
	for _, rule := range []dr.AckRule{dr.Async, dr.Ordered, dr.Sync} {
		t.Run(rule.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, rule, 4<<20).synced()
				defer r.end()
				r.drva.with(func() { r.drva.volatile = true })
				var calls []*call
				for i := range 30 {
					calls = append(calls, r.write(0, int64(i)<<12, fill(byte(i+1), 4096)))
					time.Sleep(3 * time.Millisecond)
				}
				before := r.status()
				r.drva.crash()
				r.drva.with(func() { r.drva.volatile = false })
				calls = append(calls, r.write(0, 1<<20, fill(99, 4096)))
				r.settle(time.Minute)
				for i, c := range calls {
					if !c.over() || c.err != nil || c.took >= longest {
						t.Fatalf("write %d: over %v, error %v, took %v", i, c.over(), c.err, c.took)
					}
				}
				r.sameImages()
				s := r.status()
				if s.Stream.Trackings != 0 || s.Link.Connects != before.Link.Connects+1 {
					t.Fatalf("status %+v", s)
				}
			})
		})
	}
}

// A DRVA that knows nothing of a stream it has had gets everything anew.
func TestForgottenStreamIsBegunAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Ordered, 2<<20, 1<<20).synced()
		defer r.end()
		r.must(r.write(0, 0, fill(1, 4096)))
		r.drva.with(func() { r.drva.mute = true })
		parked := r.write(0, 8192, fill(2, 4096))
		r.mustWait(parked)
		r.drva.forget()
		r.drva.with(func() { r.drva.mute = false; r.drva.log = nil; r.drva.durable = 0 })
		<-parked.done
		r.settle(time.Minute)
		r.sameImages()
		first, last := r.drva.hellos[0], r.drva.hellos[len(r.drva.hellos)-1]
		if first.Nonce == last.Nonce || last.First != 1 || last.Next != 1 {
			t.Fatalf("last hello %+v", last)
		}
	})
}

// A disk whose copy the DRVA does not hold is copied from the start, also in
// the midst of a sync; one that was never begun is not begun twice.
func TestUnsyncedDiskIsCopiedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 2<<20, 1<<20)
		copy(r.mem[0].data, fill(3, 2<<20))
		r.drva.unsynced = map[uint16]bool{0: true, 1: true}
		r.synced()
		defer r.end()
		if n := r.drva.count(record.TrackBegin, 0); n != 1 {
			t.Fatalf("%d TrackBegin for a disk copied once", n)
		}
		r.drva.with(func() { r.drva.unsynced[0] = true })
		r.drva.cutLink()
		time.Sleep(2 * backoffMin)
		r.settle(time.Minute)
		if n, m := r.drva.count(record.SyncEnd, 0), r.drva.count(record.SyncEnd, 1); n != 2 || m != 1 {
			t.Fatalf("%d and %d SyncEnd", n, m)
		}
		r.sameImages()
	})
}

func TestRefusedHostSaysSoAndTriesSlowly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20)
		r.drva.refuse = &wire.Refuse{Kind: errs.Denied, Object: "host h", Message: "unknown host", Remedy: "add it"}
		r.run()
		defer r.end()
		time.Sleep(time.Minute)
		if s := r.status(); s.State != Tracking || s.Link.Remedy != "add it" {
			t.Fatalf("status %+v", s)
		}
		if n := len(r.drva.hellos); n < 3 || n > 6 {
			t.Fatalf("%d tries in a minute", n)
		}
		r.drva.with(func() { r.drva.refuse = nil })
		r.settle(time.Minute)
		r.sameImages()
	})
}

// What a DRVA cannot truthfully say ends the connection, and nothing else.
func TestLiesEndTheConnection(t *testing.T) {
	for name, lie := range map[string]wire.Ack{
		"durable beyond what was sent": {Durable: math.MaxUint64},
		"place for an unknown record":  {Spans: []wire.Span{{First: math.MaxUint64, Seq: 1, Count: 1}}},
		"places without end":           {Spans: []wire.Span{{First: 1, Seq: 1, Count: math.MaxUint32}}},
		"record 0":                     {Spans: []wire.Span{{First: 0, Seq: 1, Count: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, dr.Ordered, 1<<20).synced()
				defer r.end()
				before := r.status().Link.Connects
				r.drva.with(func() { r.drva.lieOnce = &lie; r.drva.volatile = true })
				c := r.write(0, 0, fill(1, 4096))
				time.Sleep(time.Second)
				r.drva.with(func() { r.drva.volatile = false; r.drva.commit() })
				r.drva.cutLink() // the place was never told: the log's word is needed
				r.settle(time.Minute)
				if <-c.done; c.took >= longest {
					t.Fatalf("took %v", c.took)
				}
				if after := r.status().Link.Connects; after < before+2 {
					t.Fatalf("%d connections, %d before the lie", after, before)
				}
				r.sameImages()
			})
		})
	}
}

// A slow but living DRVA throttles for a moment; then the host tracks, and it
// does not stall its guests again and again.
func TestSlowDRVADoesNotStallForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 16<<20).synced()
		defer r.end()
		r.drva.with(func() { r.drva.volatile = true })
		quit := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // 2 MiB/s
			for {
				select {
				case <-quit:
					return
				case <-time.After(50 * time.Millisecond):
				}
				r.drva.with(func() {
					bytes := 0
					for bytes < 100<<10 && r.drva.durable < len(r.drva.log) {
						l := r.drva.log[r.drva.durable]
						bytes += len(l.rec.Payload)
						r.drva.durable++
						r.drva.runs[l.nonce].durable = l.rec.HostSeq
					}
				})
				r.drva.with(func() {
					if c := r.drva.conn; c != nil && c.replayed {
						c.out <- (&wire.Ack{Durable: c.run.durable}).Append(nil)
					}
				})
			}
		})
		var worst, stalled time.Duration
		began := time.Now()
		for i := 0; time.Since(began) < 2*time.Minute; i++ { // 20 MiB/s
			c := r.write(0, int64(i%64)<<18, fill(byte(i), 1<<16))
			<-c.done
			worst, stalled = max(worst, c.took), stalled+c.took
			time.Sleep(3 * time.Millisecond)
		}
		if worst >= time.Second || stalled > 6*time.Second {
			t.Fatalf("one write took %v, all together %v of 2 minutes", worst, stalled)
		}
		if s := r.status().Stream; s.Trackings < 3 || s.Trackings > 12 || s.Stalls > 4 {
			t.Fatalf("tracked %d times, stalled %d times", s.Trackings, s.Stalls)
		}
		close(quit)
		wg.Wait()
		r.drva.with(func() { r.drva.volatile = false; r.drva.commit() })
		r.drva.cutLink()
		r.settle(10 * time.Minute)
		r.sameImages()
	})
}

// Until the TrackBegins have their place in the order, a checkpoint may have
// been cut before them: no round is confirmed.
func TestInsideOnlyWhenTrackBeginHasItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20)
		r.drva.mute = true
		r.run()
		defer r.end()
		time.Sleep(time.Second)
		if r.drva.count(record.TrackBegin, 0) != 1 || r.state() == Tracking {
			t.Fatalf("status %+v", r.status())
		}
		r.drva.round(wire.TypeMark, 1)
		if c := <-r.drva.confirms; c.OK || c.Reason != wire.ReasonOutside {
			t.Fatalf("confirm %+v", c)
		}
		r.drva.round(wire.TypeHold, 2)
		if c := <-r.drva.confirms; c.OK || c.Reason != wire.ReasonOutside {
			t.Fatalf("confirm %+v", c)
		}
		r.drva.tell((&wire.Ack{Spans: []wire.Span{{First: 1, Seq: 1, Count: 1}}}).Append(nil))
		synctest.Wait()
		r.drva.round(wire.TypeMark, 3)
		if c := <-r.drva.confirms; !c.OK {
			t.Fatalf("confirm %+v", c)
		}
	})
}

// The cursor and the guest keep out of each other's way.
func TestCursorAndWritesExclude(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20)
		r.mem[0].slow = func() time.Duration { return 300 * time.Millisecond }
		r.mem[0].lag = func() time.Duration { return 50 * time.Millisecond }
		first := r.write(0, 65536, fill(1, 4096))
		r.run()
		defer r.end()
		time.Sleep(200 * time.Millisecond)
		if n := r.drva.count(record.Zero, 0) + r.drva.count(record.Data, 0); n != 0 {
			t.Fatalf("%d records read under a write", n)
		}
		<-first.done
		time.Sleep(10 * time.Millisecond) // the cursor has read, and has not returned
		r.mem[0].slow = nil
		second := r.write(0, 65536, fill(2, 4096))
		r.mustWait(second)
		<-second.done
		r.settle(time.Second)
		r.sameImages()
	})
}

// The cursor leaves half of the stream to the guests, and keeps to its
// bandwidth.
func TestCursorIsModest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 16<<20)
		copy(r.mem[0].data, fill(1, 16<<20))
		r.drva.volatile = true
		r.run()
		defer r.end()
		time.Sleep(5 * time.Second)
		s := r.status()
		if used := s.Stream.RingUsed; used > MinRing/2 || used < MinRing/4 {
			t.Fatalf("the cursor fills %d of %d bytes", used, int64(MinRing))
		}
		if d := s.Disks[0]; s.State != Syncing || d.SyncDone == 0 || d.SyncDone+d.DirtyBytes != d.SyncTotal || d.ETASeconds == 0 {
			t.Fatalf("status %+v", s)
		}
		r.must(r.write(0, 0, fill(2, 1<<20)))
		r.drva.with(func() { r.drva.volatile = false; r.drva.commit() })
		r.drva.cutLink()
		r.settle(time.Minute)
		r.sameImages()
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 16<<20)
		copy(r.mem[0].data, fill(1, 16<<20))
		b, err := BytesPerSecond(2 << 20)
		if err != nil {
			t.Fatal(err)
		}
		r.pace.set(b.Schedule)
		r.run()
		defer r.end()
		time.Sleep(7 * time.Second)
		if r.settled() {
			t.Fatal("16 MiB in 7 s at 2 MiB/s")
		}
		r.settle(2 * time.Second)
	})
}

func TestUnreadablePrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20, 1<<20).synced()
		defer r.end()
		r.mem[0].setUnread(errBroken)
		c := r.write(0, 100, fill(1, 10)) // cannot be widened; the guest has it nevertheless
		r.must(c)
		if s := r.status(); s.State != Tracking || s.Cause != causeUnreadable {
			t.Fatalf("status %+v", s)
		}
		time.Sleep(10 * time.Second)
		r.must(r.write(1, 0, fill(2, 4096))) // the other disk is well
		time.Sleep(time.Second)
		if s := r.status(); s.Disks[0].State != Failed || s.Disks[0].Cause == "" || s.Disks[1].State != Streaming {
			t.Fatalf("status %+v", s)
		}
		r.mem[0].setUnread(nil)
		r.settle(time.Minute)
		r.sameImages()
		if s := r.status(); s.Disks[0].Cause != "" {
			t.Fatalf("status %+v", s)
		}
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.must(r.write(0, 0, fill(1, 4096)))
		began := time.Now()
		if !r.o.drain(time.Second) || time.Since(began) > 100*time.Millisecond {
			t.Fatal("not drained at once")
		}
		r.drva.with(func() { r.drva.mute = true })
		r.must(r.write(0, 0, fill(2, 4096)))
		if r.o.drain(time.Second) {
			t.Fatal("drained without an answer")
		}
		r.drva.with(func() { r.drva.down = true })
		r.drva.cutLink()
		synctest.Wait()
		began = time.Now()
		if r.o.drain(time.Second) || time.Since(began) != 0 {
			t.Fatal("waited for a DRVA that is not there")
		}
	})
}
