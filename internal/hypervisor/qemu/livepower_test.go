package qemu_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/qemu"
)

// TestLivePower: a VM that somebody else started goes on, takes no notice of its power
// button without an operating system, and ends when its plug is pulled.
func TestLivePower(t *testing.T) {
	dir, err := os.MkdirTemp("", "hfqp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	monitor := filepath.Join(dir, "qmp")
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-M", "pc", "-nodefaults", "-display", "none", "-S",
		"-name", "guest=erp1", "-uuid", "6f9c2f2a-0000-4000-8000-000000000001", "-qmp", "unix:"+monitor+",server=on,wait=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // how is seen below
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	for _, err := os.Stat(monitor); err != nil; _, err = os.Stat(monitor) {
		time.Sleep(5 * time.Millisecond) // between questions; the answer decides
	}
	p, err := qemu.NewPlatform(t.Context(), qemu.LiveOptions{VMs: []qemu.Monitor{{QMP: monitor}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	vm, err := p.VM(t.Context(), "erp1")
	if err != nil {
		t.Fatal(err)
	}
	power := vm.(hypervisor.Powered)
	does := func(what string, err error, running, paused bool) {
		t.Helper()
		info, ierr := vm.Info(t.Context())
		if err != nil || ierr != nil || info.Running != running || info.Paused != paused {
			t.Errorf("%s: %v; then %+v, %v", what, err, info, ierr)
		}
	}
	does("nothing", nil, true, true)
	does("PowerOn", power.PowerOn(t.Context()), true, false)
	does("PowerOn again", power.PowerOn(t.Context()), true, false)
	does("ShutDown", power.ShutDown(t.Context()), true, false)
	does("PowerOff", power.PowerOff(t.Context()), false, false)
	<-ended
	does("PowerOff again", power.PowerOff(t.Context()), false, false)
	does("ShutDown of what is off", power.ShutDown(t.Context()), false, false)
	if err := power.PowerOn(t.Context()); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Errorf("PowerOn of what has no process: %v", err)
	}
}
