package live

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

// TestWatchdogDies: a watchdog that is killed is followed by another one, which is
// told; the guest notices nothing. The new one lets the guest go on when the host
// component is killed, though errors would reach the guest: it answers in that
// moment where the host component did.
func TestWatchdogDies(t *testing.T) {
	s := newSite(t)
	g := newGuestOf(t, s.Dir, "raw", "report")
	s.startDRVA()
	s.useHost(g.platform())
	s.protect(vmName)
	s.check(&g.load, 1)
	first := s.status().Watchdog
	if first == nil || first.PID == 0 || first.Starts != 1 {
		t.Fatalf("no watchdog: %+v", first)
	}
	killed := time.Now()
	absent(t, g, "the watchdog's kill", func() {
		must(t, syscall.Kill(first.PID, syscall.SIGKILL))
		s.awaitHost("it has another watchdog", func(st *iofilter.Status) bool { return st.Watchdog.Starts == 2 && st.Watchdog.PID != 0 })
	})
	now := s.status().Watchdog
	t.Logf("another watchdog %v after the kill: %+v", now.Since.Sub(killed), *now)
	if now.PID == first.PID || !strings.Contains(now.Error, "killed") {
		t.Errorf("the watchdog is %+v", now)
	}
	var told iofilter.EventList
	must(t, control.CallLocal(t.Context(), s.hostSock(), "/events", nil, &told))
	for _, words := range []string{"the watchdog has ended", "there is a watchdog again"} {
		if !slices.ContainsFunc(told.Events, func(e iofilter.Event) bool { return e.From == e.To && strings.Contains(e.Cause, words) }) {
			t.Errorf("no event says that %s: %+v", words, told.Events)
		}
	}
	s.point(1)
	was := picture(t, g.disk)
	s.host.Doom()
	absent(t, g, "the host component's kill", s.host.Kill)
	s.startHost()
	s.whole(1)
	thrifty(t, "kill", s.status().Stream.Shipped, differing(t, was, g.disk))
	s.check(&g.load, 1)
	must(t, s.host.Stop(patience))
	g.goesOn("the host component was stopped")
	g.off()
}

// TestHostAndWatchdogDie: nobody is left to take the guest off, whether its watchdog
// is dead or hangs; it waits for the next host component, which ends what is left
// of that watchdog, and meets no error.
func TestHostAndWatchdogDie(t *testing.T) {
	s := newSite(t)
	g := newGuestOf(t, s.Dir, "raw", "report")
	s.startDRVA()
	s.useHost(g.platform())
	s.protect(vmName)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		s.check(&g.load, 1)
		watchdog := s.status().Watchdog.PID
		start, err := live.StartOf(watchdog)
		must(t, err)
		s.host.Doom()
		absent(t, g, signal.String(), func() {
			must(t, syscall.Kill(watchdog, signal))
			s.host.Kill() // before it starts another one
			s.startHost()
		})
		s.whole(1)
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // until it is waited for, whoever its parent is now
			if again, err := live.StartOf(watchdog); err != nil || again != start {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%v: the old watchdog is still there", signal)
			}
		}
	}
	s.check(&g.load, 1)
	must(t, s.host.Stop(patience))
	g.goesOn("the host component was stopped")
	g.off()
}

// TestGuestIsTakenOver: one host component follows another under a guest that writes; the
// last of them is killed. A raw disk stays in the guest's path, one behind a
// storage daemon is taken off and on, and compared.
func TestGuestIsTakenOver(t *testing.T) {
	// Without HOLDFAST_LIVE_N qcow2 alone: package takeover has raw disks.
	for _, format := range always([]string{"qcow2", "raw"}) {
		t.Run(format, func(t *testing.T) {
			s := newSite(t)
			g := newGuestOf(t, s.Dir, format, "stop")
			s.startDRVA()
			s.useHost(g.platform())
			s.protect(vmName)
			s.check(&g.load, 1)
			for range 2 {
				s.host.Doom()
				old := s.host
				absent(t, g, "a takeover", func() {
					s.host = s.start("heir", "iofilter", "--config", s.Path("host.json"), "--takeover")
					select {
					case <-old.Done:
					case <-time.After(patience):
						t.Fatal("the old host component does not end")
					}
				})
				if old.Err != nil {
					t.Fatalf("the old host component ended: %v", old.Err)
				}
				s.whole(1)
				// What passed by is found by comparison, and a raw disk needs none.
				if compared := s.status().Stream.Compared; (compared > 0) != (format == "qcow2") {
					t.Errorf("%d bytes were compared after a takeover of a %s disk", compared, format)
				}
				s.check(&g.load, 1)
			}
			s.host.Doom()
			absent(t, g, "the heir's kill", s.host.Kill)
			s.startHost()
			s.whole(1)
			s.check(&g.load, 1)
			must(t, s.host.Stop(patience))
			g.goesOn("the host component was stopped")
			g.off()
		})
	}
}
