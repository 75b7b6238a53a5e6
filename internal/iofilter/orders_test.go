package iofilter

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/wire"
)

// TestTracksByOrder: as long as the DRVA says, over a lost link and a DRVA that
// restarts, and not a moment longer than it takes.
func TestTracksByOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Sync, 1<<20).synced()
		defer r.end()
		for reason, cause := range map[wire.TrackReason]string{wire.TrackLogFull: causeLogFull, wire.TrackPausedUser: causePausedUser} {
			r.drva.tell(wire.Track{Reason: reason}.Append(nil))
			synctest.Wait()
			if s := r.status(); s.State != stateOfCause(cause) || s.Cause != cause {
				t.Fatalf("%v: %s, %q", reason, s.State, s.Cause)
			}
			r.must(r.write(0, 8192, fill(byte(reason), 4096))) // by the primary alone
			time.Sleep(10 * time.Minute)
			if r.state() != stateOfCause(cause) {
				t.Fatalf("%v: the host streams against the order", reason)
			}
			r.drva.with(func() { r.drva.track = reason })
			r.drva.cutLink()
			time.Sleep(time.Minute)
			if s := r.status(); !s.Link.Up || s.State != stateOfCause(cause) || s.Cause != cause {
				t.Fatalf("%v: after a lost link %s, %q, up %v", reason, s.State, s.Cause, s.Link.Up)
			}
			r.drva.with(func() { r.drva.track = wire.TrackNone })
			r.drva.tell(wire.Track{}.Append(nil))
			r.settle(2 * time.Minute)
			r.sameImages()
		}
		r.drva.tell(wire.Track{Reason: wire.TrackLogFull}.Append(nil))
		synctest.Wait()
		r.drva.crash() // and the next one gives no order
		r.settle(5 * time.Minute)
	})
}

// TestOrderEndsBeforeItsDwell: the host goes on by itself once it has tracked
// for the least time.
func TestOrderEndsBeforeItsDwell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.drva.tell(append(wire.Track{Reason: wire.TrackLogFull}.Append(nil), wire.Track{}.Append(nil)...))
		r.settle(time.Minute)
	})
}

// stream writes n pieces one after the other and returns the longest wait.
func (r *rig) stream(n int, p []byte) (longest time.Duration) {
	for i := range n {
		c := r.write(0, int64(i*len(p))%(1<<20), p)
		<-c.done
		if c.err != nil {
			r.t.Fatal(c.err)
		}
		longest = max(longest, c.took)
	}
	return longest
}

func TestThrottleSlowsGuestsDownAndNoFurther(t *testing.T) {
	for _, rule := range []dr.AckRule{dr.Async, dr.Sync} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rule, 1<<20).synced()
			defer r.end()
			piece := fill(7, 64<<10)
			began := time.Now()
			r.stream(50, piece)
			if d := time.Since(began); d > 5*time.Second {
				t.Fatalf("unthrottled writes took %v", d)
			}
			const rate = 10 << 20
			r.drva.tell(wire.Throttle{Rate: rate, Delay: time.Second}.Append(nil))
			synctest.Wait()
			began = time.Now()
			r.stream(400, piece) // 25 MiB
			if d := time.Since(began).Seconds(); d < 2.3 || d > 3.5 {
				t.Errorf("%v: 25 MiB at 10 MiB/s took %.2f s", rule, d)
			}
			r.drva.tell(wire.Throttle{Rate: 1, Delay: 20 * time.Millisecond}.Append(nil))
			synctest.Wait()
			if worst := r.stream(50, piece); worst < 20*time.Millisecond || worst > 60*time.Millisecond {
				t.Errorf("%v: a write waited %v, the bound is 20ms", rule, worst)
			}
			waiting := r.write(0, 0, piece)
			r.drva.tell(wire.Throttle{}.Append(nil))
			r.must(waiting)
			began = time.Now()
			r.stream(50, piece)
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("%v: after the throttle writes took %v", rule, d)
			}
			r.settle(time.Minute)
			r.sameImages()
		})
	}
}

// TestThrottleEndsWithTheLinkAndWithTracking: nobody is kept back for a DRVA
// that is not there.
func TestThrottleEndsWithTheLinkAndWithTracking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		hard := wire.Throttle{Rate: 1, Delay: time.Second}.Append(nil)
		for name, end := range map[string]func(){
			"link":     r.drva.cutLink,
			"tracking": func() { r.drva.tell(wire.Track{Reason: wire.TrackLogFull}.Append(nil)) },
		} {
			r.drva.tell(wire.Track{}.Append(nil))
			r.settle(5 * time.Minute)
			r.drva.tell(hard)
			synctest.Wait()
			c := r.write(0, 0, fill(1, 4096))
			r.mustWait(c)
			end()
			r.must(c)
			t.Logf("%s: let go after %v", name, c.took)
		}
	})
}
