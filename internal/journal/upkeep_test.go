package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// keeper is the least maintainer there can be: each pass turns the tail into
// one run, packs what it refers to if asked to, writes a manifest, and deletes
// journal objects by the rule.
type keeper struct {
	c    *Container
	tl   dr.TimelineID
	pack bool
	drop bool // delete what is packed
}

func (k *keeper) pass(t testing.TB) *Manifest {
	t.Helper()
	ctx := t.Context()
	h := must[*History](t)(k.c.History(ctx, HistoryOptions{Timeline: k.tl}))
	m := &Manifest{Timeline: k.tl, Created: testNow, By: "keeper", Anchor: Anchor{Next: FirstNumber}}
	if old := h.Manifest(); old != nil {
		*m = *old
		m.Objects, m.Points, m.Runs = slices.Clone(old.Objects), slices.Clone(old.Points), slices.Clone(old.Runs)
	} else if h.base != nil {
		m.Anchor.LastSeq = h.base.head.Point.Seq
	}
	m.Generation++
	before := m.Anchor.LastSeq
	cat := new(index.Catalog)
	s := index.NewSorter(cat)
	states := make(map[index.ObjectID]*ObjectState)
	for _, ref := range h.objects {
		l := must[*loaded](t)(k.c.load(ctx, k.tl, ref.number, ref.size))
		check(t, l.damaged())
		id := index.ObjectID{Timeline: k.tl, Number: ref.number}
		states[id] = &ObjectState{ID: id, Size: ref.size, Created: l.header.Created, Print: FingerprintOf(l.header.Object)}
		m.Anchor.Number, m.Anchor.Digest, m.Anchor.Epoch, m.Anchor.Next = ref.number, l.digest, l.header.Epoch, ref.number+1
		m.Anchor.Objects++
		if l.header.Kind == segment.Fence {
			m.Anchor.Fences++
			m.Anchor.Next = ref.number + Window
			continue
		}
		if l.footer.Last >= l.footer.First {
			m.Anchor.LastSeq = max(m.Anchor.LastSeq, l.footer.Last)
		}
		check(t, addFooter(s, cat, id, l.footer, 0, 1<<63))
	}
	src := s.Source()
	if k.pack {
		src = k.packAll(t, cat, src, states)
	}
	if run := k.writeRun(t, cat, src, states); m.Anchor.LastSeq > before {
		run.First, run.Last = before+1, m.Anchor.LastSeq
		m.Runs = append([]RunRef{run}, m.Runs...)
	}
	for _, o := range states {
		m.Objects = append(m.Objects, *o)
	}
	for _, p := range h.Checkpoints() {
		if p.Object > h.anchor.Number {
			m.Points = append(m.Points, Point{Checkpoint: p.Checkpoint, Object: p.Object, PublishedAt: p.PublishedAt, Reasons: []Reason{{ByNewest, ""}}})
		}
	}
	if k.drop {
		k.delete(t, h, m)
	}
	slices.SortFunc(m.Objects, func(a, b ObjectState) int { return a.ID.Compare(b.ID) })
	check(t, k.c.WriteManifest(ctx, m))
	return m
}

// packAll copies every frame of src into data objects.
func (k *keeper) packAll(t testing.TB, cat *index.Catalog, src index.Source, states map[index.ObjectID]*ObjectState) index.Source {
	t.Helper()
	ctx := t.Context()
	p := k.c.NewPacker()
	var all []index.Entry
	open := make(map[uint32]*Object)
	for es := range blocksOf(t, src) {
		for _, e := range es {
			if !e.Zero {
				o := open[e.Object]
				if o == nil {
					o = must[*Object](t)(k.c.OpenRef(ctx, cat.Objects()[e.Object]))
					open[e.Object] = o
				}
				f := must[*segment.Entry](t)(o.Entry(e.Frame))
				sealed := make([]byte, f.Stored)
				check(t, o.ReadAt(ctx, sealed, int64(f.Offset)))
				next := uint32(p.Frames())
				copied := segment.CopyOf(&o.Header, o.Footer, f, sealed)
				check(t, p.Add(&copied))
				e.Object = must[uint32](t)(cat.Object(index.ObjectID{Data: p.Object()}))
				e.Frame = next
			}
			all = append(all, e)
		}
	}
	if p.Frames() > 0 {
		id, size, err := k.c.FinishPacked(ctx, k.tl, p, testNow, WriteOptions{})
		check(t, err)
		states[id] = &ObjectState{ID: id, Size: size, Created: testNow}
	}
	s := index.NewSorter(cat)
	for _, e := range all {
		check(t, s.Add(e))
	}
	return s.Source()
}

