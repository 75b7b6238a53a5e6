package drva

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/record"
	"holdfast/internal/segment"
)

// States of a seed.
const (
	seedWaiting   = "waiting"
	seedRunning   = "seeding"
	seedDone      = "done"
	seedFailed    = "failed"
	seedCancelled = "cancelled"
)

// SeedStatus is one seeding of a disk: an image at the DRVA's side becomes what
// the container holds of it, so that its host, when it comes, ships only what
// differs.
type SeedStatus struct {
	Disk   dr.DiskID `json:"disk"`
	VM     dr.VMID   `json:"vm"`
	Path   string    `json:"path"`
	State  string    `json:"state"`       // "waiting", "seeding", "done", "failed", "cancelled"
	Size   int64     `json:"size"`        // of the image, bytes
	Read   int64     `json:"read"`        // of it so far
	Stored int64     `json:"stored"`      // of that what the container did not have yet
	ETA    int64     `json:"eta_seconds"` // 0: unknown
	Error  string    `json:"error,omitempty"`
	Remedy string    `json:"remedy,omitempty"`
}

// seedJob is a seed. All fields but the channels are guarded by Server.mu.
type seedJob struct {
	SeedStatus
	began  time.Time
	cancel chan struct{} // closed by CancelSeed
}

// Seed has a disk seeded from a raw image, file or block device, that this
// machine can read. It returns when the job waits for its turn; Status tells
// how it goes. What an earlier, broken-off run has brought is compared and not
// stored again, so that to resume is to begin again. The image must not change
// meanwhile. Kind Full when too many wait, Conflict when the disk already does.
func (s *Server) Seed(disk dr.DiskID, vm dr.VMID, path string) error {
	const op = "drva.Seed"
	if disk.IsZero() || vm.IsZero() || path == "" {
		return errs.New(op, errs.Invalid, "seed", "a disk, its VM and the path of an image are needed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds = slices.DeleteFunc(s.seeds, func(j *seedJob) bool { return j.Disk == disk && j.over() })
	for _, j := range s.seeds {
		if j.Disk == disk {
			return errs.New(op, errs.Conflict, "disk "+disk.String(), "it is being seeded").WithRemedy("cancel that first")
		}
	}
	if len(s.seeds) >= maxSeeds {
		if i := slices.IndexFunc(s.seeds, (*seedJob).over); i >= 0 {
			s.seeds = slices.Delete(s.seeds, i, i+1)
		} else {
			return errs.New(op, errs.Full, "seeds", fmt.Sprintf("%d disks wait to be seeded", maxSeeds)).WithRemedy("wait until one is done")
		}
	}
	j := &seedJob{SeedStatus: SeedStatus{Disk: disk, VM: vm, Path: path, State: seedWaiting}, cancel: make(chan struct{})}
	s.seeds = append(s.seeds, j)
	select {
	case s.seeding <- struct{}{}:
	default:
	}
	return nil
}

func (j *seedJob) over() bool { return j.State != seedWaiting && j.State != seedRunning }

// CancelSeed ends a seed; what it has stored stays and is used. Kind NotFound.
func (s *Server) CancelSeed(disk dr.DiskID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.seeds {
		if j.Disk == disk && !j.over() {
			j.State = seedCancelled
			close(j.cancel)
			return nil
		}
	}
	return errs.New("drva.CancelSeed", errs.NotFound, "disk "+disk.String(), "no seed of this disk waits or runs")
}

// runSeeds seeds one disk after the other until ctx ends.
func (s *Server) runSeeds(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.seeding:
		}
		for j := s.nextSeed(); j != nil && ctx.Err() == nil; j = s.nextSeed() {
			s.endSeed(ctx, j, s.seed(ctx, j))
		}
	}
}

func (s *Server) nextSeed() *seedJob {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.seeds {
		if j.State == seedWaiting {
			j.State, j.began = seedRunning, time.Now()
			return j
		}
	}
	return nil
}

func (s *Server) endSeed(ctx context.Context, j *seedJob, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case j.State == seedCancelled || ctx.Err() != nil:
	case err != nil:
		j.State, j.Error, j.Remedy = seedFailed, err.Error(), errs.RemedyOf(err)
		s.log.Error("a disk could not be seeded", "disk", j.Disk.String(), "err", err, "remedy", j.Remedy)
	default:
		j.State = seedDone
	}
}

// seeder is one seed at work. Owned by its goroutine.
type seeder struct {
	s       *Server
	j       *seedJob
	disk    dr.Disk
	image   *os.File
	end     int64 // of the image
	least   dr.Seq
	hashers map[segment.HashKey]*segment.BlockHasher
	recs    []record.Record
}

