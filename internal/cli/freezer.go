package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

const (
	// maxScriptOutput bounds what is kept of a command's output, in bytes: it is
	// told in one event.
	maxScriptOutput = 2048
	// scriptGrace is how long a command may hold its output open once it was
	// killed.
	scriptGrace = time.Second
)

// freezer freezes guests by their agents, through the hypervisor, or by
// commands of the user. Immutable, safe for concurrent use.
type freezer struct {
	vms map[dr.VMID]*iofilter.VM
	// find returns a VM as the hypervisor has it; nil: no hypervisor is known.
	find func(context.Context, dr.VMID) (hypervisor.LiveVM, error)
}

func newFreezer(vms []iofilter.VM, find func(context.Context, dr.VMID) (hypervisor.LiveVM, error)) *freezer {
	f := &freezer{vms: map[dr.VMID]*iofilter.VM{}, find: find}
	for i := range vms {
		f.vms[vms[i].Config.ID] = &vms[i]
	}
	return f
}

// Freeze implements iofilter.Freezer.
func (f *freezer) Freeze(ctx context.Context, id dr.VMID, limit time.Duration) error {
	c := f.config(id)
	switch {
	case c.Exempt:
		return fmt.Errorf("by configuration: %w", iofilter.ErrExempt)
	case len(c.Pre) > 0:
		return runScript(ctx, id, c.Pre, c.EffectiveTimeout())
	}
	vm, err := f.live(ctx, id)
	if err != nil {
		return err
	}
	info, err := vm.Info(ctx)
	if err != nil {
		return err
	}
	if !info.Running {
		return fmt.Errorf("it is powered off: %w", iofilter.ErrExempt)
	}
	_, err = vm.Freeze(ctx, limit)
	return err
}

// Thaw implements iofilter.Freezer.
func (f *freezer) Thaw(ctx context.Context, id dr.VMID) error {
	c := f.config(id)
	if len(c.Post) > 0 {
		return runScript(ctx, id, c.Post, c.EffectiveTimeout())
	}
	vm, err := f.live(ctx, id)
	if err != nil {
		return err
	}
	n, err := vm.Thaw(ctx)
	if err == nil && n == 0 {
		err = errs.New("iofilter.thaw", errs.Conflict, "vm "+id.String(), "the guest had thawed by itself")
	}
	return err
}

func (f *freezer) config(id dr.VMID) *iofilter.FreezeConfig {
	if vm := f.vms[id]; vm != nil && vm.Freeze != nil {
		return vm.Freeze
	}
	return &iofilter.FreezeConfig{}
}

func (f *freezer) live(ctx context.Context, id dr.VMID) (hypervisor.LiveVM, error) {
	if f.find == nil {
		return nil, errs.New("iofilter.freeze", errs.Unavailable, "vm "+id.String(), "the host component has no way to its guest agent").
			WithRemedy(`give the VM "freeze": pre and post commands, or {"exempt": true}, in the host component's configuration`)
	}
	return f.find(ctx, id)
}

// runScript runs a command of the user: no shell, nothing on its input, its
// whole process group killed when its time is over, and of its output no more
// than an event can tell.
func runScript(ctx context.Context, id dr.VMID, argv []string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := &headBuffer{most: maxScriptOutput}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "HOLDFAST_VM="+id.String())
	cmd.Stdout, cmd.Stderr = out, out
	ownGroup(cmd)
	cmd.WaitDelay = scriptGrace
	err := cmd.Run()
	if err == nil {
		return nil
	}
	kind := errs.Unavailable
	words := err.Error()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind, words = errs.Transient, fmt.Sprintf("it did not end within %v", limit)
	}
	if said := strings.TrimSpace(out.String()); said != "" {
		words += ": " + said
	}
	return errs.New("iofilter.freeze", kind, argv[0], words).WithRemedy("correct the command in the host component's configuration")
}

// headBuffer keeps the first bytes written to it. It does not embed the buffer,
// whose ReadFrom would take in all there is.
type headBuffer struct {
	kept bytes.Buffer
	most int
}

// String returns what was kept.
func (b *headBuffer) String() string { return b.kept.String() }

// Write never fails: a command is not stopped for being talkative.
func (b *headBuffer) Write(p []byte) (int, error) {
	if room := b.most - b.kept.Len(); room > 0 {
		b.kept.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
