package journal

import (
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
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

func uuidOf(rng *rand.Rand) (u dr.UUID) {
	for i := range u {
		u[i] = byte(rng.Uint32())
	}
	return u
}

// sampleManifest is a manifest with everything in it, of a stated size.
func sampleManifest(rng *rand.Rand, objects, points, parts int) *Manifest {
	at := func() time.Time { return testNow.Add(time.Duration(rng.Int64N(int64(720 * time.Hour)))).UTC() }
	m := &Manifest{
		Timeline: dr.TimelineID{UUID: uuidOf(rng)}, Generation: 7, Created: testNow.UTC(), By: "drva-1",
		Policy: Policy{Schedule: []Slot{{5 * time.Second, time.Hour}, {time.Minute, 24 * time.Hour}, {time.Hour, 720 * time.Hour}},
			SizeLimit: 1 << 40, AlarmOnly: true, Floor: time.Hour, Grace: 24 * time.Hour},
		Stats: Stats{Stored: 5, Live: 4, Reclaimable: 1, Index: 3, Entries: 9, Written: 77, LastRun: at(), Took: time.Second, Paused: "the store cannot delete"},
	}
	number := dr.ObjectNumber(10 * (objects + points + 10))
	m.Anchor = Anchor{Number: number, Digest: segment.Digest{1, 2, 3}, Epoch: 3, Next: number + Window, LastSeq: dr.Seq(10 * number), Objects: uint64(number) - 9, Fences: 2}
	disks := []dr.DiskID{{UUID: uuidOf(rng)}, {UUID: uuidOf(rng)}}
	slices.SortFunc(disks, func(a, b dr.DiskID) int { return slices.Compare(a.UUID[:], b.UUID[:]) })
	last := m.Anchor.LastSeq
	for r := range 3 {
		run := RunRef{First: last - 9, Last: last, Parts: []PartRef{}}
		last -= 10
		for p := range parts / 3 {
			part := PartRef{ID: uuidOf(rng), Size: 4<<20 + rng.Int64N(1<<20), Entries: 1 << 19,
				First: index.Key{Disk: disks[0], Chunk: uint32(p) << 19}, Last: index.Key{Disk: disks[1], Chunk: uint32(p+1) << 19}}
			run.Parts = append(run.Parts, part)
			run.Entries += part.Entries
		}
		if r == 2 {
			run.First = 1
		}
		m.Runs = append(m.Runs, run)
	}
	for i := range objects {
		o := ObjectState{Size: 32<<20 - rng.Int64N(1<<16), Created: at()}
		o.Live = o.Size - rng.Int64N(o.Size/2)
		if o.ID.Data = uuidOf(rng); i%10 == 0 {
			o.ID = index.ObjectID{Timeline: m.Timeline, Number: dr.ObjectNumber(1 + i)}
			o.Retain, o.Print = at(), Fingerprint(1000+i)
		}
		m.Objects = append(m.Objects, o)
	}
	slices.SortFunc(m.Objects, func(a, b ObjectState) int { return a.ID.Compare(b.ID) })
	list := []dr.CheckpointDisk{{ID: disks[0], VM: dr.VMID{UUID: uuidOf(rng)}, Size: 1 << 40, Synced: true}, {ID: disks[1], Size: 3 << 40}}
	for i := range points {
		p := Point{Checkpoint: dr.Checkpoint{ID: dr.CheckpointID(1 + i), Seq: dr.Seq(100 * (i + 1)), Time: at(), Scope: dr.Group, Disks: list[:1+i%2*i/7%2]},
			Object: dr.ObjectNumber(10 * (i + 1)), PublishedAt: at(), Reasons: []Reason{{BySchedule, "1m"}}}
		switch i % 50 {
		case 1:
			p.Kind, p.Tag, p.Suspect = dr.UserTagged, "before patch", "the ratio fell from 2.1 to 1.0"
			p.Reasons = []Reason{{ByTag, "audit"}, {ByHold, "court"}, {ByFork, m.Timeline.String()}, {ByNewest, ""}, {ByRead, ""}}
		case 2:
			p.Scope, p.Missing = dr.Partial, []dr.VMID{{UUID: uuidOf(rng)}}
		}
		m.Points = append(m.Points, p)
	}
	m.Tombstones = []Tombstone{
		{PartName(uuidOf(rng)), at(), 7}, {ObjectName(index.ObjectID{Data: uuidOf(rng)}), at(), 8},
		{ObjectName(index.ObjectID{Timeline: m.Timeline, Number: 3}), at(), 9},
	}
	m.Children = []Child{{Timeline: dr.TimelineID{UUID: dr.UUID{1}}, Checkpoint: 2, Seq: 200}, {Timeline: dr.TimelineID{UUID: dr.UUID{2}}, Checkpoint: 1, Seq: 100}}
	m.Policy.TagFor, m.Policy.LockMode, m.Policy.LockWindow = 90*24*time.Hour, store.LockCompliance, 720*time.Hour
	m.Counted = &Counted{At: testNow.Add(720 * time.Hour).UTC(), Made: testNow.Add(721 * time.Hour).UTC(), Head: 12, Points: []CountedPoint{}}
	for i := range m.Points {
		m.Counted.Points = append(m.Counted.Points, CountedPoint{m.Points[i].ID, m.Points[i].Time, int64(4096 * i), int64(17 * i)})
	}
	return m
}

// asFirst is m as version 1 told it.
func asFirst(m *Manifest) *Manifest {
	m.Policy.TagFor, m.Policy.LockMode, m.Policy.LockWindow, m.Counted = 0, "", 0, nil
	for i := range m.Objects {
		m.Objects[i].Print = 0
	}
	return m
}

func TestManifestRoundTrip(t *testing.T) {
	m := sampleManifest(seeded(t), 200, 120, 12)
	check(t, m.Check())
	got := must[*Manifest](t)(decodeManifest(m.encode()))
	if !reflect.DeepEqual(got, m) {
		t.Fatalf("differs:\n%+v\n%+v", got, m)
	}
	if string(got.encode()) != string(m.encode()) {
		t.Fatal("encoding again gives other bytes")
	}
	empty := &Manifest{Timeline: m.Timeline, Generation: 1, Anchor: Anchor{Next: FirstNumber}}
	back := must[*Manifest](t)(decodeManifest(empty.encode()))
	if back.Anchor != empty.Anchor || len(back.Runs)+len(back.Objects)+len(back.Points) != 0 {
		t.Fatalf("%+v", back)
	}
}

// TestManifestOfALargeDomain: 4 TiB, half full of objects and with a month of
// points, is stored and read.
func TestManifestOfALargeDomain(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	m := sampleManifest(seeded(t), 70_000, 3000, 300)
	m.Timeline, m.Generation = c.Domain().Timeline, 1
	for i := range m.Objects {
		if m.Objects[i].ID.Data.IsZero() {
			m.Objects[i].ID.Timeline = m.Timeline
		}
	}
	m.Tombstones = m.Tombstones[:2]
	for i := range m.Children {
		m.Children[i].Timeline = dr.TimelineID{UUID: dr.UUID{byte(1 + i)}}
	}
	plain := m.encode()
	check(t, c.WriteManifest(t.Context(), m))
	got, ok, err := c.ReadManifest(t.Context(), m.Timeline)
	if err != nil || !ok || !reflect.DeepEqual(got, m) {
		t.Fatalf("%v, %v", ok, err)
	}
	in := must[[]ManifestInfo](t)(c.ListManifests(t.Context(), m.Timeline))
	t.Logf("70 000 objects, 3 000 points, 300 parts: %d bytes plain, %d stored", len(plain), in[0].Size)
	if len(plain) > segment.MaxBlob {
		t.Fatal("does not fit a blob")
	}
}

// The bytes of a manifest with everything in it, by version. The first is of a
// release that wrote it.
const (
	goldenManifest = "manifest2.hex"
	goldenFirst    = "manifest1.hex"
)

// TestManifestOfVersion1IsRead: containers have them for as long as their
// timelines are not maintained.
func TestManifestOfVersion1IsRead(t *testing.T) {
	text := must[[]byte](t)(os.ReadFile(filepath.Join("testdata", goldenFirst)))
	raw := must[[]byte](t)(hex.DecodeString(strings.TrimSpace(string(text))))
	got := must[*Manifest](t)(decodeManifest(raw))
	if want := asFirst(sampleManifest(rand.New(rand.NewPCG(1, 2)), 12, 60, 3)); !reflect.DeepEqual(got, want) {
		t.Fatalf("the manifest of version 1 is read as\n%+v, not as\n%+v", got, want)
	}
	for n := range raw {
		if _, err := decodeManifest(raw[:n]); err == nil {
			t.Fatalf("cut at %d: read", n)
		}
	}
	raw[0] = manifestVersion + 1
	if _, err := decodeManifest(raw); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Fatalf("a version to come: %v", err)
	}
}

