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
func onLibvirt(t *testing.T) started {
	there := libvirttest.Start(t)
	t.Cleanup(libvirttest.Clean)
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

// TestRealGuest does in a real guest what plans do: asks its agent, runs scripts, changes
// addresses, asks what listens, halts it and lets it go on.
func TestRealGuest(t *testing.T) {
	for name, start := range map[string]func(*testing.T) started{"qemu": onQEMU, "libvirt": onLibvirt} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
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
		})
	}
}

func awaitAgent(t *testing.T, g hypervisor.Guest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
