package journal

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

// maintained is a container with packed objects, index runs, journal objects
// that runs refer to, a tail, and a branch; and the oracles.
func maintained(t *testing.T) (st *mem.Store, oracles map[dr.TimelineID]*oracle) {
	t.Helper()
	st = mem.New()
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 6*dr.ChunkSize, dr.ChunkSize+dr.BlockSize)
	tl := c.Domain().Timeline
	publishCells(t, c, o, 20, 4)
	(&keeper{c: c, tl: tl, pack: true, drop: true}).pass(t)
	publishCells(t, c, o, 4, 4)
	(&keeper{c: c, tl: tl}).pass(t)
	publishCells(t, c, o, 3, 4)
	child := must[dr.TimelineID](t)(c.Fork(t.Context(), ForkOptions{Checkpoint: 15, Test: true}))
	b := o.fork(15)
	publishOn(t, c, child, b, 3, 3)
	(&keeper{c: c, tl: child}).pass(t)
	publishOn(t, c, child, b, 1, 2)
	return st, map[dr.TimelineID]*oracle{tl: o, child: b}
}

// outcomes compares every checkpoint of every timeline with the oracles and with
// what a check says: exactly the checkpoints it names cannot be rebuilt.
func outcomes(t *testing.T, st *mem.Store, oracles map[dr.TimelineID]*oracle, what string) (whole, broken int, r *Report) {
	t.Helper()
	ctx := t.Context()
	c, err := Open(ctx, st, testKey.Identity())
	if err != nil {
		mustBlame(t, what, err)
		return 0, 0, nil
	}
	r = must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: FsckDeep}))
	for tl, o := range oracles {
		h, err := c.History(ctx, HistoryOptions{Timeline: tl})
		if err != nil {
			mustBlame(t, what, err)
			continue
		}
		for _, p := range h.Checkpoints() {
			if !p.Recoverable {
				broken++
				continue
			}
			touched := slices.ContainsFunc(r.Problems, func(q Problem) bool {
				return q.Timeline == tl && q.Touched.Count > 0 && q.Touched.First <= p.ID && p.ID <= q.Touched.Last
			})
			err := o.compare(ctx, c, h, p)
			switch {
			case err == nil && touched && !strings.Contains(what, "x/"):
				t.Fatalf("%s: fsck says that checkpoint %d of %s is touched, and it is whole: %+v", what, p.ID, tl, r.Problems)
			case err == nil:
				whole++
			case strings.Contains(err.Error(), "differs"):
				t.Fatalf("%s: WRONG BYTES: %v", what, err)
			default:
				mustBlame(t, what, err)
				broken++
				if !touched && !strings.Contains(err.Error(), prefixMeta) {
					t.Fatalf("%s: checkpoint %d of %s cannot be rebuilt (%v) and fsck does not say so: %+v", what, p.ID, tl, err, r.Problems)
				}
			}
		}
	}
	return whole, broken, r
}