// TestManifestGolden: the bytes of this format version never change.
func TestManifestGolden(t *testing.T) {
	m := sampleManifest(rand.New(rand.NewPCG(1, 2)), 12, 60, 3)
	path := filepath.Join("testdata", goldenManifest)
	if os.Getenv("HOLDFAST_GOLDEN") == "write" {
		check(t, os.MkdirAll("testdata", 0o755))
		check(t, os.WriteFile(path, []byte(hex.EncodeToString(m.encode())+"\n"), 0o644))
	}
	want := must[[]byte](t)(os.ReadFile(path))
	if hex.EncodeToString(m.encode()) != strings.TrimSpace(string(want)) {
		t.Fatal("the manifest is encoded in other bytes than before")
	}
	raw := must[[]byte](t)(hex.DecodeString(strings.TrimSpace(string(want))))
	if got := must[*Manifest](t)(decodeManifest(raw)); !reflect.DeepEqual(got, m) {
		t.Fatal("the golden manifest is read as another")
	}
}

func FuzzDecodeManifest(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	f.Add(sampleManifest(rng, 3, 2, 3).encode())
	f.Add((&Manifest{Timeline: dr.TimelineID{UUID: dr.UUID{1}}, Generation: 1, Anchor: Anchor{Next: 1}}).encode())
	f.Add(asFirst(sampleManifest(rng, 3, 2, 3)).encode())
	if text, err := os.ReadFile(filepath.Join("testdata", goldenFirst)); err == nil {
		raw, _ := hex.DecodeString(strings.TrimSpace(string(text)))
		f.Add(raw)
	}
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, plain []byte) {
		m, err := decodeManifest(plain)
		if err != nil {
			if !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Invalid) {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := decodeManifest(m.encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("what was read does not read back: %v", err)
		}
	})
}

