package live

import (
	"testing"
	"testing/synctest"

	"holdfast/internal/errs"
)

// TestResize: nothing is held back and nothing compared, unless the disk ended
// up on its own image.
func TestResize(t *testing.T) {
	broken := errs.New("test", errs.Unavailable, "", "no")
	for name, c := range map[string]struct {
		spoil func(*rig)
		vm    string
		disk  string
		size  int64
		kind  errs.Kind
		calls []string
	}{
		"grows":          {disk: "vdb", size: 2 << 20, calls: []string{"resize vdb"}},
		"no such VM":     {vm: "erp9", disk: "vdb", size: 2 << 20, kind: errs.NotFound},
		"no such disk":   {disk: "vdx", size: 2 << 20, kind: errs.NotFound},
		"fewer bytes":    {disk: "vdb", size: 1 << 10, kind: errs.Invalid},
		"not attached":   {spoil: forget, disk: "vdb", size: 2 << 20, kind: errs.Conflict},
		"not followed":   {spoil: func(r *rig) { r.box.broken["resize"] = broken }, disk: "vdb", size: 2 << 20, kind: errs.Unavailable, calls: []string{"resize vdb", "hold vdb", "sync vdb full"}},
		"not by its VM":  {spoil: func(r *rig) { r.vm.Fail(broken) }, disk: "vdb", size: 2 << 20, kind: errs.Unavailable},
		"of another way": {spoil: func(r *rig) { r.m.cfg.Record.entries[0].Disks[1].Size = 1 << 20 }, disk: "vdb", size: 2 << 20, kind: errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "vda", "vdb")
				r.protect()
				if c.spoil != nil {
					c.spoil(r)
				}
				vm := c.vm
				if vm == "" {
					vm = "erp1"
				}
				rep, err := r.m.Resize(t.Context(), vm, c.disk, c.size)
				if c.kind == 0 && (err != nil || len(rep.Disks) != 1 || rep.Disks[0].Name != "vdb") {
					t.Errorf("Resize: %+v, %v", rep, err)
				}
				if c.kind != 0 && !errs.Is(err, c.kind) {
					t.Errorf("Resize: %v, want kind %v", err, c.kind)
				}
				r.want("calls", r.box.said(), c.calls...)
			})
		})
	}
}
