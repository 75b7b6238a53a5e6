package journal

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// lockRig is a container whose publisher locks what it creates, behind a
// faulty store.
type lockRig struct {
	*publisherRig
	opts LockOptions
}

func newLockRig(t *testing.T) *lockRig {
	t.Helper()
	clock := journaltest.NewClock(time.Unix(1_800_000_000, 0))
	base := mem.NewAt(clock.Wall)
	r := &lockRig{&publisherRig{t: t, base: base, st: fault.New(base), clock: clock, o: newOracle(seeded(t), 4*dr.ChunkSize)},
		LockOptions{Mode: store.LockCompliance, For: 26 * time.Hour}}
	newTestContainer(t, base)
	r.c = reopen(t, r.st)
	r.p = must[*Publisher](t)(r.c.OpenPublisher(t.Context(), PublisherOptions{Clock: clock, Host: "one", Lock: r.opts, backoff: soon}))
	t.Cleanup(func() { r.p.Close() })
	return r
}

// held waits until what Hold holds is held.
func (r *lockRig) held() {
	r.t.Helper()
	eventually(r.t, "everything is held", func() bool { return !r.p.Status().HeldUntil.IsZero() })
}

// attack deletes all that can be deleted with every right there is, and
// returns what is left.
func attack(t *testing.T, st store.Store) (left []string) {
	t.Helper()
	err := store.Walk(t.Context(), st, "", func(in store.Info) error {
		if err := st.Delete(t.Context(), in.Key); errs.Is(err, errs.Denied) {
			left = append(left, in.Key)
		} else if err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestWhatIsPublishedSurvivesDeletion(t *testing.T) {
	r := newLockRig(t)
	if err := r.p.PutMeta(t.Context(), r.o.vm, 1, dr.VMConfig{ID: r.o.vm, Name: "db"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wait(t, r.publish())
	}
	r.held()
	before := must[[]store.Info](t)(r.base.List(t.Context(), "", "", store.MaxList))
	left := attack(t, r.base)
	if len(left) != len(before) {
		t.Errorf("%d of %d objects are left: %v", len(left), len(before), left)
	}
	r.expect(3)
	for _, key := range left {
		l := must[store.Lock](t)(r.base.ReadLock(t.Context(), key))
		if want := r.clock.Wall().Add(r.opts.For); l.Mode != r.opts.Mode || l.Until.Before(want) || l.Until.After(want.Add(time.Second)) {
			t.Errorf("%s is locked %+v, want until %v", key, l, want)
		}
	}
	// Locks end.
	r.p.Close()
	r.clock.Add(r.opts.For+time.Second, r.opts.For)
	if left := attack(t, r.base); len(left) != 0 {
		t.Errorf("held for ever: %v", left)
	}
}

// TestLostAnswerOfALockedCreate: the doubt about a Create whose answer was
// lost is resolved as it is without locks.
func TestLostAnswerOfALockedCreate(t *testing.T) {
	r := newLockRig(t)
	r.held()
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Times: 2, Do: fault.LoseAnswer()})
	for range 3 {
		wait(t, r.publish())
	}
	if n := r.st.Calls(fault.Create); n < 5 {
		t.Fatalf("%d creates, of which two should have been repeated", n)
	}
	r.expect(3)
	// And somebody else's object under an own name is somebody else's.
	two := must[*Publisher](t)(reopen(t, r.base).OpenPublisher(t.Context(), PublisherOptions{Clock: r.clock, Lock: r.opts}))
	defer two.Close()
	if err := r.publish().Wait(t.Context()); !errs.Is(err, errs.Fenced) {
		t.Fatalf("the fenced publisher: %v", err)
	}
}

// TestLockCountsFromTheRequest: an object that the store takes after an
// outage of hours is held as long as any other.
func TestLockCountsFromTheRequest(t *testing.T) {
	r := newLockRig(t)
	r.held()
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Times: -1, Do: fault.Fail(errs.Unavailable)})
	q := r.publish()
	eventually(t, "the first try fails", func() bool { return r.p.Status().Failures > 0 })
	r.clock.Add(30*time.Hour, 30*time.Hour)
	r.st.Clear()
	wait(t, q)
	key := objectKey(r.p.timeline, q.Number())
	if l := must[store.Lock](t)(r.base.ReadLock(t.Context(), key)); l.Until.Before(r.clock.Wall().Add(r.opts.For)) {
		t.Fatalf("locked until %v, now is %v", l.Until, r.clock.Wall())
	}
}

// noLocks is a store that cannot lock.
type noLocks struct{ store.Store }

func TestLockRefusedAtOpening(t *testing.T) {
	base := mem.New()
	newTestContainer(t, base)
	good := LockOptions{Mode: store.LockGovernance, For: LeastLock}
	for what, c := range map[string]struct {
		st   store.Store
		lock LockOptions
		says string
	}{
		"a store without locks": {noLocks{base}, good, "Object Lock"},
		"no mode":               {base, LockOptions{For: time.Hour}, "mode"},
		"another mode":          {base, LockOptions{Mode: "forever", For: LeastLock}, "forever"},
		"too short":             {base, LockOptions{Mode: store.LockGovernance, For: LeastLock - 1}, "23h59m59"},
		"too long":              {base, LockOptions{Mode: store.LockGovernance, For: MostLock + 1}, "not offered"},
	} {
		before := must[[]store.Info](t)(base.List(t.Context(), "", "", store.MaxList))
		_, err := reopen(t, c.st).OpenPublisher(t.Context(), PublisherOptions{Lock: c.lock})
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.says) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v (%s)", what, err, errs.RemedyOf(err))
		}
		if after := must[[]store.Info](t)(base.List(t.Context(), "", "", store.MaxList)); len(after) != len(before) {
			t.Errorf("%s: refused, and something was written", what)
		}
	}
}

// TestHoldCoversTheIndexAndBranches: what a maintained, branched and pinned
// container needs besides data is held; what only makes it keep more is not.
func TestHoldCoversTheIndexAndBranches(t *testing.T) {
	r := newLockRig(t)
	for range 3 {
		wait(t, r.publish())
	}
	r.held()
	c := reopen(t, r.base)
	main := r.p.Timeline()
	ref := must[PartRef](t)(c.WriteRunPart(t.Context(), main, []byte("part"), WriteOptions{}))
	child := must[dr.TimelineID](t)(c.Fork(t.Context(), ForkOptions{Checkpoint: 2}))
	tag := must[PinInfo](t)(c.Tag(t.Context(), main, 2, "month's end", "", time.Time{}))
	read := must[*Reader](t)(c.PinReader(t.Context(), main, 2, time.Hour, ""))
	lock := store.Lock{Mode: store.LockGovernance, Until: r.clock.Wall().Add(100 * time.Hour)}
	n, err := c.Hold(t.Context(), child, lock)
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{}
	for _, in := range must[[]store.Info](t)(r.base.List(t.Context(), "", "", store.MaxList)) {
		l := must[store.Lock](t)(r.base.ReadLock(t.Context(), in.Key))
		if held[in.Key] = l.Until.Equal(lock.Until); held[in.Key] {
			n--
		}
	}
	if n != 0 {
		t.Errorf("%d objects more are said to be held than are", n)
	}
	for key, want := range map[string]bool{
		keyDomain: true, headKey(child): true, headKey(main): true, pinKey(tag.ID): true,
		pinKey(read.Pin().ID): false, PartName(ref.ID): false, objectKey(main, 9): false, // no manifest refers to the part; data is not Hold's
	} {
		if held[key] != want {
			t.Errorf("%s: held %v, want %v", key, held[key], want)
		}
	}
}