func blocksOf(t testing.TB, src index.Source) func(func([]index.Entry) bool) {
	return func(yield func([]index.Entry) bool) {
		for {
			es, err := src.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			check(t, err)
			if !yield(es) {
				return
			}
		}
	}
}

// writeRun stores a run in small parts.
func (k *keeper) writeRun(t testing.TB, cat *index.Catalog, src index.Source, states map[index.ObjectID]*ObjectState) (run RunRef) {
	t.Helper()
	run.Parts = []PartRef{}
	w := index.NewWriter(cat, func(p index.Part) error {
		ref, err := k.c.WriteRunPart(t.Context(), k.tl, p.Bytes, WriteOptions{})
		ref.Entries, ref.First, ref.Last = uint64(p.Entries), p.First, p.Last
		run.Parts = append(run.Parts, ref)
		run.Entries += ref.Entries
		return err
	}, index.WriterOptions{Entries: 40})
	for es := range blocksOf(t, src) {
		for i := range es {
			check(t, w.Add(&es[i]))
			if !es[i].Zero {
				states[cat.Objects()[es[i].Object]].Live += int64(es[i].Stored)
			}
		}
	}
	check(t, w.Finish())
	return run
}

// delete deletes the journal objects that no run refers to, as far as the rule
// lets go.
func (k *keeper) delete(t testing.TB, h *History, m *Manifest) {
	t.Helper()
	up := min(m.Anchor.Number, h.Newest()-min(h.Newest(), KeepNumbers))
	m.Objects = slices.DeleteFunc(m.Objects, func(o ObjectState) bool {
		if o.Live > 0 || o.ID.Number == 0 || o.ID.Number > up {
			return false
		}
		check(t, k.c.st.Delete(t.Context(), ObjectName(o.ID)))
		return true
	})
}

func TestHistoryFromManifestsIsTheOracles(t *testing.T) {
	for _, pack := range []bool{false, true} {
		t.Run(fmt.Sprintf("pack=%v", pack), func(t *testing.T) {
			st := mem.New()
			c := newTestContainer(t, st)
			o := newOracle(seeded(t), 40*dr.ChunkSize, 3*dr.ChunkSize+5*dr.BlockSize)
			k := &keeper{c: c, tl: c.Domain().Timeline, pack: pack, drop: true}
			total := 0
			for range 6 {
				n := 1 + o.rng.IntN(12)
				publishCells(t, c, o, n, 12)
				total += n
				if o.rng.IntN(4) != 0 {
					k.pass(t)
				}
			}
			m := k.pass(t)
			publishCells(t, c, o, 3, 5)
			c = reopen(t, st)
			h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
			if p := h.Problems(); len(p) != 0 {
				t.Fatal(p)
			}
			if h.Manifest().Generation != m.Generation || h.LastSeq() != o.seq {
				t.Fatalf("begins at generation %d, last seq %d of %d", h.Manifest().Generation, h.LastSeq(), o.seq)
			}
			if n := o.compareAll(t, c, h); n != len(o.at) {
				t.Fatalf("%d checkpoints of %d", n, len(o.at))
			}
			if want := total + 3 + int(m.Anchor.Fences) + 1; h.Objects() != want {
				t.Fatalf("%d objects accepted, want %d", h.Objects(), want)
			}
			_, err := st.Stat(t.Context(), objectKey(k.tl, FirstNumber))
			if gone := errs.Is(err, errs.NotFound); !gone {
				t.Fatalf("the first object was never deleted: the test proves nothing (%v)", err)
			}
			for _, mode := range []FsckMode{FsckQuick, FsckIndex, FsckDeep} {
				r := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{Mode: mode}))
				if !r.Clean || r.Timelines[0].Recoverable != len(o.at) {
					t.Fatalf("%s: %+v", mode, r)
				}
			}
		})
	}
}

