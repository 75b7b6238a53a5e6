package warm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
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

// source is a protected site that publishes a checkpoint at a time.
type source struct {
	t     testing.TB
	rng   *rand.Rand
	key   journal.RecoveryKeyPair
	c     *journal.Container
	pub   *journal.Publisher
	tl    dr.TimelineID
	disks []dr.CheckpointDisk
	now   [][]byte                     // the disks as they are
	was   map[dr.CheckpointID][][]byte // as they were
	cp    dr.CheckpointID
	seq   dr.Seq
	at    time.Time
}

func newSource(t testing.TB, st store.Store, rng *rand.Rand, sizes ...int64) *source {
	t.Helper()
	key, err := journal.NewRecoveryKey()
	check(t, err)
	c, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{key.Recipient()}})
	check(t, err)
	s := &source{t: t, rng: rng, key: key, c: c, tl: c.Domain().Timeline, was: map[dr.CheckpointID][][]byte{}, at: time.Now().Truncate(time.Second)}
	for _, n := range sizes {
		s.attach(n)
	}
	s.open()
	t.Cleanup(func() { _ = s.pub.Close() }) // always nil
	return s
}

func (s *source) attach(size int64) {
	s.disks = append(s.disks[:len(s.disks):len(s.disks)], dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: size, Synced: true})
	s.now = append(s.now, make([]byte, size))
}

// open takes the timeline over, whoever had it.
func (s *source) open() {
	s.t.Helper()
	if s.pub != nil {
		_ = s.pub.Close() // always nil
	}
	var err error
	s.pub, err = s.c.OpenPublisher(s.t.Context(), journal.PublisherOptions{Timeline: s.tl})
	check(s.t, err)
}

// publish writes a little everywhere and publishes a checkpoint.
func (s *source) publish() dr.CheckpointID {
	s.t.Helper()
	b := s.c.NewBuilder(segment.BuilderOptions{})
	s.seq++
	b.SetSeqs(s.seq, s.seq)
	for i, d := range s.disks {
		chunks := len(s.now[i]) / dr.ChunkSize
		for chunk := range chunks {
			switch s.rng.IntN(4) {
			case 0:
				data := make([]byte, 3*dr.BlockSize)
				for j := range data {
					data[j] = byte(s.rng.Uint32())
				}
				first := s.rng.IntN(dr.BlocksPerChunk - 3)
				check(s.t, b.AddFrame(d.ID, uint32(chunk), 7<<first, s.seq, data))
				copy(s.now[i][chunk*dr.ChunkSize+first*dr.BlockSize:], data)
			case 1:
				check(s.t, b.AddZero(d.ID, uint64(chunk*dr.BlocksPerChunk), 5, s.seq))
				clear(s.now[i][chunk*dr.ChunkSize:][:5*dr.BlockSize])
			}
		}
	}
	s.cp++
	s.seq++
	s.at = s.at.Add(5 * time.Second)
	b.SetCheckpoint(dr.Checkpoint{ID: s.cp, Seq: s.seq, Time: s.at, Scope: dr.Group, Disks: s.disks})
	q, err := s.pub.Publish(s.t.Context(), b)
	check(s.t, err)
	check(s.t, q.Wait(s.t.Context()))
	var copies [][]byte
	for _, d := range s.now {
		copies = append(copies, bytes.Clone(d))
	}
	s.was[s.cp] = copies
	return s.cp
}

// place puts disks side by side.
func place(img *journal.Image) (out []rocva.Target, err error) {
	for i, d := range img.Disks {
		out = append(out, rocva.Target{Disk: d.ID, Path: fmt.Sprintf("disk%d.raw", i)})
	}
	return out, nil
}

// same compares files with a checkpoint.
func (s *source) same(fs durable.FS, dir string, cp dr.CheckpointID, suffix, what string) {
	s.t.Helper()
	for i, want := range s.was[cp] {
		got, err := durable.ReadFile(fs, filepath.Join(dir, fmt.Sprintf("disk%d.raw%s", i, suffix)), 1<<30)
		if err != nil || !bytes.Equal(got, want) {
			s.t.Fatalf("%s: disk %d is not as at checkpoint #%d: %v", what, i, cp, err)
		}
	}
}

func missing(fs durable.FS, path string) bool {
	_, err := fs.Stat(path)
	return errs.Is(err, errs.NotFound)
}
