package recovery

import (
	"bytes"
	"testing"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
)

// TestBadTraces: whatever lies where a boot trace should be, VMs boot from the disks
// of their point.
func TestBadTraces(t *testing.T) {
	id := dr.DiskID{UUID: dr.NewUUID()}
	full := boottrace.Trace{}
	for n := range uint32(boottrace.MaxChunks) {
		full.Chunks = append(full.Chunks, boottrace.Chunk{Disk: id, Chunk: n})
	}
	for name, b := range map[string][]byte{
		"empty":             {},
		"another version":   {99, 1, 2, 3},
		"garbage":           bytes.Repeat([]byte{0xff}, 4<<10),
		"cut short":         full.Encode()[:1<<10],
		"of a foreign disk": full.Encode(),
		"beyond the disk":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for a quiet guest
			g := newInstantRig(t)
			for _, vm := range g.vms {
				if name == "beyond the disk" {
					b = boottrace.Trace{Chunks: []boottrace.Chunk{{Disk: vm.Disks[0].ID, Chunk: 1 << 20}, {Disk: vm.Disks[0].ID, Chunk: 0}}}.Encode()
				}
				check(t, g.c.PutTrace(t.Context(), g.c.Domain().Timeline, vm.ID, 1<<20, b))
			}
			r := g.begin(Test)
			g.guests(3)
			check(t, r.Attend(t.Context()))
			if rec := r.Record(); rec.State != Tested || !rec.Hydrated {
				t.Errorf("%s, hydrated %v", rec.State, rec.Hydrated)
			}
			check(t, r.Do(t.Context(), Cleanup))
			check(t, r.Close())
		})
	}
}