// TestManifestTruncated: every cut and every flipped bit of the plain form is
// an error or another manifest, never a panic.
func TestManifestTruncated(t *testing.T) {
	plain := sampleManifest(seeded(t), 5, 4, 3).encode()
	for n := range plain {
		if _, err := decodeManifest(plain[:n]); err == nil {
			t.Fatalf("cut at %d: read", n)
		}
	}
	for i := range len(plain) * 8 {
		b := slices.Clone(plain)
		b[i/8] ^= 1 << (i % 8)
		_, _ = decodeManifest(b)
	}
}

func TestManifestRefuses(t *testing.T) {
	rng := seeded(t)
	for name, change := range map[string]func(*Manifest){
		"generation 0":        func(m *Manifest) { m.Generation = 0 },
		"runs overlap":        func(m *Manifest) { m.Runs[1].Last++ },
		"a gap between runs":  func(m *Manifest) { m.Runs[1].Last-- },
		"run beyond anchor":   func(m *Manifest) { m.Anchor.LastSeq-- },
		"entries miscounted":  func(m *Manifest) { m.Runs[0].Entries++ },
		"parts out of order":  func(m *Manifest) { p := m.Runs[0].Parts; p[0], p[1] = p[1], p[0] },
		"object twice":        func(m *Manifest) { m.Objects[1] = m.Objects[0] },
		"object beyond":       func(m *Manifest) { m.Objects[0].ID.Number = m.Anchor.Number + 1 },
		"more live than size": func(m *Manifest) { m.Objects[2].Live = m.Objects[2].Size + 1 },
		"point beyond":        func(m *Manifest) { m.Points[3].Object = m.Anchor.Number + 1 },
		"points out of order": func(m *Manifest) { m.Points[1].Seq = 1 },
		"unknown reason":      func(m *Manifest) { m.Points[0].Reasons = []Reason{{Kind: "whim"}} },
		"foreign tombstone":   func(m *Manifest) { m.Tombstones[0].Key = "domain" },
		"odd tombstone":       func(m *Manifest) { m.Tombstones[0].Key = "d/../domain" },
		"own child":           func(m *Manifest) { m.Children[0].Timeline = m.Timeline },
		"anchor nowhere":      func(m *Manifest) { m.Anchor.Next += 2 },
		"empty slot":          func(m *Manifest) { m.Policy.Schedule[0].Every = 0 },
		"tags below nothing":  func(m *Manifest) { m.Policy.TagFor = -1 },
		"a lock for no time":  func(m *Manifest) { m.Policy.LockWindow = 0 },
		"a time and no lock":  func(m *Manifest) { m.Policy.LockMode = "" },
		"counts out of order": func(m *Manifest) { m.Counted.Points[1].ID = 1 },
		"counts below zero":   func(m *Manifest) { m.Counted.Points[1].Alone = -1 },
	} {
		m := sampleManifest(rng, 20, 10, 6)
		check(t, m.Check())
		change(m)
		if err := m.Check(); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "entries miscounted" || name == "generation 0" {
			continue // the count is derived; the name tells the generation
		}
		if _, err := decodeManifest(m.encode()); name != "foreign tombstone" && name != "odd tombstone" && name != "unknown reason" && !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: read back: %v", name, err)
		}
	}
}

