package copies

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/maintain"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

var errDead = errs.New("test.store", errs.Unavailable, "", "the store does not answer")

// image is a disk's content: a number for each block that is not zeroes.
type image map[uint64]uint32

// truth is a checkpoint as it was taken.
type truth struct {
	timeline dr.TimelineID
	cp       dr.Checkpoint
	image    image
}

// world is a domain that is published, maintained and copied.
type world struct {
	t        testing.TB
	rng      *rand.Rand
	clock    *journaltest.Clock
	key      journal.RecoveryKeyPair
	src, dst *mem.Store
	c        *journal.Container // in the source
	pub      *journal.Publisher
	b        *segment.Builder
	up       *maintain.Maintainer
	line     dr.TimelineID
	disk     dr.CheckpointDisk
	vm       dr.VMID
	seq      dr.Seq
	cp       dr.CheckpointID
	head     image
	next     uint32
	truths   []truth
	configs  []dr.Seq // when the VM's configuration changed
}

var testKey = sync.OnceValues(journal.NewRecoveryKey)

func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("HOLDFAST_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		must(t, err)
		s = n
	}
	t.Logf("HOLDFAST_SEED=%d", s)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	// In the past: what is deleted goes by the stores' clocks alone.
	clk := journaltest.NewClock(time.Now().Add(-30 * 24 * time.Hour).Truncate(time.Second))
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 5)), clock: clk, src: mem.NewAt(clk.Wall), dst: mem.NewAt(clk.Wall), head: image{}, vm: dr.VMID{UUID: dr.NewUUID()}}
	var err error
	w.key, err = testKey()
	must(t, err)
	w.c, err = journal.Create(t.Context(), w.src, journal.CreateOptions{Name: "payroll", Recipients: []journal.Recipient{w.key.Recipient()}})
	must(t, err)
	w.line = w.c.Domain().Timeline
	w.disk = dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: w.vm, Size: 64 * dr.ChunkSize, Synced: true}
	w.takeOver()
	w.maintainer()
	t.Cleanup(func() { w.pub.Close() })
	return w
}

// takeOver begins the next epoch.
func (w *world) takeOver() {
	w.t.Helper()
	if w.pub != nil {
		w.pub.Close()
	}
	var err error
	w.pub, err = w.c.OpenPublisher(w.t.Context(), journal.PublisherOptions{Timeline: w.line, Host: "test", Clock: w.clock})
	must(w.t, err)
	w.b = w.c.NewBuilder(segment.BuilderOptions{})
}

func (w *world) maintainer() {
	w.t.Helper()
	policy := maintain.Policy{Schedule: maintain.Schedule{{Every: time.Minute, For: 6 * time.Hour}, {Every: time.Hour, For: 48 * time.Hour}}, Grace: time.Hour}
	var err error
	w.up, err = maintain.New(w.t.Context(), w.c, maintain.Options{Timeline: w.line, Policy: &policy, Clock: w.clock, By: "test", PackAge: time.Hour})
	must(w.t, err)
}

// blockOf makes the bytes of a content.
func blockOf(content uint32) []byte {
	b := make([]byte, dr.BlockSize)
	for i := 0; i < len(b); i += 64 {
		binary.LittleEndian.PutUint32(b[i:], content)
	}
	return b
}

// publish writes some blocks and publishes a checkpoint of them.
func (w *world) publish() {
	w.t.Helper()
	first, cell := w.seq+1, map[uint64]dr.Seq{}
	for range 1 + w.rng.IntN(6) {
		w.seq++
		w.next++
		b := w.rng.Uint64N(uint64(w.disk.Size / dr.BlockSize))
		if w.rng.IntN(2) == 0 {
			b %= 32
		}
		w.head[b], cell[b] = w.next, w.seq
	}
	w.b.Reset()
	for _, b := range slices.Sorted(maps.Keys(cell)) {
		must(w.t, w.b.AddFrame(w.disk.ID, uint32(b/dr.BlocksPerChunk), 1<<(b%dr.BlocksPerChunk), cell[b], blockOf(w.head[b])))
	}
	w.cp++
	cp := dr.Checkpoint{ID: w.cp, Seq: w.seq + 1, Time: w.clock.Wall(), Scope: dr.Group, Disks: []dr.CheckpointDisk{w.disk}}
	w.b.SetCheckpoint(cp)
	w.b.SetSeqs(first, w.seq)
	if w.rng.IntN(4) == 0 {
		w.configs = append(w.configs, w.seq)
		must(w.t, w.pub.PutMeta(w.t.Context(), w.vm, w.seq, dr.VMConfig{ID: w.vm, Name: fmt.Sprint("vm at ", w.seq)}))
	}
	q, err := w.pub.Publish(w.t.Context(), w.b)
	must(w.t, err)
	must(w.t, q.Wait(w.t.Context()))
	w.truths = append(w.truths, truth{w.line, cp, maps.Clone(w.head)})
	w.seq++ // the checkpoint's own
}

// live lets time pass in n steps of d with a checkpoint each.
func (w *world) live(n int, d time.Duration) {
	w.t.Helper()
	for range n {
		w.publish()
		w.clock.Advance(d)
	}
}

func (w *world) pass() *maintain.Report {
	w.t.Helper()
	w.up.Compact()
	r, err := w.up.Pass(w.t.Context())
	must(w.t, err)
	return r
}

