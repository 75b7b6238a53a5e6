package rocva

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/mem"
)

const testSecret = "correct horse battery"

// world is a container with some history and the disks as they were at its
// last checkpoint.
type world struct {
	st    store.Store
	c     *journal.Container
	key   journal.RecoveryKeyPair
	img   *journal.Image
	disks [][]byte
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld publishes objects of random writes on two disks and resolves the
// last checkpoint. The second disk ends inside a block.
func newWorld(t testing.TB, st store.Store, rng *rand.Rand, objects int, sizes ...int64) *world {
	t.Helper()
	key, err := journal.NewRecoveryKey()
	check(t, err)
	w := newWorldFor(t, st, rng, objects, key.Recipient(), sizes...)
	w.key = key
	return w
}

func newWorldFor(t testing.TB, st store.Store, rng *rand.Rand, objects int, who journal.Recipient, sizes ...int64) *world {
	t.Helper()
	return worldOf(t, st, objects, who, func(w *world, b *segment.Builder, id dr.DiskID, d int, seq dr.Seq) {
		w.scribble(t, rng, b, id, d, seq)
	}, sizes...)
}

// newFullWorld is newWorld with disks that every object writes from end to end.
func newFullWorld(t testing.TB, st store.Store, rng *rand.Rand, objects int, sizes ...int64) *world {
	t.Helper()
	key, err := journal.NewRecoveryKey()
	check(t, err)
	return worldOf(t, st, objects, key.Recipient(), func(w *world, b *segment.Builder, id dr.DiskID, d int, seq dr.Seq) {
		w.fill(t, rng, b, id, d, seq)
	}, sizes...)
}

// worldOf publishes objects that write puts something into, for each disk.
func worldOf(t testing.TB, st store.Store, objects int, who journal.Recipient, write func(*world, *segment.Builder, dr.DiskID, int, dr.Seq), sizes ...int64) *world {
	t.Helper()
	c, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "w", Recipients: []journal.Recipient{who}})
	check(t, err)
	w := &world{st: st, c: c}
	cp := dr.Checkpoint{ID: 1, Seq: dr.Seq(objects + 1), Time: time.Now(), Scope: dr.Group}
	for _, s := range sizes {
		w.disks = append(w.disks, make([]byte, s))
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: s, Synced: true})
	}
	p, err := c.OpenPublisher(t.Context(), journal.PublisherOptions{})
	check(t, err)
	defer p.Close()
	for n := range objects {
		b := c.NewBuilder(segment.BuilderOptions{})
		seq := dr.Seq(n + 1)
		b.SetSeqs(seq, seq)
		for d := range w.disks {
			write(w, b, cp.Disks[d].ID, d, seq)
		}
		if n == objects-1 {
			b.SetCheckpoint(cp)
		}
		q, err := p.Publish(t.Context(), b)
		check(t, err)
		check(t, q.Wait(t.Context()))
	}
	h, err := c.History(t.Context(), journal.HistoryOptions{})
	check(t, err)
	last, err := h.Find("latest")
	check(t, err)
	w.img, err = h.Resolve(t.Context(), last)
	check(t, err)
	return w
}

// scribble writes some blocks of some chunks and zeroes others.
func (w *world) scribble(t testing.TB, rng *rand.Rand, b *segment.Builder, id dr.DiskID, d int, seq dr.Seq) {
	t.Helper()
	img := w.disks[d]
	chunks := (len(img) + dr.ChunkSize - 1) / dr.ChunkSize
	for chunk := range chunks {
		if rng.IntN(3) != 0 {
			continue
		}
		var data []byte
		var mask uint16
		for i := range dr.BlocksPerChunk {
			at := chunk*dr.ChunkSize + i*dr.BlockSize
			if at >= len(img) || rng.IntN(3) == 0 {
				continue
			}
			block := make([]byte, dr.BlockSize)
			switch rng.IntN(8) {
			case 0: // a zeroed range
				check(t, b.AddZero(id, uint64(at/dr.BlockSize), 1, seq))
				copy(img[at:], block)
				continue
			case 1: // zeroes written as data
			default:
				for j := range block {
					block[j] = byte(rng.Uint32())
				}
			}
			mask |= 1 << i
			data = append(data, block...)
			copy(img[at:], block)
		}
		if mask != 0 {
			check(t, b.AddFrame(id, uint32(chunk), mask, seq, data))
		}
	}
}

