package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"os"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// VM is one scripted run, as one provider looks after it. Besides hypervisor.VM
// it takes blows.
type VM struct {
	provider *Provider // immutable, as all here but gone
	run      *run
	life     *hypervisor.Lifecycle
	letGone  chan struct{} // closed by letGo
	gone     sync.Once
}

// run is what a VM is, whoever looks after it.
type run struct {
	spec   hypervisor.Spec // immutable, as script
	script Behaviour

	mu       sync.Mutex
	paused   bool               // guarded by mu
	switched map[dr.DiskID]bool // guarded by mu: disks on their images
}

var _ hypervisor.VM = (*VM)(nil)

func newVM(p *Provider, r *run) *VM {
	return &VM{provider: p, run: r, life: hypervisor.NewLifecycle(time.Now), letGone: make(chan struct{})}
}

// state says whether a run that is not over runs or is paused.
func (r *run) state() hypervisor.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused {
		return hypervisor.Paused
	}
	return hypervisor.Running
}

// move makes a move that does not end the run.
func (v *VM) move(to hypervisor.State, reason string) {
	v.run.mu.Lock()
	v.run.paused = to == hypervisor.Paused
	v.run.mu.Unlock()
	v.life.Move(to, reason)
}

// goOn makes the VM Running, and then Paused if its script names a bad disk.
func (v *VM) goOn() {
	v.move(hypervisor.Running, "")
	if v.run.script.StuckOn != "" {
		v.IOError(v.run.script.StuckOn)
	}
}

// leave frees the VM's place in its provider.
func (v *VM) leave() {
	v.provider.mu.Lock()
	defer v.provider.mu.Unlock()
	if v.provider.vms[v.run.spec.Config.ID] == v {
		delete(v.provider.vms, v.run.spec.Config.ID)
	}
}

// end frees the VM's place and makes the final move.
func (v *VM) end(to hypervisor.State, reason string) {
	v.gone.Do(func() {
		v.leave()
		v.provider.kept.mu.Lock()
		delete(v.provider.kept.runs, v.run)
		v.provider.kept.mu.Unlock()
		v.life.Move(to, reason)
	})
}

// letGo leaves the run to whoever adopts it.
func (v *VM) letGo() {
	v.gone.Do(func() {
		v.leave()
		close(v.letGone)
	})
}

func (v *VM) isLetGone() bool {
	select {
	case <-v.letGone:
		return true
	default:
		return false
	}
}

// OnImage reports whether SwitchDisk has moved a disk to its image.
func (v *VM) OnImage(disk dr.DiskID) bool {
	v.run.mu.Lock()
	defer v.run.mu.Unlock()
	return v.run.switched[disk]
}

// Crash ends the run as a dying hypervisor process would.
func (v *VM) Crash(reason string) { v.end(hypervisor.Crashed, reason) }

// PowerOff ends the run as the guest itself does.
func (v *VM) PowerOff() { v.end(hypervisor.Stopped, "guest-shutdown") }

// IOError is a disk's failure: an event, and the VM is Paused.
func (v *VM) IOError(disk string) {
	words := "write error on disk " + disk + ": scripted"
	v.life.Emit(hypervisor.Event{Kind: hypervisor.IOError, Disk: disk, Detail: words})
	v.move(hypervisor.Paused, words)
}

// Reset is the guest's own reboot: an event, and it runs on.
func (v *VM) Reset() { v.life.Emit(hypervisor.Event{Kind: hypervisor.GuestReset}) }

// Status returns the state now.
func (v *VM) Status() hypervisor.Status { return v.life.Status() }

// ID returns the VM's identity.
func (v *VM) ID() dr.VMID { return v.run.spec.Config.ID }

// Name returns the VM's name.
func (v *VM) Name() string { return v.run.spec.Config.Name }

// Serial returns a path at which nothing listens, or "".
func (v *VM) Serial() string { return v.nowhere(v.run.spec.Serial, "serial") }

// Monitor returns a path at which nothing listens, or "".
func (v *VM) Monitor() string { return v.nowhere(v.run.spec.Keep, "monitor") }

func (v *VM) nowhere(has bool, name string) string {
	if !has {
		return ""
	}
	return "/nowhere/" + v.ID().String() + "/" + name
}

// Events returns the VM's events.
func (v *VM) Events() <-chan hypervisor.Event { return v.life.Events() }

// Pause halts the VM.
func (v *VM) Pause(ctx context.Context) error {
	if err := v.alive(ctx, "fake.Pause"); err != nil {
		return err
	}
	v.move(hypervisor.Paused, "paused")
	return nil
}

// Resume lets a Paused VM run.
func (v *VM) Resume(ctx context.Context) error {
	if err := v.alive(ctx, "fake.Resume"); err != nil {
		return err
	}
	if v.Status().State == hypervisor.Paused {
		v.goOn()
	}
	return nil
}