// TestReaderWhoseObjectsAreDeletedBeginsAnew: a history that was opened before
// maintenance deleted what it has yet to walk.
func TestReaderWhoseObjectsAreDeletedBeginsAnew(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	publishCells(t, c, o, 2, 3)
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	publishCells(t, c, o, 30, 3)
	k := &keeper{c: c, tl: h.Timeline(), pack: true, drop: true}
	k.pass(t)
	check(t, h.Extend(t.Context()))
	if p := h.Problems(); len(p) != 0 || h.Manifest() == nil {
		t.Fatalf("%v", p)
	}
	if n := o.compareAll(t, c, h); n != 32 {
		t.Fatalf("%d checkpoints", n)
	}
}

// TestOlderManifestNeverHidesTheEnd: with the newest manifests damaged, a reader
// says that objects are missing, offers what the older one has, and no
// publisher starts.
func TestOlderManifestNeverHidesTheEnd(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	k := &keeper{c: c, tl: c.Domain().Timeline, pack: true, drop: true}
	publishCells(t, c, o, 5, 3)
	first := k.pass(t)
	publishCells(t, c, o, 30, 3)
	zombie := make(map[string][]byte) // a fence and an object that somebody is about to create again
	for _, n := range []dr.ObjectNumber{first.Anchor.Number + 1, first.Anchor.Number + 1 + Window} {
		zombie[objectKey(k.tl, n)] = must[[]byte](t)(readDocument(t.Context(), st, objectKey(k.tl, n)))
	}
	m := k.pass(t)
	for key, body := range zombie {
		check(t, st.Create(t.Context(), key, body))
	}
	publishCells(t, c, o, 2, 3)
	st.Damage(manifestKey(k.tl, m.Generation), func(b []byte) []byte { b[4200] ^= 1; return b })
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	ok := 0
	for _, p := range h.Checkpoints() {
		if !p.Recoverable {
			if !strings.Contains(p.Why, "manifest") {
				t.Fatalf("#%d: %s", p.ID, p.Why)
			}
			continue
		}
		ok++
		check(t, o.compare(t.Context(), c, h, p))
	}
	if ok != 5 || len(h.Problems()) < 2 {
		t.Fatalf("%d recoverable, problems %v", ok, h.Problems())
	}
	if _, err := c.OpenPublisher(t.Context(), PublisherOptions{}); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("a publisher: %v", err)
	}
}

// TestDamagedManifestAloneStopsNobody: while nothing is deleted, an older
// manifest does as well.
func TestDamagedManifestAloneStopsNobody(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	k := &keeper{c: c, tl: c.Domain().Timeline}
	for range 2 {
		publishCells(t, c, o, 5, 3)
		k.pass(t)
	}
	st.Damage(manifestKey(k.tl, 2), func(b []byte) []byte { return b[:100] })
	publishCells(t, c, o, 2, 3)
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	if n := o.compareAll(t, c, h); n != 12 || len(h.Problems()) != 1 {
		t.Fatalf("%d, %v", n, h.Problems())
	}
}

// fork is the oracle of a branch at a checkpoint.
func (o *oracle) fork(id dr.CheckpointID) *oracle {
	b := &oracle{rng: o.rng, vm: o.vm, disks: o.disks, now: o.now, cp: id, seq: o.seqAt[id],
		at: map[dr.CheckpointID][][]byte{id: o.at[id]}, seqAt: map[dr.CheckpointID]dr.Seq{id: o.seqAt[id]}}
	for _, img := range o.at[id] {
		b.images = append(b.images, bytes.Clone(img))
	}
	return b
}

