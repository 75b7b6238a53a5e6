package rocva

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/guest"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// guestImage is what `make guest` leaves: a Linux with QEMU's agent, a shell and iproute2.
const guestImage = "../../../build/guest/ledger.raw"

const guestMAC = "52:54:00:0a:0b:0c"

// started is a running guest, and the host's view of it.
type started struct {
	vm   hypervisor.VM
	host hypervisor.LiveVM
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// guestSpec is the test guest with a card that leads nowhere.
func guestSpec(t *testing.T, dir string) hypervisor.Spec {
	t.Helper()
	src, err := os.Open(guestImage)
	if err != nil {
		t.Fatalf("%v (run 'make guest')", err)
	}
	defer src.Close()
	path := filepath.Join(dir, "guest.raw")
	dst, err := os.Create(path)
	must(t, err)
	size, err := io.Copy(dst, src)
	must(t, errors.Join(err, dst.Close()))
	disk := dr.DiskID{UUID: dr.NewUUID()}
	s := hypervisor.Spec{
		Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "guest", CPUs: 1, MemoryMiB: 192, Machine: "pc", Firmware: "bios",
			Disks: []dr.VMDisk{{ID: disk, Name: "system", Size: size, Bus: "virtio"}},
			NICs:  []dr.NIC{{MAC: guestMAC, Model: "virtio-net-pci", Network: "lan"}}},
		Sources: map[dr.DiskID]hypervisor.Source{disk: {Path: path}},
	}
	s.WorkDir, s.Keep, s.Serial, s.Agent, s.Accelerator, s.Networks = dir, true, true, true, hypervisor.TCG, map[string]hypervisor.Network{"lan": {}}
	return s
}

// onQEMU starts the guest under the embedded QEMU.
func onQEMU(t *testing.T) started {
	dir, err := os.MkdirTemp("", "hfga")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := qemu.New(qemu.Options{DieWithParent: true})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	vm, err := p.Start(t.Context(), guestSpec(t, dir))
	must(t, err)
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	live, err := qemu.NewPlatform(t.Context(), qemu.LiveOptions{VMs: []qemu.Monitor{{QMP: vm.Monitor()}}, Dir: dir})
	must(t, err)
	t.Cleanup(func() { live.Close() })
	host, err := live.VM(t.Context(), vm.ID().String())
	must(t, err)
	return started{vm, host}
}

// onLibvirt starts it by a libvirt daemon.
func onLibvirt(t *testing.T, there *libvirttest.Site) started {
	p, err := libvirt.NewProvider(t.Context(), libvirt.ProviderOptions{Socket: there.Socket})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	vm, err := p.Start(t.Context(), guestSpec(t, there.Dir))
	must(t, err)
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	live, err := libvirt.Connect(t.Context(), libvirt.Options{Socket: there.Socket})
	must(t, err)
	t.Cleanup(func() { live.Close() })
	host, err := live.VM(t.Context(), vm.ID().String())
	must(t, err)
	return started{vm, host}
}

// TestQEMU does in a real guest under the embedded QEMU what plans do in guests.
func TestQEMU(t *testing.T) {
	t.Parallel()
	s := onQEMU(t)
	realGuest(t, s)
	bootsAgain(t, s.vm)
}

