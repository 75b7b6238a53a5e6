package hypervisortest

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// LiveRig is a Platform driver under test, with one running VM that somebody
// else started. The suite takes the rig's parts one after the other and leaves
// the VM powered off, where it can do that.
type LiveRig struct {
	Platform hypervisor.Platform
	// Reopen makes another driver for the same host, as a restarted host
	// component does. Platform was closed before.
	Reopen   func(t *testing.T) hypervisor.Platform
	VM       string               // name of the running VM
	Disk     string               // a disk of it that can be captured
	Captures []hypervisor.Capture // the ways that suit Disk
	Fixed    bool                 // an attached export cannot follow a disk that grows
	// Export serves the content of Disk as Prepare named it, until the test ends.
	Export func(t *testing.T, src hypervisor.Source, c hypervisor.Capture) Export
	// Follow has an export serve its image's new size; nil: it does so by itself.
	Follow func(t *testing.T, e Export)
	// Load is a guest that writes to Disk all the while; nil: none.
	Load *Load
	// Provoke makes each kind of change that the platform can tell of.
	Provoke map[hypervisor.ChangeKind]func(t *testing.T)
	// Agent is the guest's agent; nil: the VM has none.
	Agent *Agent
	// PowerOff ends the VM; afterwards the driver must say so.
	PowerOff func(t *testing.T)
}

// Export is an NBD server at work.
type Export struct {
	hypervisor.Attachment
	Kill func() // ends it as SIGKILL does, and returns when it is gone
}

// Load is a guest that knows what it was acknowledged.
type Load struct {
	Written func() uint64      // writes the guest was acknowledged so far
	Verify  func(t *testing.T) // ends the load and checks every block on the disk
}

// Agent is a guest's agent as the outside sees it.
type Agent struct {
	Filesystems int                     // how many it freezes
	Frozen      func(t *testing.T) bool // whether they are frozen now
}

// RunPlatform runs the suite on a rig.
func RunPlatform(t *testing.T, rig LiveRig) {
	b := &liveBench{LiveRig: rig}
	t.Cleanup(func() {
		if err := b.Platform.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	for _, c := range []struct {
		name string
		test func(*liveBench)
	}{
		{"Inventory", inventory},
		{"Changes", changes},
		{"Refusals", refusals},
		{"AttachAndDetach", attachAndDetach},
		{"DeadExport", deadExport},
		{"FailOpen", failOpen},
		{"Restart", restart},
		{"Resize", resize},
		{"Freeze", freeze},
		{"FreezeEndsByItself", freezeEndsByItself},
		{"Suspend", suspend},
		{"Verify", verify},
		{"PowerOff", powerOff},
		{"Close", closePlatform},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			b.bench = &bench{T: t, ctx: ctx}
			c.test(b)
		})
		if !ok {
			return // what follows would start from an unknown state
		}
	}
}

// liveBench is the suite at work.
type liveBench struct {
	*bench // of the test that runs
	LiveRig
}

func (b *liveBench) vm() hypervisor.LiveVM {
	b.Helper()
	vm, err := b.Platform.VM(b.ctx, b.VM)
	b.ok(err, "VM")
	return vm
}

// disk returns what the VM's disk under test is now.
func (b *liveBench) disk(vm hypervisor.LiveVM) hypervisor.LiveDisk {
	b.Helper()
	info, err := vm.Info(b.ctx)
	b.ok(err, "Info")
	for _, d := range info.Disks {
		if d.Name == b.Disk {
			return d
		}
	}
	b.Fatalf("no disk %s in %+v", b.Disk, info.Disks)
	return hypervisor.LiveDisk{}
}

// until waits for a condition.
func (b *liveBench) until(what string, is func() bool) {
	b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.Fatalf("waited in vain: %s", what)
		}
	}
}

// goesOn waits until the guest has been acknowledged some more writes.
func (b *liveBench) goesOn() {
	b.Helper()
	if b.Load == nil {
		return
	}
	from := b.Load.Written()
	b.until("the guest's writes go on", func() bool { return b.Load.Written() >= from+100 })
}

// attach prepares, serves and attaches.
func (b *liveBench) attach(vm hypervisor.LiveVM, c hypervisor.Capture) Export {
	b.Helper()
	src, err := vm.Prepare(b.ctx, b.Disk, c)
	b.ok(err, "Prepare")
	if (src.Path == "") == (src.Socket == "") {
		b.Fatalf("Prepare named %+v: either a path or a socket is wanted", src)
	}
	if c == hypervisor.Mirror && src.Path != "" {
		b.Fatalf("Prepare for a mirror named the path %s, which may be written", src.Path)
	}
	e := b.Export(b.T, src, c)
	e.Capture = c
	sw, err := vm.Attach(b.ctx, b.Disk, e.Attachment)
	b.ok(err, "Attach")
	b.switched(sw)
	d := b.disk(vm)
	if !d.Attached || d.Socket != e.Socket {
		b.Fatalf("after Attach: %+v, want attached to %s", d, e.Socket)
	}
	return e
}

