package hypervisortest

import (
	"bytes"
	"image/png"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// kept returns a VM that is kept under a directory of its own.
func (b *bench) kept() (spec hypervisor.Spec, workDir string) {
	b.Helper()
	spec = b.Obeying(b.T)
	spec.Keep, spec.WorkDir = true, b.shortDir()
	return spec, spec.WorkDir
}

// shortDir returns a directory of the test's, with a path sockets fit in.
func (b *bench) shortDir() string {
	b.Helper()
	dir, err := os.MkdirTemp("", "hfk-")
	b.ok(err, "MkdirTemp")
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// again returns another provider, which ends with the test.
func (b *bench) again() hypervisor.Provider {
	b.Helper()
	p := b.Again(b.T)
	b.Cleanup(func() {
		if err := p.Close(); err != nil {
			b.Errorf("Close: %v", err)
		}
	})
	return p
}

// adopted adopts the one VM there should be.
func (b *bench) adopted(p hypervisor.Provider, spec hypervisor.Spec) hypervisor.VM {
	b.Helper()
	vms, err := p.Adopt(b.ctx, spec.WorkDir)
	b.ok(err, "Adopt")
	if len(vms) != 1 {
		b.Fatalf("%d VMs adopted, want 1", len(vms))
	}
	vm := vms[0]
	b.Cleanup(func() { vm.Kill(b.Context()) }) // the test may have failed before it did
	if vm.ID() != spec.Config.ID || vm.Name() != spec.Config.Name {
		b.Fatalf("adopted %s %q, want %s %q", vm.ID(), vm.Name(), spec.Config.ID, spec.Config.Name)
	}
	return vm
}

// none checks that there is nothing to adopt, and nothing left.
func (b *bench) none(p hypervisor.Provider, workDir string) {
	b.Helper()
	vms, err := p.Adopt(b.ctx, workDir)
	b.ok(err, "Adopt")
	left, err := os.ReadDir(workDir)
	b.ok(err, "ReadDir")
	if len(vms) != 0 || len(left) != 0 {
		b.Fatalf("%d VMs adopted and %v left, want nothing", len(vms), left)
	}
}

// keep lets a VM outlive its provider, and the next one end it.
func keep(b *bench) {
	spec, workDir := b.kept()
	loose := b.Obeying(b.T)
	loose.WorkDir = workDir
	vm, other := b.start(spec), b.start(loose)
	if vm.ID() != spec.Config.ID || other.Monitor() != "" {
		b.Fatalf("the VM is %s with monitor %q", vm.ID(), other.Monitor())
	}
	b.ok(b.Provider.Close(), "Close")
	b.state(other, hypervisor.Stopped)
	_, err := vm.Wait(b.ctx)
	b.kind(err, errs.Unavailable, "Wait for a VM let go of")
	b.kind(vm.Kill(b.ctx), errs.Unavailable, "Kill of a VM let go of")
	_, err = b.Provider.Adopt(b.ctx, workDir)
	b.kind(err, errs.Canceled, "Adopt after Close")

	next := b.again()
	vm = b.adopted(next, spec)
	b.state(vm, hypervisor.Running)
	vms, err := next.Adopt(b.ctx, workDir)
	if b.ok(err, "second Adopt"); len(vms) != 0 {
		b.Fatalf("%d VMs adopted twice", len(vms))
	}
	_, err = next.Start(b.ctx, spec)
	b.kind(err, errs.Exists, "Start of an adopted VM")
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: patience}), "Stop")
	b.state(vm, hypervisor.Stopped)
	b.none(next, workDir)
	_, err = next.Adopt(b.ctx, workDir+"/nowhere")
	b.kind(err, errs.NotFound, "Adopt from no directory")
}

// keepClaims checks that two providers do not share a directory.
func keepClaims(b *bench) {
	spec, workDir := b.kept()
	vm := b.start(spec)
	_, err := b.again().Adopt(b.ctx, workDir)
	b.kind(err, errs.Conflict, "Adopt beside the provider that started the VM")
	second := b.Obeying(b.T)
	second.Keep, second.WorkDir = true, workDir
	_, err = b.again().Start(b.ctx, second)
	b.kind(err, errs.Conflict, "Start beside the provider that uses the directory")
	b.ok(vm.Kill(b.ctx), "Kill")
	b.none(b.Provider, workDir)
}

// orphan finds a VM whose provider's process was killed.
func orphan(b *bench) {
	spec, workDir := b.kept()
	b.Orphan(b.T, spec)
	next := b.again()
	vm := b.adopted(next, spec)
	b.state(vm, hypervisor.Running)
	b.ok(vm.Pause(b.ctx), "Pause")
	b.state(vm, hypervisor.Paused)
	b.ok(next.Close(), "Close")
	next = b.again()
	vm = b.adopted(next, spec)
	b.state(vm, hypervisor.Paused)
	b.ok(vm.Resume(b.ctx), "Resume")
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: patience}), "Stop")
	b.state(vm, hypervisor.Stopped)
	b.none(next, workDir)
	b.ok(next.Close(), "Close")
	vm = b.start(spec) // its place is free
	b.state(vm, hypervisor.Running)
	b.ok(vm.Kill(b.ctx), "Kill")
}

