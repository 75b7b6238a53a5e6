package libvirt_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/internal/hypervisor/hypervisortest/writerguest"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// guestDir is where `make guest` leaves the writer.
const guestDir = "../../../build/guest"

// rounds is how often a test of many switch-overs does its work.
func rounds(t *testing.T, normal int) int {
	words := os.Getenv("HOLDFAST_ATTACH_N")
	if words == "" {
		return normal
	}
	n, err := strconv.Atoi(words)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// figures logs the spread of some times.
func figures(t *testing.T, what string, all []time.Duration) {
	t.Helper()
	slices.Sort(all)
	if n := len(all); n > 0 {
		t.Logf("%s: n=%d min %v median %v p99 %v max %v", what, n, all[0], all[n/2], all[(n*99+99)/100-1], all[n-1])
	}
}

// TestAttachAndDetachUnderLoad switches over and over while the guest commits:
// HOLDFAST_ATTACH_N=100 for the long run. No commit may be lost.
func TestAttachAndDetachUnderLoad(t *testing.T) {
	for name, opt := range map[string]libvirt.Options{
		"blockcopy": {Route: libvirt.RouteCopy}, "monitor": {Route: libvirt.RouteMonitor},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, opt, libvirttest.Disk{})
			r.boot()
			r.load()
			var in, out []time.Duration
			for range rounds(t, 2) {
				e := serve(t, r.site.Dir, r.image)
				sw, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
				r.must(err)
				in = append(in, sw.Pause)
				r.goesOn()
				sw, err = r.vm().Detach(r.ctx, "vda")
				r.must(err)
				out = append(out, sw.Pause)
				e.Kill()
				r.goesOn()
			}
			figures(t, "attach", in)
			figures(t, "detach", out)
			t.Logf("slowest commit: %v", r.worstCommit())
			r.quiet()
			acked := r.console.Acked()
			r.site.Virsh("suspend", r.guest.Name)
			r.check(acked)
			t.Logf("%d commits, none lost", acked)
		})
	}
}

// TestResizeCutShort kills the driver, as far as libvirt can tell, while it holds
// the VM; the next one has the VM go on.
func TestResizeCutShort(t *testing.T) {
	opt := libvirt.Options{Route: libvirt.RouteMonitor}
	r := newRig(t, opt, libvirttest.Disk{})
	r.boot()
	r.load()
	vm := r.vm()
	e := serve(t, r.site.Dir, r.image)
	_, err := vm.Attach(r.ctx, "vda", e.Attachment)
	r.must(err)
	info, err := vm.Info(r.ctx)
	r.must(err)
	opt.Socket = r.site.Socket
	var next *libvirt.Platform
	_, err = vm.Resize(r.ctx, "vda", info.Disks[0].Size+1<<20, e.Attachment, func(context.Context) error {
		r.p.Close()
		next = r.connect(opt)
		r.goesOn()
		return nil
	})
	if err == nil {
		t.Fatal("Resize by a driver that was closed succeeded")
	}
	r.p = next
	_, err = r.vm().Detach(r.ctx, "vda")
	r.must(err)
	r.goesOn()
	r.quiet()
	acked := r.console.Acked()
	r.site.Virsh("suspend", r.guest.Name)
	r.check(acked)
}

// TestFreeze runs the suite against a real agent in the guest, which has a file
// system to freeze on its second disk.
func TestFreeze(t *testing.T) {
	site := libvirttest.Start(t)
	disk, fs := filepath.Join(site.Dir, "disk"), filepath.Join(site.Dir, "fs")
	for path, size := range map[string]int64{disk: pattern.DiskBytes, fs: 16 << 20} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-t", "ext4", fs).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	kernel, initrd := writerguest.Files(absolute(t, guestDir))
	guest := libvirttest.Guest{
		Name: "writer", MiB: 192, Kernel: kernel, Initrd: initrd, Append: writerguest.Append(1), Agent: true,
		Disks: []libvirttest.Disk{{Path: disk}, {Path: fs}}, Serial: filepath.Join(site.Dir, "serial"),
	}
	site.Define(guest)
	site.Virsh("start", guest.Name, "--paused")
	port, err := net.Dial("unix", guest.Serial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close() })
	g := writerguest.Follow(port)
	site.Virsh("resume", guest.Name)
	for what, is := range map[string]<-chan struct{}{"READY": g.Ready(), "MOUNTED": g.Mounted()} {
		select {
		case <-is:
		case <-g.Over():
			t.Fatalf("waiting for %s: %s", what, g.Fatal())
		case <-time.After(patience):
			t.Fatalf("the guest does not say %s", what)
		}
	}
	connect := func(t *testing.T) hypervisor.Platform {
		p, err := libvirt.Connect(t.Context(), libvirt.Options{Socket: site.Socket, Route: libvirt.RouteMonitor})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := connect(t)
	awaitAgent(t, p, guest.Name)
	hypervisortest.RunPlatform(t, hypervisortest.LiveRig{
		Platform: p, Reopen: connect, VM: guest.Name, Disk: "vda", Captures: []hypervisor.Capture{hypervisor.InPath},
		Export: func(t *testing.T, src hypervisor.Source, _ hypervisor.Capture) hypervisortest.Export {
			return serve(t, site.Dir, src.Path)
		},
		Load: &hypervisortest.Load{
			Written: g.Written,
			Verify: func(t *testing.T) {
				if err := g.Stop(); err != nil {
					t.Fatal(err)
				}
				<-g.Over()
				problems, err := writerguest.CheckImage(disk, "raw", t.TempDir(), g.Last())
				if err != nil || g.Fatal() != "" || len(problems) > 0 {
					t.Errorf("%v, %s, %q", err, g.Fatal(), problems)
				}
			},
		},
		Agent: &hypervisortest.Agent{Filesystems: 1, Frozen: func(t *testing.T) bool {
			return strings.Contains(site.Virsh("qemu-agent-command", guest.Name, `{"execute":"guest-fsfreeze-status"}`), "frozen")
		}},
		PowerOff: func(*testing.T) {}, // it has done so
	})
}

// awaitAgent waits until libvirt says that the agent is there.
func awaitAgent(t *testing.T, p hypervisor.Platform, name string) {
	t.Helper()
	vm, err := p.VM(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if info, err := vm.Info(t.Context()); err == nil && info.Agent {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not come up")
		}
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
