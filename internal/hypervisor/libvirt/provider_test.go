package libvirt_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// The environment of a copy of the test program that is the parent of an orphan.
const (
	orphanRole = "HOLDFAST_LIBVIRT_TEST_ORPHAN"
	socketVar  = "HOLDFAST_LIBVIRT_TEST_SOCKET"
)

func openProvider(t *testing.T, site *libvirttest.Site) *libvirt.Provider {
	t.Helper()
	p, err := libvirt.NewProvider(t.Context(), libvirt.ProviderOptions{Socket: site.Socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// names tells VMs apart: a daemon takes each name once.
var names atomic.Int64

func spec(t *testing.T, code, bus string) hypervisor.Spec {
	s := hypervisortest.Spec(t, code, bus)
	s.Config.Name = fmt.Sprintf("%s %d", s.Config.Name, names.Add(1))
	return s
}

func image(s hypervisor.Spec) string { return s.Sources[s.Config.Disks[0].ID].Path }

func TestProvider(t *testing.T) {
	site := libvirttest.Start(t)
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Rig {
		return hypervisortest.Rig{
			Provider: openProvider(t, site),
			Obeying:  func(t *testing.T) hypervisor.Spec { return spec(t, hypervisortest.Polite, "virtio") },
			Deaf:     func(t *testing.T) hypervisor.Spec { return spec(t, hypervisortest.Deaf, "ide") },
			Failing: func(t *testing.T) hypervisor.Spec {
				s := spec(t, hypervisortest.Polite, "virtio")
				s.Config.Machine = "pc-q35-0.1"
				return s
			},
			Repair: func(t *testing.T, s *hypervisor.Spec) { s.Config.Machine = "pc" },
			Crash: func(t *testing.T, vm hypervisor.VM) {
				if err := syscall.Kill(site.PID(vm.Name()), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			Working: func(t *testing.T) (hypervisor.Spec, string) {
				s := spec(t, hypervisortest.Worker, "virtio")
				return s, image(s)
			},
			Serve: func(t *testing.T, image string) hypervisortest.Export { return serve(t, site.Dir, image) },
			Orphan: func(t *testing.T, s hypervisor.Spec) {
				hypervisortest.Orphan(t, orphanRole, s, socketVar+"="+site.Socket)
			},
			Again: func(t *testing.T) hypervisor.Provider { return openProvider(t, site) },
		}
	})
}

// started starts a VM whose serial port is heard from the first instruction on.
func started(t *testing.T, p *libvirt.Provider, s hypervisor.Spec) (hypervisor.VM, net.Conn) {
	t.Helper()
	s.Serial, s.Paused = true, true
	vm, err := p.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", vm.Serial())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if err := vm.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, conn, hypervisortest.Banner)
	return vm, conn
}

// hears reads up to and including words.
func hears(t *testing.T, r io.Reader, words string) {
	t.Helper()
	var got strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(got.String(), words); got.Write(one) {
		if _, err := io.ReadFull(r, one); err != nil {
			t.Fatalf("waiting for %q: %v after %q", words, err, got.String())
		}
	}
}

// works has a Worker write a byte to its disk and read it again.
func works(t *testing.T, conn net.Conn, image string, mark byte) {
	t.Helper()
	if _, err := conn.Write([]byte{mark}); err != nil {
		t.Fatal(err)
	}
	hears(t, conn, string(mark))
	b, err := os.ReadFile(image)
	if err != nil || b[hypervisortest.WorkerByte] != mark {
		t.Fatalf("the image holds %q, %v; the guest wrote %q", b[hypervisortest.WorkerByte], err, mark)
	}
}

// TestBuses boots from every kind of disk libvirt has on both machines, with a
// card on a network of libvirt's that leads nowhere, and leaves nothing.
func TestBuses(t *testing.T) {
	site := libvirttest.Start(t)
	bubble := filepath.Join(site.Dir, "bubble.xml")
	if err := os.WriteFile(bubble, []byte("<network><name>bubble</name></network>"), 0o600); err != nil {
		t.Fatal(err)
	}
	site.Virsh("net-create", bubble)
	p := openProvider(t, site)
	for _, machine := range []string{"pc", "q35"} {
		for _, bus := range []string{"virtio", "scsi", "ide"} {
			t.Run(machine+"/"+bus, func(t *testing.T) {
				s := spec(t, hypervisortest.Worker, bus)
				s.Config.Machine, s.WorkDir = machine, t.TempDir()
				s.Networks["production"] = hypervisor.Network{Kind: hypervisor.Named, Name: "bubble"}
				vm, conn := started(t, p, s)
				works(t, conn, image(s), 'x')
				if list := site.Virsh("domiflist", s.Config.Name); !strings.Contains(list, "bubble") {
					t.Errorf("the card is on %s", list)
				}
				if err := vm.Stop(t.Context(), hypervisor.StopOptions{Limit: patience}); err != nil {
					t.Fatal(err)
				}
				left, err := os.ReadDir(s.WorkDir)
				if all := strings.TrimSpace(site.Virsh("list", "--all", "--name")); err != nil || len(left) != 0 || all != "" {
					t.Errorf("the run left %v, %v, and the VMs %q", left, err, all)
				}
			})
		}
	}
}

// TestNameIsTaken: a VM of somebody else's with the same name is left alone.
func TestNameIsTaken(t *testing.T) {
	site := libvirttest.Start(t)
	p := openProvider(t, site)
	s := spec(t, hypervisortest.Polite, "virtio")
	s.Config.Name = "taken"
	site.Define(libvirttest.Guest{Name: "taken", MiB: 16})
	s.WorkDir = t.TempDir()
	if _, err := p.Start(t.Context(), s); !errs.Is(err, errs.Exists) || errs.RemedyOf(err) == "" {
		t.Errorf("Start under a name that is taken: %v, want kind exists and a remedy", err)
	}
	if left, err := os.ReadDir(s.WorkDir); err != nil || len(left) != 0 {
		t.Errorf("a failed start left %v, %v", left, err)
	}
	if all := site.Virsh("list", "--all", "--name"); strings.TrimSpace(all) != "taken" {
		t.Errorf("the daemon has %q", all)
	}
}

// TestDaemonRestartOfProvider: VMs outlive their daemon, and what happens meanwhile is
// learned afterwards.
func TestDaemonRestartOfProvider(t *testing.T) {
	site := libvirttest.Start(t)
	p := openProvider(t, site)
	stays, conn := started(t, p, spec(t, hypervisortest.Worker, "virtio"))
	goes, _ := started(t, p, spec(t, hypervisortest.Worker, "virtio"))
	pid := site.PID(goes.Name())
	site.StopDaemon()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	site.StartDaemon()
	if s, err := goes.Wait(t.Context()); err != nil || s.State != hypervisor.Crashed {
		t.Fatalf("a VM that ended without its daemon: %+v, %v", s, err)
	}
	if err := stays.Pause(t.Context()); err != nil || stays.Status().State != hypervisor.Paused {
		t.Fatalf("Pause after the daemon came back: %v, %+v", err, stays.Status())
	}
	if err := stays.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("z")); err != nil {
		t.Fatal(err)
	}
	hears(t, conn, "z")
	if err := stays.Stop(t.Context(), hypervisor.StopOptions{Limit: patience}); err != nil {
		t.Fatal(err)
	}
}

// TestRecoveredVMIsProtected: live protection keeps its hands off a disk that is
// being recovered, and takes it afterwards.
func TestRecoveredVMIsProtected(t *testing.T) {
	site := libvirttest.Start(t)
	p := openProvider(t, site)
	s := spec(t, hypervisortest.Worker, "virtio")
	e := serve(t, site.Dir, image(s))
	id := s.Config.Disks[0].ID
	s.Sources[id] = hypervisor.Source{Path: image(s), Socket: e.Socket, Export: e.Export}
	vm, conn := started(t, p, s)
	live, err := libvirt.Connect(t.Context(), libvirt.Options{Socket: site.Socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { live.Close() })
	seen, err := live.VM(t.Context(), s.Config.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	filter := serve(t, site.Dir, image(s))
	if info, err := seen.Info(t.Context()); err != nil || info.Disks[0].Problem == "" || info.Disks[0].Path != image(s) {
		t.Errorf("a disk that is being recovered: %+v, %v", info.Disks, err)
	}
	if _, err := seen.Attach(t.Context(), "vda", filter.Attachment); !errs.Is(err, errs.Conflict) {
		t.Errorf("Attach to a disk that is being recovered: %v, want kind conflict", err)
	}
	for _, out := range []func() (hypervisor.Switch, error){
		func() (hypervisor.Switch, error) { return seen.Detach(t.Context(), "vda") },
		func() (hypervisor.Switch, error) { return seen.FailOpen(t.Context(), "vda") },
	} {
		if sw, err := out(); err != nil || sw.Pause != 0 {
			t.Errorf("taking out what is not in: %+v, %v", sw, err)
		}
	}
	works(t, conn, image(s), 'a')
	if _, err := vm.SwitchDisk(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	e.Kill()
	if info, err := seen.Info(t.Context()); err != nil || info.Disks[0].Problem != "" {
		t.Errorf("a disk that was recovered: %+v, %v", info.Disks, err)
	}
	if _, err := seen.Attach(t.Context(), "vda", filter.Attachment); err != nil {
		t.Fatal(err)
	}
	works(t, conn, image(s), 'b')
	if _, err := seen.Detach(t.Context(), "vda"); err != nil {
		t.Fatal(err)
	}
	filter.Kill()
	works(t, conn, image(s), 'c')
}
