package maintain

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// image is a domain's disks: content by disk and block; what is absent is
// zeroes. Content is a number, see blockOf.
type image map[dr.DiskID]map[uint64]uint32

func (m image) clone() image {
	out := make(image, len(m))
	for d, blocks := range m {
		out[d] = maps.Clone(blocks)
	}
	return out
}

// blockOf makes the bytes of a content: some compress, some do not.
func blockOf(content uint32) []byte {
	b := make([]byte, dr.BlockSize)
	if content == 0 {
		return b
	}
	if content%5 == 0 {
		rng := rand.New(rand.NewPCG(uint64(content), 3))
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		}
		return b
	}
	for i := 0; i < len(b); i += 64 {
		binary.LittleEndian.PutUint32(b[i:], content)
	}
	return b
}

// truth is a checkpoint as it was taken.
type truth struct {
	cp    dr.Checkpoint
	image image
}

func (c *truth) point() Point {
	ok, _ := c.cp.Recoverable()
	return Point{ID: c.cp.ID, Time: c.cp.Time, Offered: ok && c.cp.Scope == dr.Group, Lasting: c.cp.Tag != "" || c.cp.Kind != dr.CrashConsistent}
}

// line is one timeline with the whole of its history.
type line struct {
	id      dr.TimelineID
	parent  *line
	fork    dr.CheckpointID
	dropped bool

	pub    *journal.Publisher
	b      *segment.Builder
	seq    dr.Seq
	top    dr.Seq // newest record that wrote anything
	cp     dr.CheckpointID
	disks  []dr.CheckpointDisk
	head   image
	truths []truth

	cell  map[dr.DiskID]map[uint64]state // since the last publication
	first dr.Seq

	crew []*Maintainer
	last *Report
}

type state struct {
	content uint32
	seq     dr.Seq
}

// pinned is a pin the test made.
type pinned struct {
	info journal.PinInfo
	line *line
}

// reading is a reader at work: it resolved an image and reads it later.
type reading struct {
	line  *line
	cp    dr.CheckpointID
	image *journal.Image // nil: it has only looked at the history so far
	from  *journal.History
	point journal.CheckpointInfo
	until time.Time // it is promised to find everything until then
}

// world is a container, its timelines and everybody who works on it.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	clock *journaltest.Clock
	back  backing
	key   journal.RecoveryKeyPair
	c     *journal.Container // of the test itself, nothing between it and the store
	lines []*line
	pins  []pinned
	reads []reading
	next  uint32 // content
	vm    dr.VMID

	policy Policy
	broken variant

	hashes   *journal.HashCache
	compared int // blocks, by their hashes
	deltas   int // of disks
	log      []string

	mu    sync.Mutex
	fault string // first broken promise
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

func (w *world) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault != ""
}

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

var testKey = sync.OnceValues(journal.NewRecoveryKey)

// newWorld makes a container with one timeline. back makes the store under
// the world's clock; nil: in memory.
func newWorld(t testing.TB, seed uint64, policy Policy, back func(*journaltest.Clock) backing) *world {
	t.Helper()
	return newWorldAt(t, seed, policy, back, time.Now())
}

