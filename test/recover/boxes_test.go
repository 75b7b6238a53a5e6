package recover

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/journal"
	"holdfast/internal/recovery"
	"holdfast/internal/store/dir"
	"holdfast/test/rig"
)

// diskSize is that of a disk a load of counters writes to, bytes.
const diskSize = 4 << 20

// counted is a site whose guest is a load of counters over NBD: without an
// operating system, a recovery is judged block by block.
type counted struct {
	*site
	load *rig.Counters
	stop func()

	mu      sync.Mutex
	stopped bool // guarded by mu
}

func newCounted(t *testing.T) *counted {
	t.Helper()
	s := newBoxes(t, "", diskSize, func(path string) error { return os.WriteFile(path, make([]byte, diskSize), 0o600) })
	c := &counted{site: s, load: rig.NewCounters(t, diskSize/dr.BlockSize)}
	c.begin()
	return c
}

func (c *counted) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop, c.stopped = c.load.Write(c.t, c.path("a/guest.nbd"), c.vm.Disks[0].Name, 2, time.Millisecond), false
}

// Stop, Start and Close are the power of the site.
func (c *counted) Stop(context.Context, dr.VMID, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stop()
		c.stopped = true
	}
	return nil
}

func (c *counted) Start(context.Context, dr.VMID, string) error {
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped {
		c.begin()
	}
	return nil
}

func (c *counted) Close() error { return nil }

// service is a recovery site with a scripted hypervisor.
func (c *counted) service(p hypervisor.Provider) *recovery.Service {
	return recovery.New(recovery.Options{
		Provider: p,
		Open: func(ctx context.Context, url string, access map[string]string) (*journal.Container, error) {
			id, err := journal.ParseIdentityFile(access["key"])
			if err != nil {
				return nil, err
			}
			st, err := dir.Open(strings.TrimPrefix(url, "file://"))
			if err != nil {
				return nil, err
			}
			return journal.Open(ctx, st, id)
		},
		Source: func(context.Context, map[string]string) (recovery.Source, error) {
			return &recovery.Boxes{DRVA: c.path("a/drva.sock"), Hosts: []string{c.path("a/host.sock")}, Power: c, Limit: patience}, nil
		},
	})
}

func (c *counted) request() recovery.Request {
	return recovery.Request{URL: c.url, Access: map[string]string{"key": c.key()}, Mode: recovery.Full, Evidence: time.Nanosecond}
}

// disk is the disk a run recovered.
func (c *counted) disk(r *recovery.Run) []byte {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.Dir(), r.Record().Disks[0].Path))
	must(c.t, err)
	return b
}

// TestPlannedLosesNoWrite: whatever the load was told is written is there, to the
// block, and nothing else; and the fenced source does not come back.
func TestPlannedLosesNoWrite(t *testing.T) {
	c := newCounted(t)
	c.protected()
	p := fake.New()
	defer p.Close()
	r, err := c.service(p).Planned(t.Context(), c.path("b"), c.request())
	c.drva.Doom() // it is fenced, and ends when it publishes
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rec := r.Record()
	if rec.State != recovery.BeforeCommit || rec.Checkpoint.Scope != dr.Group {
		t.Fatalf("%s at %+v", rec.State, rec.Checkpoint)
	}
	if err := c.load.Missing(c.disk(r)); err != nil {
		t.Error(err)
	}
	if c.load.Count() == 0 {
		t.Error("the load wrote nothing: this proves nothing")
	}
	if len(p.Started()) != 1 {
		t.Errorf("%d VMs were started", len(p.Started()))
	}
	c.drva.Kill()
	c.refused()
	// Rolled back, it may come back, and goes on with its own log.
	must(t, r.Rollback(t.Context()))
	if rec := r.Record(); rec.State != recovery.RolledBack {
		t.Fatalf("it is %s", rec.State)
	}
	c.startDRVA()
	c.protected()
	c.stop()
}

