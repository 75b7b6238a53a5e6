package libvirt_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// attached checks what both XMLs say of an attached disk.
func (r *rig) names(what, socket string, flags ...string) {
	r.Helper()
	x := r.diskXML(flags...)
	if strings.Contains(x, "protocol='nbd'") != (socket != "") || !strings.Contains(x, socket) {
		r.Fatalf("%s is %s, want it to name the export %q", what, x, socket)
	}
	if socket == "" && !strings.Contains(x, "file='"+r.image+"'") {
		r.Fatalf("%s is %s, want it to name %s", what, x, r.image)
	}
}

// TestPowerCycle pulls the plug of a protected VM and starts it again: it must
// boot through the export, not past it, with all it was acknowledged; and the
// definition must be as it was once protection ends, also of a VM that is off.
func TestPowerCycle(t *testing.T) {
	for route, driver := range map[libvirt.Route]string{
		libvirt.RouteCopy: "error_policy='report'", libvirt.RouteMonitor: "error_policy='report' discard='unmap'",
	} {
		t.Run(string(route), func(t *testing.T) {
			r := newRig(t, libvirt.Options{Route: route}, libvirttest.Disk{Driver: driver})
			before := r.diskXML("--inactive")
			r.boot()
			r.load()
			e := serve(t, r.site.Dir, r.image)
			sw, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
			r.must(err)
			t.Logf("%s: pause %v, slowest commit %v", sw.Route, sw.Pause, r.worstCommit())
			r.names("the definition", e.Socket, "--inactive")
			if x := r.diskXML("--inactive"); !strings.Contains(x, "error_policy='stop'") {
				t.Errorf("the next run would hand errors of the export to the guest: %s", x)
			}
			if route == libvirt.RouteCopy {
				r.names("the running VM", e.Socket)
			}
			r.goesOn()
			r.site.Virsh("destroy", r.guest.Name)
			<-r.ended
			acked := r.console.Acked()
			found := r.boot()
			if found.Bad != 0 || found.Max < acked {
				t.Fatalf("after the plug was pulled: %+v, acknowledged %d", found, acked)
			}
			r.names("the running VM", e.Socket)
			r.load()
			r.goesOn()
			sw, err = r.vm().Detach(r.ctx, "vda")
			r.must(err)
			t.Logf("%s: pause %v, slowest commit %v", sw.Route, sw.Pause, r.worstCommit())
			e.Kill()
			r.goesOn()
			r.names("the running VM", "")
			if after := r.diskXML("--inactive"); after != before {
				t.Errorf("the definition was\n%s and is\n%s", before, after)
			}
			r.quiet()
			r.site.Virsh("suspend", r.guest.Name)
			r.check(r.console.Acked())
		})
	}
}

// idle returns a rig whose VM never executes an instruction: for all that
// needs no guest.
func idle(t *testing.T, opt libvirt.Options, disk libvirttest.Disk) *rig {
	t.Helper()
	r := newRig(t, opt, disk)
	r.site.Virsh("start", r.guest.Name, "--paused")
	return r
}

// TestOff takes protection off a VM that is powered off, whose export is gone.
func TestOff(t *testing.T) {
	r := idle(t, libvirt.Options{}, libvirttest.Disk{})
	before := r.diskXML("--inactive")
	for name, off := range map[string]func(hypervisor.LiveVM) (hypervisor.Switch, error){
		"detach":    func(v hypervisor.LiveVM) (hypervisor.Switch, error) { return v.Detach(r.ctx, "vda") },
		"fail open": func(v hypervisor.LiveVM) (hypervisor.Switch, error) { return v.FailOpen(r.ctx, "vda") },
	} {
		e := serve(t, r.site.Dir, r.image)
		_, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
		r.must(err)
		r.site.Virsh("destroy", r.guest.Name)
		e.Kill()
		info, err := r.vm().Info(r.ctx)
		r.must(err)
		if d := info.Disks[0]; !d.Attached || d.Path != r.image || d.Size == 0 || info.Running {
			t.Errorf("a VM that is off and attached: %+v", info)
		}
		sw, err := off(r.vm())
		if err != nil || sw.Route != "definition" {
			t.Fatalf("%s: %+v, %v", name, sw, err)
		}
		if after := r.diskXML("--inactive"); after != before {
			t.Errorf("%s: the definition was\n%s and is\n%s", name, before, after)
		}
		if xml := r.site.Virsh("dumpxml", r.guest.Name); strings.Contains(xml, libvirt.MetadataURI) {
			t.Errorf("%s: something of ours is left in %s", name, xml)
		}
		r.site.Virsh("start", r.guest.Name, "--paused")
	}
}

