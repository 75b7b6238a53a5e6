package rocva_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// standby waits until the standby at b has been brought to the newest point.
func (r *rig) standby() string {
	r.t.Helper()
	dir := filepath.Join(r.at["b"].dir, "warm", "erp", r.src.pub.Timeline().String()[:8])
	for end := time.Now().Add(time.Minute); ; {
		all, err := filepath.Glob(filepath.Join(dir, "*.raw.partial"))
		check(r.t, err)
		if _, err := os.Stat(filepath.Join(dir, "standby.json")); err == nil && len(all) == len(r.src.vms) {
			return dir
		}
		if time.Now().After(end) {
			r.t.Fatal("no standby is kept")
		}
		time.Sleep(5 * time.Millisecond) // between looks; what is there decides
	}
}

// TestWarm recovers a domain of which a standby is kept onto that, rolls back, and finds
// the standby kept again.
func TestWarm(t *testing.T) {
	r := newRig(t)
	r.mode = site.Continuous
	r.begin()
	dir := r.standby()
	r.does(plan.Test, plan.TestComplete)
	r.disks("test1") // a test takes nothing from it
	r.does(plan.Cleanup, plan.Ready)
	r.does(plan.Planned, plan.BeforeCommit)
	var paths []string
	for _, vm := range r.src.vms {
		paths = append(paths, filepath.Join(dir, vm.Disks[0].ID.String()+".raw"))
	}
	r.same(paths)
	q, err := recovery.ReadRequest(filepath.Join(r.at["b"].dir, "r", "p", "erp", "1"))
	check(t, err)
	if q.Mode != recovery.Warm || q.Standby != dir {
		t.Errorf("it was recovered as %s from %q", q.Mode, q.Standby)
	}
	r.restart()
	r.does(plan.Rollback, plan.Ready)
	r.src.publisher()
	r.standby()
}

// TestWarmOnImages builds a standby's disks and a recovery's onto images that were given for
// them, whatever they hold.
func TestWarmOnImages(t *testing.T) {
	for name, mode := range map[string]site.Mode{"standby": site.Continuous, "recovery": site.Failover} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mode = mode
			for i, vm := range r.src.vms {
				path := filepath.Join(t.TempDir(), vm.Name+".img")
				image := bytes.Repeat([]byte{byte(i)}, diskSize) // one is all zeroes
				copy(image, r.src.disks[vm.Disks[0].ID][:diskSize/2])
				check(t, os.WriteFile(path, image, 0o600))
				r.given = append(r.given, site.DiskSeed{VM: site.Ref(vm.Name), Disk: "system", Path: path})
			}
			r.begin()
			dir := filepath.Join(r.at["b"].dir, "seeds", "erp")
			if mode == site.Continuous {
				dir = r.standby()
			}
			r.does(plan.Planned, plan.BeforeCommit)
			var paths []string
			for _, vm := range r.src.vms {
				paths = append(paths, filepath.Join(dir, vm.Disks[0].ID.String()+".raw"))
			}
			r.same(paths)
			for _, g := range r.given {
				if b, err := os.ReadFile(g.Path); err != nil || len(b) != diskSize || bytes.Equal(b, r.src.disks[r.src.vms[0].Disks[0].ID]) {
					t.Errorf("the image that was given was changed: %v", err)
				}
			}
		})
	}
}