// fill writes every chunk, half of what it writes compressible.
func (w *world) fill(t testing.TB, rng *rand.Rand, b *segment.Builder, id dr.DiskID, d int, seq dr.Seq) {
	t.Helper()
	img := w.disks[d]
	for at := 0; at < len(img); at += dr.ChunkSize {
		data := make([]byte, dr.ChunkSize)
		for j := range min(dr.ChunkSize, len(img)-at) {
			data[j] = byte(rng.Uint32()) | 1
			if at/dr.ChunkSize%2 == 0 {
				data[j] &= 1
			}
		}
		copy(img[at:], data)
		blocks := min(dr.BlocksPerChunk, (len(img)-at+dr.BlockSize-1)/dr.BlockSize)
		check(t, b.AddFrame(id, uint32(at/dr.ChunkSize), uint16(1<<blocks-1), seq, data[:blocks*dr.BlockSize]))
	}
}

func (w *world) targets(dir string) []Target {
	var out []Target
	for i, d := range w.img.Disks {
		out = append(out, Target{d.ID, filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))})
	}
	return out
}

// compare reads the built disks.
func (w *world) compare(t testing.TB, targets []Target) {
	t.Helper()
	for i, tg := range targets {
		got, err := os.ReadFile(tg.Path)
		check(t, err)
		if !bytes.Equal(got, w.disks[i]) {
			t.Fatalf("%s differs from the disk that was protected", tg.Path)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(targets[0].Path), "*.*.*"))
	check(t, err)
	if len(left) != 0 {
		t.Fatalf("leftovers: %v", left)
	}
}

func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(rand.Int32())
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		check(t, err)
		seed = n
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

func TestFull(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 12, 3<<20, 1<<20+512)
	targets := w.targets(t.TempDir())
	var last Progress
	res, err := Full(t.Context(), w.c, w.img, targets, Options{Progress: func(p Progress) { last = p }})
	check(t, err)
	w.compare(t, targets)
	if last.Objects != last.ObjectsTotal || last.Bytes != last.BytesTotal || last.Bytes == 0 {
		t.Errorf("last progress %+v", last)
	}
	if res.Objects != len(w.img.Objects) || res.Skipped != 0 || len(res.Disks) != 2 {
		t.Errorf("result %+v", res)
	}
	// Once more: what is there is not overwritten, unless told to.
	_, err = Full(t.Context(), w.c, w.img, targets, Options{})
	if !errs.Is(err, errs.Exists) || errs.RemedyOf(err) == "" {
		t.Fatalf("existing target: %v", err)
	}
	check(t, os.WriteFile(targets[0].Path, []byte("user data"), 0o600))
	_, err = Full(t.Context(), w.c, w.img, targets, Options{Force: true})
	check(t, err)
	w.compare(t, targets)
}

func TestFullOneDiskOfTwo(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 8, 1<<20, 1<<20)
	targets := w.targets(t.TempDir())
	_, err := Full(t.Context(), w.c, w.img, targets[1:], Options{})
	check(t, err)
	got, err := os.ReadFile(targets[1].Path)
	check(t, err)
	if !bytes.Equal(got, w.disks[1]) {
		t.Fatal("the disk differs")
	}
	if _, err := os.Stat(targets[0].Path); !os.IsNotExist(err) {
		t.Fatalf("the other disk: %v", err)
	}
}

func TestFullLeavesHoles(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 1, 64<<20)
	targets := w.targets(t.TempDir())
	res, err := Full(t.Context(), w.c, w.img, targets, Options{})
	check(t, err)
	w.compare(t, targets)
	if res.Written >= 64<<20 || res.Written == 0 {
		t.Fatalf("%d bytes written", res.Written)
	}
}

// cutStore ends the context at its nth read.
type cutStore struct {
	store.Store
	left   atomic.Int64
	cancel context.CancelFunc
	reads  atomic.Int64
}

func (s *cutStore) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	s.reads.Add(1)
	if s.left.Add(-1) == 0 {
		s.cancel()
		return 0, errs.E("test", errs.Canceled, key, context.Canceled)
	}
	return s.Store.ReadRange(ctx, key, p, off)
}