func nextManifest(c *Container, g uint64) *Manifest {
	return &Manifest{Timeline: c.Domain().Timeline, Generation: g, Created: testNow, By: "drva-1", Anchor: Anchor{Next: FirstNumber}}
}

func TestManifestGenerationsAreCreatedOnce(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx, tl := t.Context(), c.Domain().Timeline
	if m, ok, err := c.ReadManifest(ctx, tl); m != nil || ok || err != nil {
		t.Fatalf("%v %v %v", m, ok, err)
	}
	if err := c.WriteManifest(ctx, nextManifest(c, 2)); !errs.Is(err, errs.Conflict) {
		t.Fatalf("generation 2 first: %v", err)
	}
	for g := range uint64(3) {
		check(t, c.WriteManifest(ctx, nextManifest(c, g+1)))
	}
	check(t, c.WriteManifest(ctx, nextManifest(c, 3))) // the same again: an answer was lost
	other := nextManifest(c, 3)
	other.By = "drva-2"
	if err := c.WriteManifest(ctx, other); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a taken generation: %v", err)
	}
	if err := c.WriteManifest(ctx, nextManifest(c, 2)); !errs.Is(err, errs.Conflict) {
		t.Fatalf("an old generation: %v", err)
	}
	// A zombie whose name was deleted meanwhile: the name is free, and it has lost.
	check(t, st.Delete(ctx, manifestKey(tl, 1)))
	check(t, st.Delete(ctx, manifestKey(tl, 2)))
	if err := c.WriteManifest(ctx, nextManifest(c, 1)); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a freed generation: %v", err)
	}
	if m, _, err := c.ReadManifest(ctx, tl); err != nil || m.Generation != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
}

// TestManifestWriteCrashes breaks WriteManifest at each store operation, before
// and after it took effect: the next reader sees the old or the new one whole,
// and the same call done again succeeds.
func TestManifestWriteCrashes(t *testing.T) {
	for k := 0; ; k++ {
		f := fault.New(mem.New())
		c := newTestContainer(t, f)
		check(t, c.WriteManifest(t.Context(), nextManifest(c, 1)))
		f.Add(fault.Rule{Skip: k, Times: 1, Do: fault.Fail(errs.Unavailable)})
		err := c.WriteManifest(t.Context(), nextManifest(c, 2))
		unused := len(f.Unused()) > 0
		f.Clear()
		m, ok, rerr := c.ReadManifest(t.Context(), c.Domain().Timeline)
		if rerr != nil || !ok || err == nil && m.Generation != 2 {
			t.Fatalf("step %d: %v; then %+v, %v", k, err, m, rerr)
		}
		check(t, c.WriteManifest(t.Context(), nextManifest(c, 2)))
		if unused {
			if k < 3 {
				t.Fatalf("only %d operations", k)
			}
			return
		}
		if err == nil {
			t.Fatalf("step %d: the failure was swallowed", k)
		}
	}
}