// bootsAgain resets a guest that was told addresses: its agent tells that it is another
// boot, in which it does not have them.
func bootsAgain(t *testing.T, vm hypervisor.VM) {
	t.Helper()
	g := vm.(hypervisor.Guest)
	before, err := guest.Boot(t.Context(), g)
	if err != nil || len(before) != 36 {
		t.Fatalf("the guest's boot is %q, %v", before, err)
	}
	if again, err := guest.Boot(t.Context(), g); err != nil || again != before {
		t.Fatalf("the guest's boot is %q, and then %q, %v", before, again, err)
	}
	must(t, vm.(*qemu.VM).Execute(t.Context(), "system_reset", nil, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for {
		now, err := guest.Boot(ctx, g)
		if err == nil && now != before {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the guest does not tell that it booted again: %q, %v", now, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	has, err := guest.Interfaces(t.Context(), g)
	must(t, err)
	for _, i := range has {
		for _, p := range i.Addresses {
			if !p.Addr().IsLinkLocalUnicast() {
				t.Errorf("the guest has %v still", p)
			}
		}
	}
}

// TestLibvirt does it under a libvirt daemon, and has a recovered VM take its place there.
func TestLibvirt(t *testing.T) {
	t.Parallel()
	there := libvirttest.Start(t)
	t.Cleanup(libvirttest.Clean)
	t.Run("guest", func(t *testing.T) { realGuest(t, onLibvirt(t, there)) })
	t.Run("place", func(t *testing.T) { takesItsPlace(t, there) })
}

// realGuest asks the guest's agent, runs scripts, changes addresses, asks what listens,
// halts it and lets it go on.
func realGuest(t *testing.T, s started) {
	t.Helper()
	g, ok := s.vm.(hypervisor.Guest)
	if !ok {
		t.Fatal("its agent cannot be asked")
	}
	awaitAgent(t, g)
	scripts(t, g)
	addresses(t, g)
	if up, err := guest.Listens(t.Context(), g, 22); err != nil || up {
		t.Errorf("nothing listens in the guest: %v, %v", up, err)
	}
	suspends(t, s, g)
}

func awaitAgent(t *testing.T, g hypervisor.Guest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for {
		err := guest.Ping(ctx, g)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the guest's agent does not answer: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func scripts(t *testing.T, g hypervisor.Guest) {
	t.Helper()
	var out bytes.Buffer
	status, err := guest.Run(t.Context(), g, guest.Command{
		Args: []string{"/bin/sh", "-c", `echo "key $HOLDFAST_KEY, $1"; echo bad >&2; exit 3`, "x", "a b;c"}, Env: []string{"HOLDFAST_KEY=k 1"}}, &out)
	if err != nil || status != 3 || out.String() != "key k 1, a b;c\nbad\n" {
		t.Errorf("a script ended with %d, %v and said %q", status, err, out.String())
	}
	if _, err := guest.Run(t.Context(), g, guest.Command{Args: []string{"/no/such/program"}}, &out); !errs.Is(err, errs.Invalid) {
		t.Errorf("a program that is not there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := guest.Run(ctx, g, guest.Command{Args: []string{"/bin/sh", "-c", "while :; do :; done"}}, &out); !errs.Is(err, errs.Canceled) {
		t.Errorf("a script that does not end: %v", err)
	}
}

func addresses(t *testing.T, g hypervisor.Guest) {
	t.Helper()
	want := &site.NICConfig{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.12/24"), netip.MustParsePrefix("2001:db8::12/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("2001:db8::1")},
		DNS:       []netip.Addr{netip.MustParseAddr("10.2.0.53")}, Suffixes: []string{"dr.example.com"},
	}
	for range 2 { // another address replaces the one before
		has, err := guest.Interfaces(t.Context(), g)
		must(t, err)
		must(t, address(t.Context(), g, guestMAC, want, has))
		has, err = guest.Interfaces(t.Context(), g)
		must(t, err)
		i := slices.IndexFunc(has, func(i guest.Interface) bool { return i.MAC == guestMAC })
		if i < 0 || changes(want, has[i].Addresses) {
			t.Fatalf("the guest has %v, it was told %v", has, want.Addresses)
		}
		want.Addresses = []netip.Prefix{netip.MustParsePrefix("10.2.0.13/24"), netip.MustParsePrefix("2001:db8::13/64")}
	}
	var out strings.Builder
	_, err := guest.Run(t.Context(), g, guest.Command{Args: []string{"/bin/sh", "-c",
		"while read -r l; do echo \"$l\"; done </etc/resolv.conf; /sbin/ip route show default; /sbin/ip -6 route show default"}}, &out)
	must(t, err)
	for _, words := range []string{"nameserver 10.2.0.53", "search dr.example.com", "default via 10.2.0.1 ", "default via 2001:db8::1 "} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("the guest lacks %q:\n%s", words, out.String())
		}
	}
	if err := address(t.Context(), g, "52:54:00:ff:ff:ff", want, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("a card that is not there: %v", err)
	}
	if err := address(t.Context(), g, guestMAC, &site.NICConfig{DHCP: true}, []guest.Interface{{MAC: guestMAC}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("DHCP: %v", err)
	}
}

func suspends(t *testing.T, s started, g hypervisor.Guest) {
	t.Helper()
	ctx := t.Context()
	must(t, s.host.(hypervisor.Suspender).Suspend(ctx))
	info, err := s.host.Info(ctx)
	if err != nil || !info.Paused {
		t.Fatalf("it is not halted: %+v, %v", info, err)
	}
	must(t, s.host.(hypervisor.Suspender).Suspend(ctx)) // again: no effect
	must(t, s.host.(hypervisor.Powered).PowerOn(ctx))
	info, err = s.host.Info(ctx)
	if err != nil || info.Paused || !info.Running {
		t.Fatalf("it does not go on: %+v, %v", info, err)
	}
	awaitAgent(t, g)
}

// takesItsPlace has a recovered VM take the place of a retired one and of its
// placeholder on a real libvirt, and finds the retired one's disk as a seed.
func takesItsPlace(t *testing.T, there *libvirttest.Site) {
	t.Helper()
	ctx := t.Context()
	path := filepath.Join(there.Dir, "old.raw")
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	there.Define(libvirttest.Guest{Name: "vm1", Disks: []libvirttest.Disk{{Path: path}}})
	live, err := libvirt.Connect(ctx, libvirt.Options{Socket: there.Socket})
	must(t, err)
	t.Cleanup(func() { live.Close() })
	old, err := live.VM(ctx, "vm1")
	must(t, err)
	info, err := old.Info(ctx)
	must(t, err)
	disk := dr.DiskID{UUID: dr.NewUUID()}
	cfg := info.Config
	cfg.Disks[0].ID, cfg.NICs = disk, nil
	rec := &recovery.Record{Disks: []recovery.DiskRecord{{ID: disk, Source: disk, VM: cfg.ID, Size: 1 << 20}},
		VMs: []recovery.VMRecord{{Source: cfg.ID, Config: cfg, Recorded: &cfg}}}
	s := &Appliance{}
	s.parts.Store(&Parts{Site: live})

	must(t, old.(hypervisor.Retirer).Retire(ctx))
	must(t, live.PutPlaceholder(ctx, hypervisor.Placeholder{ID: dr.VMID{UUID: dr.NewUUID()}, For: cfg.ID, Name: "vm1", CPUs: 1, MemoryMiB: 64}))
	if got, err := s.strangersDisk(ctx, rec, &rec.Disks[0]); err != nil || got != path {
		t.Fatalf("the old disk is at %q, %v", got, err)
	}
	for range 2 { // again: no effect
		must(t, s.makeWay(ctx, &rec.VMs[0]))
	}
	p, err := libvirt.NewProvider(ctx, libvirt.ProviderOptions{Socket: there.Socket})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	spec := hypervisor.Spec{Config: cfg, Sources: map[dr.DiskID]hypervisor.Source{disk: {Path: path}}}
	spec.WorkDir, spec.Keep, spec.Paused, spec.Agent, spec.Accelerator = there.Dir, true, true, true, hypervisor.TCG
	vm, err := p.Start(ctx, spec)
	must(t, err)
	if got, err := s.strangersDisk(ctx, rec, &rec.Disks[0]); err != nil || got != "" {
		t.Errorf("the disk of a VM that runs was taken for a seed: %q, %v", got, err)
	}
	must(t, p.Define(ctx, vm))
	must(t, vm.Kill(ctx))
	all, err := live.VMs(ctx)
	must(t, err)
	for _, v := range all {
		if i, err := v.Info(ctx); err != nil || i.Config.ID != cfg.ID && strings.HasPrefix(i.Config.Name, "vm1") {
			t.Errorf("%s is there besides, %v", i.Config.Name, err)
		}
	}
}