// TestDiscard attaches to a disk that unmaps. The twin shows why that must not
// be done by block copy: libvirt's own command erases the disk.
func TestDiscard(t *testing.T) {
	r := idle(t, libvirt.Options{Route: libvirt.RouteCopy}, libvirttest.Disk{Driver: "discard='unmap'"})
	whole, err := os.ReadFile(r.image)
	r.must(err)
	e := serve(t, r.site.Dir, r.image)
	sw, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
	r.must(err)
	if !strings.HasPrefix(sw.Route, "monitor") {
		t.Errorf("attached by %s", sw.Route)
	}
	_, err = r.vm().Detach(r.ctx, "vda")
	r.must(err)
	if now, err := os.ReadFile(r.image); err != nil || !bytes.Equal(now, whole) {
		t.Fatalf("attaching changed the disk: %v", err)
	}
	dest := filepath.Join(r.site.Dir, "dest.xml")
	r.must(os.WriteFile(dest, []byte("<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='disk'>"+
		"<host transport='unix' socket='"+e.Socket+"'/></source></disk>"), 0o600))
	r.site.Virsh("blockcopy", r.guest.Name, "vda", "--xml", dest, "--reuse-external", "--synchronous-writes", "--transient-job", "--wait", "--pivot")
	if now, err := os.ReadFile(r.image); err != nil || bytes.Equal(now, whole) {
		t.Errorf("a block copy left the disk whole (%v): the rule is not needed any more", err)
	}
}

// TestDaemonRestart restarts the daemon under a protected VM.
func TestDaemonRestart(t *testing.T) {
	r := idle(t, libvirt.Options{Route: libvirt.RouteMonitor}, libvirttest.Disk{})
	e := serve(t, r.site.Dir, r.image)
	vm := r.vm()
	_, err := vm.Attach(r.ctx, "vda", e.Attachment)
	r.must(err)
	r.site.StopDaemon()
	if _, err := vm.Info(r.ctx); !errs.Is(err, errs.Unavailable) {
		t.Errorf("without a daemon: %v", err)
	}
	r.site.StartDaemon()
	r.until("the driver is connected again", func() bool { _, err := vm.Info(r.ctx); return err == nil })
	info, err := vm.Info(r.ctx)
	r.must(err)
	if d := info.Disks[0]; !d.Attached || d.Socket != e.Socket || d.Path != r.image {
		t.Errorf("after the daemon's restart: %+v", d)
	}
	_, err = vm.Detach(r.ctx, "vda")
	r.must(err)
	r.names("the running VM", "")
	r.site.Virsh("destroy", r.guest.Name)
	r.change(hypervisor.ChangedState, "")
}

// change waits for a change of a kind, and of a disk unless "".
func (r *rig) change(kind hypervisor.ChangeKind, disk string) hypervisor.Change {
	r.Helper()
	for {
		select {
		case c, more := <-r.p.Changes():
			if !more {
				r.Fatal("the changes ended")
			}
			if c.Kind == kind && (disk == "" || c.Disk == disk) {
				return c
			}
		case <-r.ctx.Done():
			r.Fatalf("no change of kind %q arrived", kind)
		}
	}
}

