package recovery

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/store/storetest/fault"
)

// bench runs VMs that are an NBD client each: it reads its whole disk and writes
// a block of it. VMs outlive services.
type bench struct {
	mu  sync.Mutex
	vms map[dr.VMID]*benchVM
}

type benchVM struct {
	*bench
	spec     hypervisor.Spec
	life     *hypervisor.Lifecycle
	model    []byte // the disk as the guest knows it
	switched bool
}

func (b *bench) Name() string                          { return "bench" }
func (b *bench) Capabilities() hypervisor.Capabilities { return hypervisor.Capabilities{NBD: true} }
func (b *bench) Close() error                          { return nil }

func (b *bench) Start(_ context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if vm := b.vms[spec.Config.ID]; vm != nil && !vm.life.Status().State.Final() {
		return nil, errs.New("bench", errs.Exists, spec.Config.Name, "it runs")
	}
	vm := &benchVM{bench: b, spec: spec, life: hypervisor.NewLifecycle(time.Now)}
	vm.life.Move(hypervisor.Running, "")
	b.vms[spec.Config.ID] = vm
	return vm, nil
}

func (b *bench) Adopt(_ context.Context, dir string) (out []hypervisor.VM, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, vm := range b.vms {
		if vm.spec.WorkDir == dir && !vm.life.Status().State.Final() {
			out = append(out, vm)
		}
	}
	return out, nil
}

func (v *benchVM) source() (dr.DiskID, hypervisor.Source) {
	id := v.spec.Config.Disks[0].ID
	return id, v.spec.Sources[id]
}

// work reads the whole disk and writes block n of it.
func (v *benchVM) work(ctx context.Context, n int) error {
	_, src := v.source()
	c, err := nbd.Dial(ctx, "unix", src.Socket, nbd.DialOptions{Export: src.Export})
	if err != nil {
		return err
	}
	defer c.Close()
	all := make([]byte, c.Size())
	if _, err := c.ReadAt(ctx, all, 0); err != nil {
		return err
	}
	if v.model != nil && !bytes.Equal(v.model, all) {
		return fmt.Errorf("%s does not find what it wrote", v.spec.Config.Name)
	}
	block := bytes.Repeat([]byte{byte(n)}, dr.BlockSize)
	if _, err := c.WriteAt(ctx, block, int64(n)*dr.BlockSize, 0); err != nil {
		return err
	}
	copy(all[n*dr.BlockSize:], block)
	v.model = all
	return c.Flush(ctx)
}

func (v *benchVM) ID() dr.VMID                                              { return v.spec.Config.ID }
func (v *benchVM) Name() string                                             { return v.spec.Config.Name }
func (v *benchVM) Status() hypervisor.Status                                { return v.life.Status() }
func (v *benchVM) Serial() string                                           { return "" }
func (v *benchVM) Monitor() string                                          { return "" }
func (v *benchVM) Events() <-chan hypervisor.Event                          { return v.life.Events() }
func (v *benchVM) Pause(context.Context) error                              { return nil }
func (v *benchVM) Resume(context.Context) error                             { return nil }
func (v *benchVM) Stop(ctx context.Context, _ hypervisor.StopOptions) error { return v.Kill(ctx) }
func (v *benchVM) Screenshot(context.Context) ([]byte, error)               { return []byte("PNG"), nil }
func (v *benchVM) Wait(ctx context.Context) (hypervisor.Status, error)      { return v.life.Wait(ctx) }
func (v *benchVM) Kill(context.Context) error {
	v.life.Move(hypervisor.Stopped, "killed")
	return nil
}

// SwitchDisk goes to the image, which must hold all the guest knows.
func (v *benchVM) SwitchDisk(context.Context, dr.DiskID) (hypervisor.Switch, error) {
	_, src := v.source()
	got, err := os.ReadFile(src.Path)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	if v.model != nil && !bytes.Equal(got, v.model) {
		return hypervisor.Switch{}, fmt.Errorf("the image of %s is not what its guest wrote", v.spec.Config.Name)
	}
	v.switched = true
	return hypervisor.Switch{}, nil
}

// instantRig is a world whose runs lie on a real file system.
type instantRig struct {
	*world
	bench *bench
	store *fault.Store
	dir   string
}

func newInstantRig(t *testing.T) *instantRig {
	dir, err := os.MkdirTemp("", "hfi-") // short: sockets
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	w := newWorld(t)
	return &instantRig{w, &bench{vms: map[dr.VMID]*benchVM{}}, fault.New(w.st), filepath.Join(dir, "r")}
}

func (g *instantRig) service() *Service {
	return New(Options{Provider: g.bench, StallLimit: 300 * time.Millisecond, Open: func(ctx context.Context, _ string, _ map[string]string) (*journal.Container, error) {
		return journal.Open(ctx, g.store, g.id)
	}})
}

func (g *instantRig) begin(op Operation) *Run {
	g.t.Helper()
	q := ask("latest")
	q.Mode = Instant
	r, err := g.service().start(context.Background(), g.dir, op, q)
	check(g.t, err)
	return r
}

