package live

import (
	"slices"
	"testing"
	"testing/synctest"

	"holdfast/internal/durable"
	"holdfast/internal/hypervisor"
)

// stillRig is a VM that stands still behind a record which says so, as a recovery
// leaves it.
func stillRig(t *testing.T, paused bool) *rig {
	r := newRig(t, "vda")
	e := Entry{Disks: []EntryDisk{{ID: diskID(r.id, "vda"), Name: "vda", Path: "/vms/vda.raw", Socket: "/run/hf/a.sock", Still: true}}}
	r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) {
		i.Paused = paused
		e.Config = i.Config
		e.Config.Disks = slices.Clone(i.Config.Disks)
	})
	e.Config.Disks[0].ID = e.Disks[0].ID
	if err := WriteRecord(durable.OS{}, r.path, []Entry{e}); err != nil {
		t.Fatal(err)
	}
	if ok, err := Settled(durable.OS{}, r.path); err != nil || ok {
		t.Fatalf("settled before anything was attached: %v, %v", ok, err)
	}
	r.restart()
	return r
}

// TestStill: a VM that has not run since its sidecars were made is attached and
// nothing is compared; one that runs all the same is compared, as ever.
func TestStill(t *testing.T) {
	for _, paused := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := stillRig(t, paused)
			r.during(func() {
				r.want("attached", r.attached(), "vda")
				compared := slices.ContainsFunc(r.box.said(), func(c string) bool { return c == "sync vda hash" || c == "sync vda full" })
				if compared == paused {
					t.Errorf("paused %v: compared %v", paused, compared)
				}
				r.want("record", r.recorded(), "vda")
				if ok, err := Settled(durable.OS{}, r.path); err != nil || !ok {
					t.Errorf("not settled: %v, %v", ok, err)
				}
			})
			// The note is gone: what it writes past the export later is compared.
			r.restart()
			r.during(func() {
				forget(r)
				r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Paused = true })
				synctest.Wait()
				r.want("record", r.recorded(), "vda")
				if said := r.box.said(); !slices.Contains(said, "hold vda") {
					t.Errorf("it was believed a second time: %q", said)
				}
			})
		})
	}
}
