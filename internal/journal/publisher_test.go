package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// publisherRig is a container with one open publisher behind a faulty store.
type publisherRig struct {
	t     *testing.T
	base  *mem.Store
	st    *fault.Store
	c     *Container
	p     *Publisher
	o     *oracle
	clock *journaltest.Clock
}

func newPublisherRig(t *testing.T) *publisherRig {
	t.Helper()
	r := &publisherRig{t: t, base: mem.New(), clock: journaltest.NewClock(time.Unix(1_800_000_000, 0)), o: newOracle(seeded(t), 4*dr.ChunkSize)}
	r.st = fault.New(r.base)
	newTestContainer(t, r.base)
	r.c = reopen(t, r.st)
	r.p = must[*Publisher](t)(r.c.OpenPublisher(t.Context(), PublisherOptions{Clock: r.clock, Host: "one", backoff: soon}))
	t.Cleanup(func() { r.p.Close() })
	return r
}

// publish publishes one cell with a checkpoint; it does not wait.
func (r *publisherRig) publish() *Pending {
	r.t.Helper()
	c := r.o.write(5)
	r.o.checkpoint(c)
	return must[*Pending](r.t)(r.p.Publish(r.t.Context(), c.build(r.t, r.o, r.c.NewBuilder(segment.BuilderOptions{}))))
}

// expect compares the history with the oracle, at every checkpoint.
func (r *publisherRig) expect(checkpoints int) {
	r.t.Helper()
	c := reopen(r.t, r.base)
	h := must[*History](r.t)(c.History(r.t.Context(), HistoryOptions{}))
	if p := h.Problems(); len(p) != 0 {
		r.t.Fatal(p)
	}
	if n := r.o.compareAll(r.t, c, h); n != checkpoints {
		r.t.Fatalf("%d checkpoints in the history, want %d", n, checkpoints)
	}
}

func wait(t *testing.T, q *Pending) {
	t.Helper()
	if err := q.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// soon is a backoff for tests.
func soon(int) time.Duration { return time.Millisecond }

// eventually waits until cond holds; what is waited for must happen, however
// slow the machine is.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("it did not happen: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func isDone(q *Pending) bool {
	select {
	case <-q.Done():
		return true
	default:
		return false
	}
}

func TestFaultsThatPassAreRetried(t *testing.T) {
	for name, do := range map[string]fault.Action{
		"answer lost": fault.LoseAnswer(),
		"transient":   fault.Fail(errs.Transient),
		"unreachable": fault.Fail(errs.Unavailable),
		"denied":      fault.Fail(errs.Denied),
		"full":        fault.Fail(errs.Full),
		"internal":    fault.Fail(errs.Internal),
	} {
		t.Run(name, func(t *testing.T) {
			r := newPublisherRig(t)
			r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Times: -1, Do: do})
			q := r.publish()
			eventually(t, "several tries fail", func() bool { return r.p.Status().Failures > 2 })
			if s := r.p.Status(); s.LastError == nil || s.Failures == 0 || s.UnderWay != 1 || s.Stopped != nil {
				t.Errorf("status %v", s)
			}
			r.st.Clear()
			r.st.Add(fault.Rule{Op: fault.Stat, Prefix: "t/", Times: 2, Do: fault.Fail(errs.Transient)})
			wait(t, q)
			if s := r.p.Status(); s.LastError != nil || s.UnderWay != 0 || s.Published != q.Number() {
				t.Errorf("status after: %v", s)
			}
			r.expect(1)
		})
	}
}