// adoptedCrash ends an adopted VM as nobody wanted.
func adoptedCrash(b *bench) {
	spec, workDir := b.kept()
	b.Orphan(b.T, spec)
	next := b.again()
	vm := b.adopted(next, spec)
	b.Crash(b.T, vm)
	if s := b.wait(vm); s.State != hypervisor.Crashed || s.Reason == "" {
		b.Errorf("final status %+v, want Crashed with a reason", s)
	}
	b.none(next, workDir)
}

// exported returns a VM whose only disk is an export, with its image besides.
func (b *bench) exported() (spec hypervisor.Spec, image string, e Export) {
	b.Helper()
	if b.Working != nil {
		spec, image = b.Working(b.T)
	} else {
		spec = b.Obeying(b.T)
		image = spec.Sources[spec.Config.Disks[0].ID].Path
	}
	e = b.Serve(b.T, image)
	spec.Sources[spec.Config.Disks[0].ID] = hypervisor.Source{Socket: e.Socket, Export: e.Export, Path: image}
	spec.Serial, spec.Paused = true, true
	return spec, image, e
}

// talker is a Worker one talks to.
type talker struct {
	*bench
	conn  net.Conn // nil: nobody to talk to
	image string
}

// talk lets a Paused VM run until its guest is up.
func (b *bench) talk(vm hypervisor.VM, image string) *talker {
	b.Helper()
	t := &talker{bench: b, image: image}
	if b.Working != nil {
		t.dial(vm)
	}
	b.ok(vm.Resume(b.ctx), "Resume")
	if t.conn != nil {
		t.expect(Banner)
	}
	return t
}

func (t *talker) dial(vm hypervisor.VM) {
	t.Helper()
	conn, err := net.Dial("unix", vm.Serial())
	t.ok(err, "the serial port")
	t.Cleanup(func() { conn.Close() })
	deadline, _ := t.ctx.Deadline()
	t.ok(conn.SetDeadline(deadline), "SetDeadline")
	t.conn = conn
}

// expect reads up to and including words.
func (t *talker) expect(words string) {
	t.Helper()
	var got strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(got.String(), words); got.Write(one) {
		if _, err := io.ReadFull(t.conn, one); err != nil {
			t.Fatalf("waiting for %q: %v after %q", words, err, got.String())
		}
	}
}

// works has the guest write a byte to its disk and read it again, and finds it
// in the image.
func (t *talker) works(mark byte) {
	t.Helper()
	if t.conn == nil {
		return
	}
	_, err := t.conn.Write([]byte{mark})
	t.ok(err, "the serial port")
	t.expect(string(mark))
	f, err := os.Open(t.image)
	t.ok(err, "the image")
	defer f.Close()
	var got [1]byte
	_, err = f.ReadAt(got[:], WorkerByte)
	t.ok(err, "the image")
	if got[0] != mark {
		t.Fatalf("the image holds %q, the guest wrote %q", got[0], mark)
	}
}

func (b *bench) switched(vm hypervisor.VM, disk dr.DiskID) {
	b.Helper()
	sw, err := vm.SwitchDisk(b.ctx, disk)
	b.ok(err, "SwitchDisk")
	if sw.Route == "" || sw.Route == "none" || sw.Pause < 0 {
		b.Fatalf("the switch %+v tells nothing", sw)
	}
	b.Logf("%s: pause %v", sw.Route, sw.Pause)
}

// switchDisk moves a disk from its export to its image: the guest goes on when
// the export is gone.
func switchDisk(b *bench) {
	spec, image, e := b.exported()
	id := spec.Config.Disks[0].ID
	vm := b.start(spec)
	guest := b.talk(vm, image)
	guest.works('a')
	_, err := vm.SwitchDisk(b.ctx, dr.DiskID{UUID: dr.NewUUID()})
	b.kind(err, errs.NotFound, "SwitchDisk of an unknown disk")
	b.switched(vm, id)
	e.Kill()
	guest.works('b')
	sw, err := vm.SwitchDisk(b.ctx, id)
	if b.ok(err, "second SwitchDisk"); sw.Pause != 0 {
		b.Errorf("a second switch took %v", sw.Pause)
	}
	guest.works('c')
	b.state(vm, hypervisor.Running)
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: patience}), "Stop")
	_, err = vm.SwitchDisk(b.ctx, id)
	b.kind(err, errs.Conflict, "SwitchDisk of a stopped VM")
}

