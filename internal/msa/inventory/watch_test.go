package inventory

import (
	"slices"
	"testing"
	"time"

	"holdfast/internal/dr"
)

// TestAgain: a VM that something happened to is looked at again when its guest may have
// its addresses, once for each pause, and counted from what happened last.
func TestAgain(t *testing.T) {
	w := &watch{Gather: NewGather(), later: time.NewTimer(time.Hour)}
	defer w.later.Stop()
	a, b, c := dr.VMID{UUID: dr.NewUUID()}, dr.VMID{UUID: dr.NewUUID()}, dr.VMID{UUID: dr.NewUUID()}
	began := time.Now()
	looks := func(after time.Duration, want ...dr.VMID) {
		t.Helper()
		got := w.due(began.Add(after), []dr.VMID{c})
		if !slices.Equal(got, append([]dr.VMID{c}, want...)) {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
	w.repeat(began, []dr.VMID{a, b, c})
	looks(againAfter[0] - 1)
	looks(againAfter[0], a, b)
	w.repeat(began.Add(againAfter[0]), []dr.VMID{a})
	looks(againAfter[1], a, b)
	looks(againAfter[0] + againAfter[1] - 1)
	looks(againAfter[0]+againAfter[1], a)
	looks(time.Hour)
	var many []dr.VMID
	for range maxAgain {
		many = append(many, dr.VMID{UUID: dr.NewUUID()})
	}
	w.repeat(began, many)
	if len(w.again) != maxAgain {
		t.Errorf("%d looks wait, at most %d may", len(w.again), maxAgain)
	}
}