func TestPublishedInOrderWhenLandingOutOfOrder(t *testing.T) {
	r := newPublisherRig(t)
	hold := make(chan struct{})
	first := objectKey(r.p.timeline, FirstNumber+Window) // not whichever comes to the store first
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: first, Do: fault.Hold(hold)})
	var qs []*Pending
	for range Window {
		qs = append(qs, r.publish())
	}
	if got := objectKey(r.p.timeline, qs[0].Number()); got != first {
		t.Fatalf("the first object is %s, not %s", got, first)
	}
	// All but the first have landed; none is published, and W are out.
	eventually(t, "the others land", func() bool {
		for _, q := range qs[1:] {
			if _, err := r.base.Stat(t.Context(), objectKey(r.p.timeline, q.Number())); err != nil {
				return false
			}
		}
		return true
	})
	for i, q := range qs {
		if isDone(q) {
			t.Fatalf("object %d counts as published before the first landed", i)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.p.Publish(ctx, r.c.NewBuilder(segment.BuilderOptions{})); !errs.Is(err, errs.Canceled) {
		t.Fatalf("the %dth object was given a number: %v", Window+1, err)
	}
	close(hold)
	for _, q := range qs {
		wait(t, q)
	}
	r.expect(Window)
	wait(t, r.publish())
	r.expect(Window + 1)
}

func TestZombieIsFencedAndItsLateObjectsAreNotRead(t *testing.T) {
	r := newPublisherRig(t)
	wait(t, r.publish())
	wait(t, r.publish())
	late := make(chan struct{})
	// The zombie's next objects: the first stuck in the network, the others land.
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Times: 1, Do: fault.Late(late)})
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Times: -1, Do: fault.Fail(errs.Unavailable)})
	first := r.publish()
	eventually(t, "the first try fails", func() bool { return r.p.Status().Failures > 1 })
	seq, cp := r.o.seq, r.o.cp

	two := must[*Publisher](t)(reopen(t, r.base).OpenPublisher(t.Context(), PublisherOptions{Host: "two"}))
	defer two.Close()
	if two.Epoch() <= r.p.Epoch() {
		t.Fatalf("epochs %d then %d", r.p.Epoch(), two.Epoch())
	}
	if last, ok := two.LastCheckpoint(); !ok || last.ID != cp-1 || two.LastSeq() >= seq {
		t.Fatalf("resumes at checkpoint %v, seq %d", last.ID, two.LastSeq())
	}
	close(late)
	r.st.Clear()
	if err := first.Wait(t.Context()); !errs.Is(err, errs.Fenced) || errs.RemedyOf(err) == "" {
		t.Fatalf("the zombie's object: %v", err)
	}
	if _, err := r.p.Publish(t.Context(), r.c.NewBuilder(segment.BuilderOptions{})); !errs.Is(err, errs.Fenced) {
		t.Fatalf("the zombie's next call: %v", err)
	}
	if err := r.p.PutMeta(t.Context(), r.o.vm, 1, dr.VMConfig{ID: r.o.vm}); !errs.Is(err, errs.Fenced) {
		t.Fatalf("the zombie's PutMeta: %v", err)
	}
	delete(r.o.at, cp)
	r.expect(2)
}

func TestStaleEpochCheckIsRepeatedBeforeCounting(t *testing.T) {
	for name, move := range map[string][2]time.Duration{
		"both clocks":        {EpochCheckAge, EpochCheckAge},
		"boot clock alone":   {0, EpochCheckAge},
		"wall clock alone":   {EpochCheckAge, 0},
		"wall clock back":    {-time.Second, time.Second},
		"a restored machine": {time.Hour, -time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPublisherRig(t)
			lists := r.st.Calls(fault.List)
			wait(t, r.publish())
			if n := r.st.Calls(fault.List) - lists; n != 0 {
				t.Fatalf("a fresh check was repeated %d times", n)
			}
			r.clock.Add(move[0], move[1])
			r.st.Add(fault.Rule{Op: fault.List, Prefix: "t/", Times: 2, Do: fault.Fail(errs.Unavailable)})
			wait(t, r.publish())
			if n := r.st.Calls(fault.List) - lists; n != 3 {
				t.Fatalf("%d lists, want 3: two that fail and one", n)
			}
			// Somebody claims a higher epoch and does nothing else yet.
			_, err := r.c.claimEpoch(t.Context(), r.p.Timeline(), "three", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			wait(t, r.publish())
			r.clock.Add(EpochCheckAge, EpochCheckAge)
			if err := r.publish().Wait(t.Context()); !errs.Is(err, errs.Fenced) {
				t.Fatalf("published after a stale check: %v", err)
			}
		})
	}
}

