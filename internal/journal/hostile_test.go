package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// A store that is hostile has every object that was ever offered to it, may
// show a publisher an older state than it has, and may write whatever needs no
// data key: fences, tails, names. It must not get a reader to take anything for
// a checkpoint that was none.

// overwrite is a cell that writes the whole of the first disk, in content that
// does not compress: such cells make objects of one size.
func (o *oracle) overwrite() *cell {
	o.seq++
	c := &cell{first: o.seq, last: o.seq, state: []map[uint64]blockState{make(map[uint64]blockState)}}
	for b := range len(o.images[0]) / dr.BlockSize {
		p := o.images[0][b*dr.BlockSize:][:dr.BlockSize]
		for i := range p {
			p[i] = byte(o.rng.Uint32())
		}
		c.state[0][uint64(b)] = blockState{bytes.Clone(p), o.seq}
	}
	o.checkpoint(c)
	return c
}

// clone is the same domain going on by itself.
func (o *oracle) clone() *oracle {
	n := *o
	n.images = nil
	for _, img := range o.images {
		n.images = append(n.images, bytes.Clone(img))
	}
	n.at, n.seqAt = make(map[dr.CheckpointID][][]byte), make(map[dr.CheckpointID]dr.Seq)
	for id := range o.at {
		n.at[id], n.seqAt[id] = o.at[id], o.seqAt[id]
	}
	return &n
}

func publishOverwrites(t *testing.T, c *Container, o *oracle, n int) {
	t.Helper()
	p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
	defer p.Close()
	for range n {
		q := must[*Pending](t)(p.Publish(t.Context(), o.overwrite().build(t, o, c.NewBuilder(segment.BuilderOptions{}))))
		check(t, q.Wait(t.Context()))
	}
}

// overwritesAsBefore is publishOverwrites as the first release did it: objects do
// not name the one before.
func overwritesAsBefore(t *testing.T, c *Container, o *oracle, n int) {
	t.Helper()
	tl := c.Domain().Timeline
	e := must[dr.Epoch](t)(c.claimEpoch(t.Context(), tl, "old", testNow))
	at := must[*History](t)(c.History(t.Context(), HistoryOptions{})).chain
	h := segment.Header{Kind: segment.Journal, Domain: c.domain.ID, Timeline: tl, Epoch: e, Number: at.next, Prev: at.prev,
		Key: c.current().id, Window: Window, Created: testNow}
	body, d, err := segment.SealFence(h)
	check(t, err)
	check(t, c.st.Create(t.Context(), objectKey(tl, h.Number), body))
	h.Number += Window
	for range n {
		h.Prev = d
		body, d, err = o.overwrite().build(t, o, c.NewBuilder(segment.BuilderOptions{})).Finish(h)
		check(t, err)
		check(t, c.st.Create(t.Context(), objectKey(tl, h.Number), bytes.Clone(body)))
		h.Number++
	}
}

// publishers are the ways to publish overwrites, by name.
var publishers = map[string]func(*testing.T, *Container, *oracle, int){"now": publishOverwrites, "as before": overwritesAsBefore}

func bodyOf(t *testing.T, st store.Store, key string) []byte {
	t.Helper()
	in := must[store.Info](t)(st.Stat(t.Context(), key))
	b := make([]byte, in.Size)
	check(t, readExact(t.Context(), st, key, b, 0))
	return b
}

func copyOf(t *testing.T, st store.Store) *mem.Store {
	t.Helper()
	out := mem.New()
	for _, in := range keysOf(t, st) {
		check(t, out.Create(t.Context(), in.Key, bodyOf(t, st, in.Key)))
	}
	return out
}

// put lays an object under a name whatever is there.
func put(t *testing.T, st *mem.Store, key string, body []byte) {
	t.Helper()
	if err := st.Delete(t.Context(), key); err != nil && !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	check(t, st.Create(t.Context(), key, body))
}

// claimDigest writes another digest into a tail, which takes no key.
func claimDigest(body []byte, d segment.Digest) []byte {
	body = bytes.Clone(body)
	tail := body[len(body)-segment.TailSize:]
	copy(tail[32:], d[:])
	binary.LittleEndian.PutUint32(tail[4:], crc32.Checksum(tail[8:], crc32.MakeTable(crc32.Castagnoli)))
	return body
}

func headerOf(t *testing.T, body []byte) segment.Header {
	t.Helper()
	return must[segment.Header](t)(segment.ParseHeader(body[:segment.HeaderSize]))
}

