package fair

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
)

// worker takes turns of a length until ctx ends, and counts the time it had.
func worker(ctx context.Context, m *Member, turn time.Duration, had *time.Duration) {
	for m.Take(ctx) == nil {
		t := time.NewTimer(turn)
		select {
		case <-t.C:
			*had += turn
		case <-ctx.Done():
			t.Stop()
		}
		m.Give(turn.Seconds())
	}
}

// TestSharesFollowTheWeights: with long and short turns alike.
func TestSharesFollowTheWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(2, 0)
		ctx, stop := context.WithCancel(t.Context())
		var had [3]time.Duration
		for i, w := range []int{1, 2, 4} {
			m := s.Join(w)
			for range 3 { // each wants more than it gets
				go worker(ctx, m, time.Duration(1+3*i)*10*time.Millisecond, &had[i])
			}
		}
		time.Sleep(2 * time.Minute) // of the test's own clock
		stop()
		synctest.Wait()
		all := had[0] + had[1] + had[2]
		if all < 238*time.Second {
			t.Errorf("slots stood idle: %v of 4m were used", all)
		}
		for i, w := range []float64{1, 2, 4} {
			if part := had[i].Seconds() / all.Seconds() * 7 / w; part < 0.9 || part > 1.1 {
				t.Errorf("weight %v had %v of %v", w, had[i], all)
			}
		}
	})
}

// TestIdleMembersLeaveTheirShareAndSaveNothing: alone, one has all; who comes
// back does not have what it did not take meanwhile.
func TestIdleMembersLeaveTheirShareAndSaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1, 0)
		a, b := s.Join(1), s.Join(1)
		ctx, stop := context.WithCancel(t.Context())
		var hadA, hadB time.Duration
		go worker(ctx, a, 10*time.Millisecond, &hadA)
		time.Sleep(time.Minute)
		if hadA < 59*time.Second {
			t.Errorf("alone it had %v of 1m", hadA)
		}
		before := hadA
		go worker(ctx, b, 10*time.Millisecond, &hadB)
		time.Sleep(10 * time.Second)
		stop()
		synctest.Wait()
		if now := hadA - before; now < 4*time.Second || hadB < 4*time.Second {
			t.Errorf("then %v and %v of 10s", now, hadB)
		}
	})
}

// TestStuckMemberStarvesNobody: it holds all that are shared, for ever. Without
// slots of their own the others would wait as long.
func TestStuckMemberStarvesNobody(t *testing.T) {
	run := func(least int) (had time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			s := New(4, least)
			stuck, other := s.Join(4), s.Join(1)
			for stuck.Try() {
			}
			ctx, stop := context.WithCancel(t.Context())
			go worker(ctx, other, 10*time.Millisecond, &had)
			time.Sleep(10 * time.Second)
			stop()
			synctest.Wait()
		})
		return had
	}
	if had := run(1); had < 9*time.Second {
		t.Errorf("beside a stuck member it had %v of 10s", had)
	}
	if had := run(0); had != 0 {
		t.Errorf("without slots of its own it had %v: the test proves nothing", had)
	}
}

func TestCanceledWaitTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1, 0)
		a, b := s.Join(1), s.Join(1)
		if !a.Try() || b.Try() {
			t.Fatal("one slot is two, or none")
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := b.Take(ctx); !errs.Is(err, errs.Canceled) {
			t.Fatal(err)
		}
		a.Give(1)
		if !b.Try() {
			t.Fatal("the slot is lost")
		}
		b.Leave()
		b.Give(1)
		if !a.Try() || a.Try() {
			t.Fatal("the slot of one who left is lost, or is two")
		}
	})
}
