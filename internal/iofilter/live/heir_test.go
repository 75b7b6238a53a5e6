package live

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"holdfast/internal/hypervisor"
)

// TestLeftToAnHeir: before another process takes over, what ends with this one is
// taken out of the guest's path, and is unseen; the rest stays. If that fails all
// of it stays, and the caller is told.
func TestLeftToAnHeir(t *testing.T) {
	for name, c := range map[string]struct {
		fail     error
		attached []string
	}{
		"taken off":           {nil, []string{"vda"}},
		"cannot be taken off": {errors.New("busy"), []string{"vda", "vdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "vda", "vdb")
				r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[1].Format = "qcow2" })
				r.protect()
				ctx, cancel := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- r.m.Run(ctx, func() bool { return true }) }()
				synctest.Wait()
				r.want("attached", r.attached(), "vda", "vdb")
				r.vm.Fail(c.fail)
				cancel()
				if err := <-ran; (err != nil) != (c.fail != nil) {
					t.Errorf("Run: %v", err)
				}
				r.vm.Fail(nil)
				r.want("attached", r.attached(), c.attached...)
				if c.fail == nil {
					r.want("record", r.recorded(), "vda", "vdb unseen")
				}
			})
		})
	}
}