func TestFullGoesOnAfterEveryRead(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 10, 1<<20, 1<<20+512)
	cut := &cutStore{Store: w.st}
	c, err := journal.Open(t.Context(), cut, w.key.Identity())
	check(t, err)
	cut.reads.Store(0)
	targets := w.targets(t.TempDir())
	_, err = Full(t.Context(), c, w.img, targets, Options{})
	check(t, err)
	total := cut.reads.Load()
	for k := int64(1); k <= total; k++ {
		targets := w.targets(t.TempDir())
		ctx, cancel := context.WithCancel(t.Context())
		cut.cancel = cancel
		cut.left.Store(k)
		_, err := Full(ctx, c, w.img, targets, Options{Parallel: 2})
		if !errs.Is(err, errs.Canceled) || !strings.Contains(errs.RemedyOf(err), "goes on") {
			t.Fatalf("read %d: %v", k, err)
		}
		for _, tg := range targets {
			if _, err := os.Stat(tg.Path); !os.IsNotExist(err) {
				t.Fatalf("read %d: a half-made disk has its own name: %v", k, err)
			}
		}
		cut.left.Store(0)
		res, err := Full(t.Context(), c, w.img, targets, Options{})
		check(t, err)
		if res.Objects+res.Skipped != len(w.img.Objects) || k > 12 && res.Skipped == 0 {
			t.Fatalf("read %d: work was done again: %+v", k, res)
		}
		w.compare(t, targets)
	}
	t.Logf("stopped and continued at each of %d reads", total)
}

// crashFS stops taking changes at its nth one, as a crash would.
type crashFS struct {
	durable.FS
	left atomic.Int64
	all  atomic.Int64
}

var errCrash = errors.New("crash")

func (f *crashFS) step() error {
	f.all.Add(1)
	if f.left.Add(-1) < 0 {
		return errs.E("test", errs.Unavailable, "", errCrash)
	}
	return nil
}

func (f *crashFS) OpenFile(path string, m durable.Mode) (durable.File, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(path, m)
	if err != nil {
		return nil, err
	}
	return &crashFile{file, f}, nil
}

func (f *crashFS) Rename(a, b string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Rename(a, b)
}

func (f *crashFS) Remove(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Remove(path)
}

type crashFile struct {
	durable.File
	fs *crashFS
}

func (f *crashFile) WriteAtv(b [][]byte, off int64) error {
	if err := f.fs.step(); err != nil {
		return err
	}
	return f.File.WriteAtv(b, off)
}

func (f *crashFile) Sync() error {
	if err := f.fs.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

func TestFullGoesOnAfterACrashAtEveryStep(t *testing.T) {
	w := newWorld(t, mem.New(), seeded(t), 3, 256<<10, 128<<10+512)
	for k := int64(0); ; k++ {
		fs := &crashFS{FS: durable.OS{}}
		fs.left.Store(k)
		targets := w.targets(t.TempDir())
		_, err := Full(t.Context(), w.c, w.img, targets, Options{Parallel: 1, FS: fs})
		if err == nil {
			w.compare(t, targets)
			t.Logf("crashed and continued at each of %d steps", k)
			if k < 20 {
				t.Fatalf("only %d steps", k)
			}
			return
		}
		for i, tg := range targets {
			if got, err := os.ReadFile(tg.Path); err == nil && !bytes.Equal(got, w.disks[i]) {
				t.Fatalf("step %d: a half-made disk has its own name", k)
			}
		}
		_, err = Full(t.Context(), w.c, w.img, targets, Options{})
		if errs.Is(err, errs.Exists) { // only the tidying up was left
			for _, tg := range targets {
				check(t, errors.Join(os.RemoveAll(tg.Path+lockSuffix), os.RemoveAll(tg.Path+cursorSuffix)))
			}
			err = nil
		}
		if err != nil {
			t.Fatalf("step %d: %v", k, err)
		}
		w.compare(t, targets)
	}
}

const childEnv = "HOLDFAST_ROCVA_CHILD"

// child rehydrates in a process of its own, to be killed.
func child() int {
	args := strings.Split(os.Getenv(childEnv), "|")
	st, err := dir.Open(args[0])
	if err == nil {
		err = childRun(st, args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func childRun(st store.Store, dest string) error {
	ctx := context.Background()
	c, err := journal.Open(ctx, st, journal.PassphraseIdentity(testSecret))
	if err != nil {
		return err
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return err
	}
	cp, err := h.Find("latest")
	if err != nil {
		return err
	}
	img, err := h.Resolve(ctx, cp)
	if err != nil {
		return err
	}
	w := &world{img: img}
	ask := bufio.NewReader(os.Stdin)
	say := func(args ...any) {
		fmt.Println(args...)
		_, _ = ask.ReadString('\n') // the parent kills us here, or lets us go on
	}
	say("ready")
	res, err := Full(ctx, c, img, w.targets(dest), Options{Parallel: 2, SaveEvery: 1, Progress: func(p Progress) { say("object", p.Objects) }})
	if err == nil {
		say("skipped", res.Skipped)
	}
	return err
}

func seededB() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