func publishOn(t testing.TB, c *Container, tl dr.TimelineID, o *oracle, n, writes int) {
	t.Helper()
	p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{Timeline: tl}))
	defer p.Close()
	if p.LastSeq() < o.seq {
		t.Fatalf("the publisher goes on at %d, the branch began at %d", p.LastSeq(), o.seq)
	}
	if cp, ok := p.LastCheckpoint(); !ok || cp.ID != o.cp {
		t.Fatalf("the publisher's last checkpoint is %v %v, not %d", cp.ID, ok, o.cp)
	}
	for range n {
		cell := o.write(writes)
		o.checkpoint(cell)
		check(t, must[*Pending](t)(p.Publish(t.Context(), cell.build(t, o, c.NewBuilder(segment.BuilderOptions{})))).Wait(t.Context()))
	}
}

// TestBranchesReadThrough: branches of branches, maintained and not, each the
// oracle's at every checkpoint; the parent goes on beside them.
func TestBranchesReadThrough(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx := t.Context()
	root := newOracle(seeded(t), 20*dr.ChunkSize, 3*dr.ChunkSize+5*dr.BlockSize)
	publishCells(t, c, root, 12, 8)
	oracles := map[dr.TimelineID]*oracle{c.Domain().Timeline: root}
	tl, o := c.Domain().Timeline, root
	for depth := range 4 {
		at := o.cp - dr.CheckpointID(1+o.rng.IntN(4))
		child := must[dr.TimelineID](t)(c.Fork(ctx, ForkOptions{Parent: tl, Checkpoint: at, Label: "drill", Test: depth%2 == 0}))
		b := o.fork(at)
		h := must[*History](t)(c.History(ctx, HistoryOptions{Timeline: child}))
		if cps := h.Checkpoints(); len(cps) != 1 || !cps[0].Inherited || !cps[0].Recoverable {
			t.Fatalf("a new branch: %+v", cps)
		}
		b.compareAll(t, c, h)
		publishOn(t, c, tl, o, 3, 6) // the parent goes on
		if depth%2 == 1 {
			(&keeper{c: c, tl: tl, pack: true, drop: true}).pass(t)
		}
		publishOn(t, c, child, b, 6, 6)
		if depth > 1 {
			(&keeper{c: c, tl: child, pack: depth == 2, drop: true}).pass(t)
		}
		publishOn(t, c, child, b, 2, 6)
		oracles[child] = b
		tl, o = child, b
	}
	for id, o := range oracles {
		h := must[*History](t)(c.History(ctx, HistoryOptions{Timeline: id}))
		if p := h.Problems(); len(p) != 0 {
			t.Fatal(p)
		}
		if n := o.compareAll(t, c, h); n != len(o.at) {
			t.Fatalf("%d checkpoints of %d", n, len(o.at))
		}
	}
	for _, mode := range []FsckMode{FsckQuick, FsckIndex, FsckDeep} {
		if r := must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: mode})); !r.Clean || len(r.Timelines) != 5 {
			t.Fatalf("%s: %+v", mode, r)
		}
	}
	all := must[[]TimelineInfo](t)(c.Timelines(ctx))
	if len(all) != 5 || !all[4].Current || all[3].Current || all[4].Fork == nil || all[4].Label != "drill" {
		t.Fatalf("%+v", all)
	}
	check(t, c.DropTimeline(ctx, all[4].ID, "tester"))
	check(t, c.DropTimeline(ctx, all[4].ID, "tester"))
	if _, err := c.OpenPublisher(ctx, PublisherOptions{Timeline: all[4].ID}); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a publisher of a dropped timeline: %v", err)
	}
	if _, err := c.Fork(ctx, ForkOptions{Parent: all[4].ID, Checkpoint: o.cp}); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a fork of a dropped timeline: %v", err)
	}
	now := must[dr.TimelineID](t)(c.pickTimeline(ctx, dr.TimelineID{}))
	if now != all[2].ID { // 3 is a test
		t.Fatalf("after the drop the current timeline is %s", now)
	}
	check(t, c.DropTimeline(ctx, all[2].ID, ""))
	if err := c.DropTimeline(ctx, all[0].ID, ""); !errs.Is(err, errs.Invalid) {
		t.Fatalf("the last timeline: %v", err)
	}
}