func (b *liveBench) switched(sw hypervisor.Switch) {
	b.Helper()
	if sw.Route == "" || sw.Pause < 0 {
		b.Fatalf("the switch %+v tells nothing", sw)
	}
	b.Logf("%s: pause %v", sw.Route, sw.Pause)
}

// alone checks that the guest is on its own disk, as it was at first.
func (b *liveBench) alone(vm hypervisor.LiveVM, first hypervisor.LiveDisk) {
	b.Helper()
	if d := b.disk(vm); d != first {
		b.Fatalf("the disk is %+v, want it as before: %+v", d, first)
	}
	if info, err := vm.Info(b.ctx); err != nil || !info.Running {
		b.Fatalf("the VM does not run: %v", err)
	}
}

func inventory(b *liveBench) {
	all, err := b.Platform.VMs(b.ctx)
	b.ok(err, "VMs")
	var names []string
	for _, vm := range all {
		info, err := vm.Info(b.ctx)
		b.ok(err, "Info")
		names = append(names, info.Config.Name)
	}
	if !slices.IsSorted(names) || !slices.Contains(names, b.VM) {
		b.Fatalf("VMs %q, want them sorted and %s among them", names, b.VM)
	}
	info, err := b.vm().Info(b.ctx)
	b.ok(err, "Info")
	c := info.Config
	if c.ID.IsZero() || c.Name != b.VM || c.CPUs < 1 || c.MemoryMiB < 1 || c.Machine == "" || c.Firmware == "" {
		b.Errorf("configuration is incomplete: %+v", c)
	}
	if !info.Running || len(info.Disks) == 0 || len(c.Disks) != len(info.Disks) {
		b.Fatalf("running %v, %d disks, %d in the configuration", info.Running, len(info.Disks), len(c.Disks))
	}
	for i, d := range info.Disks {
		if d.Name != c.Disks[i].Name || d.Size != c.Disks[i].Size || !c.Disks[i].ID.IsZero() || d.Attached {
			b.Errorf("disk %d is %+v, in the configuration %+v", i, d, c.Disks[i])
		}
	}
	if d := b.disk(b.vm()); d.Path == "" || d.Format == "" || d.Size <= 0 || d.Problem != "" || d.ReadOnly || d.Shared {
		b.Errorf("the disk under test cannot be captured: %+v", d)
	}
	byID, err := b.Platform.VM(b.ctx, c.ID.String())
	b.ok(err, "VM by identity")
	if again, err := byID.Info(b.ctx); err != nil || again.Config.Name != c.Name {
		b.Errorf("found by identity: %+v, %v", again, err)
	}
	_, err = b.Platform.VM(b.ctx, "no such machine")
	b.kind(err, errs.NotFound, "VM of an unknown name")
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err = b.Platform.VMs(ended)
	b.kind(err, errs.Canceled, "VMs with an ended context")
}

func changes(b *liveBench) {
	info, err := b.vm().Info(b.ctx)
	b.ok(err, "Info")
	for kind, provoke := range b.Provoke {
		provoke(b.T)
		b.change(kind, info)
	}
}

// change reads until a change of kind arrives for the VM.
func (b *liveBench) change(kind hypervisor.ChangeKind, of hypervisor.VMInfo) {
	b.Helper()
	for {
		select {
		case c, more := <-b.Platform.Changes():
			if !more {
				b.Fatal("the changes ended")
			}
			if c.Time.IsZero() {
				b.Errorf("change %+v has no time", c)
			}
			if c.Kind == kind && (c.VM == of.Config.ID || c.Name == of.Config.Name) {
				return
			}
		case <-b.ctx.Done():
			b.Fatalf("no change of kind %q arrived", kind)
		}
	}
}

