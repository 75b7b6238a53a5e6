package rocva_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// protectors stand for the DRVA and the host component of a committed recovery: they
// answer on its sockets, and publish what the source's disks hold on its history.
type protectors struct {
	src *source

	mu   sync.Mutex
	ends map[string]context.CancelFunc // by command line
	last *dr.Checkpoint
}

func (p *protectors) key(args []string) string { return args[len(args)-1] }

func (p *protectors) me(name string) (recovery.Process, error) {
	start, err := live.StartOf(os.Getpid())
	return recovery.Process{Name: name, PID: os.Getpid(), Start: start}, err
}

func (p *protectors) site() *recovery.Site {
	return &recovery.Site{
		Identity: func(access map[string]string) map[string]string { return access },
		Platform: func([]string) any { return map[string]any{} },
		DiskName: func(disks []dr.VMDisk, place int) string { return disks[place].Name },
		Launch: func(ctx context.Context, _, name, socket string, args ...string) (recovery.Process, error) {
			p.launch(ctx, name, socket, p.key(args))
			return p.me(name)
		},
		Running: func(name string, args ...string) []recovery.Process {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.ends[p.key(args)] == nil {
				return nil
			}
			me, _ := p.me(name)
			return []recovery.Process{me}
		},
		End: func(_ context.Context, of recovery.Process) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			for key, end := range p.ends {
				if filepath.Base(key) == of.Name+".json" {
					end()
					delete(p.ends, key)
				}
			}
			return nil
		},
	}
}

// launch answers on a box's socket, unless it does.
func (p *protectors) launch(ctx context.Context, name, socket, key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends[key] != nil {
		return
	}
	calls := map[string]control.Handler{"/status": func(context.Context, []byte) (any, error) {
		return iofilter.Status{Link: iofilter.LinkStatus{Up: true}}, nil
	}}
	if name == "drva" {
		p.src.publisher() // on the history that is the current one now
		_, err := p.checkpointLocked(ctx)
		check(p.src.t, err)
		calls = map[string]control.Handler{
			"/status": func(context.Context, []byte) (any, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				return drva.Status{State: "serving", Checkpoints: drva.Checkpoints{LastPublished: p.last, LastGroup: p.last.Time}}, nil
			},
			"/checkpoint": func(ctx context.Context, _ []byte) (any, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.checkpointLocked(ctx)
			},
		}
	}
	serving, end := context.WithCancel(context.Background())
	p.ends[key] = end
	go func() { _ = control.ServeLocal(serving, socket, calls) }()
}

func (p *protectors) checkpointLocked(ctx context.Context) (*dr.Checkpoint, error) {
	id, err := p.src.Checkpoint(ctx, "")
	if err != nil {
		return nil, err
	}
	cp := &dr.Checkpoint{ID: id, Time: p.src.when, Scope: dr.Group}
	for _, vm := range p.src.vms {
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: vm.Disks[0].ID, VM: vm.ID, Size: diskSize, Synced: true})
	}
	p.last = cp
	return cp, nil
}

// oldVMs puts the source's VMs on the host of site a, off, with disks as they are now.
func (r *rig) oldVMs() (paths []string) {
	r.t.Helper()
	for _, vm := range r.src.vms {
		path := filepath.Join(r.at["a"].dir, vm.Name+".raw")
		check(r.t, os.WriteFile(path, r.src.disks[vm.Disks[0].ID], 0o600))
		r.at["a"].host.Add(hypervisor.VMInfo{Config: vm, Disks: []hypervisor.LiveDisk{{Name: "system", Path: path, Format: "raw", Size: diskSize}}}, -1)
		paths = append(paths, path)
	}
	return paths
}

// same demands that files hold the source's disks.
func (r *rig) same(paths []string) {
	r.t.Helper()
	for i, path := range paths {
		b, err := os.ReadFile(path)
		check(r.t, err)
		if !bytes.Equal(b, r.src.disks[r.src.vms[i].Disks[0].ID]) {
			r.t.Errorf("%s is not the disk as it was at the point", path)
		}
	}
}

