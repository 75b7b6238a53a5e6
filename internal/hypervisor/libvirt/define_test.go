package libvirt_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// kept is a VM's spec under a work directory, with a card.
func kept(t *testing.T, workDir, mac string) hypervisor.Spec {
	s := spec(t, hypervisortest.Worker, "virtio")
	s.WorkDir, s.Keep = workDir, true
	s.Config.NICs = []dr.NIC{{MAC: mac, Model: "virtio-net-pci", Network: "production"}}
	s.Networks = map[string]hypervisor.Network{"production": {Kind: hypervisor.Isolated}}
	return s
}

// bridge is the bridge and the network a VM's card is on.
func bridge(site *libvirttest.Site, vm string) (network, bridge string) {
	f := strings.Fields(site.Virsh("domiflist", vm)) // vnetN network NAME model mac
	for _, line := range strings.Split(site.Virsh("net-info", f[2]), "\n") {
		if name, ok := strings.CutPrefix(line, "Bridge:"); ok {
			bridge = strings.TrimSpace(name)
		}
	}
	return f[2], bridge
}

// TestIsolatedNetwork: the VMs of one test are on one network, another test's are
// not, the host is on none of them, and with the last VM nothing is left.
func TestIsolatedNetwork(t *testing.T) {
	site := libvirttest.Start(t)
	p := openProvider(t, site)
	one, other := t.TempDir(), t.TempDir()
	var vms []hypervisor.VM
	var on []string
	for i, dir := range []string{one, one, other} {
		vm, _ := started(t, p, kept(t, dir, "52:54:00:00:00:0"+string(rune('1'+i))))
		vms = append(vms, vm)
		n, b := bridge(site, vm.Name())
		on = append(on, n)
		if a := site.Run("ip", "-o", "address", "show", "dev", b); strings.TrimSpace(a) != "" {
			t.Errorf("the host is on %s: %s", n, a)
		}
		if x := site.Virsh("net-dumpxml", n); strings.Contains(x, "<forward") || strings.Contains(x, "<ip") {
			t.Errorf("the network leads somewhere: %s", x)
		}
	}
	if on[0] != on[1] || on[0] == on[2] {
		t.Errorf("the VMs are on %q", on)
	}
	if _, b := bridge(site, vms[0].Name()); strings.Count(site.Run("ip", "-o", "link", "show", "master", b), "\n") < 2 {
		t.Error("the cards of a test's VMs are not on one bridge")
	}
	for i, left := range []int{2, 1, 0} {
		if err := vms[i].Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(site.Virsh("net-list", "--all", "--name"), "holdfast-"); n != left {
			t.Errorf("%d networks are there after VM %d ended, want %d", n, i, left)
		}
	}
	if links := site.Run("ip", "-o", "link"); strings.Contains(links, "virbr") {
		t.Errorf("left on the host: %s", links)
	}
}

// TestDefine: a VM that was defined outlives its end and its daemon, is started
// by libvirt's own tools, and goes when it is taken back; until then none of what
// it needs is removed.
func TestDefine(t *testing.T) {
	site := libvirttest.Start(t)
	p := openProvider(t, site)
	dir := t.TempDir()
	s := kept(t, dir, "52:54:00:00:00:09")
	vm, conn := started(t, p, s)
	if err := p.Define(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	if err := p.Define(t.Context(), vm); err != nil {
		t.Fatalf("again: %v", err)
	}
	works(t, conn, image(s), 'a')
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	site.StopDaemon()
	site.StartDaemon()
	if vms, err := p.Adopt(t.Context(), dir); err != nil || len(vms) != 0 {
		t.Fatalf("%v, %v: a VM that is off was adopted", vms, err)
	}
	site.Virsh("start", vm.Name(), "--paused")
	vms, err := p.Adopt(t.Context(), dir)
	if err != nil || len(vms) != 1 || vms[0].Serial() == "" {
		t.Fatalf("%v, %v: the VM that libvirt started was not found", vms, err)
	}
	again, err := net.Dial("unix", vms[0].Serial())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.SetDeadline(time.Now().Add(patience))
	if err := vms[0].Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, again, hypervisortest.Banner)
	works(t, again, image(s), 'b')
	if err := p.Undefine(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if all := site.Virsh("list", "--all", "--name"); !strings.Contains(all, vm.Name()) {
		t.Error("a VM that runs was forgotten")
	}
	if err := vms[0].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Undefine(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "holdfast-lv-") {
			t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
		}
	}
	if all := site.Virsh("list", "--all", "--name") + site.Virsh("net-list", "--all", "--name"); strings.TrimSpace(all) != "" {
		t.Errorf("libvirt still knows %q", all)
	}
}

// TestDefineRefuses a disk whose export goes away with the recovery.
func TestDefineRefuses(t *testing.T) {
	site := libvirttest.Start(t)
	p := openProvider(t, site)
	s := kept(t, t.TempDir(), "52:54:00:00:00:0a")
	id := s.Config.Disks[0].ID
	e := serve(t, site.Dir, image(s))
	s.Sources[id] = hypervisor.Source{Path: image(s), Socket: e.Socket, Export: e.Export}
	vm, _ := started(t, p, s)
	defer vm.Kill(t.Context())
	if err := p.Define(t.Context(), vm); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Errorf("Define of a VM on an export: %v", err)
	}
	if _, err := vm.SwitchDisk(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := p.Define(t.Context(), vm); err != nil {
		t.Error(err)
	}
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Undefine(t.Context(), s.WorkDir); err != nil {
		t.Error(err)
	}
}

var _ hypervisor.Definer = (*libvirt.Provider)(nil)
