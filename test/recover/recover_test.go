package recover

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/recovery"
	"holdfast/test/rig"
)

// killProcess ends a box that a test left, by its number and start.
func killProcess(p recovery.Process) {
	r, err := live.OpenProcess(p.PID, p.Start, nil)
	if err != nil {
		return
	}
	defer r.Close()
	_ = syscall.Kill(p.PID, syscall.SIGTERM)
	select {
	case <-r.Gone():
	case <-time.After(20 * time.Second):
		_ = r.Kill(context.Background())
	}
}

// mode of the short tests.
const quickMode = "full"

// TestBesideProduction: a test boots the newest point while the source goes on,
// and leaves nothing.
func TestBesideProduction(t *testing.T) {
	s := newSite(t, "")
	s.protected()
	before := s.timelines()
	st := s.begin("test", "t", "--mode", quickMode, "--look-after", "1s")
	if st.State != recovery.Tested {
		t.Fatalf("%+v", st)
	}
	s.judge(st)
	at := s.acks.last()
	s.rows(5) // the source commits meanwhile
	s.protected()
	if after := s.timelines(); len(after) != len(before) || after[0].ID != before[0].ID {
		t.Errorf("the timelines changed: %+v", after)
	}
	shots, _ := filepath.Glob(s.path("t/evidence/*.png"))
	if len(shots) != 1 {
		t.Errorf("screenshots: %v", shots)
	}
	if _, err := s.recover("commit", s.path("t")); err == nil || !strings.Contains(err.Error(), "a test has no commit") {
		t.Errorf("a test was committed: %v", err)
	}
	if _, err := s.recover("cleanup", s.path("t")); err != nil {
		t.Fatal(err)
	}
	s.cleaned("t")
	if s.acks.last() <= at {
		t.Error("the source does not commit any more")
	}
	// A second one in the same place is refused, one elsewhere is as good as the first.
	if _, err := s.recover("test", s.url, s.path("t"), "--key", s.key()); err == nil || !strings.Contains(err.Error(), "there is a recovery in this directory") {
		t.Errorf("%v", err)
	}
	if _, err := s.recover("test", s.url, s.path("d"), "--key", s.key(), "--at", "999999"); err == nil {
		t.Error("a point that is not there was recovered")
	}
}

// TestDisasterAndZombie: the source's guest and host die, its DRVA does not know.
func TestDisasterAndZombie(t *testing.T) {
	s := newSite(t, "")
	s.protected()
	s.rows(3)
	s.protected()
	s.drva.Doom()                                      // it will be fenced, and end
	st := s.begin("disaster", "b", "--interval", "1s") // instant: blocks come when they are asked for
	if st.State != recovery.BeforeCommit || st.Fence == 0 || st.Fork.IsZero() {
		t.Fatalf("%+v", st)
	}
	// The zombie hears of it at its next object.
	select {
	case <-s.drva.Done:
	case <-time.After(patience):
		t.Fatal("the zombie publishes")
	}
	if words := rig.Tail(s.drva.Log); !strings.Contains(words, "another appliance publishes this domain now") {
		t.Errorf("the zombie was not told: %s", words)
	}
	s.killAllButDRVA()
	if rec, err := readRun(s.path("b")); err != nil || !rec.Hydrated {
		t.Errorf("the command ended before the disks were whole: %v", err)
	}
	first := s.judge(st)
	// It comes back, and is refused before it does anything.
	zombie, err := rig.Start(s.path("a"), "zombie", func(*rig.Process) {}, "drva", "--config", s.path("a/drva.json"))
	must(t, err)
	zombie.Doom()
	select {
	case <-zombie.Done:
	case <-time.After(patience):
		t.Fatal("the zombie came back")
	}
	if words := rig.Tail(zombie.Log); !strings.Contains(words, "the domain was recovered") {
		t.Errorf("the zombie was not told: %s", words)
	}
	// Back, and another point.
	st, err = s.recover("rollback", s.path("b"))
	must(t, err)
	if st.State != recovery.RolledBack {
		t.Fatalf("%+v", st)
	}
	s.cleaned("b")
	s.erase() // all of the old site is gone
	st, err = s.recover("resume", s.path("b"), "--at", "latest")
	must(t, err)
	if again := s.judge(st); again != first || st.State != recovery.BeforeCommit {
		t.Errorf("the second try has %d rows, the first had %d: %s", again, first, st.State)
	}
	st, err = s.recover("commit", s.path("b"))
	must(t, err)
	console := s.attach(st)
	must(t, console.put(5))
	console.Close()
	st, err = s.recover("reprotect", s.path("b"))
	must(t, err)
	if st.State != recovery.Protected {
		t.Fatalf("%+v", st)
	}
	if _, err := s.recover("cleanup", s.path("b"), "--force"); err == nil || !strings.Contains(err.Error(), "these VMs are the domain") {
		t.Errorf("the domain was removed: %v", err)
	}
	// And home: planned, out of the recovery, to a new A that has nothing.
	st = s.begin("failback", "c", "--mode", quickMode, "--from-run", s.path("b"), "--interval", "1s")
	if st.State != recovery.BeforeCommit {
		t.Fatalf("%+v", st)
	}
	if n := s.ask(st); n != console.row {
		t.Errorf("the planned migration lost commits: %d of %d", n, console.row)
	}
	_, err = s.recover("commit", s.path("c"))
	must(t, err)
	st, err = s.recover("cleanup", s.path("b"), "--force")
	must(t, err)
	s.cleaned("b")
	if st.State != recovery.Clean {
		t.Errorf("%+v", st)
	}
	st, err = s.recover("reprotect", s.path("c"))
	must(t, err)
	if st.State != recovery.Protected {
		t.Errorf("%+v", st)
	}
}

// TestPlanned moves the domain and loses nothing.
func TestPlanned(t *testing.T) {
	s := newSite(t, "")
	s.protected()
	s.rows(5)
	shut := s.guestCommands()
	st := s.begin("planned", "b", "--mode", quickMode, "--source-drva", s.path("a/drva.sock"), "--source-host", s.path("a/host.sock"),
		"--guest-stop", shut)
	s.drva.Doom()
	all := s.acks.last()
	if n := s.judge(st); n < all {
		t.Errorf("%d rows were acknowledged, %d were recovered", all, n)
	}
	if st.Checkpoint.Scope != dr.Group {
		t.Errorf("%+v", st.Checkpoint)
	}
}

// guestCommands returns a command line that shuts the guest down: it leaves a
// file, which the test finds.
func (s *site) guestCommands() (stop string) {
	flag := s.path("a/shut")
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(flag); err == nil {
				s.endLoad()
				_ = s.console.PowerOff(ctx)
				return
			}
			time.Sleep(50 * time.Millisecond) // between two looks
		}
	}()
	return "touch " + flag
}