// TestChanges makes each kind of change.
func TestChanges(t *testing.T) {
	r := idle(t, libvirt.Options{Poll: 300 * time.Millisecond}, libvirttest.Disk{})
	second := filepath.Join(r.site.Dir, "second.img")
	r.must(os.WriteFile(second, make([]byte, 1<<20), 0o600))
	r.site.Virsh("attach-disk", r.guest.Name, second, "vdb", "--targetbus", "virtio", "--live")
	r.change(hypervisor.ChangedDisks, "vdb")
	r.site.Virsh("blockresize", r.guest.Name, "vdb", "2MiB")
	if c := r.change(hypervisor.ChangedDisks, "vdb"); c.Detail != "resized" {
		t.Errorf("after a resize: %+v", c)
	}
	r.site.Virsh("snapshot-create-as", r.guest.Name, "s", "--disk-only", "--no-metadata", "--diskspec",
		"vdb,file="+second+".snap", "--diskspec", "vda,snapshot=no")
	r.change(hypervisor.ChangedChain, "vdb")
	r.site.Virsh("destroy", r.guest.Name)
	r.change(hypervisor.ChangedState, "")
	r.site.Virsh("setvcpus", r.guest.Name, "2", "--config", "--maximum")
	r.site.Virsh("setvcpus", r.guest.Name, "2", "--config")
	r.change(hypervisor.ChangedConfig, "")
	r.site.Virsh("undefine", r.guest.Name)
	r.change(hypervisor.VMGone, "")
	r.site.Define(r.guest)
	r.change(hypervisor.VMAppeared, "")
}

// TestFailOpenWithoutStop fails open a disk whose errors would reach the guest.
func TestFailOpenWithoutStop(t *testing.T) {
	r := newRig(t, libvirt.Options{}, libvirttest.Disk{Driver: "error_policy='report'"})
	r.boot()
	r.load()
	e := serve(t, r.site.Dir, r.image)
	_, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
	r.must(err)
	r.goesOn()
	e.Kill()
	begin := time.Now()
	sw, err := r.vm().FailOpen(r.ctx, "vda")
	r.must(err)
	t.Logf("%s: pause %v, took %v", sw.Route, sw.Pause, time.Since(begin))
	r.goesOn()
	r.quiet()
	r.site.Virsh("suspend", r.guest.Name)
	r.check(r.console.Acked())
	_, err = r.vm().Detach(r.ctx, "vda") // makes the XML of the running VM true again
	r.must(err)
	r.names("the running VM", "")
	r.check(r.console.Acked())
}

// TestMirror compares what a mirror wrote with the disk, byte for byte: of a
// format an export cannot stand in front of.
func TestMirror(t *testing.T) {
	r := newRig(t, libvirt.Options{}, libvirttest.Disk{Format: "qcow2"})
	r.boot()
	if _, err := r.vm().Prepare(r.ctx, "vda", hypervisor.InPath); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("Prepare of qcow2 in path: %v", err)
	}
	src, err := r.vm().Prepare(r.ctx, "vda", hypervisor.Mirror)
	r.must(err)
	r.site.Virsh("suspend", r.guest.Name)
	copied := filepath.Join(r.site.Dir, "copied.raw")
	r.tool("qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///"+src.Export+"?socket="+src.Socket, copied)
	e := serve(t, r.site.Dir, copied)
	e.Capture = hypervisor.Mirror
	sw, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
	r.must(err)
	t.Logf("%s: pause %v", sw.Route, sw.Pause)
	r.site.Virsh("resume", r.guest.Name)
	r.load()
	r.goesOn()
	r.quiet()
	r.site.Virsh("suspend", r.guest.Name)
	r.tool("qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", copied, "nbd+unix:///"+src.Export+"?socket="+src.Socket)
	_, err = r.vm().Detach(r.ctx, "vda")
	r.must(err)
	r.check(r.console.Acked())
}

// TestIOThread goes every way with a disk that is served by a thread of its
// own, whose nodes must be in that thread as well.
func TestIOThread(t *testing.T) {
	r := idle(t, libvirt.Options{}, libvirttest.Disk{Driver: "iothread='1'"})
	for _, route := range []libvirt.Route{libvirt.RouteCopy, libvirt.RouteMonitor} {
		r.p = r.connect(libvirt.Options{Socket: r.site.Socket, Route: route})
		for range 2 {
			e := serve(t, r.site.Dir, r.image)
			_, err := r.vm().Attach(r.ctx, "vda", e.Attachment)
			r.must(err)
			e.Kill()
			_, err = r.vm().FailOpen(r.ctx, "vda")
			r.must(err)
		}
		_, err := r.vm().Detach(r.ctx, "vda")
		r.must(err)
		r.names("the running VM", "")
		r.names("the definition", "", "--inactive")
	}
}