// seed compares the image with what the container holds, range by range, and
// logs what differs. It takes no more than half of the log, which is the hosts'.
func (s *Server) seed(ctx context.Context, j *seedJob) error {
	const op = "drva.seed"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-j.cancel:
			cancel()
		case <-ctx.Done():
		}
	}()
	f, err := os.Open(j.Path)
	if err != nil {
		return errs.E(op, errs.NotFound, j.Path, err).WithRemedy("name a raw image or block device that the DRVA may read")
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return errs.E(op, errs.Invalid, j.Path, err)
	}
	if end == 0 || end > dr.MaxDiskSize {
		return errs.New(op, errs.Invalid, j.Path, "the image is empty or larger than 64 TiB")
	}
	size := (end + dr.BlockSize - 1) / dr.BlockSize * dr.BlockSize
	s.mu.Lock()
	j.Size = end
	s.mu.Unlock()
	w := &seeder{s: s, j: j, disk: dr.Disk{ID: j.Disk, VM: j.VM, Size: size}, image: f, end: end, hashers: map[segment.HashKey]*segment.BlockHasher{}}
	at, err := w.place(ctx)
	if err != nil {
		return err
	}
	ok := false
	for w.least, ok = s.shipped.holds(at); !ok; w.least, ok = s.shipped.holds(at) {
		if err := rest(ctx, hashPoll); err != nil {
			return err
		}
	}
	buf := make([]byte, seedPiece)
	for off := int64(0); off < size; off += seedPiece {
		if err := w.piece(ctx, buf[:min(seedPiece, size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// piece reads the image at off and logs what the container does not hold.
func (w *seeder) piece(ctx context.Context, p []byte, off int64) error {
	n := min(int64(len(p)), w.end-off)
	if _, err := io.ReadFull(io.NewSectionReader(w.image, off, n), p[:n]); err != nil {
		return errs.E("drva.seed", errs.Unavailable, w.j.Path, err).WithRemedy("the image must not change while it is read; begin again")
	}
	clear(p[n:])
	held, err := w.held(ctx, uint32(off/dr.ChunkSize))
	if err != nil {
		return err
	}
	w.recs = nil // what was placed is the core's
	stored := int64(0)
	for at := 0; at < len(p); {
		same, zero := w.judge(held, off+int64(at), p[at:at+dr.BlockSize])
		end := at + dr.BlockSize
		for end < len(p) {
			if s, z := w.judge(held, off+int64(end), p[end:end+dr.BlockSize]); s != same || z != zero {
				break
			}
			end += dr.BlockSize
		}
		if !same {
			w.add(p[at:end], off+int64(at), zero)
			stored += int64(end - at)
		}
		at = end
	}
	if len(w.recs) > 0 {
		if _, err := w.place(ctx); err != nil {
			return err
		}
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	j := w.j
	j.Read, j.Stored = off+n, j.Stored+stored
	j.ETA = int64(time.Since(j.began).Seconds() * float64(j.Size-j.Read) / float64(j.Read))
	return nil
}

// held returns what the container holds around a chunk, waiting for the store.
func (w *seeder) held(ctx context.Context, chunk uint32) (*journal.DiskHashes, error) {
	for pause := hashPoll; ; pause = min(2*pause, retryMost) {
		d, err := w.s.hashes.around(ctx, w.disk, w.least, chunk)
		if err == nil || !errs.Is(err, errs.Transient) && !errs.Is(err, errs.Unavailable) {
			return d, err
		}
		if err := rest(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// judge reports whether the container has a block as it is in the image, and
// whether it reads as zeroes.
func (w *seeder) judge(d *journal.DiskHashes, off int64, block []byte) (same, zero bool) {
	at := off/dr.BlockSize - int64(d.First)*dr.BlocksPerChunk
	zero = bytes.Equal(block, zeroBlock[:])
	if d.Masks[at/dr.BlocksPerChunk]>>(at%dr.BlocksPerChunk)&1 == 0 {
		return zero, zero
	}
	key := d.Under[d.Keys[at]]
	if w.hashers[key] == nil {
		w.hashers[key] = key.Hasher()
	}
	return w.hashers[key].Sum(block) == d.Hashes[at], zero
}

var zeroBlock [dr.BlockSize]byte // never written

func (w *seeder) add(p []byte, off int64, zero bool) {
	r := record.Record{Kind: record.Zero, Offset: uint64(off), Length: uint32(len(p)), Time: time.Now().UnixNano()}
	if !zero {
		r.Kind, r.Payload = record.Data, durable.AlignedBytes(len(p))
		copy(r.Payload, p)
		r.CRC = record.Checksum(p)
	}
	w.recs = append(w.recs, r)
}

// place has the records at hand logged and returns when they are durable, with
// the last place given out.
func (w *seeder) place(ctx context.Context) (last dr.Seq, err error) {
	s := w.s
	for u := s.rl.Usage(); u.Used > u.Quota/2; u = s.rl.Usage() {
		if err := rest(ctx, retryFirst); err != nil {
			return 0, err
		}
	}
	for {
		err := w.call(ctx, func(q *sequencer) error {
			err := q.core.Seed(w.disk, w.recs)
			last = q.core.Status().Last
			if len(w.recs) == 0 {
				q.nextCut = time.Now() // what is held is known once it is published
			}
			return err
		})
		if err == nil {
			break
		}
		if !errs.Is(err, errs.Unavailable) {
			return 0, err
		}
		if err := rest(ctx, retryFirst); err != nil {
			return 0, err
		}
	}
	for {
		done := false
		if err := w.call(ctx, func(q *sequencer) error { done = q.flight.durable() >= last; return nil }); err != nil || done {
			return last, err
		}
		if err := rest(ctx, seedPoll); err != nil {
			return 0, err
		}
	}
}

// call runs f on the sequencer's goroutine.
func (w *seeder) call(ctx context.Context, f func(q *sequencer) error) error {
	done := make(chan error, 1)
	if w.s.post(ctx, event{do: func(q *sequencer) { done <- f(q) }}) {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		case <-w.s.stopped:
		}
	}
	return errs.E("drva.seed", errs.Canceled, "disk "+w.disk.ID.String(), context.Cause(ctx))
}

// rest waits; an error when ctx ends first.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return errs.E("drva.seed", errs.Canceled, "", context.Cause(ctx))
	case <-t.C:
		return nil
	}
}