// credulous walks the objects of a history by the rule without what this
// format added: tails are believed, and nobody names the object before. It
// returns the number of the last object accepted.
func credulous(t *testing.T, c *Container, from chain) dr.ObjectNumber {
	t.Helper()
	for {
		key := objectKey(c.domain.Timeline, from.next)
		in, err := c.st.Stat(t.Context(), key)
		if errs.Is(err, errs.NotFound) {
			return from.at
		}
		check(t, err)
		l := must[*loaded](t)(c.load(t.Context(), c.domain.Timeline, from.next, in.Size))
		if l.header.Kind == segment.Journal && l.bodyErr != nil {
			return from.at // even a credulous reader opens seals
		}
		k := l.link()
		k.digest, k.before, k.behind = l.digest, dr.UUID{}, 0
		if from.step(k) != "" {
			return from.at
		}
	}
}

// twoFutures are two histories that a hostile store let the same domain have:
// alike up to some object, then each with objects of its own under the same
// numbers, in the same epoch, of the same size.
type twoFutures struct {
	a, b *mem.Store
	o    *oracle // of a
	tl   dr.TimelineID
}

const (
	futureFirst = 19 // fence 1, objects 9 and 10, fence 11
	futures     = 12
)

func newTwoFutures(t *testing.T) twoFutures {
	t.Helper()
	f := twoFutures{a: mem.New(), o: newOracle(seeded(t), 3*dr.ChunkSize)}
	c := newTestContainer(t, f.a)
	f.tl = c.Domain().Timeline
	publishOverwrites(t, c, f.o, 2)
	f.b = copyOf(t, f.a)
	publishOverwrites(t, reopen(t, f.b), f.o.clone(), futures)
	publishOverwrites(t, reopen(t, f.a), f.o, futures)
	return f
}

func (f *twoFutures) key(n dr.ObjectNumber) string { return objectKey(f.tl, n) }

// pair is a number, not the first or last of the futures, whose two objects
// have one size.
func (f *twoFutures) pair(t *testing.T) dr.ObjectNumber {
	t.Helper()
	for n := dr.ObjectNumber(futureFirst + 1); n < futureFirst+futures-1; n++ {
		a, b := bodyOf(t, f.a, f.key(n)), bodyOf(t, f.b, f.key(n))
		if len(a) == len(b) && !bytes.Equal(a, b) {
			return n
		}
	}
	t.Fatal("no two objects have the same size")
	return 0
}

func TestAnObjectOfAnotherFutureIsNoticedBehindTheAnchor(t *testing.T) {
	f := newTwoFutures(t)
	n := f.pair(t)
	before, other, after := bodyOf(t, f.a, f.key(n-1)), bodyOf(t, f.b, f.key(n)), bodyOf(t, f.a, f.key(n+1))
	put(t, f.a, f.key(n-1), claimDigest(before, headerOf(t, other).Prev))
	put(t, f.a, f.key(n), claimDigest(other, headerOf(t, after).Prev))
	c := reopen(t, f.a)
	if got := credulous(t, c, newChain(Window)); got != futureFirst+futures-1 {
		t.Fatalf("without the rule the walk ends at %d: the attack is none", got)
	}
	if out := look(t, f.a, f.o, "an object of another future"); !out.reported || out.recoverable == 0 {
		t.Fatalf("%+v", out)
	}
}

func TestAnObjectOfAnotherFutureIsNoticedBelowTheAnchor(t *testing.T) {
	f := newTwoFutures(t)
	n := f.pair(t)
	other := bodyOf(t, f.b, f.key(n))
	c := reopen(t, f.a)
	k := &keeper{c: c, tl: f.tl}
	m := k.pass(t)
	put(t, f.a, f.key(n), other)
	if out := look(t, f.a, f.o, "an object of another future"); !out.reported || out.refused == 0 {
		t.Fatalf("%+v", out)
	}
	// A manifest without fingerprints, as version 1 was, lets it pass.
	m.Generation++
	for i := range m.Objects {
		m.Objects[i].Print = 0
	}
	check(t, c.WriteManifest(t.Context(), m))
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	wrong := 0
	for _, cp := range h.Checkpoints() {
		if err := f.o.compare(t.Context(), c, h, cp); err != nil && strings.Contains(err.Error(), "differs") {
			wrong++
		}
	}
	if wrong == 0 {
		t.Fatal("without fingerprints nothing was wrong: the attack is none")
	}
}

