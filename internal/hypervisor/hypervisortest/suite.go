package hypervisortest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

const (
	// patience bounds every wait of the suite: ample for a loaded machine.
	patience = 3 * time.Minute
	// deafLimit is how long the suite waits for a guest that will not obey.
	deafLimit = 300 * time.Millisecond
)

// Rig is a driver under test.
type Rig struct {
	Provider hypervisor.Provider
	Obeying  func(t *testing.T) hypervisor.Spec     // a VM that runs, and obeys; new identity each call
	Deaf     func(t *testing.T) hypervisor.Spec     // a VM that runs, and does not obey
	Failing  func(t *testing.T) hypervisor.Spec     // a VM that passes Check and cannot start
	Repair   func(t *testing.T, s *hypervisor.Spec) // makes a Failing one start
	Crash    func(t *testing.T, vm hypervisor.VM)   // ends vm as nobody wanted
	// Working is a VM whose guest is a Worker on a disk whose image is named; nil:
	// guests are not run, and nobody is asked what they see.
	Working func(t *testing.T) (s hypervisor.Spec, image string)
	// Serve exports a raw image, without a lock on it, until the test ends.
	Serve func(t *testing.T, image string) Export
	// Orphan starts a VM in another process, which is killed when it runs.
	Orphan func(t *testing.T, s hypervisor.Spec)
	// Again makes another provider for the same host. The suite closes it.
	Again func(t *testing.T) hypervisor.Provider
}

// Run runs the suite; open makes a rig for one test, and the suite closes it.
func Run(t *testing.T, open func(t *testing.T) Rig) {
	for _, c := range []struct {
		name string
		test func(*bench)
	}{
		{"StartAndStop", startAndStop},
		{"AfterTheEnd", afterTheEnd},
		{"StartTwice", startTwice},
		{"StartTogether", startTogether},
		{"PauseAndResume", pauseAndResume},
		{"StopWhilePaused", stopWhilePaused},
		{"StopDeaf", stopDeaf},
		{"StopCanceled", stopCanceled},
		{"Crash", crash},
		{"WaitCanceled", waitCanceled},
		{"StartFails", startFails},
		{"StartCanceled", startCanceled},
		{"StartInvalid", startInvalid},
		{"Close", closeProvider},
		{"Keep", keep},
		{"KeepClaimsItsDirectory", keepClaims},
		{"Orphan", orphan},
		{"AdoptedCrash", adoptedCrash},
		{"SwitchDisk", switchDisk},
		{"SwitchDiskRefused", switchDiskRefused},
		{"SwitchDiskOfAnOrphan", switchDiskOfAnOrphan},
		{"Screenshot", screenshot},
		{"SerialLog", serialLog},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig := open(t)
			t.Cleanup(func() {
				if err := rig.Provider.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c.test(&bench{T: t, ctx: ctx, Rig: rig})
		})
	}
}

// bench is one test of the suite at work.
type bench struct {
	*testing.T
	Rig
	ctx context.Context
}

func (b *bench) start(spec hypervisor.Spec) hypervisor.VM {
	b.Helper()
	vm, err := b.Provider.Start(b.ctx, spec)
	if err != nil {
		b.Fatalf("Start: %v", err)
	}
	return vm
}

func (b *bench) state(vm hypervisor.VM, want hypervisor.State) {
	b.Helper()
	if got := vm.Status(); got.State != want {
		b.Fatalf("state %v (%s), want %v", got.State, got.Reason, want)
	}
}

func (b *bench) ok(err error, what string) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

func (b *bench) kind(err error, want errs.Kind, what string) {
	b.Helper()
	if !errs.Is(err, want) {
		b.Fatalf("%s: got %v (kind %v), want kind %v", what, err, errs.KindOf(err), want)
	}
}

func (b *bench) wait(vm hypervisor.VM) hypervisor.Status {
	b.Helper()
	s, err := vm.Wait(b.ctx)
	b.ok(err, "Wait")
	return s
}