// refused starts the source's DRVA again, which must end and say why.
func (c *counted) refused() {
	c.t.Helper()
	p, err := rig.Start(c.path("a"), "zombie", func(*rig.Process) {}, "drva", "--config", c.path("a/drva.json"))
	must(c.t, err)
	p.Doom()
	select {
	case <-p.Done:
	case <-time.After(patience):
		c.t.Fatal("the zombie came back")
	}
	if words := rig.Tail(p.Log); !strings.Contains(words, "the domain was recovered") {
		c.t.Errorf("the zombie was not told: %s", words)
	}
}

// TestDisasterKeepsItsPromise: the site dies while it writes; what was
// acknowledged before the checkpoint was cut is there, over several tries.
func TestDisasterKeepsItsPromise(t *testing.T) {
	c := newCounted(t)
	c.protected()
	stop := make(chan struct{})
	var sampled sync.WaitGroup
	var mu sync.Mutex
	var samples []sample
	sampled.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			acked := c.load.Acked() // before the time: later it may be more
			mu.Lock()
			samples = append(samples, sample{time.Now(), acked})
			mu.Unlock()
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	c.protected()
	c.drva.Kill()
	c.host.Kill()
	close(stop)
	sampled.Wait()
	c.stop()
	p := fake.New()
	defer p.Close()
	s := c.service(p)
	r, err := s.Disaster(t.Context(), c.path("b"), c.request())
	must(t, err)
	defer r.Close()
	for i := range 3 {
		rec := r.Record()
		promised := promised(samples, rec.Checkpoint.Time)
		if promised == nil {
			t.Logf("checkpoint %d is older than the samples", rec.Checkpoint.ID)
		} else if err := rig.MissingSince(c.disk(r), promised, 0); err != nil {
			t.Errorf("checkpoint %d: %v", rec.Checkpoint.ID, err)
		}
		must(t, r.Rollback(t.Context()))
		if i == 2 || rec.Checkpoint.ID <= 1 {
			break
		} else {
			err := r.Resume(t.Context(), fmt.Sprint(uint64(rec.Checkpoint.ID)-1))
			if errs.Is(err, errs.Unavailable) || errs.Is(err, errs.NotFound) {
				break // the first points of a domain cannot be recovered
			}
			must(t, err)
		}
	}
}

type sample struct {
	at    time.Time
	acked []uint64
}

// TestSourceTakesBackAMigration: the guests do not shut down; the source goes on.
func TestSourceTakesBackAMigration(t *testing.T) {
	c := newCounted(t)
	c.protected()
	s := recovery.New(recovery.Options{
		Provider: fake.New(),
		Open: func(ctx context.Context, url string, access map[string]string) (*journal.Container, error) {
			id, err := journal.ParseIdentityFile(access["key"])
			if err != nil {
				return nil, err
			}
			st, err := dir.Open(strings.TrimPrefix(url, "file://"))
			if err != nil {
				return nil, err
			}
			return journal.Open(ctx, st, id)
		},
		Source: func(context.Context, map[string]string) (recovery.Source, error) {
			return &recovery.Boxes{DRVA: c.path("a/drva.sock"), Hosts: []string{c.path("a/host.sock")}, Power: deaf{}, Limit: time.Second}, nil
		},
	})
	r, err := s.Planned(t.Context(), c.path("b"), c.request())
	if err == nil || !strings.Contains(err.Error(), "the source is in service again") || errs.RemedyOf(err) == "" {
		t.Fatalf("%v", err)
	}
	defer r.Close()
	if rec := r.Record(); rec.State != recovery.Unwound || rec.Fence != 0 {
		t.Errorf("it is %s", rec.State)
	}
	before := c.load.Count()
	c.protected()
	if c.load.Count() == before {
		t.Error("the source's guest writes nothing any more")
	}
	c.stop()
}

// deaf is a guest that does not shut down.
type deaf struct{}

func (deaf) Stop(context.Context, dr.VMID, string) error  { return nil }
func (deaf) Start(context.Context, dr.VMID, string) error { return nil }
func (deaf) Close() error                                 { return nil }
