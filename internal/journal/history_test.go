package journal

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/meter"
	"holdfast/internal/store/storetest/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heartbeats publishes n objects without content and waits for them.
func heartbeats(t *testing.T, p *Publisher, c *Container, n int) {
	t.Helper()
	var last *Pending
	for range n {
		last = must[*Pending](t)(p.Publish(t.Context(), c.NewBuilder(segment.BuilderOptions{})))
	}
	check(t, last.Wait(t.Context()))
}

// TestHistoryOverManyPages: more objects than one list gives.
func TestHistoryOverManyPages(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
	defer p.Close()
	const n = listPage + 150
	heartbeats(t, p, c, n)
	var last HistoryProgress
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{Progress: func(p HistoryProgress) { last = p }}))
	if h.Objects() != n+1 || h.Newest() != n+Window || last.Objects != n+1 || len(h.Problems()) != 0 {
		t.Fatalf("%d objects up to %d, progress %+v, %v", h.Objects(), h.Newest(), last, h.Problems())
	}
}

// TestExtendIsCheapAndSeesWhatIsNew counts the requests of Extend.
func TestExtendIsCheapAndSeesWhatIsNew(t *testing.T) {
	m := meter.New(mem.New())
	o := newOracle(seeded(t), 2*dr.ChunkSize)
	c := newTestContainer(t, m)
	publishCells(t, c, o, 5, 3)
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	before := m.Counts()
	check(t, h.Extend(t.Context()))
	if got := m.Counts(); got.Requests()-before.Requests() != 1 {
		t.Fatalf("looking for news took %d requests", got.Requests()-before.Requests())
	}
	publishCells(t, c, o, 2, 3)
	check(t, h.Extend(t.Context()))
	if n := o.compareAll(t, c, h); n != 7 {
		t.Fatalf("%d checkpoints", n)
	}
}

// TestReadersBesideAPublisher extends while objects are published: what a
// reader saw stays, and what was published before it looked is there.
func TestReadersBesideAPublisher(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
	defer p.Close()
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				published, seen := p.Published(), h.Newest()
				if err := h.Extend(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if n := h.Newest(); n < seen || n < published && published >= FirstNumber+Window {
					t.Errorf("the history ends at %d; %d was published, %d seen", n, published, seen)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	heartbeats(t, p, c, 300)
	close(stop)
	wg.Wait()
	if len(h.Problems()) != 0 {
		t.Fatal(h.Problems())
	}
}

// TestStoreFailuresAreNotDamage: a store that cannot be reached makes calls
// fail, and never a checkpoint unrecoverable.
func TestStoreFailuresAreNotDamage(t *testing.T) {
	f := fault.New(mem.New())
	o := newOracle(seeded(t), 2*dr.ChunkSize)
	c := newTestContainer(t, f)
	publishCells(t, c, o, 3, 3)
	for _, op := range []fault.Op{fault.ReadRange, fault.Stat, fault.List} {
		for k := 0; ; k++ {
			f.Clear()
			f.Add(fault.Rule{Op: op, Skip: k, Do: fault.Fail(errs.Unavailable)})
			h, err := c.History(t.Context(), HistoryOptions{})
			if err == nil {
				if len(f.Unused()) == 0 {
					t.Fatalf("failure %d of %s was swallowed", k, op)
				}
				f.Clear()
				if n := o.compareAll(t, c, h); n != 3 {
					t.Fatalf("%d checkpoints", n)
				}
				break
			}
			if !errs.Is(err, errs.Unavailable) {
				t.Fatalf("failure %d of %s: %v (%v)", k, op, err, errs.KindOf(err))
			}
		}
	}
}

func TestUnsyncedAndPartialCheckpoints(t *testing.T) {
	c := newTestContainer(t, mem.New())
	p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
	defer p.Close()
	disk := dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, Size: dr.ChunkSize}
	for id, scope := range []dr.Scope{dr.Group, dr.Partial} {
		b := c.NewBuilder(segment.BuilderOptions{})
		disk.Synced = scope == dr.Partial
		b.SetCheckpoint(dr.Checkpoint{ID: dr.CheckpointID(id + 1), Seq: 1, Time: testNow, Scope: scope, Disks: []dr.CheckpointDisk{disk}})
		check(t, must[*Pending](t)(p.Publish(t.Context(), b)).Wait(t.Context()))
	}
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	cps := h.Checkpoints()
	if len(cps) != 2 || cps[0].Recoverable || !cps[1].Recoverable {
		t.Fatalf("%+v", cps)
	}
	if _, err := h.Resolve(t.Context(), cps[0]); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("%v", err)
	}
	if _, err := h.Find("latest"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a partial checkpoint is offered as a group one: %v", err)
	}
	m := must[*Image](t)(h.Resolve(t.Context(), must[CheckpointInfo](t)(h.Find("#2"))))
	if m.Frames() != 0 || len(m.Disks) != 1 {
		t.Fatalf("%+v", m)
	}
	if _, err := h.Resolve(t.Context(), CheckpointInfo{Checkpoint: dr.Checkpoint{ID: 9}, Object: 9}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a checkpoint of nowhere: %v", err)
	}
	if _, err := c.History(t.Context(), HistoryOptions{Timeline: dr.TimelineID{UUID: dr.NewUUID()}}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a timeline of nowhere: %v", err)
	}
}
