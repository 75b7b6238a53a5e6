package stores

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/rocva"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/storetest/versitygw"
)

const diskSize = 8 * dr.ChunkSize

// world is a domain of one disk that is published into a store, and what the
// disk was at each checkpoint.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	key  journal.RecoveryKeyPair
	disk dr.CheckpointDisk
	now  []byte
	seq  dr.Seq
	at   map[dr.CheckpointID][]byte
}

func newWorld(t *testing.T, st store.Store) *world {
	t.Helper()
	seed := rand.Uint64() >> 33
	t.Logf("seed %d", seed)
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: make([]byte, diskSize), at: map[dr.CheckpointID][]byte{},
		disk: dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: diskSize, Synced: true}}
	var err error
	if w.key, err = journal.NewRecoveryKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{w.key.Recipient()}}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) open(st store.Store) *journal.Container {
	w.t.Helper()
	c, err := journal.Open(w.t.Context(), st, w.key.Identity())
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) publisher(c *journal.Container, lock journal.LockOptions) *journal.Publisher {
	w.t.Helper()
	p, err := c.OpenPublisher(w.t.Context(), journal.PublisherOptions{Host: "test", Lock: lock})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = p.Close() }) // always nil
	return p
}

// publish sends one checkpoint off; it does not wait.
func (w *world) publish(c *journal.Container, p *journal.Publisher) *journal.Pending {
	w.t.Helper()
	b := c.NewBuilder(segment.BuilderOptions{})
	first := w.seq + 1
	for chunk := range uint32(diskSize / dr.ChunkSize) {
		if w.rng.IntN(2) == 0 {
			continue
		}
		w.seq++
		part := w.now[int(chunk)*dr.ChunkSize:][:dr.ChunkSize]
		for i := range part {
			part[i] = byte(w.rng.Uint32())
		}
		if err := b.AddFrame(w.disk.ID, chunk, 0xFFFF, w.seq, part); err != nil {
			w.t.Fatal(err)
		}
	}
	w.seq++
	id := dr.CheckpointID(len(w.at) + 1)
	b.SetSeqs(first, w.seq)
	b.SetCheckpoint(dr.Checkpoint{ID: id, Seq: w.seq, Time: time.Now().UTC(), Scope: dr.Group, Disks: []dr.CheckpointDisk{w.disk}})
	w.at[id] = bytes.Clone(w.now)
	q, err := p.Publish(w.t.Context(), b)
	if err != nil {
		w.t.Fatal(err)
	}
	return q
}