// TestDamageOfWhatMaintenanceWrote damages, cuts and deletes every object: no
// checkpoint ever gives wrong bytes, and a deep check names exactly those that
// cannot be rebuilt.
func TestDamageOfWhatMaintenanceWrote(t *testing.T) {
	st, oracles := maintained(t)
	total, broken, r := outcomes(t, st, oracles, "no damage")
	if broken != 0 || !r.Clean || total != 27+5 {
		t.Fatalf("the undamaged container: %d whole, %d broken, %+v", total, broken, r.Problems)
	}
	c := reopen(t, st)
	dead := make(map[string]bool) // what nothing needs any more need not be whole
	for tl := range oracles {
		for _, o := range must[*History](t)(c.History(t.Context(), HistoryOptions{Timeline: tl})).Manifest().Objects {
			dead[ObjectName(o.ID)] = o.Live == 0
		}
	}
	lost, wholeAll := 0, 0
	for _, in := range keysOf(t, st) {
		if strings.HasPrefix(in.Key, prefixKeys) || in.Key == keyDomain {
			continue
		}
		kinds := 0
		for name, change := range map[string]func([]byte) []byte{ // in random order
			"bit":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"head": func(b []byte) []byte { b[100] ^= 1; return b },
			"cut":  func(b []byte) []byte { return b[:len(b)-1] },
		} {
			if kinds++; kinds > envInt(t, "HOLDFAST_DAMAGES", 1) {
				break
			}
			var before []byte
			st.Damage(in.Key, func(b []byte) []byte { before = slices.Clone(b); return change(b) })
			whole, broken, r := outcomes(t, st, oracles, in.Key+" "+name)
			if r != nil && r.Clean && !dead[in.Key] {
				t.Fatalf("%s %s: not reported", in.Key, name)
			}
			lost += broken
			wholeAll += whole
			st.Damage(in.Key, func([]byte) []byte { return before })
		}
		if strings.HasPrefix(in.Key, prefixData) || strings.HasPrefix(in.Key, prefixIndex) {
			body := must[[]byte](t)(reopen(t, st).readWhole(t.Context(), in.Key, in.Size))
			check(t, st.Delete(t.Context(), in.Key))
			_, broken, r := outcomes(t, st, oracles, in.Key+" deleted")
			if r.Clean || broken == 0 {
				t.Fatalf("%s deleted: clean %v, %d broken", in.Key, r.Clean, broken)
			}
			r = must[*Report](t)(reopen(t, st).Fsck(t.Context(), FsckOptions{Mode: FsckIndex}))
			if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Object == in.Key && p.Touched.Count > 0 }) {
				t.Fatalf("%s deleted: a check of the index says %+v", in.Key, r.Problems)
			}
			check(t, st.Create(t.Context(), in.Key, body))
		}
	}
	t.Logf("%d checkpoints not rebuilt, %d rebuilt, none wrong", lost, wholeAll)
	if lost == 0 || wholeAll == 0 {
		t.Fatal("the test did too little to prove anything")
	}
}

// TestFsckIndexFindsWrongManifests: manifests that a faulty maintainer wrote.
func TestFsckIndexFindsWrongManifests(t *testing.T) {
	for name, k := range map[string]struct {
		change func(*Manifest)
		words  string
	}{
		"live miscounted":   {func(m *Manifest) { m.Objects[len(m.Objects)-1].Live-- }, "live bytes"},
		"object of a size":  {func(m *Manifest) { m.Objects[len(m.Objects)-1].Size++ }, "the manifest says"},
		"object not listed": {func(m *Manifest) { m.Objects = m.Objects[:len(m.Objects)-1] }, "does not list it"},
		"parts swapped": {func(m *Manifest) {
			p := m.Runs[0].Parts
			p[0].ID, p[1].ID = p[1].ID, p[0].ID
			p[0].Size, p[1].Size = p[1].Size, p[0].Size
		}, ""},
		"part of another run": {func(m *Manifest) {
			a, b := &m.Runs[0].Parts[0], &m.Runs[1].Parts[0]
			a.ID, b.ID, a.Size, b.Size = b.ID, a.ID, b.Size, a.Size
		}, "its run covers"},
		"part forgotten": {func(m *Manifest) {
			r := &m.Runs[0]
			r.Entries -= r.Parts[0].Entries
			r.Parts = r.Parts[1:]
		}, "live bytes"},
		"entries miscounted": {func(m *Manifest) { m.Runs[0].Entries++; m.Runs[0].Parts[0].Entries++ }, "entries, the manifest says"},
	} {
		st := mem.New()
		c := newTestContainer(t, st)
		o := newOracle(seeded(t), 12*dr.ChunkSize, 8*dr.ChunkSize)
		kp := &keeper{c: c, tl: c.Domain().Timeline, pack: true}
		publishCells(t, c, o, 12, 9)
		kp.pass(t)
		publishCells(t, c, o, 12, 9)
		m := kp.pass(t)
		if len(m.Runs[0].Parts) < 2 {
			t.Fatal("a run has one part only")
		}
		k.change(m)
		m.Generation++
		check(t, c.WriteManifest(t.Context(), m))
		r := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{Mode: FsckIndex}))
		if r.Clean || !slices.ContainsFunc(r.Problems, func(p Problem) bool { return strings.Contains(p.What, k.words) }) {
			t.Errorf("%s: %+v", name, r.Problems)
		}
	}
}