// moves reads a VM's events to their end and returns the states they tell.
func (b *bench) moves(vm hypervisor.VM) (states []hypervisor.State) {
	b.Helper()
	for {
		select {
		case e, more := <-vm.Events():
			if !more {
				return states
			}
			if e.Time.IsZero() || e.Lost != 0 {
				b.Fatalf("event %+v has no time or follows lost ones", e)
			}
			if e.Kind == hypervisor.StateChanged {
				states = append(states, e.Status.State)
			}
		case <-b.ctx.Done():
			b.Fatalf("events did not end; so far %v", states)
		}
	}
}

func startAndStop(b *bench) {
	vm := b.start(b.Obeying(b.T))
	b.state(vm, hypervisor.Running)
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: patience}), "Stop")
	b.state(vm, hypervisor.Stopped)
	want := []hypervisor.State{hypervisor.Running, hypervisor.Stopping, hypervisor.Stopped}
	if got := b.moves(vm); !slices.Equal(got, want) {
		b.Errorf("events told of %v, want %v", got, want)
	}
}

func afterTheEnd(b *bench) {
	vm := b.start(b.Obeying(b.T))
	b.ok(vm.Kill(b.ctx), "Kill")
	b.state(vm, hypervisor.Stopped)
	b.ok(vm.Kill(b.ctx), "second Kill")
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{}), "Stop of a stopped VM")
	b.kind(vm.Resume(b.ctx), errs.Conflict, "Resume of a stopped VM")
	b.kind(vm.Pause(b.ctx), errs.Conflict, "Pause of a stopped VM")
	if s := b.wait(vm); s.Reason == "" || s.Since.IsZero() {
		b.Errorf("final status %+v has no reason or time", s)
	}
}

func startTwice(b *bench) {
	spec := b.Obeying(b.T)
	vm := b.start(spec)
	_, err := b.Provider.Start(b.ctx, spec)
	b.kind(err, errs.Exists, "second Start")
	b.state(vm, hypervisor.Running)
	b.ok(vm.Kill(b.ctx), "Kill")
	again := b.start(spec) // at once: the place is free when Kill returns
	b.state(again, hypervisor.Running)
	b.state(vm, hypervisor.Stopped)
}

func startTogether(b *bench) {
	spec := b.Obeying(b.T)
	var wg sync.WaitGroup
	errors := make([]error, 4)
	for i := range errors {
		wg.Go(func() { _, errors[i] = b.Provider.Start(b.ctx, spec) })
	}
	wg.Wait()
	started := 0
	for _, err := range errors {
		if err == nil {
			started++
		} else {
			b.kind(err, errs.Exists, "Start beside another")
		}
	}
	if started != 1 {
		b.Errorf("%d starts of one VM succeeded", started)
	}
}

func pauseAndResume(b *bench) {
	if !b.Provider.Capabilities().Pause {
		return // what a driver does not claim is not asked of it
	}
	spec := b.Obeying(b.T)
	spec.Paused = true
	vm := b.start(spec)
	b.state(vm, hypervisor.Paused)
	for range 2 {
		b.ok(vm.Resume(b.ctx), "Resume")
		b.state(vm, hypervisor.Running)
	}
	for range 2 {
		b.ok(vm.Pause(b.ctx), "Pause")
		b.state(vm, hypervisor.Paused)
	}
	b.ok(vm.Resume(b.ctx), "Resume")
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: patience}), "Stop")
	want := []hypervisor.State{hypervisor.Paused, hypervisor.Running, hypervisor.Paused,
		hypervisor.Running, hypervisor.Stopping, hypervisor.Stopped}
	if got := b.moves(vm); !slices.Equal(got, want) {
		b.Errorf("events told of %v, want %v", got, want)
	}
}

func stopWhilePaused(b *bench) {
	spec := b.Obeying(b.T)
	spec.Paused = true
	vm := b.start(spec)
	b.kind(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: deafLimit}), errs.Conflict, "Stop of a paused VM")
	b.state(vm, hypervisor.Paused)
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: deafLimit, Force: true}), "forced Stop")
	b.state(vm, hypervisor.Stopped)
}