// TestBranchOfWhatIsGone: a branch says why it cannot be recovered.
func TestBranchOfWhatIsGone(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx, tl := t.Context(), c.Domain().Timeline
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	publishCells(t, c, o, 6, 3)
	child := must[dr.TimelineID](t)(c.Fork(ctx, ForkOptions{Checkpoint: 3}))
	b := o.fork(3)
	publishOn(t, c, child, b, 2, 3)
	k := &keeper{c: c, tl: tl}
	m := k.pass(t)
	m.Points = slices.DeleteFunc(m.Points, func(p Point) bool { return p.ID == 3 }) // a maintainer that forgets the branch
	m.Generation++
	check(t, c.WriteManifest(ctx, m))
	h := must[*History](t)(c.History(ctx, HistoryOptions{Timeline: child}))
	for _, p := range h.Checkpoints() {
		if p.Recoverable || !strings.Contains(p.Why, "checkpoint #3 of timeline "+tl.String()) {
			t.Fatalf("%+v", p)
		}
	}
	r := must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: FsckIndex}))
	if r.Clean {
		t.Fatal("fsck says nothing")
	}
	if _, err := c.Fork(ctx, ForkOptions{Parent: tl, Checkpoint: 3}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a fork of what is gone: %v", err)
	}
}

// TestTimelinesInACircle: heads of a hostile key holder.
func TestTimelinesInACircle(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx := t.Context()
	forge := func(t1, parent dr.TimelineID) {
		body, err := c.sealJSON(segment.Header{Timeline: t1}, &head{Timeline: t1, Created: testNow, Parent: parent, Fork: 1,
			Branch: &branch{Point: dr.Checkpoint{ID: 1, Seq: 1}}})
		check(t, err)
		check(t, st.Create(ctx, headKey(t1), body))
	}
	a, b := dr.TimelineID{UUID: dr.NewUUID()}, dr.TimelineID{UUID: dr.NewUUID()}
	forge(a, b)
	forge(b, a)
	if _, err := c.History(ctx, HistoryOptions{Timeline: a}); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "circle") {
		t.Fatalf("%v", err)
	}
	last := c.Domain().Timeline
	for range maxDepth {
		next := dr.TimelineID{UUID: dr.NewUUID()}
		forge(next, last)
		last = next
	}
	if _, err := c.History(ctx, HistoryOptions{Timeline: last}); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("too deep: %v", err)
	}
	self := dr.TimelineID{UUID: dr.NewUUID()}
	forge(self, self)
	if _, err := c.History(ctx, HistoryOptions{Timeline: self}); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("itself: %v", err)
	}
}