// copier returns a Copier of the world's container, which looks at everything in every
// pass and has its own way to the stores.
func (w *world) copier(src, dst store.Store, broken variant) *Copier {
	w.t.Helper()
	m, err := New(w.c.At(src), dst, Options{Name: "copy"})
	must(w.t, err)
	m.side, m.remove, m.broken = 0, 0, broken
	return m
}

func (w *world) catchUp(m *Copier) {
	w.t.Helper()
	must(w.t, m.CatchUp(w.t.Context()))
}

// read is the content of a checkpoint as a reader of a container finds it.
func read(ctx context.Context, c *journal.Container, h *journal.History, cp journal.CheckpointInfo) (map[uint64][]byte, error) {
	img, err := h.Resolve(ctx, cp)
	if err != nil {
		return nil, err
	}
	out := map[uint64][]byte{}
	for i := range img.Objects {
		src := &img.Objects[i]
		o, err := c.OpenSized(ctx, src.Ref, src.Size)
		if err != nil {
			return nil, err
		}
		body := make([]byte, o.Footer.FramesEnd())
		if err := o.ReadAt(ctx, body, 0); err != nil {
			return nil, err
		}
		for _, take := range src.Frames {
			e, err := o.Entry(take.Frame)
			if err != nil {
				return nil, err
			}
			blocks, err := o.OpenFrame(nil, e, body[e.Offset:][:e.Stored], true)
			if err != nil {
				return nil, err
			}
			place := 0
			for bit := e.Mask; bit != 0; bit &= bit - 1 {
				n := bits.TrailingZeros16(bit)
				if take.Take&(1<<n) != 0 {
					out[uint64(e.Chunk)*dr.BlocksPerChunk+uint64(n)] = blocks[place*dr.BlockSize:][:dr.BlockSize]
				}
				place++
			}
		}
	}
	return out, nil
}

// check reads every checkpoint that a copy offers and compares it with the truth; ""
// when all is well. It returns the newest checkpoint there; 0: none, or no container.
// every says how many to pass over after each but the newest.
func (w *world) check(st store.Store, every int) (newest dr.CheckpointID, broke string) {
	ctx := w.t.Context()
	if _, err := st.Stat(ctx, journal.DomainName); errs.Is(err, errs.NotFound) {
		return 0, ""
	}
	c, err := journal.Open(ctx, st, w.key.Identity())
	if err != nil {
		return 0, fmt.Sprintf("it does not open: %v", err)
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return 0, fmt.Sprintf("its history: %v", err)
	}
	for _, p := range h.Problems() {
		return 0, fmt.Sprintf("it has a problem: %s: %s", p.Object, p.What)
	}
	points := h.Checkpoints()
	for i, cp := range points {
		if i%(every+1) != 0 && i != len(points)-1 {
			continue
		}
		j := slices.IndexFunc(w.truths, func(tr truth) bool { return tr.cp.ID == cp.ID })
		if j < 0 || w.truths[j].cp.Seq != cp.Seq {
			return 0, fmt.Sprintf("checkpoint #%d was never taken", cp.ID)
		}
		if !cp.Recoverable {
			return 0, fmt.Sprintf("checkpoint #%d is not recoverable: %s", cp.ID, cp.Why)
		}
		if bad := w.checkConfig(h, cp); bad != "" {
			return 0, bad
		}
		got, err := read(ctx, c, h, cp)
		if err != nil {
			return 0, fmt.Sprintf("checkpoint #%d: %v", cp.ID, err)
		}
		if len(got) != len(w.truths[j].image) {
			return 0, fmt.Sprintf("checkpoint #%d has %d blocks, not %d", cp.ID, len(got), len(w.truths[j].image))
		}
		for b, content := range w.truths[j].image {
			if !bytes.Equal(got[b], blockOf(content)) {
				return 0, fmt.Sprintf("checkpoint #%d: block %d is another one", cp.ID, b)
			}
		}
		newest = cp.ID
	}
	return newest, ""
}

// checkConfig looks whether a checkpoint has the VM's configuration of its time.
func (w *world) checkConfig(h *journal.History, cp journal.CheckpointInfo) string {
	want := ""
	for _, seq := range w.configs {
		if seq <= cp.Seq {
			want = fmt.Sprint("vm at ", seq)
		}
	}
	if want == "" {
		return ""
	}
	vms, err := h.VMs(w.t.Context(), cp)
	if err != nil || vms[w.vm].Name != want {
		return fmt.Sprintf("checkpoint #%d: the VM is %q, not %q: %v", cp.ID, vms[w.vm].Name, want, err)
	}
	return ""
}

// equal reports how the copy differs from the source; "" when it does not.
func (w *world) equal() string {
	ctx := w.t.Context()
	var keys []string
	must(w.t, store.Walk(ctx, w.src, "", func(in store.Info) error { keys = append(keys, in.Key); return nil }))
	for _, key := range keys {
		a, b := w.bytes(w.src, key), w.bytes(w.dst, key)
		if b == nil {
			continue // freed, or nobody needs it there
		}
		if !bytes.Equal(a, b) {
			return key + " is another object in the copy"
		}
	}
	return ""
}

func (w *world) bytes(st store.Store, key string) []byte {
	in, err := st.Stat(w.t.Context(), key)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	must(w.t, err)
	b := make([]byte, in.Size)
	_, err = st.ReadRange(w.t.Context(), key, b, 0)
	must(w.t, err)
	return b
}
