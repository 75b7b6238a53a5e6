package fake_test

import (
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
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

// TestPower: the scripted platform switches VMs as real ones do.
func TestPower(t *testing.T) {
	host, vm := liveHost(-1)
	vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = false })
	p := fake.NewPlatform(host)
	defer p.Close()
	hypervisortest.RunPower(t, p, "web")
	// What is broken says so, and is not taken for done.
	vm.Fail(errs.New("fake", errs.Unavailable, "web", "no power"))
	v, err := p.VM(t.Context(), hypervisor.RetiredName("web", vmID(t, host)))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.(hypervisor.Powered).PowerOn(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a VM that cannot be started: %v", err)
	}
}

// vmID is the id of the host's only VM.
func vmID(t *testing.T, host *fake.Host) dr.VMID {
	p := fake.NewPlatform(host)
	defer p.Close()
	all, err := p.VMs(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	info, err := all[0].Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Config.ID
}