// TestForgedFencesHideNothing: where an epoch was claimed and never used, a
// store could make the fences of it, and of the next one, and so skip objects.
func TestForgedFencesHideNothing(t *testing.T) {
	for name, publish := range publishers {
		t.Run(name, func(t *testing.T) { forgedFences(t, publish) })
	}
}

func forgedFences(t *testing.T, publish func(*testing.T, *Container, *oracle, int)) {
	st, o := mem.New(), newOracle(seeded(t), 2*dr.ChunkSize)
	c := newTestContainer(t, st)
	tl := c.Domain().Timeline
	publish(t, c, o, 2)                                               // fence 1, objects 9 and 10
	must[dr.Epoch](t)(c.claimEpoch(t.Context(), tl, "died", testNow)) // epoch 2
	publish(t, c, o, 12)                                              // epoch 3: fence 11, objects 19 to 30
	last := headerOf(t, bodyOf(t, st, objectKey(tl, 10)))
	end := bodyOf(t, st, objectKey(tl, 27))
	fence := func(n dr.ObjectNumber, e dr.Epoch, prev segment.Digest) ([]byte, segment.Digest) {
		body, d, err := segment.SealFence(segment.Header{Domain: c.domain.ID, Timeline: tl, Epoch: e, Number: n, Prev: prev,
			Key: last.Key, Window: Window, Created: testNow, PrevNumber: n - Window})
		check(t, err)
		return body, d
	}
	tail := bodyOf(t, st, objectKey(tl, 10))
	first, d := fence(11, 2, segment.Digest(tail[len(tail)-32:]))
	second, _ := fence(19, 3, d)
	put(t, st, objectKey(tl, 11), first)
	put(t, st, objectKey(tl, 19), claimDigest(second, headerOf(t, end).Prev))
	if got := credulous(t, reopen(t, st), newChain(Window)); got != 30 {
		t.Fatalf("without the rule the walk ends at %d: the attack is none", got)
	}
	out := look(t, st, o, "forged fences")
	if !out.reported || out.recoverable != 2 {
		t.Fatalf("%+v", out)
	}
}

// TestAForgedFenceAtTheEndIsDenialAlone: it hides what comes behind it, as
// deleting that does, and keeps publishers out, as refusing them does.
func TestAForgedFenceAtTheEndIsDenialAlone(t *testing.T) {
	st, o := mem.New(), newOracle(seeded(t), 2*dr.ChunkSize)
	c := newTestContainer(t, st)
	tl := c.Domain().Timeline
	publishOverwrites(t, c, o, 3) // fence 1, objects 9 to 11
	tail := bodyOf(t, st, objectKey(tl, 11))
	body, _, err := segment.SealFence(segment.Header{Domain: c.domain.ID, Timeline: tl, Epoch: math.MaxUint32, Number: 12,
		Prev: segment.Digest(tail[len(tail)-32:]), Key: dr.NewUUID(), Window: Window, Created: testNow})
	check(t, err)
	put(t, st, objectKey(tl, 12), body)
	if out := look(t, st, o, "a forged fence at the end"); !out.reported || out.recoverable != 3 {
		t.Fatalf("%+v", out)
	}
	if _, err := c.OpenPublisher(t.Context(), PublisherOptions{}); !errs.Is(err, errs.Fenced) {
		t.Fatalf("a publisher below a forged epoch: %v", err)
	}
}

// TestATailAloneProvesNoFence: an object whose header is garbage was not a
// fence because its tail, and the object 8 beyond, seem to say so.
func TestATailAloneProvesNoFence(t *testing.T) {
	for name, publish := range publishers {
		t.Run(name, func(t *testing.T) { tailAlone(t, publish) })
	}
}

func tailAlone(t *testing.T, publish func(*testing.T, *Container, *oracle, int)) {
	st, o := mem.New(), newOracle(seeded(t), 2*dr.ChunkSize)
	c := newTestContainer(t, st)
	tl := c.Domain().Timeline
	publish(t, c, o, 12) // fence 1, objects 9 to 20
	beyond := bodyOf(t, st, objectKey(tl, 18))
	garbage := claimDigest(bodyOf(t, st, objectKey(tl, 10)), headerOf(t, beyond).Prev)
	clear(garbage[16:segment.HeaderSize])
	put(t, st, objectKey(tl, 10), garbage)
	for n := dr.ObjectNumber(11); n < 18; n++ {
		check(t, st.Delete(t.Context(), objectKey(tl, n)))
	}
	if out := look(t, st, o, "a made up tail"); !out.reported || out.recoverable != 1 {
		t.Fatalf("%+v", out)
	}
}