func (r *rig) contents(paths []string) (all [][]byte) {
	r.t.Helper()
	for _, path := range paths {
		b, err := os.ReadFile(path)
		check(r.t, err)
		all = append(all, b)
	}
	return all
}

// living counts the VMs that run of the domain where it lives.
func (r *rig) living(at site.Name) (n int) {
	r.t.Helper()
	for _, vm := range r.src.vms {
		up, err := r.at[at].box.Running(r.t.Context(), &operate.Act{Domain: "erp"}, &plan.VMInputs{VM: vm.ID, Name: site.Ref(vm.Name)})
		check(r.t, err)
		if up {
			n++
		}
	}
	return n
}

// TestThereAndBack moves a domain to b, protects it there, moves it back onto the disks it
// left, and there again onto those it left the second time, while all processes are
// replaced between.
func TestThereAndBack(t *testing.T) {
	r := newRig(t)
	r.prot = &protectors{src: r.src, ends: map[string]context.CancelFunc{}}
	old := r.oldVMs()
	r.begin()
	r.does(plan.Planned, plan.BeforeCommit)
	r.does(plan.CommitRun, plan.RecoveryComplete)
	if got := r.at["b"].box.Lives(); !slices.Contains(got, "erp") {
		t.Fatalf("at b live %v", got)
	}
	r.restart()
	r.does(plan.Reprotect, plan.Ready)
	there := fake.NewPlatform(r.at["a"].host)
	for _, vm := range r.src.vms {
		if _, err := there.VM(t.Context(), hypervisor.RetiredName(vm.Name, vm.ID)); err != nil {
			t.Errorf("the old %s is not retired: %v", vm.Name, err)
		}
	}
	check(t, there.Close())
	r.restart()
	r.does(plan.Failback, plan.BeforeCommit)
	r.same(old)
	if n := r.living("b"); n != 0 {
		t.Errorf("%d VMs run at b still", n)
	}
	r.does(plan.CommitRun, plan.RecoveryComplete)
	r.does(plan.Reprotect, plan.Ready)
	if got := r.at["b"].box.Lives(); len(got) != 0 {
		t.Errorf("at b live %v", got)
	}
	if got := r.at["a"].box.Lives(); !slices.Contains(got, "erp") {
		t.Errorf("at a live %v", got)
	}
	r.restart()
	before := r.contents(old)
	r.does(plan.Planned, plan.BeforeCommit)
	var seeds []string
	for _, vm := range r.src.vms {
		seeds = append(seeds, filepath.Join(r.at["b"].dir, "seeds", "erp", vm.Disks[0].ID.String()+".raw"))
	}
	r.same(seeds)
	r.does(plan.Rollback, plan.Ready)
	if after := r.contents(old); !slices.EqualFunc(before, after, bytes.Equal) {
		t.Error("what was rolled back at b changed the disks at a")
	}
	if n := r.living("a"); n != 2 {
		t.Errorf("%d VMs run at a after the rollback", n)
	}
}

// TestInstant recovers a domain whose VMs start before their disks are whole, and commits
// it, while all processes are replaced between.
func TestInstant(t *testing.T) {
	r := newRig(t)
	r.world.p.Disks = plan.DisksInstant
	r.begin()
	r.does(plan.Test, plan.TestComplete)
	r.restart()
	if n := r.up("test1"); n != 2 {
		t.Errorf("%d VMs run in the test", n)
	}
	r.does(plan.Cleanup, plan.Ready)
	r.does(plan.Planned, plan.BeforeCommit)
	r.restart()
	r.does(plan.CommitRun, plan.RecoveryComplete)
	r.disks("1")
	r.restart()
	if got := r.at["b"].box.Lives(); !slices.Contains(got, "erp") {
		t.Errorf("at b live %v", got)
	}
}
