package recover

import (
	"strings"
	"testing"

	"holdfast/internal/recovery"
	"holdfast/internal/store/storetest/versitygw"
	"holdfast/test/rig"
)

// TestStoreOutageDuringInstantBoot: the store ends while a guest boots from it,
// and comes back in time: the guest goes on and notices nothing. It ends again and
// stays away longer than a read waits: the guest is stopped at an I/O error, sees
// no zeroes, and goes on when it is told to; in the end all of its disk is there.
// It takes longer than other tests because a read waits for 25 s.
func TestStoreOutageDuringInstantBoot(t *testing.T) {
	gw := versitygw.Start(t, versitygw.Options{})
	must(t, gw.MakeBucket(t.Context(), "recovery", false))
	for name, value := range gw.Env() {
		t.Setenv(name, value)
	}
	s := newSite(t, gw.URL("recovery", "erp").String())
	s.protected()
	s.rows(3)
	s.protected()
	s.kill()

	p := s.command(s.newRun("disaster", "--fill-rate", "2097152", "--auto", "rollback", "--after", "1h")...)
	fetched := func(n int64) {
		t.Helper()
		s.awaitStatus("b", "the guest reads from the store", func(st *recovery.Status) bool {
			return st.Hydration != nil && st.Hydration.Bytes >= n && st.Hydration.Bytes < st.Hydration.Total
		})
	}
	fetched(1 << 20)
	gw.Kill()
	s.awaitStatus("b", "a read waits", func(st *recovery.Status) bool {
		return st.Hydration != nil && strings.Contains(st.Hydration.Stalled, "the store gives nothing")
	})
	must(t, gw.Restart(t.Context()))
	s.awaitStatus("b", "the store gives again", func(st *recovery.Status) bool {
		return st.Hydration != nil && st.Hydration.Stalled == "" && len(st.Down) == 0
	})
	fetched(3 << 20)
	gw.Kill()
	st := s.awaitStatus("b", "the VM is stopped at an I/O error", func(st *recovery.Status) bool {
		return len(st.Down) == 1 && strings.Contains(st.Down[0], "paused")
	})
	if !st.Owned || st.State != recovery.BeforeCommit || !strings.Contains(st.Next, "resume") {
		t.Errorf("%+v", st)
	}
	must(t, gw.Restart(t.Context()))
	if st := s.rest("b"); len(st.Down) > 0 {
		t.Errorf("it does not go on: %v", st.Down)
	}
	s.judge(st)
	s.awaitStatus("b", "the disk is whole", func(st *recovery.Status) bool { return st.Hydrated && len(st.Down) == 0 })
	s.judge(st)
	if _, err := s.recover("rollback", s.path("b")); err != nil {
		t.Error(err)
	}
	<-p.Done
	if p.Err != nil {
		t.Errorf("%v: %s", p.Err, rig.Tail(p.Log))
	}
	if _, err := s.recover("cleanup", s.path("b")); err != nil {
		t.Error(err)
	}
	s.cleaned("b")
}
