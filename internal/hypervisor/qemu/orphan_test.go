package qemu_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"holdfast/internal/hypervisor"
)

// TestKilledWhileStarting kills the process that starts a VM at moments all over
// the start. The next one finds the VM before its first instruction, or nothing;
// and nothing is left.
func TestKilledWhileStarting(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	found := 0
	for range rounds(t, 12) {
		spec := polite(t)
		dir, err := os.MkdirTemp("", "hfk-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		spec.Keep, spec.Paused, spec.WorkDir = true, true, dir
		moment := time.Duration(rnd.IntN(400)) * time.Millisecond
		killParent(t, spec, moment)
		p := open(t)
		vms, err := p.Adopt(ctx, dir)
		if err != nil || len(vms) > 1 {
			t.Fatalf("killed after %v: %d VMs, %v", moment, len(vms), err)
		}
		for _, vm := range vms {
			found++
			if vm.Status().State != hypervisor.Paused {
				t.Errorf("killed after %v: the VM is %+v", moment, vm.Status())
			}
			if err := vm.Kill(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if vms, err = p.Adopt(ctx, dir); err != nil || len(vms) > 0 {
			t.Errorf("killed after %v: again %d VMs, %v", moment, len(vms), err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("killed after %v: left %v, %v", moment, left, err)
		}
		p.Close()
	}
	t.Logf("%d VMs were found", found)
}

// killParent has a copy of the test program start a VM, and kills it after a
// while: the moment is what is drawn, and nothing is waited for.
func killParent(t *testing.T, spec hypervisor.Spec, after time.Duration) {
	t.Helper()
	words, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orphanRole+"="+string(words))
	var said bytes.Buffer
	cmd.Stdout = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(after, func() { cmd.Process.Kill() })
	cmd.WaitDelay = time.Millisecond // its QEMU has inherited nothing of ours, but for a moment
	cmd.Wait()
}