func TestForeignObjectUnderOwnNameStops(t *testing.T) {
	r := newPublisherRig(t)
	body, _, err := segment.SealFence(segment.Header{Domain: r.c.domain.ID, Timeline: r.p.timeline, Epoch: 99, Number: r.p.Published() + 1, Key: r.c.domain.DataKey, Window: Window})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.base.Create(t.Context(), objectKey(r.p.timeline, r.p.Published()+1), body); err != nil {
		t.Fatal(err)
	}
	if err := r.publish().Wait(t.Context()); !errs.Is(err, errs.Fenced) || !strings.Contains(err.Error(), "epoch 99") {
		t.Fatalf("%v", err)
	}
	if s := r.p.Status(); !errs.Is(s.Stopped, errs.Fenced) {
		t.Fatalf("status %v", s)
	}
}

func TestStoreThatKeepsHalfAnObjectStopsThePublisher(t *testing.T) {
	r := newPublisherRig(t)
	key := objectKey(r.p.timeline, r.p.Published()+1)
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Do: fault.LoseAnswer()})
	r.st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Times: -1, Do: fault.Fail(errs.Unavailable)})
	q := r.publish()
	eventually(t, "it lands", func() bool { _, err := r.base.Stat(t.Context(), key); return err == nil })
	if !r.base.Damage(key, func(b []byte) []byte { return b[:len(b)-100] }) {
		t.Fatal("nothing landed")
	}
	r.st.Clear()
	if err := q.Wait(t.Context()); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("%v", err)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	r := newPublisherRig(t)
	r.st.Add(fault.Rule{Op: fault.Create, Times: -1, Do: fault.Fail(errs.Unavailable)})
	q := r.publish()
	r.p.Close()
	if err := q.Wait(t.Context()); !errs.Is(err, errs.Canceled) {
		t.Fatalf("%v", err)
	}
	if _, err := r.p.Publish(t.Context(), r.c.NewBuilder(segment.BuilderOptions{})); !errs.Is(err, errs.Canceled) {
		t.Fatalf("%v", err)
	}
	r.p.Close()
}

func TestInvalidBuilderDoesNotUseUpANumber(t *testing.T) {
	r := newPublisherRig(t)
	b := r.c.NewBuilder(segment.BuilderOptions{})
	if err := b.AddZero(r.o.disks[0], 0, 1, 5); err != nil {
		t.Fatal(err)
	}
	b.SetSeqs(7, 8) // its content lies outside
	if _, err := r.p.Publish(t.Context(), b); !errs.Is(err, errs.Invalid) {
		t.Fatalf("%v", err)
	}
	wait(t, r.publish())
	r.expect(1)
}

func TestMeta(t *testing.T) {
	r := newPublisherRig(t)
	cfg := dr.VMConfig{ID: r.o.vm, Name: "db", CPUs: 2}
	put := func(seq dr.Seq, cfg dr.VMConfig) error { return r.p.PutMeta(t.Context(), r.o.vm, seq, cfg) }
	for range 2 { // the same again is success
		if err := put(1, cfg); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, r.publish())
	cfg.CPUs = 4
	if err := put(1, cfg); !errs.Is(err, errs.Conflict) {
		t.Fatalf("another configuration under the same seq: %v", err)
	}
	if err := put(r.o.seq+1, cfg); err != nil {
		t.Fatal(err)
	}
	cfg.CPUs = 8
	if err := put(r.o.seq+2, cfg); err != nil {
		t.Fatal(err)
	}
	if err := put(0, cfg); !errs.Is(err, errs.Invalid) {
		t.Fatalf("seq 0: %v", err)
	}
	h := must[*History](t)(r.c.History(t.Context(), HistoryOptions{}))
	cp := must[CheckpointInfo](t)(h.Find("latest"))
	m := must[*Image](t)(h.Resolve(t.Context(), cp))
	if got := m.VMs[r.o.vm]; got.CPUs != 4 || got.Name != "db" {
		t.Fatalf("configuration at the checkpoint: %+v", got)
	}
	s := must[*Summary](t)(r.c.Inspect(t.Context()))
	if len(s.VMs) != 1 || s.VMs[0].Configs != 3 || s.VMs[0].Name != "db" || len(s.Timelines) != 1 || !s.Timelines[0].Current {
		t.Fatalf("%+v", s)
	}
}

