package maintain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/fault"
)

// below lists the names below a prefix, without it.
func (w *world) below(prefix string) (names []string) {
	w.t.Helper()
	if err := store.Walk(w.t.Context(), w.back, prefix, func(in store.Info) error {
		names = append(names, strings.TrimPrefix(in.Key, prefix))
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return names
}

// TestSuperseded: of boot traces and settings the newest few stay, and what is young.
func TestSuperseded(t *testing.T) {
	for name, v := range map[string]variant{"": {}, "young ones go": {young: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, seed(t), testPolicy(), nil)
			w.broken = v
			defer w.close()
			l := w.lines[0]
			w.publish(l, true)
			other := dr.VMID{UUID: dr.NewUUID()}
			put := func(from, n int) {
				for i := range n {
					for _, vm := range []dr.VMID{w.vm, other} {
						if err := w.c.PutTrace(t.Context(), l.id, vm, dr.Seq(from+i), []byte{1}); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := w.c.PutSettings(t.Context(), []byte{1}, w.clock.Wall()); err != nil {
						t.Fatal(err)
					}
				}
			}
			put(1, 5)
			w.clock.Advance(orphanAge + time.Hour)
			put(6, 5)
			for range 2 {
				w.publish(l, true) // a manifest is written
				m := w.maintainer(w.container(&fault.Hooked{}), l, w.clock)
				m.request(request{sweep: true})
				w.maintain(l, m, false)
			}
			var want []string
			for i := 6; i <= 10; i++ {
				want = append(want, fmt.Sprintf("%016x", i))
			}
			young := v.young
			for _, vm := range []dr.VMID{w.vm, other} {
				if got := w.below("meta/" + vm.String() + "/boot/"); slices.Equal(got, want) == young {
					t.Errorf("boot traces left: %v", got)
				}
				b, err := w.c.Trace(t.Context(), vm)
				if err != nil || len(b) == 0 {
					t.Errorf("the newest trace: %v, %v", b, err)
				}
			}
			if got := w.below("meta/settings/"); len(got) == 5 == young {
				t.Errorf("settings left: %v", got)
			}
			if b, _, err := w.c.Settings(t.Context()); err != nil || len(b) == 0 {
				t.Errorf("the newest settings: %v, %v", b, err)
			}
			if why := w.fault; why != "" {
				t.Error(why)
			}
		})
	}
}