func TestPins(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx, tl := t.Context(), c.Domain().Timeline
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	publishCells(t, c, o, 6, 3)
	tag := must[PinInfo](t)(c.Tag(ctx, tl, 4, "before audit", "ann", time.Time{}))
	hold := must[PinInfo](t)(c.Pin(ctx, PinOptions{Kind: PinHold, Checkpoint: 2, Label: "court", Expires: time.Now().Add(time.Hour)}))
	read := must[*Reader](t)(c.PinReader(ctx, tl, 3, time.Minute, "rocva"))
	h := must[*History](t)(c.History(ctx, HistoryOptions{}))
	if cp, err := h.Find("tag:before audit"); err != nil || cp.ID != 4 || !slices.Equal(cp.Tags, []string{"before audit"}) {
		t.Fatalf("%+v, %v", cp, err)
	}
	first := read.Pin().ID
	check(t, read.Renew(ctx))
	pins := must[[]PinInfo](t)(c.Pins(ctx))
	active := map[dr.UUID]bool{}
	for _, p := range pins {
		active[p.ID] = p.Active(time.Now())
	}
	if want := map[dr.UUID]bool{tag.ID: true, hold.ID: true, first: false, read.Pin().ID: true}; !maps.Equal(active, want) {
		t.Fatalf("%v, want %v", active, want)
	}
	if hold.Seq != o.seqAt[2] || hold.Active(time.Now().Add(2*time.Hour)) || !tag.Active(time.Now().Add(1e6*time.Hour)) {
		t.Fatalf("%+v", hold)
	}
	check(t, read.Release(ctx))
	check(t, c.Unpin(ctx, tag.ID, "ann"))
	check(t, c.Unpin(ctx, tag.ID, "ann"))
	h = must[*History](t)(c.History(ctx, HistoryOptions{}))
	if _, err := h.Find("tag:before audit"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a released tag: %v", err)
	}
	for name, opts := range map[string]PinOptions{
		"no kind": {Checkpoint: 2}, "nameless tag": {Kind: PinTag, Checkpoint: 2, Label: " "}, "endless read": {Kind: PinRead, Checkpoint: 2},
	} {
		if _, err := c.Pin(ctx, opts); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Pin(ctx, PinOptions{Kind: PinHold, Checkpoint: 77}); !errs.Is(err, errs.NotFound) {
		t.Errorf("nothing to hold: %v", err)
	}
	if err := c.Unpin(ctx, dr.NewUUID(), ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("no pin: %v", err)
	}
	st.Damage(pinKey(hold.ID), func(b []byte) []byte { b[4200] ^= 1; return b })
	check(t, c.Unpin(ctx, hold.ID, ""))
	i := slices.IndexFunc(must[[]PinInfo](t)(c.Pins(ctx)), func(p PinInfo) bool { return p.ID == hold.ID })
	if p := must[[]PinInfo](t)(c.Pins(ctx))[i]; p.Damaged == "" || !p.Active(time.Now().Add(1e6*time.Hour)) {
		t.Fatalf("a damaged pin does not hold: %+v", p)
	}
}

// racing drops a checkpoint from the newest manifest the moment a pin is
// written: maintenance was faster.
type racing struct {
	store.Store
	pinned func()
}

func (r *racing) Create(ctx context.Context, key string, body []byte) error {
	err := r.Store.Create(ctx, key, body)
	if strings.HasPrefix(key, prefixPin) && !strings.HasSuffix(key, pinOff) && r.pinned != nil {
		f := r.pinned
		r.pinned = nil
		f()
	}
	return err
}

func TestPinIsConfirmed(t *testing.T) {
	r := &racing{Store: mem.New()}
	c := newTestContainer(t, r)
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	publishCells(t, c, o, 6, 3)
	m := (&keeper{c: c, tl: c.Domain().Timeline}).pass(t)
	r.pinned = func() {
		m.Points = slices.DeleteFunc(m.Points, func(p Point) bool { return p.ID == 3 })
		m.Generation++
		check(t, c.WriteManifest(t.Context(), m))
	}
	if _, err := c.Pin(t.Context(), PinOptions{Kind: PinHold, Checkpoint: 3}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a pin of what was dropped meanwhile: %v", err)
	}
	for _, p := range must[[]PinInfo](t)(c.Pins(t.Context())) {
		if p.Active(time.Now()) {
			t.Fatalf("left behind: %+v", p)
		}
	}
}

// TestForkAndPinCrashes breaks Fork and Pin at each store operation: what is
// left behind is a whole branch, or none and a pin that expires; and the call
// done again succeeds.
func TestForkAndPinCrashes(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Container) error{
		"fork": func(ctx context.Context, c *Container) error {
			_, err := c.Fork(ctx, ForkOptions{Parent: c.Domain().Timeline, Checkpoint: 2})
			return err
		},
		"pin": func(ctx context.Context, c *Container) error {
			_, err := c.Pin(ctx, PinOptions{Kind: PinHold, Timeline: c.Domain().Timeline, Checkpoint: 2})
			return err
		},
		"drop": func(ctx context.Context, c *Container) error {
			b, err := c.Fork(ctx, ForkOptions{Parent: c.Domain().Timeline, Checkpoint: 2})
			if err != nil {
				return err
			}
			return c.DropTimeline(ctx, b, "")
		},
	} {
		for k := 0; ; k++ {
			f := fault.New(mem.New())
			c := newTestContainer(t, f)
			o := newOracle(seeded(t), 4*dr.ChunkSize)
			publishCells(t, c, o, 3, 3)
			f.Add(fault.Rule{Skip: k, Do: fault.Fail(errs.Unavailable)})
			err := do(t.Context(), c)
			unused := len(f.Unused()) > 0
			f.Clear()
			all := must[[]TimelineInfo](t)(c.Timelines(t.Context()))
			for _, v := range all {
				h := must[*History](t)(c.History(t.Context(), HistoryOptions{Timeline: v.ID}))
				o.compareAll(t, c, h)
			}
			if err == nil && name == "fork" && len(all) != 2 {
				t.Fatalf("fork %d: done, and %d timelines", k, len(all))
			}
			if r := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{})); !r.Clean {
				t.Fatalf("%s %d: %+v", name, k, r.Problems)
			}
			check(t, do(t.Context(), c))
			if unused {
				if k < 3 {
					t.Fatalf("%s has only %d operations", name, k)
				}
				break
			}
		}
	}
}