// crashStore lets k operations reach the store and then none: the process is
// gone. half makes the last one land without an answer.
type crashStore struct {
	store.Store
	mu   sync.Mutex
	left int
	half bool
	all  int
}

var errCrashed = errors.New("crashed")

func (s *crashStore) step(do func() error) error {
	s.mu.Lock()
	s.all++
	s.left--
	left := s.left
	s.mu.Unlock()
	if left < 0 {
		if left == -1 && s.half {
			_ = do()
		}
		return errs.E("test", errs.Unavailable, "", errCrashed)
	}
	return do()
}

func (s *crashStore) Create(ctx context.Context, key string, body []byte) error {
	return s.step(func() error { return s.Store.Create(ctx, key, body) })
}

func (s *crashStore) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	err = s.step(func() error { n, err = s.Store.ReadRange(ctx, key, p, off); return err })
	return n, err
}

func (s *crashStore) Stat(ctx context.Context, key string) (in store.Info, err error) {
	err = s.step(func() error { in, err = s.Store.Stat(ctx, key); return err })
	return in, err
}

func (s *crashStore) List(ctx context.Context, prefix, after string, limit int) (page []store.Info, err error) {
	err = s.step(func() error { page, err = s.Store.List(ctx, prefix, after, limit); return err })
	return page, err
}

// TestCrashAtEveryStoreOperation runs create, publish, close, publish up to
// the kth operation, then looks at what a new process finds.
func TestCrashAtEveryStoreOperation(t *testing.T) {
	for _, half := range []bool{false, true} {
		t.Run(fmt.Sprintf("half=%v", half), func(t *testing.T) {
			for k := 0; ; k++ {
				if crashRun(t, k, half) {
					t.Logf("crashed at each of %d operations", k)
					if k < 30 {
						t.Fatal("too few operations to prove anything")
					}
					return
				}
			}
		})
	}
}

func crashRun(t *testing.T, k int, half bool) (whole bool) {
	base := mem.New()
	st := &crashStore{Store: base, left: k, half: half}
	o := newOracle(seeded(quiet{t}), 2*dr.ChunkSize)
	published, err := crashScript(t, st, o)
	whole = err == nil
	c, err := Open(t.Context(), base, testKey.Identity())
	if errs.Is(err, errs.NotFound) && published == 0 {
		newTestContainer(t, base) // an interrupted Create is begun anew
		c = reopen(t, base)
	} else if err != nil {
		t.Fatalf("operation %d: %v", k, err)
	}
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	if p := h.Problems(); len(p) != 0 {
		t.Fatalf("operation %d: %v", k, p)
	}
	if n := o.compareAll(t, c, h); n < published {
		t.Fatalf("operation %d: %d checkpoints were published, %d are there", k, published, n)
	}
	// And it can be published on.
	p, err := c.OpenPublisher(t.Context(), PublisherOptions{})
	if err != nil {
		t.Fatalf("operation %d: %v", k, err)
	}
	defer p.Close()
	if r := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{Mode: FsckDeep})); !r.Clean {
		t.Fatalf("operation %d: %v", k, r.Problems)
	}
	return whole
}

// quiet drops the log of a seed that is the same for every run.
type quiet struct{ testing.TB }

func (quiet) Logf(string, ...any) {}

func crashScript(t *testing.T, st store.Store, o *oracle) (published int, err error) {
	c, err := Create(t.Context(), st, CreateOptions{Name: "c", Recipients: []Recipient{testKey.Recipient()}})
	if err != nil {
		return 0, err
	}
	for range 2 {
		p, err := c.OpenPublisher(t.Context(), PublisherOptions{backoff: soon})
		if err != nil {
			return published, err
		}
		for range 3 {
			cell := o.write(3)
			o.checkpoint(cell)
			q, err := p.Publish(t.Context(), cell.build(t, o, c.NewBuilder(segment.BuilderOptions{})))
			if err == nil {
				eventually(t, "published or crashed", func() bool { return isDone(q) || p.Status().Failures > 0 })
				if !isDone(q) {
					err = errCrashed
				}
			}
			if err != nil {
				p.Close()
				return published, err
			}
			published++
		}
		p.Close()
	}
	return published, nil
}
