package resync

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/extent"
	"holdfast/internal/iofilter/sidecar"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/unshipped"
	"holdfast/internal/store/meter"
)

// moved is a domain that was recovered at another site: a branch of its history,
// and the disk there, which a VM has written to already.
type moved struct {
	*pair
	old     string // the lost site's disk
	fork    journal.PointRef
	branch  dr.TimelineID
	written []sidecar.Range // by the VM, since it was rebuilt
}

// newMoved protects a disk, loses the site, and recovers at another.
func newMoved(t *testing.T, rng *rand.Rand, writes int) *moved {
	p := newPair(t, rng)
	p.startDRVA(true)
	p.startHost()
	must(t, p.writes(t.Context(), rng, 40))
	p.same()
	p.endHost()
	p.endDRVA()
	m := &moved{pair: p, old: p.path}
	h, err := p.container.History(t.Context(), journal.HistoryOptions{})
	must(t, err)
	cp, err := h.Find("latest")
	must(t, err)
	m.fork = h.Ref(cp)
	m.branch, err = p.container.Fork(t.Context(), journal.ForkOptions{Checkpoint: cp.ID, Label: "at b"})
	must(t, err)
	img, err := h.Resolve(t.Context(), cp)
	must(t, err)
	p.path = filepath.Join(p.dir, "b.raw")
	_, err = rocva.Full(t.Context(), p.container, img, []rocva.Target{{Disk: p.disk, Path: p.path}}, rocva.Options{})
	must(t, err)
	p.cfg.VMs[0].Disks[0].Path = p.path
	p.begun()
	p.behind(rng, writes)
	for b := range p.touched {
		m.written = append(m.written, sidecar.Range{Off: b * dr.BlockSize, N: dr.BlockSize})
	}
	return m
}

// begun forgets what was touched.
func (p *pair) begun() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.touched)
}

// vouch puts a sidecar beside the disk.
func (m *moved) vouch(of journal.PointRef, written []sidecar.Range) {
	m.t.Helper()
	st, err := os.Stat(m.path)
	must(m.t, err)
	must(m.t, sidecar.Create(durable.OS{}, m.path+".holdfast", sidecar.Identity{Disk: m.disk, Size: st.Size()},
		dr.OriginRun(m.branch, of.Checkpoint, of.Seq, m.disk), written))
}

// counted is p's store with what goes in and out of it counted.
func (p *pair) counted() *meter.Store {
	s := meter.New(p.st)
	p.st = s
	return s
}

// TestReprotect: the recovered site ships what its VM wrote, found by hashes,
// and with a sidecar without reading the rest of the disk.
func TestReprotect(t *testing.T) {
	for name, side := range map[string]bool{"by hash": false, "by written regions": true} {
		t.Run(name, func(t *testing.T) {
			rng := seeded(t)
			m := newMoved(t, rng, 30)
			store := m.counted()
			if side {
				m.vouch(m.fork, m.written)
			}
			before := store.Counts()
			m.startDRVA(true)
			m.startHost()
			m.synced()
			s, most := m.host.Status().Stream, uint64(len(m.written)*dr.BlockSize)
			m.same()
			io := store.Counts()
			t.Logf("%d bytes differ: %d compared, %d shipped; store: %d in, %d out", most, s.Compared, s.Shipped,
				io.BytesIn-before.BytesIn, io.BytesOut-before.BytesOut)
			if s.Shipped > most || s.Compared == 0 || side != (s.Compared < diskSize) || io.BytesIn-before.BytesIn > most+most/2 {
				t.Error("more was shipped or read than differs")
			}
			must(t, m.writes(t.Context(), rng, 20))
			m.same()
			// The host component ends and comes again: its own sidecar goes on.
			m.guest.Close()
			m.stopHost()
			m.stopHost = nil
			m.startHost()
			m.synced()
			if s := m.host.Status().Stream; s.Shipped != 0 || s.Compared != 0 {
				t.Errorf("after a clean stop %d were compared and %d shipped", s.Compared, s.Shipped)
			}
			m.same()
		})
	}
}

// TestReprotectCatches a sidecar that does not say all, and refuses one that
// vouches for another checkpoint.
func TestReprotectCatches(t *testing.T) {
	rng := seeded(t)
	t.Run("a region that was written is not open", func(t *testing.T) {
		m := newMoved(t, rng, 3)
		m.vouch(m.fork, nil)
		m.startDRVA(true)
		m.startHost()
		if m.differs() == "" {
			t.Error("the copy is right although nobody said what was written: the test proves nothing")
		}
	})
	t.Run("another checkpoint", func(t *testing.T) {
		m := newMoved(t, rng, 3)
		other := m.fork
		other.Checkpoint++
		m.vouch(other, nil)
		m.startDRVA(true)
		m.startHost()
		m.synced()
		if s := m.host.Status().Stream; s.Compared < diskSize {
			t.Errorf("%d bytes compared", s.Compared)
		}
		m.same()
	})
}