// sleeper runs a function before a name is created: what happened while its
// creator slept.
type sleeper struct {
	store.Store
	name    string
	meaning func()
}

func (s *sleeper) Create(ctx context.Context, key string, body []byte) error {
	if key == s.name && s.meaning != nil {
		f := s.meaning
		s.meaning = nil
		f()
	}
	return s.Store.Create(ctx, key, body)
}

// TestTakerThatSleptOverItsFence: between the walk and the FENCE the number was
// published by another, contained in a manifest and deleted. The FENCE is
// created under the freed name, and the taker does not take it for its own.
func TestTakerThatSleptOverItsFence(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	publishCells(t, c, o, 3, 3)
	tl := c.Domain().Timeline
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	other := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
	defer other.Close()
	fence := h.Newest() + 1 + Window // behind the other's own
	slept := false
	sl := &sleeper{Store: st, name: objectKey(tl, fence), meaning: func() {
		for range 40 {
			cell := o.write(2)
			o.checkpoint(cell)
			check(t, must[*Pending](t)(other.Publish(t.Context(), cell.build(t, o, c.NewBuilder(segment.BuilderOptions{})))).Wait(t.Context()))
		}
		(&keeper{c: c, tl: tl, pack: true, drop: true}).pass(t)
		_, err := st.Stat(t.Context(), objectKey(tl, fence))
		slept = errs.Is(err, errs.NotFound)
	}}
	p := must[*Publisher](t)(reopen(t, sl).OpenPublisher(t.Context(), PublisherOptions{}))
	defer p.Close()
	if _, err := st.Stat(t.Context(), objectKey(tl, fence)); !slept || err != nil {
		t.Fatalf("the taker did not fence under a freed name (%v): the test proves nothing", err)
	}
	if p.LastSeq() != o.seq {
		t.Fatalf("the taker goes on at %d of %d", p.LastSeq(), o.seq)
	}
	cell := o.write(3)
	o.checkpoint(cell)
	check(t, must[*Pending](t)(p.Publish(t.Context(), cell.build(t, o, c.NewBuilder(segment.BuilderOptions{})))).Wait(t.Context()))
	// A reader that stood at the freed number begins anew too.
	check(t, h.Extend(t.Context()))
	for _, h := range []*History{h, must[*History](t)(c.History(t.Context(), HistoryOptions{}))} {
		if n := o.compareAll(t, c, h); n != 44 || len(h.Problems()) != 0 {
			t.Fatalf("%d checkpoints, %v", n, h.Problems())
		}
	}
}
