//go:build recoverlong

package recover

import (
	"os"
	"testing"

	"holdfast/internal/recovery"
)

// TestKilledBesideALedger loses the site of a real guest, recovers it at B, protects it
// there and moves it on to C, while a victim dies at each step of each: what the guest
// was told is committed is in its own ledger, and that is whole.
func TestKilledBesideALedger(t *testing.T) {
	for _, victim := range []string{"rocva", "qemu", "drva", "host"} {
		t.Run(victim, func(t *testing.T) { killedBesideALedger(t, victim) })
	}
}

func killedBesideALedger(t *testing.T, victim string) {
	s := newSite(t, "")
	s.protected()
	s.rows(3)
	s.protected()
	s.erase()
	must(t, os.Mkdir(s.path("a"), 0o700))
	c := &chain{site: s, rng: seeded(t), victim: victim, struck: map[string]bool{}, hears: true}
	mode := []string{"instant", "full"}[c.rng.IntN(2)]
	c.through("b", recovery.BeforeCommit, nil, c.newRun("disaster", "--interval", "1s", "--mode", mode)...)
	s.judge(c.status("b"))
	c.through("b", recovery.FailedOver, nil, "commit", c.path("b"))
	c.through("b", recovery.Protected, nil, "reprotect", c.path("b"))
	b := s.attach(c.status("b"))
	must(t, b.put(5))
	told := b.row
	must(t, b.Close())

	args := c.newRun("failback", "--from-run", c.path("b"), "--interval", "1s", "--mode", "full")
	args[2] = c.path("c")
	c.through("c", recovery.BeforeCommit, func() {
		if _, err := c.recover("resume", c.path("b")); err != nil {
			t.Fatal(err)
		}
	}, args...)
	if n := s.judge(c.status("c")); n < told {
		t.Errorf("the guest at B was told of %d rows, %d came home", told, n)
	}
	c.through("c", recovery.FailedOver, nil, "commit", c.path("c"))
	c.through("b", recovery.Clean, nil, "cleanup", c.path("b"), "--force")
	c.cleaned("b")
	c.through("c", recovery.Protected, nil, "reprotect", c.path("c"))
	t.Logf("%d rows were told at B", told)
	c.told()
}

// status is what is told of a run.
func (c *chain) status(dir string) *recovery.Status {
	c.t.Helper()
	st, err := c.recover("status", c.path(dir))
	must(c.t, err)
	return st
}