// TestFailback: the old site comes back with writes it had not shipped; they are
// kept, and its disk becomes what the domain is now by what differs.
func TestFailback(t *testing.T) {
	for name, rebuilt := range map[string]bool{"with unshipped writes": false, "rebuilt from nothing": true} {
		t.Run(name, func(t *testing.T) { failback(t, seeded(t), rebuilt) })
	}
}

func failback(t *testing.T, rng *rand.Rand, rebuilt bool) {
	ctx := t.Context()
	m := newMoved(t, rng, 20)
	m.vouch(m.fork, m.written)
	m.startDRVA(true)
	m.startHost()
	must(t, m.writes(ctx, rng, 20))
	m.same()
	m.endHost()
	m.endDRVA()
	own := m.unshipped(rng, 10)
	if rebuilt {
		must(t, os.Remove(m.old))
		own = nil
	}
	h, err := m.container.History(ctx, journal.HistoryOptions{})
	must(t, err)
	cp, err := h.Find("latest")
	must(t, err)
	target := rocva.UpdateTarget{Target: rocva.Target{Disk: m.disk, Path: m.old}}
	if !rebuilt {
		target.Own = m.keep(own)
	}
	res, err := rocva.Update(ctx, m.container, rocva.Plan{History: h, Checkpoint: cp, Base: m.fork, Targets: []rocva.UpdateTarget{target}}, rocva.Options{})
	must(t, err)
	want, err := os.ReadFile(m.path)
	must(t, err)
	got, err := os.ReadFile(m.old)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("the old site's disk is not what the VM has")
	}
	t.Logf("%s", res.String())
	if !rebuilt && (res.Compared > 0 || res.Fetched > res.Changed+res.Changed/10) {
		t.Error("more was read than differs")
	}
}

// unshipped writes to the old site's disk what was never published.
func (m *moved) unshipped(rng *rand.Rand, n int) (blocks []int64) {
	m.t.Helper()
	m.begun()
	now := m.path
	m.path = m.old
	m.behind(rng, n)
	m.path = now
	for b := range m.touched {
		blocks = append(blocks, b)
	}
	return blocks
}

// keep keeps what the old disk has beyond the fork, twice, and checks that it
// can be recovered.
func (m *moved) keep(blocks []int64) []extent.Range {
	t, ctx := m.t, m.t.Context()
	t.Helper()
	disk := unshipped.Disk{ID: m.disk, Path: m.old}
	opts := unshipped.Options{Base: m.fork, Disks: []unshipped.Disk{disk}, Site: "a", By: "test"}
	r, err := unshipped.Keep(ctx, m.container, opts)
	must(t, err)
	if r.Timeline.IsZero() || r.Bytes == 0 || r.Bytes > int64(len(blocks)*dr.BlockSize) || len(r.Disks) != 1 {
		t.Fatalf("kept: %+v, of %d blocks", r, len(blocks))
	}
	again, err := unshipped.Keep(ctx, m.container, opts)
	must(t, err)
	if again.Timeline != r.Timeline || again.Checkpoint != r.Checkpoint || again.Bytes != r.Bytes {
		t.Fatalf("kept again: %+v, before %+v", again, r)
	}
	list, err := unshipped.List(ctx, m.container)
	must(t, err)
	if len(list) != 1 || list[0].Site != "a" || list[0].Checkpoint != r.Checkpoint || list[0].Base != m.fork {
		t.Fatalf("listed: %+v", list)
	}
	h, err := m.container.History(ctx, journal.HistoryOptions{Timeline: r.Timeline})
	must(t, err)
	cp, err := h.Find(fmt.Sprintf("#%d", r.Checkpoint))
	must(t, err)
	img, err := h.Resolve(ctx, cp)
	must(t, err)
	path := filepath.Join(m.dir, "kept.raw")
	_, err = rocva.Full(ctx, m.container, img, []rocva.Target{{Disk: m.disk, Path: path}}, rocva.Options{})
	must(t, err)
	got, err := os.ReadFile(path)
	must(t, err)
	want, err := os.ReadFile(m.old)
	must(t, err)
	if !bytes.Equal(got[:len(want)], want) {
		t.Fatal("what was kept is not what the old site had")
	}
	// The branch that goes on does not know of it.
	current, err := m.container.History(ctx, journal.HistoryOptions{})
	must(t, err)
	if current.Timeline() != m.branch {
		t.Fatal("the kept branch became the current one")
	}
	return r.Disks[0].Ranges
}