func refusals(b *liveBench) {
	vm := b.vm()
	first := b.disk(vm)
	nobody := hypervisor.Attachment{Socket: filepath.Join(b.TempDir(), "nobody"), Capture: b.Captures[0]}
	_, err := vm.Prepare(b.ctx, "no such disk", b.Captures[0])
	b.kind(err, errs.NotFound, "Prepare of an unknown disk")
	_, err = vm.Attach(b.ctx, "no such disk", nobody)
	b.kind(err, errs.NotFound, "Attach to an unknown disk")
	_, err = vm.Detach(b.ctx, "no such disk")
	b.kind(err, errs.NotFound, "Detach of an unknown disk")
	_, err = vm.Attach(b.ctx, b.Disk, hypervisor.Attachment{Capture: b.Captures[0]})
	b.kind(err, errs.Invalid, "Attach of no socket")
	if _, err = vm.Attach(b.ctx, b.Disk, nobody); err == nil {
		b.Fatal("Attach of a socket where nobody listens succeeded")
	}
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err = vm.Attach(ended, b.Disk, nobody)
	b.kind(err, errs.Canceled, "Attach with an ended context")
	for range 2 {
		_, err = vm.Detach(b.ctx, b.Disk)
		b.ok(err, "Detach of a disk that is not attached")
		_, err = vm.FailOpen(b.ctx, b.Disk)
		b.ok(err, "FailOpen of a disk that is not attached")
	}
	b.alone(vm, first)
	b.goesOn()
}

func attachAndDetach(b *liveBench) {
	vm := b.vm()
	first := b.disk(vm)
	for _, c := range b.Captures {
		for range 3 {
			e := b.attach(vm, c)
			b.goesOn()
			_, err := vm.Attach(b.ctx, b.Disk, e.Attachment)
			b.kind(err, errs.Conflict, "second Attach")
			sw, err := vm.Detach(b.ctx, b.Disk)
			b.ok(err, "Detach")
			b.switched(sw)
			b.alone(vm, first)
			e.Kill()
			b.goesOn()
		}
	}
}

// deadExport attaches to a server that is gone before the command comes.
func deadExport(b *liveBench) {
	vm := b.vm()
	first := b.disk(vm)
	for _, c := range b.Captures {
		src, err := vm.Prepare(b.ctx, b.Disk, c)
		b.ok(err, "Prepare")
		e := b.Export(b.T, src, c)
		e.Capture = c
		e.Kill()
		if _, err := vm.Attach(b.ctx, b.Disk, e.Attachment); err == nil {
			b.Fatalf("%v: Attach of a dead export succeeded", c)
		}
		b.alone(vm, first)
		_, err = vm.Detach(b.ctx, b.Disk)
		b.ok(err, "Detach after a failed Attach")
		b.goesOn()
	}
}

func failOpen(b *liveBench) {
	vm := b.vm()
	first := b.disk(vm)
	for _, c := range b.Captures {
		e := b.attach(vm, c)
		b.goesOn()
		e.Kill()
		begin := time.Now()
		sw, err := vm.FailOpen(b.ctx, b.Disk)
		b.ok(err, "FailOpen")
		b.switched(sw)
		b.Logf("%v: fail-open took %v", c, time.Since(begin))
		b.goesOn()
		b.alone(vm, first)
		b.attach(vm, c) // and all is possible again
		_, err = vm.Detach(b.ctx, b.Disk)
		b.ok(err, "Detach")
		b.alone(vm, first)
	}
}

// restart closes the driver while a disk is attached: the VM runs on, and the
// next driver finds what the first one left.
func restart(b *liveBench) {
	for _, c := range b.Captures {
		first := b.disk(b.vm())
		if first.Path == "" || first.Format != "raw" && c == hypervisor.InPath {
			continue // the content goes through a process of the driver, which ends with it
		}
		e := b.attach(b.vm(), c)
		b.ok(b.Platform.Close(), "Close")
		b.Platform = b.Reopen(b.T)
		vm := b.vm()
		if d := b.disk(vm); !d.Attached || d.Socket != e.Socket || d.Path != first.Path || d.Format != first.Format {
			b.Fatalf("a new driver sees %+v, want %s attached to %s", d, first.Path, e.Socket)
		}
		b.goesOn()
		_, err := vm.Detach(b.ctx, b.Disk)
		b.ok(err, "Detach by another driver")
		b.alone(vm, first)
		b.goesOn()
	}
}

