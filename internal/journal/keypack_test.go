package journal

import (
	"bytes"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

// TestPackedFramesOfSeveralDataKeys packs what was sealed under two data keys
// into objects sealed under the second, repacks that under a third, and reads
// all of it with its block hashes, which are keyed by the data key a frame was
// made under.
func TestPackedFramesOfSeveralDataKeys(t *testing.T) {
	st, a, s := mem.New(), recoveryParty(t), serviceParty(t, "s")
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{a.r, s.r}}))
	o := newOracle(seeded(t), 6*dr.ChunkSize, 2*dr.ChunkSize+3*dr.BlockSize)
	publishCells(t, c, o, 3, 20)
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(s)))
	publishCells(t, c, o, 3, 20)
	k := &keeper{c: c, tl: c.domain.Timeline, pack: true, drop: true}
	m := k.pass(t)
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(s)))
	publishCells(t, c, o, 2, 20)

	packed := m.Objects[len(m.Objects)-1].ID // data objects sort last
	if packed.Number != 0 {
		t.Fatalf("nothing is packed: %+v", m.Objects)
	}
	old := must[*Object](t)(c.OpenRef(t.Context(), packed))
	keys := make(map[dr.UUID]int)
	for _, g := range old.Footer.Origins {
		keys[g.Key]++
	}
	if len(keys) != 2 || old.Header.Key != c.keys.all[1].id {
		t.Fatalf("frames of %d data keys in an object under %s", len(keys), old.Header.Key)
	}
	repacked := must[*Object](t)(c.OpenRef(t.Context(), repack(t, c, old)))
	if repacked.Header.Key != c.current().id || len(repacked.Footer.Entries) != len(old.Footer.Entries) {
		t.Fatalf("repacked under %s: %d of %d frames", repacked.Header.Key, len(repacked.Footer.Entries), len(old.Footer.Entries))
	}
	for i := range old.Footer.Entries {
		was, is := openVerified(t, old, i), openVerified(t, repacked, i)
		if len(was) == 0 || !bytes.Equal(was, is) {
			t.Fatalf("frame %d differs after it was repacked", i)
		}
	}

	for _, p := range []party{a, s} {
		got := must[*Container](t)(Open(t.Context(), st, p.id))
		h := must[*History](t)(got.History(t.Context(), HistoryOptions{}))
		if n := o.compareAll(t, got, h); n != 8 {
			t.Fatalf("%v restores %d checkpoints", p.id, n)
		}
		if r := must[*Report](t)(got.Fsck(t.Context(), FsckOptions{Mode: FsckDeep})); !r.Clean {
			t.Fatalf("%+v", r.Problems)
		}
	}
}

func repack(t *testing.T, c *Container, o *Object) index.ObjectID {
	t.Helper()
	p := c.NewPacker()
	for i := range o.Footer.Entries {
		f := &o.Footer.Entries[i]
		sealed := make([]byte, f.Stored)
		check(t, o.ReadAt(t.Context(), sealed, int64(f.Offset)))
		copied := segment.CopyOf(&o.Header, o.Footer, f, sealed)
		check(t, p.Add(&copied))
	}
	id, _, err := c.FinishPacked(t.Context(), c.domain.Timeline, p, testNow, WriteOptions{})
	check(t, err)
	return id
}

// openVerified opens the i-th frame and compares its blocks with their hashes.
func openVerified(t *testing.T, o *Object, i int) []byte {
	t.Helper()
	f := &o.Footer.Entries[i]
	sealed := make([]byte, f.Stored)
	check(t, o.ReadAt(t.Context(), sealed, int64(f.Offset)))
	return must[[]byte](t)(o.OpenFrame(nil, f, sealed, true))
}
