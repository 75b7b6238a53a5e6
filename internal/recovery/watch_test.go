package recovery

import (
	"context"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// standing makes a rack's VMs pause and go on as they are told.
type standing struct{ *rackProvider }

type standingVM struct{ hypervisor.VM }

func (p standing) Start(ctx context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	vm, err := p.rackProvider.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	if spec.Paused {
		vm.(*mortalVM).life.Move(hypervisor.Paused, "before its first instruction")
	}
	return standingVM{vm}, nil
}

func (p standing) Adopt(ctx context.Context, dir string) ([]hypervisor.VM, error) {
	vms, err := p.rackProvider.Adopt(ctx, dir)
	for i := range vms {
		vms[i] = standingVM{vms[i]}
	}
	return vms, err
}

func (v standingVM) Resume(context.Context) error {
	v.VM.(*mortalVM).life.Move(hypervisor.Running, "")
	return nil
}

// TestWatchGivenUp: where no host component can be had the VMs run all the same,
// none of them before its turn, what was prepared is gone, and it is known that
// nobody saw what they wrote.
func TestWatchGivenUp(t *testing.T) {
	w := newWorld(t)
	s, l := w.process(-1)
	s.opts.Provider = standing{&rackProvider{w.rack, l}}
	launched := 0
	s.opts.Site = &Site{
		Identity: func(access map[string]string) map[string]string { return access },
		Platform: func([]string) any { return nil },
		DiskName: func([]dr.VMDisk, int) string { return "disk0" },
		Launch: func(context.Context, string, string, string, ...string) (Process, error) {
			launched++
			for _, vm := range w.rack.alive() {
				if vm.life.Status().State != hypervisor.Paused {
					t.Errorf("%s runs before it is watched", vm.spec.Config.Name)
				}
			}
			return Process{}, errs.New("test", errs.Unavailable, "host", "it does not start")
		},
		End:     func(context.Context, Process) error { return nil },
		Running: func(string, ...string) []Process { return nil },
	}
	r, err := s.Disaster(t.Context(), runDir, Request{URL: "mem:", Mode: Full})
	check(t, err)
	defer r.Close()
	rec := r.Record()
	if rec.State != BeforeCommit || rec.Watch != Begun {
		t.Errorf("it is %s, watch %q", rec.State, rec.Watch)
	}
	for _, vm := range w.rack.alive() {
		if vm.life.Status().State != hypervisor.Running || !vm.spec.Paused {
			t.Errorf("%s is %s", vm.spec.Config.Name, vm.life.Status().State)
		}
	}
	boot := slices.IndexFunc(rec.Steps, func(s StepRecord) bool { return s.Name == "boot" })
	if boot < 0 || !slices.ContainsFunc(rec.Steps[boot].Warnings, func(s string) bool { return strings.Contains(s, "compared with the container") }) {
		t.Errorf("nobody was told: %+v", rec.Steps)
	}
	for _, p := range w.left() {
		if strings.Contains(p, "protect") {
			t.Errorf("left behind: %s", p)
		}
	}
	check(t, r.Rollback(t.Context()))
	if r.Record().Watch != Unwatched {
		t.Errorf("after the rollback it is %q", r.Record().Watch)
	}
}