// SwitchDisk takes a note.
func (v *VM) SwitchDisk(ctx context.Context, disk dr.DiskID) (hypervisor.Switch, error) {
	const op = "fake.SwitchDisk"
	src, has := v.run.spec.Sources[disk]
	if !has {
		return hypervisor.Switch{}, errs.New(op, errs.NotFound, disk.String(), "the VM has no such disk")
	}
	if err := v.alive(ctx, op); err != nil {
		return hypervisor.Switch{}, err
	}
	v.run.mu.Lock()
	defer v.run.mu.Unlock()
	switch {
	case src.Socket == "" || v.run.switched[disk]:
		return hypervisor.Switch{Route: "none"}, nil
	case src.Path == "":
		return hypervisor.Switch{}, errs.New(op, errs.Conflict, disk.String(), "the disk has no image besides its export")
	}
	if fi, err := os.Stat(src.Path); err != nil {
		return hypervisor.Switch{}, errs.E(op, errs.NotFound, src.Path, err)
	} else if size := v.sizeOf(disk); fi.Size() != size {
		return hypervisor.Switch{}, errs.New(op, errs.Invalid, src.Path, fmt.Sprintf("has %d bytes and should have %d", fi.Size(), size))
	}
	v.run.switched[disk] = true
	return hypervisor.Switch{Route: "fake"}, nil
}

// sizeOf returns the bytes of a disk of the VM.
func (v *VM) sizeOf(disk dr.DiskID) (size int64) {
	for _, d := range v.run.spec.Config.Disks {
		if d.ID == disk {
			size = d.Size
		}
	}
	return size
}

var _ hypervisor.Guest = (*VM)(nil)

// AskGuest asks the script.
func (v *VM) AskGuest(ctx context.Context, command string, args, result any) error {
	const op = "fake.AskGuest"
	if err := v.alive(ctx, op); err != nil {
		return err
	}
	if v.run.script.Agent == nil || !v.run.spec.Agent || v.Status().State != hypervisor.Running {
		return errs.New(op, errs.Unavailable, v.Name(), "no guest agent answers")
	}
	answer, err := v.run.script.Agent(command, args)
	if err != nil {
		return errs.E(op, errs.Invalid, command, err)
	}
	b, err := json.Marshal(answer)
	if err == nil && result != nil {
		err = json.Unmarshal(b, result)
	}
	if err != nil {
		return errs.E(op, errs.Corrupt, command, err)
	}
	return nil
}

// Screenshot returns a black screen.
func (v *VM) Screenshot(ctx context.Context) ([]byte, error) {
	if err := v.alive(ctx, "fake.Screenshot"); err != nil {
		return nil, err
	}
	if !v.run.spec.Screen {
		return nil, errs.New("fake.Screenshot", errs.Conflict, v.Name(), "the VM was started without a screen")
	}
	var b bytes.Buffer
	err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 80, 25)))
	return b.Bytes(), err
}

// alive refuses for a VM in a final state, one that was let go of, and for a
// ctx that has ended.
func (v *VM) alive(ctx context.Context, op string) error {
	if v.isLetGone() {
		return errs.New(op, errs.Unavailable, v.Name(), "the provider let go of the VM")
	}
	if s := v.Status(); s.State.Final() {
		return errs.New(op, errs.Conflict, v.run.spec.Config.Name, "the VM is "+s.State.String()+": "+s.Reason)
	}
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, v.run.spec.Config.Name, context.Cause(ctx))
	}
	return nil
}

// Stop asks the scripted guest to shut down.
func (v *VM) Stop(ctx context.Context, opt hypervisor.StopOptions) error {
	err := v.orderly(ctx, opt)
	if err != nil && opt.Force && ctx.Err() == nil {
		return v.Kill(ctx)
	}
	return err
}

func (v *VM) orderly(ctx context.Context, opt hypervisor.StopOptions) error {
	const op = "fake.Stop"
	switch s := v.Status(); {
	case s.State.Final():
		return nil
	case s.State == hypervisor.Paused:
		return errs.New(op, errs.Conflict, v.run.spec.Config.Name, "a paused guest cannot shut down")
	}
	v.life.Move(hypervisor.Stopping, "")
	obeys := time.NewTimer(v.run.script.StopAfter)
	defer obeys.Stop()
	if v.run.script.Deaf {
		obeys.Stop()
	}
	limit := time.NewTimer(opt.EffectiveLimit())
	defer limit.Stop()
	select {
	case <-obeys.C:
		v.PowerOff()
		return nil
	case <-v.life.Ended():
		return nil
	case <-ctx.Done():
		v.life.Move(hypervisor.Running, "the guest did not shut down")
		return errs.E(op, errs.Canceled, v.run.spec.Config.Name, context.Cause(ctx))
	case <-limit.C:
		v.life.Move(hypervisor.Running, "the guest did not shut down")
		return errs.New(op, errs.Transient, v.run.spec.Config.Name, "the guest did not shut down in "+opt.EffectiveLimit().String())
	}
}

// Kill ends the VM at once.
func (v *VM) Kill(ctx context.Context) error {
	if v.isLetGone() {
		return errs.New("fake.Kill", errs.Unavailable, v.Name(), "the provider let go of the VM")
	}
	v.end(hypervisor.Stopped, "killed")
	return nil
}

// Wait returns the final status once there is one.
func (v *VM) Wait(ctx context.Context) (hypervisor.Status, error) {
	return v.life.WaitOr(ctx, v.letGone)
}
