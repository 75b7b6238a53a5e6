package resync

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store"
)

// first makes the first copy and some history.
func first(t *testing.T, rng *rand.Rand) *pair {
	t.Helper()
	p := newPair(t, rng)
	p.startDRVA(true)
	p.startHost()
	p.synced()
	must(t, p.writes(t.Context(), rng, 100))
	p.same()
	return p
}

// while writes as the guest as long as f runs.
func (p *pair) while(rng *rand.Rand, f func()) {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			if err := p.writes(context.WithoutCancel(ctx), rng, 1); err != nil {
				p.t.Errorf("guest: %v", err)
				return
			}
			select { // not so many that all of the disk changes
			case <-ctx.Done():
			case <-time.After(4 * time.Millisecond):
			}
		}
	})
	f()
	stop()
	all.Wait()
}

// TestHostRestart: the host component dies, and with it all it knew of what
// changed. Blocks that changed meanwhile are shipped, no others.
func TestHostRestart(t *testing.T) {
	rng := seeded(t)
	p := first(t, rng)
	p.endHost()
	clear(p.touched)
	p.behind(rng, 40)
	p.startHost()
	p.synced()
	p.compared(iofilter.StreamStatus{})
	p.same()
}

// TestUnchangedShipsNothing: nothing changed, and the disk is synced after a
// comparison alone.
func TestUnchangedShipsNothing(t *testing.T) {
	rng := seeded(t)
	p := first(t, rng)
	p.endHost()
	clear(p.touched)
	p.startHost()
	p.synced()
	p.compared(iofilter.StreamStatus{})
	p.same()
}

// TestDRVALost: the appliance and its log are gone, with what was not yet
// published; a new one takes the container over, while the guest writes.
func TestDRVALost(t *testing.T) {
	for _, restart := range []bool{false, true} {
		rng := seeded(t)
		p := first(t, rng)
		before := p.begin()
		must(t, p.writes(t.Context(), rng, 50))
		p.endDRVA() // its log may have what the container has not; it is not used again
		must(t, p.writes(t.Context(), rng, 20))
		if restart {
			p.endHost()
			before = iofilter.StreamStatus{}
		}
		p.startDRVA(true)
		if restart {
			p.startHost()
		}
		p.while(rng, p.resynced(before))
		p.synced()
		p.compared(before)
		p.same()
	}
}

// resynced waits until all of the disk was compared since before.
func (p *pair) resynced(before iofilter.StreamStatus) func() {
	return func() {
		p.eventually("the disk is compared", func() bool { return p.host.Status().Stream.Compared-before.Compared >= diskSize })
	}
}

// TestForced: a comparison is asked for while the guest writes, and repairs a
// copy that is not the primary any more.
func TestForced(t *testing.T) {
	rng := seeded(t)
	p := first(t, rng)
	before := p.begin()
	p.behind(rng, 10)
	if p.differs() == "" {
		t.Fatal("nothing differs: this test proves nothing")
	}
	must(t, p.host.Sync(iofilter.Target{Disks: []dr.DiskID{p.disk}}, iofilter.SyncHash))
	p.while(rng, p.resynced(before))
	p.synced()
	p.compared(before)
	p.same()
	if err := p.host.Sync(iofilter.Target{Disks: []dr.DiskID{{UUID: dr.NewUUID()}}}, iofilter.SyncHash); err == nil {
		t.Error("a disk nobody knows is compared")
	}
}

// TestManyKeysAndAnIndex: the container's history is under several data keys
// and in an index.
func TestManyKeysAndAnIndex(t *testing.T) {
	rng := seeded(t)
	p := first(t, rng)
	for range 2 {
		p.endHost()
		p.endDRVA()
		_, err := p.container.RotateDataKey(t.Context(), journal.RotateOptions{})
		must(t, err)
		p.startDRVA(false)
		p.startHost()
		p.synced()
		must(t, p.writes(t.Context(), rng, 100))
		p.same()
		p.maintain()
	}
	p.endHost()
	clear(p.touched)
	p.behind(rng, 30)
	p.startHost()
	p.synced()
	p.compared(iofilter.StreamStatus{})
	p.same()
}

// maintain makes a pass over the container.
func (p *pair) maintain() {
	p.t.Helper()
	m, err := maintain.New(p.t.Context(), p.container, maintain.Options{By: "test"})
	must(p.t, err)
	m.Compact()
	_, err = m.Pass(p.t.Context())
	must(p.t, err)
}

// TestDamagedHistoryShips: an object is gone from the store. Nobody knows what
// it held, so that nothing can be compared, and all is shipped.
func TestDamagedHistoryShips(t *testing.T) {
	rng := seeded(t)
	p := first(t, rng)
	for range 2 * journal.Window { // far enough that it cannot be one that is under way
		must(t, p.writes(t.Context(), rng, 3))
		p.same()
	}
	before := p.begin()
	all, err := p.st.List(t.Context(), "t/", "", 1000)
	must(t, err)
	all = slices.DeleteFunc(all, func(in store.Info) bool { return !strings.Contains(in.Key, "/j/") })
	must(t, p.st.Delete(t.Context(), all[1].Key)) // the first is a fence and holds nothing
	must(t, p.host.Sync(iofilter.Target{Disks: []dr.DiskID{p.disk}}, iofilter.SyncHash))
	p.eventually("the disk is shipped", func() bool { return p.host.Status().Stream.Shipped-before.Shipped > diskSize/3 })
	p.synced()
}

// TestRandom: hosts and appliances come and go, with and without what they
// knew; the guest writes, and others change the disk while nobody looks. Each
// time the container becomes the primary. HOLDFAST_RESYNC_STEPS is how often.
func TestRandom(t *testing.T) {
	rng := seeded(t)
	steps := 8
	if s := os.Getenv("HOLDFAST_RESYNC_STEPS"); s != "" {
		var err error
		steps, err = strconv.Atoi(s)
		must(t, err)
	}
	p := first(t, rng)
	var compared uint64
	for i := range steps {
		must(t, p.writes(t.Context(), rng, rng.IntN(40)))
		what := rng.IntN(6)
		t.Logf("step %d: %d", i, what)
		before := p.stream()
		switch what {
		case 0: // the host
			p.endHost()
			p.behind(rng, rng.IntN(40))
			before = iofilter.StreamStatus{}
			p.startHost()
		case 1: // the appliance and its log
			p.endDRVA()
			must(t, p.writes(t.Context(), rng, rng.IntN(40)))
			p.startDRVA(true)
		case 2: // the appliance
			p.endDRVA()
			must(t, p.writes(t.Context(), rng, rng.IntN(40)))
			p.startDRVA(false)
		case 3: // everything
			p.endHost()
			p.endDRVA()
			p.behind(rng, rng.IntN(40))
			before = iofilter.StreamStatus{}
			p.startDRVA(rng.IntN(2) == 0)
			p.startHost()
		case 4:
			must(t, p.host.Sync(iofilter.Target{Disks: []dr.DiskID{p.disk}}, iofilter.SyncHash))
		case 5:
			p.maintain()
		}
		p.while(rng, p.synced)
		p.same()
		compared += p.stream().Compared - before.Compared
	}
	if t.Logf("compared %d bytes", compared); compared == 0 {
		t.Error("nothing was compared: this test proves nothing")
	}
}

func (p *pair) stream() iofilter.StreamStatus { return p.host.Status().Stream }