func stopDeaf(b *bench) {
	vm := b.start(b.Deaf(b.T))
	b.kind(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: deafLimit}), errs.Transient, "Stop of a deaf guest")
	b.state(vm, hypervisor.Running)
	b.ok(vm.Stop(b.ctx, hypervisor.StopOptions{Limit: deafLimit, Force: true}), "forced Stop")
	b.state(vm, hypervisor.Stopped)
}

func stopCanceled(b *bench) {
	vm := b.start(b.Deaf(b.T))
	ctx, cancel := context.WithTimeout(b.ctx, deafLimit)
	defer cancel()
	b.kind(vm.Stop(ctx, hypervisor.StopOptions{Limit: patience, Force: true}), errs.Canceled, "Stop with an ended context")
	b.state(vm, hypervisor.Running)
}

func crash(b *bench) {
	vm := b.start(b.Obeying(b.T))
	b.Crash(b.T, vm)
	if s := b.wait(vm); s.State != hypervisor.Crashed || s.Reason == "" {
		b.Errorf("final status %+v, want Crashed with a reason", s)
	}
	want := []hypervisor.State{hypervisor.Running, hypervisor.Crashed}
	if got := b.moves(vm); !slices.Equal(got, want) {
		b.Errorf("events told of %v, want %v", got, want)
	}
}

func waitCanceled(b *bench) {
	vm := b.start(b.Obeying(b.T))
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err := vm.Wait(ctx)
	b.kind(err, errs.Canceled, "Wait with an ended context")
	b.state(vm, hypervisor.Running)
}

func startFails(b *bench) {
	spec := b.Failing(b.T)
	_, err := b.Provider.Start(b.ctx, spec)
	if err == nil {
		b.Fatal("Start of a VM that cannot start succeeded")
	}
	if k := errs.KindOf(err); k == errs.Internal || k == errs.Exists {
		b.Fatalf("Start: %v has kind %v, which tells nothing", err, k)
	}
	b.Repair(b.T, &spec)
	b.state(b.start(spec), hypervisor.Running)
}

func startCanceled(b *bench) {
	spec := b.Obeying(b.T)
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err := b.Provider.Start(ctx, spec)
	b.kind(err, errs.Canceled, "Start with an ended context")
	b.state(b.start(spec), hypervisor.Running)
}

func startInvalid(b *bench) {
	for name, spoil := range map[string]func(*hypervisor.Spec){
		"no identity":         func(s *hypervisor.Spec) { s.Config.ID = dr.VMID{} },
		"no processor":        func(s *hypervisor.Spec) { s.Config.CPUs = 0 },
		"no memory":           func(s *hypervisor.Spec) { s.Config.MemoryMiB = 0 },
		"unknown firmware":    func(s *hypervisor.Spec) { s.Config.Firmware = "coreboot" },
		"unknown bus":         func(s *hypervisor.Spec) { s.Config.Disks[0].Bus = "floppy" },
		"no disk":             func(s *hypervisor.Spec) { s.Config.Disks = nil },
		"no source":           func(s *hypervisor.Spec) { s.Sources = nil },
		"unmapped network":    func(s *hypervisor.Spec) { s.Networks = nil },
		"group address":       func(s *hypervisor.Spec) { s.Config.NICs[0].MAC = "53:54:00:00:00:01" },
		"odd accelerator":     func(s *hypervisor.Spec) { s.Accelerator = "abacus" },
		"the same disk twice": func(s *hypervisor.Spec) { s.Config.Disks = append(s.Config.Disks, s.Config.Disks[0]) },
	} {
		spec := b.Obeying(b.T)
		spoil(&spec)
		_, err := b.Provider.Start(b.ctx, spec)
		b.kind(err, errs.Invalid, name)
	}
}

func closeProvider(b *bench) {
	one, two := b.start(b.Obeying(b.T)), b.start(b.Deaf(b.T))
	b.ok(b.Provider.Close(), "Close")
	b.state(one, hypervisor.Stopped)
	b.state(two, hypervisor.Stopped)
	_, err := b.Provider.Start(b.ctx, b.Obeying(b.T))
	b.kind(err, errs.Canceled, "Start after Close")
	b.ok(b.Provider.Close(), "second Close")
}