// resize grows a disk by itself, in an export's path, and where the export does
// not follow.
func resize(b *liveBench) {
	vm := b.vm()
	first := b.disk(vm)
	asked := 0
	serve := func(context.Context) error { asked++; return nil }
	if first.Format != "raw" {
		_, err := vm.Resize(b.ctx, b.Disk, first.Size+growBy, hypervisor.Attachment{}, serve)
		b.kind(err, errs.Invalid, "Resize of a disk that is not raw")
		return
	}
	grown := first
	grow := func(a hypervisor.Attachment, serve func(context.Context) error) error {
		b.Helper()
		grown.Size += growBy
		sw, err := vm.Resize(b.ctx, b.Disk, grown.Size, a, serve)
		if err == nil {
			b.switched(sw)
		}
		return err
	}
	_, err := vm.Resize(b.ctx, b.Disk, first.Size-growBy, hypervisor.Attachment{}, serve)
	b.kind(err, errs.Invalid, "Resize to fewer bytes")
	_, err = vm.Resize(b.ctx, "no such disk", first.Size+growBy, hypervisor.Attachment{}, serve)
	b.kind(err, errs.NotFound, "Resize of an unknown disk")
	b.ok(grow(hypervisor.Attachment{}, serve), "Resize")
	b.alone(vm, grown)
	b.goesOn()

	e := b.attach(vm, hypervisor.InPath)
	_, err = vm.Resize(b.ctx, b.Disk, grown.Size+growBy, hypervisor.Attachment{}, serve)
	b.kind(err, errs.Conflict, "Resize that does not know of the export")
	if b.Fixed {
		b.kind(grow(e.Attachment, serve), errs.Invalid, "Resize of an attached disk that cannot grow")
		grown.Size -= growBy
		_, err = vm.Detach(b.ctx, b.Disk)
		b.ok(err, "Detach")
		b.alone(vm, grown)
		return
	}
	follow := func(ctx context.Context) error {
		if b.Follow != nil {
			b.Follow(b.T, e)
		}
		return serve(ctx)
	}
	for range 3 {
		b.goesOn()
		b.ok(grow(e.Attachment, follow), "Resize of an attached disk")
		if d := b.disk(vm); !d.Attached || d.Size != grown.Size || d.Socket != e.Socket {
			b.Fatalf("after Resize: %+v, want attached, of %d bytes", d, grown.Size)
		}
	}
	if asked != 4 {
		b.Errorf("the export was asked to follow %d times, want 4", asked)
	}
	b.goesOn()
	refusal := errs.New("test", errs.Unavailable, "", "the export does not follow")
	b.kind(grow(e.Attachment, func(context.Context) error { return refusal }), errs.Unavailable, "Resize an export does not follow")
	b.alone(vm, grown)
	b.goesOn()
}

// growBy is how much a disk grows at a time, bytes.
const growBy = 1 << 20

func freeze(b *liveBench) {
	vm := b.vm()
	if b.Agent == nil {
		_, err := vm.Freeze(b.ctx, 0)
		b.kind(err, errs.Unavailable, "Freeze without an agent")
		return
	}
	n, err := vm.Freeze(b.ctx, time.Minute)
	b.ok(err, "Freeze")
	if n != b.Agent.Filesystems || !b.Agent.Frozen(b.T) {
		b.Fatalf("%d file systems frozen, want %d", n, b.Agent.Filesystems)
	}
	_, err = vm.Freeze(b.ctx, time.Minute)
	b.kind(err, errs.Conflict, "second Freeze")
	n, err = vm.Thaw(b.ctx)
	b.ok(err, "Thaw")
	if n != b.Agent.Filesystems || b.Agent.Frozen(b.T) {
		b.Fatalf("%d file systems thawed, want %d", n, b.Agent.Filesystems)
	}
	n, err = vm.Thaw(b.ctx)
	b.ok(err, "second Thaw")
	if n != 0 {
		b.Fatalf("%d file systems thawed twice", n)
	}
}

// freezeEndsByItself freezes and does not come back.
func freezeEndsByItself(b *liveBench) {
	if b.Agent == nil {
		return
	}
	vm := b.vm()
	_, err := vm.Freeze(b.ctx, 50*time.Millisecond)
	b.ok(err, "Freeze")
	b.until("the guest thaws by itself", func() bool { return !b.Agent.Frozen(b.T) })
	n, err := vm.Thaw(b.ctx)
	b.ok(err, "Thaw")
	if n != 0 {
		b.Fatalf("%d file systems thawed in time, though the limit had passed", n)
	}
}

func verify(b *liveBench) {
	if b.Load != nil {
		b.Load.Verify(b.T)
	}
}

func powerOff(b *liveBench) {
	if b.PowerOff == nil {
		return
	}
	vm := b.vm()
	b.PowerOff(b.T)
	b.until("the driver sees the end", func() bool {
		info, err := vm.Info(b.ctx)
		return errs.Is(err, errs.NotFound) || err == nil && !info.Running
	})
	_, err := vm.Attach(b.ctx, b.Disk, hypervisor.Attachment{Socket: "/nowhere", Capture: b.Captures[0]})
	if !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.NotFound) {
		b.Errorf("Attach to a VM that is off: %v", err)
	}
}

func closePlatform(b *liveBench) {
	b.ok(b.Platform.Close(), "Close")
	for {
		select {
		case _, more := <-b.Platform.Changes():
			if more {
				continue
			}
			_, err := b.Platform.VMs(b.ctx)
			b.kind(err, errs.Unavailable, "VMs after Close")
			b.ok(b.Platform.Close(), "second Close")
			return
		case <-b.ctx.Done():
			b.Fatal("the changes did not end with Close")
		}
	}
}
