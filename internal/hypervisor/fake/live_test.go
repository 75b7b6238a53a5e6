package fake_test

import (
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/hypervisor/hypervisortest"
)

// liveHost returns a host with one running VM of one disk.
func liveHost(agent int) (*fake.Host, *fake.LiveVM) {
	host := new(fake.Host)
	vm := host.Add(hypervisor.VMInfo{
		Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "web", CPUs: 1, MemoryMiB: 64, Machine: "pc",
			Firmware: "bios", Disks: []dr.VMDisk{{Name: "disk0", Size: 1 << 20, Bus: "virtio"}}},
		Running: true,
		Disks:   []hypervisor.LiveDisk{{Name: "disk0", Path: "/vm/web.raw", Format: "raw", Size: 1 << 20}},
	}, agent)
	return host, vm
}

func TestPlatform(t *testing.T) {
	for name, agent := range map[string]int{"agent": 2, "no agent": -1} {
		t.Run(name, func(t *testing.T) {
			host, vm := liveHost(agent)
			rig := hypervisortest.LiveRig{
				Platform: fake.NewPlatform(host),
				Reopen:   func(*testing.T) hypervisor.Platform { return fake.NewPlatform(host) },
				VM:       "web", Disk: "disk0",
				Captures: []hypervisor.Capture{hypervisor.InPath, hypervisor.Mirror},
				Export: func(t *testing.T, _ hypervisor.Source, _ hypervisor.Capture) hypervisortest.Export {
					socket := filepath.Join(t.TempDir(), "nbd")
					host.Listen(socket, true)
					return hypervisortest.Export{Attachment: hypervisor.Attachment{Socket: socket},
						Kill: func() { host.Listen(socket, false) }}
				},
				Provoke: map[hypervisor.ChangeKind]func(*testing.T){},
				PowerOff: func(*testing.T) {
					vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = false })
				},
			}
			for _, k := range []hypervisor.ChangeKind{hypervisor.ChangedConfig, hypervisor.ChangedDisks, hypervisor.DiskStalled} {
				rig.Provoke[k] = func(*testing.T) { vm.Change(k, "disk0", nil) }
			}
			if agent >= 0 {
				rig.Agent = &hypervisortest.Agent{Filesystems: agent, Frozen: func(*testing.T) bool { return vm.Frozen() }}
			}
			hypervisortest.RunPlatform(t, rig)
		})
	}
}
