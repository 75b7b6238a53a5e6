package recovery

import (
	"testing"

	"holdfast/internal/dr"
)

// TestEntriesOfEndedVMs: a VM that ended just before its protection was configured
// is in the host component's record, with the monitor it had; what was left out
// then would never be protected.
func TestEntriesOfEndedVMs(t *testing.T) {
	vm := dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "erp", Disks: []dr.VMDisk{{ID: dr.DiskID{UUID: dr.NewUUID()}}}}
	r := &Run{
		s: &Service{opts: Options{Site: &Site{DiskName: func([]dr.VMDisk, int) string { return "d0" }}}},
		rec: &Record{
			VMs:   []VMRecord{{Config: vm, Monitor: "/vms/erp/monitor"}},
			Disks: []DiskRecord{{ID: vm.Disks[0].ID, VM: vm.ID, Path: "disks/erp"}},
		},
	}
	entries, monitors := r.entries(true)
	if len(entries) != 1 || len(entries[0].Disks) != 1 || entries[0].Config.ID != vm.ID {
		t.Errorf("recorded are %+v", entries)
	}
	if len(monitors) != 1 || monitors[0] != "/vms/erp/monitor" {
		t.Errorf("the host component looks at %q", monitors)
	}
}