func (w *world) wait(qs ...*journal.Pending) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for _, q := range qs {
		if err := q.Wait(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

// expect restores every checkpoint from the store alone, and checks the
// container through.
func (w *world) expect(st store.Store) {
	w.t.Helper()
	w.expectAmong(st, false)
}

// expectAmong is expect where somebody else may have published checkpoints, too.
func (w *world) expectAmong(st store.Store, others bool) {
	w.t.Helper()
	c := w.open(st)
	h, err := c.History(w.t.Context(), journal.HistoryOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	if n := len(h.Checkpoints()); n < len(w.at) || n > len(w.at) && !others {
		w.t.Fatalf("%d checkpoints, %d were published; %v", n, len(w.at), h.Problems())
	}
	for _, cp := range h.Checkpoints() {
		if w.at[cp.ID] == nil {
			continue
		}
		img, err := h.Resolve(w.t.Context(), cp)
		if err != nil {
			w.t.Fatal(err)
		}
		path := filepath.Join(w.t.TempDir(), "disk.raw")
		if _, err := rocva.Full(w.t.Context(), c, img, []rocva.Target{{Disk: w.disk.ID, Path: path}}, rocva.Options{}); err != nil {
			w.t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, w.at[cp.ID]) {
			w.t.Errorf("checkpoint %d differs (%v)", cp.ID, err)
		}
	}
	for _, mode := range []journal.FsckMode{journal.FsckQuick, journal.FsckDeep} {
		if r, err := c.Fsck(w.t.Context(), journal.FsckOptions{Mode: mode}); err != nil || !r.Clean {
			w.t.Errorf("fsck: %v, %+v", err, r)
		}
	}
}

// maintain makes one pass.
func (w *world) maintain(c *journal.Container, lock maintain.LockPolicy) *maintain.Report {
	w.t.Helper()
	m, err := maintain.New(w.t.Context(), c, maintain.Options{Policy: &maintain.Policy{Lock: lock}})
	if err != nil {
		w.t.Fatal(err)
	}
	m.Compact()
	r, err := m.Pass(w.t.Context())
	if err != nil || len(r.Alarms) > 0 {
		w.t.Fatalf("%v, %+v", err, r)
	}
	return r
}

// journalOn is the whole way of a domain's history through one store.
func journalOn(t *testing.T, st store.Store) {
	t.Helper()
	w := newWorld(t, st)
	c := w.open(st)
	p := w.publisher(c, journal.LockOptions{})
	var qs []*journal.Pending
	for range 6 { // all under way at once
		qs = append(qs, w.publish(c, p))
	}
	w.wait(qs...)
	// A second publisher takes over; what the first still tries does not count.
	two := w.publisher(w.open(st), journal.LockOptions{})
	seq := w.seq
	zombie := w.publish(c, p)
	if err := zombie.Wait(t.Context()); !errs.Is(err, errs.Fenced) {
		t.Fatalf("the first publisher goes on: %v", err)
	}
	delete(w.at, dr.CheckpointID(len(w.at)))
	w.seq = seq
	copy(w.now, w.at[dr.CheckpointID(len(w.at))])
	if err := two.PutMeta(t.Context(), w.disk.VM, w.seq+1, dr.VMConfig{ID: w.disk.VM, Name: "db", CPUs: 2}); err != nil {
		t.Fatal(err)
	}
	w.wait(w.publish(c, two), w.publish(c, two))
	w.maintain(c, maintain.LockPolicy{})
	w.wait(w.publish(c, two))
	w.expect(st)
}

func TestJournal(t *testing.T) {
	onDir := func(t *testing.T) (store.Store, error) { return dir.Open(t.TempDir()) }
	on := func(s *server) (store.Store, error) { return s.open(t.Context()) }
	for name, open := range map[string]func(*testing.T) (store.Store, error){
		"mem":            func(*testing.T) (store.Store, error) { return mem.New(), nil },
		"dir":            onDir,
		"azurite":        func(t *testing.T) (store.Store, error) { return on(startAzurite(t, false)) },
		"azurite, TLS":   func(t *testing.T) (store.Store, error) { return on(startAzurite(t, true)) },
		"versitygw":      func(t *testing.T) (store.Store, error) { return on(startVersity(t, false, false)) },
		"versitygw, TLS": func(t *testing.T) (store.Store, error) { return on(startVersity(t, true, true)) },
	} {
		t.Run(name, func(t *testing.T) {
			st, err := open(t)
			if err != nil {
				t.Fatal(err)
			}
			journalOn(t, st)
		})
	}
}

// TestStoreRestartsWhilePublishing: the store dies with objects under way and
// comes back: nothing is lost and nothing is there twice.
func TestStoreRestartsWhilePublishing(t *testing.T) {
	v := versitygw.Start(t, versitygw.Options{})
	if err := v.MakeBucket(t.Context(), "trial", false); err != nil {
		t.Fatal(err)
	}
	s := versityServer(v)
	driver, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st := retry.New(driver, retry.Options{Most: 200 * time.Millisecond, Elapsed: patience})
	w := newWorld(t, st)
	c := w.open(st)
	p := w.publisher(c, journal.LockOptions{})
	for range 3 {
		var qs []*journal.Pending
		for range 5 {
			qs = append(qs, w.publish(c, p))
		}
		v.Kill()
		if err := v.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wait(qs...)
	}
	w.expect(st)
}

func versityServer(v *versitygw.Server) *server {
	return &server{"versitygw", v.URL("trial", "erp"), v.Env()}
}

// TestAttack: who has every credential deletes all he can. What was locked
// comes back, every checkpoint of it, byte for byte.
func TestAttack(t *testing.T) {
	for _, mode := range []store.LockMode{store.LockGovernance, store.LockCompliance} {
		t.Run(string(mode), func(t *testing.T) {
			v := versitygw.Start(t, versitygw.Options{KeepAlive: true})
			if err := v.MakeBucket(t.Context(), "trial", true); err != nil {
				t.Fatal(err)
			}
			s := versityServer(v)
			st, err := s.open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, st)
			c := w.open(st)
			p := w.publisher(c, journal.LockOptions{Mode: mode, For: 26 * time.Hour})
			w.wait(w.publish(c, p), w.publish(c, p), w.publish(c, p))
			r := w.maintain(c, maintain.LockPolicy{Mode: mode, Window: 72 * time.Hour})
			if r.Extended == 0 {
				t.Errorf("nothing was held: %+v", r)
			}
			w.wait(w.publish(c, p)) // behind the manifest
			eventually(t, "all is held", func() bool { return !p.Status().HeldUntil.IsZero() })
			// The newest manifest is younger than the last hold.
			m, err := maintain.New(t.Context(), c, maintain.Options{Policy: &maintain.Policy{Lock: maintain.LockPolicy{Mode: mode, Window: 72 * time.Hour}}})
			if err == nil {
				_, err = m.Pass(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = p.Close() // always nil
			attackBucket(t, v)
			if _, err := journal.Open(t.Context(), st, w.key.Identity()); !errs.Is(err, errs.NotFound) {
				t.Fatalf("the attack hides nothing: %v", err)
			}
			if code, _, stderr := s.run(t, "store", "reveal", s.url.String()); code != 7 {
				t.Errorf("a reveal that leaves what was written over: exit %d\n%s", code, stderr)
			}
			if code, out, stderr := s.run(t, "store", "reveal", s.url.String(), "--overwritten", "-o", "json"); code != 0 {
				t.Fatalf("exit %d\n%s%s", code, out, stderr)
			}
			w.expect(st)
		})
	}
}

// attackBucket deletes every version it can, and hides or writes over the rest.
func attackBucket(t *testing.T, v *versitygw.Server) {
	t.Helper()
	client, err := v.Client()
	if err != nil {
		t.Fatal(err)
	}
	var all []minio.ObjectInfo
	for o := range client.ListObjectsIter(t.Context(), "trial", minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		all = append(all, o)
	}
	gone := 0
	for i, o := range all {
		err := client.RemoveObject(t.Context(), "trial", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID})
		if err == nil {
			gone++
			continue
		}
		if i%3 == 0 {
			_, err = client.PutObject(t.Context(), "trial", o.Key, bytes.NewReader([]byte("ha")), 2, minio.PutObjectOptions{})
			err = errors.Join(err, client.RemoveObject(t.Context(), "trial", o.Key, minio.RemoveObjectOptions{}))
		} else {
			err = client.RemoveObject(t.Context(), "trial", o.Key, minio.RemoveObjectOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d versions are gone for good", gone, len(all))
}
