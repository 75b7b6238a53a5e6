package journal

import (
	"fmt"
	"testing"

	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/meter"
)

// TestTailReadsNothingThatWasJustPublished: maintenance beside the publisher
// lists, and takes the footers from memory; what it finds is what a maintainer
// elsewhere reads.
func TestTailReadsNothingThatWasJustPublished(t *testing.T) {
	const cells = 20
	st := meter.New(mem.New())
	c := newTestContainer(t, st)
	o := newOracle(seeded(t), 1<<20)
	walk := func(c *Container) (tail []TailObject) {
		t.Helper()
		if _, err := c.Tail(t.Context(), c.Domain().Timeline, Anchor{}, 1000, func(o TailObject) error {
			tail = append(tail, o)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return tail
	}
	walk(c) // from here on the ends are kept
	publishCells(t, c, o, cells, 10)
	before := st.Counts()
	near := walk(c)
	if n := st.Counts().Reads - before.Reads; n > 2 { // the FENCE is not kept
		t.Errorf("%d reads for objects that were just published", n)
	}
	far := walk(reopen(t, st))
	if len(near) != len(far) || len(near) <= cells {
		t.Fatalf("%d objects near, %d far", len(near), len(far))
	}
	for i := range near {
		if got, want := fmt.Sprintf("%+v", near[i].After), fmt.Sprintf("%+v", far[i].After); got != want || near[i].Size != far[i].Size {
			t.Errorf("object %d: %s, far %s", i, got, want)
		}
	}
}

func TestRecentEndsAreBounded(t *testing.T) {
	var r recentEnds
	c := newTestContainer(t, mem.New())
	o := newOracle(seeded(t), 1<<20)
	cell := o.write(3)
	o.checkpoint(cell)
	b := cell.build(t, o, c.NewBuilder(segment.BuilderOptions{}))
	body, _, err := b.Finish(segment.Header{Kind: segment.Journal, Timeline: c.Domain().Timeline, Epoch: 1, Number: 2, Key: c.Domain().DataKey, Window: Window})
	check(t, err)
	r.add("unasked", body)
	if _, ok := r.get("unasked", int64(len(body))); ok {
		t.Error("kept what nobody asked for")
	}
	r.want()
	for i := range 3 * maxRecent {
		r.add(fmt.Sprint(i), body)
	}
	if len(r.order) > maxRecent || len(r.ends) != len(r.order) || r.bytes > maxRecentBytes {
		t.Errorf("%d objects, %d bytes", len(r.order), r.bytes)
	}
	if _, ok := r.get("0", int64(len(body))); ok {
		t.Error("the oldest is still there")
	}
	newest := fmt.Sprint(3*maxRecent - 1)
	if _, ok := r.get(newest, int64(len(body))); !ok {
		t.Error("the newest is not there")
	}
	if _, ok := r.get(newest, int64(len(body))+1); ok {
		t.Error("an object of another size is taken for it")
	}
	r.add("short", body[:100])
	r.add("broken", append([]byte(nil), body[:len(body)-1]...))
}