// newWorldAt is newWorld with the clock to begin with.
func newWorldAt(t testing.TB, seed uint64, policy Policy, back func(*journaltest.Clock) backing, start time.Time) *world {
	t.Helper()
	c := journaltest.NewClock(start.Truncate(time.Second))
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 11)), clock: c, policy: policy, vm: dr.VMID{UUID: dr.NewUUID()}}
	if back == nil {
		back = func(c *journaltest.Clock) backing { return mem.NewAt(c.Wall) }
	}
	w.back = back(c)
	var err error
	if w.key, err = testKey(); err != nil {
		t.Fatal(err)
	}
	w.c, err = journal.Create(t.Context(), w.back, journal.CreateOptions{Name: "payroll", Recipients: []journal.Recipient{w.key.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	l := &line{id: w.c.Domain().Timeline, head: image{}, cell: map[dr.DiskID]map[uint64]state{}, first: 1}
	w.lines = []*line{l}
	w.attach(l)
	w.attach(l)
	w.open(l)
	return w
}

// container opens the container for one actor.
func (w *world) container(h *fault.Hooked) *journal.Container {
	w.t.Helper()
	h.Store = w.back
	c, err := journal.Open(w.t.Context(), h, w.key.Identity())
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) maintainer(c *journal.Container, l *line, clk journal.Clock) *Maintainer {
	w.t.Helper()
	m, err := New(w.t.Context(), c, Options{Timeline: l.id, Policy: &w.policy, Clock: clk, By: "test", PackAge: time.Hour})
	if err != nil {
		w.t.Fatal(err)
	}
	m.broken = w.broken
	if w.rng.IntN(2) == 0 {
		m.gathers = gathering{1 + w.rng.IntN(3), day}
	}
	return m
}

// open takes a timeline over.
func (w *world) open(l *line) {
	w.t.Helper()
	if l.pub != nil {
		_ = l.pub.Close() // always nil
	}
	var err error
	l.pub, err = w.c.OpenPublisher(w.t.Context(), journal.PublisherOptions{Timeline: l.id, Host: "test", Clock: w.clock})
	if err != nil {
		w.t.Fatal(err)
	}
	if l.pub.LastSeq() > l.seq {
		w.fail("timeline %s resumes behind record %d, the newest is %d", l.id, l.pub.LastSeq(), l.seq)
	}
	l.b = w.c.NewBuilder(segment.BuilderOptions{})
}

func (w *world) close() {
	for _, l := range w.lines {
		if l.pub != nil {
			_ = l.pub.Close() // always nil
		}
	}
}

const testDisk = 40 * dr.ChunkSize // bytes

func (w *world) attach(l *line) {
	d := dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: w.vm, Size: testDisk, Synced: true}
	l.disks = append(l.disks, d)
	l.head[d.ID] = map[uint64]uint32{}
}

// set is one record's effect on a run of blocks.
func (w *world) set(l *line, d *dr.CheckpointDisk, first, count uint64, zero bool) {
	l.seq++
	l.top = l.seq
	cell := l.cell[d.ID]
	if cell == nil {
		cell = map[uint64]state{}
		l.cell[d.ID] = cell
	}
	for b := first; b < min(first+count, uint64(d.Size/dr.BlockSize)); b++ {
		content := uint32(0)
		if !zero {
			w.next++
			content = w.next
		}
		cell[b] = state{content, l.seq}
		if content == 0 {
			delete(l.head[d.ID], b)
		} else {
			l.head[d.ID][b] = content
		}
	}
}

// write does some random records.
func (w *world) write(l *line, n int) {
	for range n {
		d := &l.disks[w.rng.IntN(len(l.disks))]
		blocks := uint64(d.Size / dr.BlockSize)
		first := w.rng.Uint64N(blocks)
		if w.rng.IntN(2) == 0 {
			first %= min(blocks, 48) // hot
		}
		switch x := w.rng.IntN(20); {
		case x == 0: // a large discard
			w.set(l, d, first, 1+w.rng.Uint64N(300), true)
		case x < 4:
			w.set(l, d, first, 1+w.rng.Uint64N(20), true)
		default:
			w.set(l, d, first, 1+w.rng.Uint64N(12), false)
		}
	}
}

// change attaches, detaches or resizes a disk.
func (w *world) change(l *line) {
	i := w.rng.IntN(len(l.disks))
	d := &l.disks[i]
	switch x := w.rng.IntN(4); {
	case x == 0 && len(l.disks) < 4:
		w.attach(l)
	case x == 1 && len(l.disks) > 1:
		delete(l.head, d.ID)
		delete(l.cell, d.ID)
		l.disks = slices.Delete(slices.Clone(l.disks), i, i+1)
	case x == 2 && d.Size > 8*dr.ChunkSize: // shrink: what is cut off is gone, also if it grows again
		cut := d.Size - int64(1+w.rng.IntN(60))*dr.BlockSize
		w.set(l, d, uint64(cut/dr.BlockSize), uint64((d.Size-cut)/dr.BlockSize), true)
		l.disks = slices.Clone(l.disks)
		l.disks[i].Size = cut
	default:
		l.disks = slices.Clone(l.disks)
		l.disks[i].Size += int64(1+w.rng.IntN(40)) * dr.BlockSize
	}
}

// frames puts the cell into the builder.
func (l *line) frames(t testing.TB) {
	t.Helper()
	l.b.Reset()
	for id, cell := range l.cell {
		chunks := map[uint32][]uint64{}
		var zeros []uint64
		for b, s := range cell {
			if s.content == 0 {
				zeros = append(zeros, b)
				continue
			}
			chunks[uint32(b/dr.BlocksPerChunk)] = append(chunks[uint32(b/dr.BlocksPerChunk)], b)
		}
		for _, chunk := range slices.Sorted(maps.Keys(chunks)) {
			blocks := chunks[chunk]
			slices.Sort(blocks)
			var mask uint16
			var data []byte
			var seq dr.Seq
			for _, b := range blocks {
				mask |= 1 << (b % dr.BlocksPerChunk)
				data = append(data, blockOf(cell[b].content)...)
				seq = max(seq, cell[b].seq)
			}
			if err := l.b.AddFrame(id, chunk, mask, seq, data); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(zeros)
		for i := 0; i < len(zeros); {
			j, seq := i, cell[zeros[i]].seq
			for j < len(zeros) && zeros[j] == zeros[i]+uint64(j-i) {
				seq = max(seq, cell[zeros[j]].seq)
				j++
			}
			if err := l.b.AddZero(id, zeros[i], uint64(j-i), seq); err != nil {
				t.Fatal(err)
			}
			i = j
		}
	}
}

// cut is a cell that is to be published.
type cut struct {
	cp    *dr.Checkpoint // nil: none
	first dr.Seq
	last  dr.Seq
}

// cut ends the cell, with a checkpoint or without.
func (w *world) cut(l *line, checkpoint bool) cut {
	c := cut{first: l.first, last: l.seq}
	if !checkpoint {
		return c
	}
	if w.rng.IntN(2) == 0 {
		l.seq++ // a checkpoint's record may have a seq of its own, among the object's or behind them
		if w.rng.IntN(2) == 0 {
			c.last = l.seq
		}
	}
	l.cp++
	cp := dr.Checkpoint{ID: l.cp, Seq: max(l.seq, c.last), Time: w.clock.Wall(), Scope: dr.Group, Disks: slices.Clone(l.disks)}
	cp.Seq = max(cp.Seq, l.top+1) // it holds what lies below
	l.seq = max(l.seq, cp.Seq-1)
	switch w.rng.IntN(12) {
	case 0:
		cp.Scope = dr.Partial
	case 1:
		cp.Kind, cp.Tag = dr.UserTagged, "by hand"
	case 2:
		cp.Disks[0].Synced = false
	}
	c.cp = &cp
	return c
}

// send gives the cell to the timeline's publisher.
func (w *world) send(l *line, c cut) (*journal.Pending, error) {
	l.frames(w.t)
	if c.cp != nil {
		l.b.SetCheckpoint(*c.cp)
	}
	l.b.SetSeqs(c.first, c.last)
	return l.pub.Publish(w.t.Context(), l.b)
}

// published begins the next cell.
func (l *line) published(c cut) {
	l.cell, l.first = map[dr.DiskID]map[uint64]state{}, l.seq+1
	if c.cp != nil {
		l.truths = append(l.truths, truth{*c.cp, l.head.clone()})
	}
}

// publish publishes the cell, with a checkpoint at its end or without.
func (w *world) publish(l *line, checkpoint bool) {
	w.t.Helper()
	c := w.cut(l, checkpoint)
	q, err := w.send(l, c)
	if err == nil {
		err = q.Wait(w.t.Context())
	}
	if err != nil {
		w.fail("publish on %s: %v", l.id, err)
		return
	}
	l.published(c)
}

// truthOf finds a checkpoint where it was taken: on the line or, up to the
// fork, on one of its parents.
func (l *line) truthOf(id dr.CheckpointID) *truth {
	for i := range l.truths {
		if l.truths[i].cp.ID == id {
			return &l.truths[i]
		}
	}
	if l.parent != nil && id == l.fork {
		return l.parent.truthOf(id)
	}
	return nil
}