// switchDiskRefused asks for what cannot be, and the guest goes on at the export.
func switchDiskRefused(b *bench) {
	spec, image, _ := b.exported()
	id := spec.Config.Disks[0].ID
	vm := b.start(spec)
	guest := b.talk(vm, image)
	b.ok(os.Rename(image, image+".away"), "Rename")
	_, err := vm.SwitchDisk(b.ctx, id)
	b.kind(err, errs.NotFound, "SwitchDisk to an image that is gone")
	b.ok(os.WriteFile(image, []byte("short"), 0o600), "WriteFile")
	_, err = vm.SwitchDisk(b.ctx, id)
	b.kind(err, errs.Invalid, "SwitchDisk to an image of another size")
	b.ok(os.Rename(image+".away", image), "Rename")
	ended, cancel := contextEnded(b.ctx)
	defer cancel()
	_, err = vm.SwitchDisk(ended, id)
	b.kind(err, errs.Canceled, "SwitchDisk with an ended context")
	guest.works('d')
	b.switched(vm, id)
	guest.works('e')
	b.ok(vm.Kill(b.ctx), "Kill")

	src := spec.Sources[id]
	spec.Sources[id] = hypervisor.Source{Socket: src.Socket, Export: src.Export}
	vm = b.start(spec)
	_, err = vm.SwitchDisk(b.ctx, id)
	b.kind(err, errs.Conflict, "SwitchDisk of a disk with no image")
	b.talk(vm, image).works('f')
	b.ok(vm.Kill(b.ctx), "Kill")
	spec.Sources[id] = hypervisor.Source{Path: image}
	vm = b.start(spec)
	_, err = vm.SwitchDisk(b.ctx, id)
	b.ok(err, "SwitchDisk of a disk that has no export")
	b.talk(vm, image).works('g')
}

// switchDiskOfAnOrphan has the provider that comes after finish the job.
func switchDiskOfAnOrphan(b *bench) {
	spec, image, e := b.exported()
	spec.Keep, spec.WorkDir = true, b.shortDir()
	b.Orphan(b.T, spec)
	next := b.again()
	vm := b.adopted(next, spec)
	b.state(vm, hypervisor.Paused)
	guest := b.talk(vm, image)
	guest.works('a')
	b.switched(vm, spec.Config.Disks[0].ID)
	e.Kill()
	guest.works('b')
	if guest.conn != nil {
		guest.conn.Close()
	}
	b.ok(next.Close(), "Close")
	next = b.again()
	vm = b.adopted(next, spec)
	sw, err := vm.SwitchDisk(b.ctx, spec.Config.Disks[0].ID)
	if b.ok(err, "SwitchDisk again"); sw.Pause != 0 {
		b.Errorf("a disk that is on its image was switched: %+v", sw)
	}
	b.ok(vm.Kill(b.ctx), "Kill")
	b.none(next, spec.WorkDir)
}

func screenshot(b *bench) {
	spec := b.Obeying(b.T)
	spec.Screen, spec.WorkDir = true, b.shortDir()
	vm := b.start(spec)
	for range 2 {
		shot, err := vm.Screenshot(b.ctx)
		b.ok(err, "Screenshot")
		picture, err := png.Decode(bytes.NewReader(shot))
		b.ok(err, "the screenshot as a PNG")
		if size := picture.Bounds().Size(); size.X < 80 || size.Y < 25 {
			b.Errorf("a screen of %v", size)
		}
	}
	b.ok(vm.Kill(b.ctx), "Kill")
	_, err := vm.Screenshot(b.ctx)
	b.kind(err, errs.Conflict, "Screenshot of a stopped VM")
	blind := b.start(b.Obeying(b.T))
	_, err = blind.Screenshot(b.ctx)
	b.kind(err, errs.Conflict, "Screenshot without a screen")
	left, err := os.ReadDir(spec.WorkDir)
	if b.ok(err, "ReadDir"); len(left) != 0 {
		b.Errorf("%v left", left)
	}
}

// serialLog reads what a guest said while nobody was connected.
func serialLog(b *bench) {
	if b.Working == nil {
		return
	}
	spec, _ := b.Working(b.T)
	spec.Serial, spec.SerialLog = true, b.shortDir()+"/console, of=vm.log"
	b.ok(os.WriteFile(spec.SerialLog, []byte("before\n"), 0o600), "WriteFile")
	vm := b.start(spec)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		said, err := os.ReadFile(spec.SerialLog)
		b.ok(err, "ReadFile")
		if strings.HasPrefix(string(said), "before\n") && strings.Contains(string(said), Banner) {
			break
		}
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.Fatalf("the log holds %q", said)
		}
	}
	b.ok(vm.Kill(b.ctx), "Kill")
}