// TestIndexNamesAnotherFrame: an index that does not fit its objects is
// refused, whatever it takes of them.
func TestIndexNamesAnotherFrame(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 4*dr.ChunkSize)
	publishCells(t, c, o, 3, 5)
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	img := must[*Image](t)(h.Resolve(t.Context(), must[CheckpointInfo](t)(h.Find("latest"))))
	io := &img.Objects[0]
	obj := must[*Object](t)(c.OpenSized(t.Context(), io.Ref, io.Size))
	if _, err := obj.Entries(img, io); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]ImageObject{
		"no such frame":  {Ref: io.Ref, Stored: io.Stored, Frames: []Take{{Frame: 1 << 16, Take: 1}}},
		"no such disk":   {Ref: io.Ref, Stored: io.Stored, Frames: []Take{{Frame: 0, Disk: 7, Take: 1}}},
		"another chunk":  {Ref: io.Ref, Stored: io.Stored, Frames: []Take{{Frame: 0, Chunk: 1 << 16, Take: 1}}},
		"nothing taken":  {Ref: io.Ref, Stored: io.Stored, Frames: []Take{{Frame: 0}}},
		"another object": {Ref: index.ObjectID{Data: dr.NewUUID()}, Stored: io.Stored, Frames: io.Frames},
		"other sizes":    {Ref: io.Ref, Stored: io.Stored + 1, Frames: io.Frames},
	} {
		if _, err := obj.Entries(img, &bad); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeepCheckInPortions: portions read everything once, resume from JSON, and
// find what one whole check finds.
func TestDeepCheckInPortions(t *testing.T) {
	st, _ := maintained(t)
	c := reopen(t, st)
	ctx := t.Context()
	h := must[*History](t)(c.History(ctx, HistoryOptions{}))
	for _, o := range h.Manifest().Objects {
		if o.Live > 0 {
			st.Damage(ObjectName(o.ID), func(b []byte) []byte { b[segment.HeaderSize+20] ^= 1; return b })
			break
		}
	}
	full := must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: FsckDeep}))
	if full.Cursor != nil || full.Clean {
		t.Fatalf("%+v", full)
	}
	var cur *FsckCursor
	frames, problems, rounds := 0, 0, 0
	for {
		r := must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: FsckDeep, Cursor: cur, Share: 0.2}))
		rounds++
		frames += r.Frames
		problems += len(r.Problems)
		if r.Cursor == nil {
			break
		}
		b := must[[]byte](t)(json.Marshal(r.Cursor))
		cur = new(FsckCursor)
		check(t, json.Unmarshal(b, cur))
		if cur.Domain != c.Domain().ID || cur.Bytes == 0 || rounds > 20 {
			t.Fatalf("%+v after %d portions", cur, rounds)
		}
	}
	if rounds < 2 || frames != full.Frames || problems != len(full.Problems) {
		t.Fatalf("%d portions, %d frames of %d, %d problems of %d", rounds, frames, full.Frames, problems, len(full.Problems))
	}
	began := time.Now()
	const bps = 400 << 10
	r := must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: FsckDeep, BytesPerSecond: bps}))
	var read int64
	for _, in := range keysOf(t, st) {
		if _, ok := ParseObjectName(in.Key); ok {
			read += in.Size
		}
	}
	if least := time.Duration(float64(read) / 2 / bps * float64(time.Second)); time.Since(began) < least || r.Frames != full.Frames {
		t.Fatalf("%d bytes at %d a second took %v", read, bps, time.Since(began))
	}
	for _, bad := range []FsckOptions{{Mode: "thorough"}, {Share: 2}, {Share: -1}, {BytesPerSecond: -1}, {Cursor: &FsckCursor{Domain: dr.DomainID{UUID: dr.NewUUID()}}}} {
		if _, err := c.Fsck(ctx, bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
