package qemu_test

import (
	"os"
	"syscall"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/qemu"
)

// open returns a provider, or ends the test saying what is missing.
func open(t *testing.T) *qemu.Provider {
	t.Helper()
	p, err := qemu.New(qemu.Options{CacheDir: t.TempDir(), DieWithParent: true})
	if err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestSuite(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Rig {
		return hypervisortest.Rig{
			Provider: open(t),
			Obeying: func(t *testing.T) hypervisor.Spec {
				return up(t, hypervisortest.Spec(t, hypervisortest.Polite, "virtio"))
			},
			Deaf: func(t *testing.T) hypervisor.Spec { return hypervisortest.Spec(t, hypervisortest.Deaf, "ide") },
			Failing: func(t *testing.T) hypervisor.Spec {
				s := hypervisortest.Spec(t, hypervisortest.Polite, "virtio")
				d := &s.Config.Disks[0]
				s.Sources[d.ID] = hypervisor.Source{Path: s.Sources[d.ID].Path + ".missing"}
				return s
			},
			Repair: func(t *testing.T, s *hypervisor.Spec) {
				s.Sources = map[dr.DiskID]hypervisor.Source{
					s.Config.Disks[0].ID: {Path: hypervisortest.Disk(t, hypervisortest.Polite)},
				}
			},
			Crash: func(t *testing.T, vm hypervisor.VM) {
				if err := syscall.Kill(vm.(*qemu.VM).PID(), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func up(t *testing.T, s hypervisor.Spec) hypervisor.Spec { s.Serial = true; return s }

var _ = os.Getpid