// guests has every guest work.
func (g *instantRig) guests(n int) {
	g.t.Helper()
	for i, vm := range g.vms {
		v := g.bench.vms[vm.ID]
		if v.model == nil {
			want := g.disks[2][i]
			defer func() {
				g.t.Helper()
				copy(want[n*dr.BlockSize:], v.model[n*dr.BlockSize:][:dr.BlockSize])
				if !bytes.Equal(want, v.model) {
					g.t.Errorf("%s booted from another disk than the point's", vm.Name)
				}
			}()
		}
		check(g.t, v.work(context.Background(), n))
	}
}

// TestInstant boots at once, fills, switches, and is done; once in one life, and
// once with a process that dies while guests run.
func TestInstant(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprint(dies), func(t *testing.T) {
			g := newInstantRig(t)
			r := g.begin(Disaster)
			g.guests(3)
			if dies {
				check(t, r.Close())
				if st, err := g.service().Status(t.Context(), g.dir); err != nil || !st.Interrupted && !st.Hydrated {
					t.Errorf("nobody is told that it was interrupted: %+v, %v", st, err)
				}
				var err error
				r, err = g.service().Resume(t.Context(), g.dir, "")
				check(t, err)
				g.guests(5)
			}
			check(t, r.Attend(t.Context()))
			rec := r.Record()
			if !rec.Hydrated || rec.State != BeforeCommit {
				t.Fatalf("%s, hydrated %v", rec.State, rec.Hydrated)
			}
			for _, vm := range g.bench.vms {
				if !vm.switched {
					t.Errorf("%s was not switched", vm.Name())
				}
			}
			if left, err := filepath.Glob(filepath.Join(g.dir, "*.sock")); err != nil || slices.ContainsFunc(left, func(p string) bool { return strings.HasSuffix(p, nbdName) }) {
				t.Errorf("left: %v", left)
			}
			maps, err := filepath.Glob(filepath.Join(g.dir, "disks", "*", "*[!k]"))
			check(t, err)
			if len(maps) != 2 {
				t.Errorf("beside disks and their locks lies: %v", maps)
			}
			check(t, r.Do(t.Context(), Rollback))
			check(t, r.Close())
			if _, err := os.Stat(filepath.Join(g.dir, "disks")); err == nil {
				t.Error("disks are left")
			}
			if len(g.forks()) > 0 {
				t.Error("a fork is left")
			}
		})
	}
}

// TestInstantRollbackWhileFilling discards disks that are not whole.
func TestInstantRollbackWhileFilling(t *testing.T) {
	g := newInstantRig(t)
	r := g.begin(Test)
	g.guests(3)
	check(t, r.Do(t.Context(), Cleanup))
	check(t, r.Close())
	entries, err := os.ReadDir(g.dir)
	check(t, err)
	for _, e := range entries {
		switch e.Name() {
		case recordName, reportName, durable.LockName, "evidence":
		default:
			t.Errorf("left behind: %s", e.Name())
		}
	}
	if g.pins() > 0 {
		t.Error("a pin is left")
	}
}

// TestOwnerIsAsked: another process's commands reach the owner, who carries them
// out; a second owner is refused.
func TestOwnerIsAsked(t *testing.T) {
	g := newInstantRig(t)
	r := g.begin(Disaster)
	other := g.service()
	if _, err := other.Open(g.dir); !errs.Is(err, errs.Conflict) {
		t.Fatalf("two owners: %v", err)
	}
	// Keep the owner needed: a decision is due in an hour.
	check(t, r.change(func(rec *Record) {
		rec.Request.Auto, rec.Request.After, rec.Decide = AutoRollback, time.Hour, time.Now().Add(time.Hour)
	}))
	attended := make(chan error, 1)
	go func() { attended <- r.Attend(context.Background()) }()
	st, err := other.Status(t.Context(), g.dir)
	check(t, err)
	if !st.Owned || st.Interrupted || st.Reminder == "" {
		t.Errorf("%+v", st)
	}
	if err := other.Reprotect(t.Context(), g.dir); !errs.Is(err, errs.Conflict) {
		t.Errorf("reprotected before the commit: %v", err)
	}
	check(t, other.Commit(t.Context(), g.dir))
	check(t, <-attended)
	if rec := r.Record(); rec.State != FailedOver || !rec.Committed {
		t.Errorf("it is %s", rec.State)
	}
	check(t, r.Close())
	all, err := other.List(t.Context(), filepath.Dir(g.dir))
	check(t, err)
	if len(all) != 1 || all[0].State != FailedOver {
		t.Errorf("%+v", all)
	}
}

// TestAutoDecision: a decision that was asked for in advance is taken, and none
// that was not.
func TestAutoDecision(t *testing.T) {
	for _, auto := range []Decision{AutoCommit, AutoRollback} {
		g := newInstantRig(t)
		q := ask("latest")
		q.Auto, q.After = auto, time.Millisecond
		r, err := g.service().start(t.Context(), g.dir, Disaster, q)
		check(t, err)
		check(t, r.Attend(t.Context()))
		want := FailedOver
		if auto == AutoRollback {
			want = RolledBack
		}
		if st := r.Record().State; st != want {
			t.Errorf("%s: it is %s", auto, st)
		}
		check(t, r.Close())
	}
}
