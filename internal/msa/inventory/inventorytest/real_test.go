package inventorytest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/inventorytest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	libvirttest.Clean()
	os.Exit(code)
}

// size is that of the guests' disks: there is nothing on them, and they run.
const size = 16 << 20

func image(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name+".img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLibvirt: a libvirt daemon is a provider.
func TestLibvirt(t *testing.T) {
	s := libvirttest.Start(t)
	images := filepath.Join(s.Dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Virsh("pool-create-as", "images", "dir", "--target", images)
	s.Define(libvirttest.Guest{Name: "first", Disks: []libvirttest.Disk{{Path: image(t, images, "first")}}, MiB: 32})
	s.Virsh("start", "first")
	endpoint := inventory.Endpoint{Name: s.Socket, Open: func(ctx context.Context) (hypervisor.Platform, error) {
		return libvirt.Connect(ctx, libvirt.Options{Socket: s.Socket})
	}}
	inventorytest.Run(t, inventorytest.Rig{
		Provider: inventory.NewPlatform("libvirt", "a", []inventory.Endpoint{endpoint}, nil), First: "first", Size: size,
		Add: func(t *testing.T, name string) {
			s.Define(libvirttest.Guest{Name: name, Disks: []libvirttest.Disk{{Path: image(t, images, name)}}})
		},
		Drop: func(_ *testing.T, name string) { s.Virsh("undefine", name) },
		Stop: func(_ *testing.T, name string) { s.Virsh("destroy", name) },
		File: func(_ *testing.T, name, folder string, tags []string) {
			text := "<place folder='" + folder + "'><tag>" + strings.Join(tags, "</tag><tag>") + "</tag></place>"
			s.Virsh("metadata", name, libvirt.PlaceURI, "--key", "holdfast", "--set", text, "--config")
		},
		Net: func(t *testing.T, name string, isolated bool) {
			forward := "<forward mode='nat'/>"
			if isolated {
				forward = ""
			}
			path := filepath.Join(s.Dir, name+".net")
			text := fmt.Sprintf("<network><name>%s</name>%s<ip address='10.9.8.1' netmask='255.255.255.0'/></network>", name, forward)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Virsh("net-define", path)
		},
		Cut: func(*testing.T) func(*testing.T) {
			s.StopDaemon()
			return func(*testing.T) { s.StartDaemon() }
		},
		Boot: func(_ *testing.T, name string) error {
			out := s.Run("sh", "-c", "virsh -q -c 'qemu:///system?socket="+s.Socket+"' start "+name+" 2>&1 || true")
			if !strings.Contains(out, "placeholder-of-holdfast") {
				t.Errorf("why it cannot be started is not said: %s", out)
			}
			if strings.Contains(s.Virsh("domstate", name), "running") {
				return nil
			}
			return fmt.Errorf("%s", out)
		},
	})
}

// TestQEMU: QEMU processes by themselves are a provider, without books.
func TestQEMU(t *testing.T) {
	dir, err := os.MkdirTemp("", "hfinv-") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	running := map[string]*exec.Cmd{}
	start := func(t *testing.T, name string) {
		cmd := exec.Command("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-name", name,
			"-uuid", dr.NewUUID().String(), "-drive", "if=none,id=d0,format=raw,file="+image(t, dir, name), "-device", "virtio-blk-pci,drive=d0,id=vda",
			"-qmp", "unix:"+filepath.Join(dir, name)+",server=on,wait=off")
		if err := cmd.Start(); err != nil {
			t.Fatalf("%v (run 'make deps')", err)
		}
		running[name] = cmd
	}
	stop := func(name string) {
		if cmd := running[name]; cmd != nil {
			cmd.Process.Kill()
			cmd.Wait()
			delete(running, name)
		}
	}
	t.Cleanup(func() { stop("first"); stop("suite-added") })
	start(t, "first")
	endpoint := inventory.Endpoint{Name: "here", Open: func(ctx context.Context) (hypervisor.Platform, error) {
		return qemu.NewPlatform(ctx, qemu.LiveOptions{Dir: dir, VMs: []qemu.Monitor{{QMP: filepath.Join(dir, "first")}, {QMP: filepath.Join(dir, "suite-added")}}})
	}}
	p := inventory.NewPlatform("qemu", "a", []inventory.Endpoint{endpoint}, nil)
	if p.Places() != nil {
		t.Error("QEMU by itself keeps placeholders")
	}
	inventorytest.Run(t, inventorytest.Rig{
		Provider: p, First: "first", Size: size,
		Add:  start,
		Stop: func(_ *testing.T, name string) { stop(name) },
	})
}