// TestHostileManifests puts manifests where they do not belong.
func TestHostileManifests(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx, tl := t.Context(), c.Domain().Timeline
	check(t, c.WriteManifest(ctx, nextManifest(c, 1)))
	body := must[[]byte](t)(readDocument(ctx, st, manifestKey(tl, 1)))
	foreign := newTestContainer(t, mem.New())
	seal := func(c *Container, h segment.Header, m *Manifest) []byte {
		b, _, err := c.sealPlain(h, m.encode())
		check(t, err)
		return b
	}
	other := dr.TimelineID{UUID: dr.NewUUID()}
	wrong := nextManifest(c, 2)
	wrong.Timeline = other
	for name, k := range map[string]struct {
		body  []byte
		words string
	}{
		"an older generation":       {body, "it is generation 1"},
		"of another timeline":       {seal(c, segment.Header{Timeline: other, Number: 2}, wrong), other.String()},
		"of another timeline, sly":  {seal(c, segment.Header{Timeline: tl, Number: 2}, wrong), "manifest of another timeline"},
		"of another generation,sly": {seal(c, segment.Header{Timeline: tl, Number: 2}, nextManifest(c, 3)), "manifest of generation 3"},
		"of another container":      {seal(foreign, segment.Header{Timeline: tl, Number: 2}, nextManifest(c, 2)), ""},
		"no manifest":               {[]byte("hello"), "5 bytes"},
		"cut off":                   {body[:len(body)-1], ""},
	} {
		check(t, st.Create(ctx, manifestKey(tl, 2), k.body))
		if _, err := c.ReadManifestAt(ctx, tl, 2); !ownFault(err) || !strings.Contains(err.Error(), k.words) {
			t.Errorf("%s: %v", name, err)
		}
		m, ok, err := c.ReadManifest(ctx, tl)
		if err != nil || !ok || m.Generation != 1 {
			t.Errorf("%s: fell back to %+v, %v", name, m, err)
		}
		h := must[*History](t)(c.History(ctx, HistoryOptions{}))
		if p := h.Problems(); len(p) != 1 || p[0].Object != manifestKey(tl, 2) {
			t.Errorf("%s: problems %v", name, p)
		}
		check(t, st.Delete(ctx, manifestKey(tl, 2)))
	}
}

func TestRunPartsAndDataAreWhatTheirNamesSay(t *testing.T) {
	st := mem.New()
	c := newTestContainer(t, st)
	ctx, tl := t.Context(), c.Domain().Timeline
	a := must[PartRef](t)(c.WriteRunPart(ctx, tl, []byte("part a"), WriteOptions{}))
	b := must[PartRef](t)(c.WriteRunPart(ctx, tl, []byte("part b"), WriteOptions{}))
	if got := must[[]byte](t)(c.OpenRunPart(ctx, a)); string(got) != "part a" {
		t.Fatalf("%q", got)
	}
	swapped := reopen(t, &swapStore{st, PartName(a.ID), PartName(b.ID)})
	if _, err := swapped.OpenRunPart(ctx, a); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "another part") {
		t.Fatalf("a swapped part: %v", err)
	}
	if _, err := c.OpenRunPart(ctx, PartRef{ID: dr.NewUUID(), Size: a.Size}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a missing part: %v", err)
	}
	if _, err := c.OpenRunPart(ctx, PartRef{ID: a.ID, Size: a.Size + 1}); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("a part of another size: %v", err)
	}
	if _, err := c.WriteData(ctx, must[[]byte](t)(readDocument(ctx, st, PartName(a.ID))), WriteOptions{}); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a blob as data: %v", err)
	}
}
