package recover

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/recovery"
	"holdfast/test/rig"
)

// chain is recoveries one after the other of which a victim dies at each step of
// each, once: what is interrupted is resumed, and dies at the next step.
type chain struct {
	*site
	rng    *rand.Rand
	victim string // rocva: the command; qemu: the recovered VMs; drva, host: boxes here and at the source
	struck map[string]bool
	failed int  // commands that did not survive it
	hears  bool // the guest has a system, which hears that it shall end
}

// strike kills the victims of a run, and returns how many.
func (c *chain) strike(dir string, p *rig.Process) int {
	switch c.victim {
	case "rocva":
		p.Kill()
		return 1
	case "qemu":
		pids := c.qemus(dir)
		killAll(c.t, pids)
		return len(pids)
	}
	config := map[string]string{"drva": "/drva.json", "host": "/host.json"}[c.victim]
	command := map[string]string{"drva": "\x00drva\x00--config\x00", "host": "\x00iofilter\x00--config\x00"}[c.victim]
	pids := processes(c.t, command, c.path(""), config)
	if c.drva != nil {
		c.drva.Doom() // its end is ours
		c.host.Doom()
	}
	killAll(c.t, pids)
	return len(pids)
}

// next waits for a step of the run that has not been struck, and strikes; false:
// the command ended before there was one.
func (c *chain) next(dir string, p *rig.Process) bool {
	c.t.Helper()
	for {
		rec, err := readRun(c.path(dir))
		if n := 0; err == nil {
			if rec.State == recovery.ShuttingDown && dir == "c" && !c.hears {
				killAll(c.t, c.qemus("b")) // without a system a guest does not hear that it shall end: this is how it does
			}
			if n = len(rec.Steps); n > 0 {
				name := dir + " " + string(rec.Action) + "/" + rec.Steps[n-1].Name
				if !c.struck[name] {
					if c.rng.IntN(2) == 0 {
						time.Sleep(time.Duration(c.rng.Int64N(int64(30 * time.Millisecond)))) // a moment drawn, not a proof
					}
					if n := c.strike(dir, p); n > 0 || c.victim == "qemu" && rec.BootedAt.IsZero() {
						c.struck[name] = true
						if n > 0 {
							return true
						}
					}
				}
			}
		}
		select {
		case <-p.Done:
			return false
		case <-time.After(time.Millisecond): // between two looks
		}
	}
}

// through does something with a run, resumed as often as its victim dies, until
// the run is in a state; back puts a source that was struck back in service.
func (c *chain) through(dir string, want recovery.State, back func(), args ...string) *recovery.Record {
	c.t.Helper()
	first := args
	for range 60 {
		p := c.command(args...)
		for c.next(dir, p) && c.victim != "rocva" {
		}
		<-p.Done
		if p.Err != nil && c.victim != "rocva" {
			c.failed++
			c.t.Logf("%s did not survive it: %s", args[0], lastLine(p.Log))
		}
		rec, err := readRun(c.path(dir))
		if os.IsNotExist(err) {
			continue // it died before there was a run
		}
		must(c.t, err)
		switch {
		case rec.State == recovery.Unwound:
			back()
			_, err := c.recover("cleanup", c.path(dir))
			must(c.t, err)
			c.cleaned(dir)
			must(c.t, os.RemoveAll(c.path(dir)))
			args = first
			continue
		case rec.State == want && p.Err == nil:
			st, err := c.recover("status", c.path(dir))
			must(c.t, err)
			if len(st.Down) == 0 && !st.Interrupted {
				return rec
			}
		}
		if resting := !rec.State.Active() && rec.State != recovery.Incomplete && rec.State != recovery.CleanupIncomplete; resting && rec.State != want && args[0] == "resume" {
			args = first // it had not begun
		} else {
			args = []string{"resume", c.path(dir)}
		}
	}
	c.t.Fatalf("%v does not come to its end: %s", first, rig.Tail(c.path("recover.log")))
	return nil
}

func lastLine(path string) string {
	words := strings.Split(rig.Tail(path), "\n")
	return strings.Join(words[max(0, len(words)-2):], " / ")
}

// told is how often the victim died where.
func (c *chain) told() {
	names := []string{}
	for name := range c.struck {
		names = append(names, name)
	}
	slices.Sort(names)
	c.t.Logf("%s: killed at %d steps, %d commands failed of it and were resumed: %s", c.victim, len(names), c.failed, strings.Join(names, ", "))
	least := map[string]int{"rocva": 10, "qemu": 5, "drva": 5, "host": 5}[c.victim]
	if len(names) < least {
		c.t.Errorf("killed at %d steps alone", len(names))
	}
}

// TestKilledMigration moves a domain to B, protects it there, and moves it on to
// C, while a victim dies at each step: no write is lost. The short test is over
// once B is protected.
func TestKilledMigration(t *testing.T) {
	victims := []string{"rocva"}
	if long() {
		victims = []string{"rocva", "qemu", "drva", "host"}
	}
	for _, v := range victims {
		t.Run(v, func(t *testing.T) { killedMigration(t, v) })
	}
}

func killedMigration(t *testing.T, victim string) {
	src := newCounted(t)
	src.protected()
	c := &chain{site: src.site, rng: seeded(t), victim: victim, struck: map[string]bool{}}
	src.switched(c.path("a/off"), c.path("a/on"))
	back := func() { // the source's boxes are started again by who runs them
		must(t, c.recoverBoxes())
	}
	rec := c.through("b", recovery.BeforeCommit, back, c.newRun("planned", "--interval", "1s", "--mode", []string{"instant", "full"}[c.rng.IntN(2)],
		"--source-drva", c.path("a/drva.sock"), "--source-host", c.path("a/host.sock"),
		"--guest-stop", "touch "+c.path("a/off")+"; rm -f "+c.path("a/on"), "--guest-start", "touch "+c.path("a/on")+"; rm -f "+c.path("a/off"))...)
	c.drva.Doom()
	content := c.content("b", rec)
	if err := src.load.Missing(content); err != nil {
		t.Error(err)
	}
	if src.load.Count() == 0 {
		t.Error("the load wrote nothing: this proves nothing")
	}
	c.killAllButDRVA()
	c.drva.Kill()
	c.through("b", recovery.FailedOver, nil, "commit", c.path("b"))
	c.through("b", recovery.Protected, nil, "reprotect", c.path("b"))
	if !long() {
		c.told()
		return
	}
	args := c.newRun("failback", "--from-run", c.path("b"), "--interval", "1s", "--mode", "full")
	args[2] = c.path("c")
	rec = c.through("c", recovery.BeforeCommit, func() {
		if _, err := c.recover("resume", c.path("b")); err != nil {
			t.Fatal(err)
		}
	}, args...)
	if !bytes.Equal(c.content("c", rec), content) {
		t.Error("the disk that came home is not the one that left")
	}
	c.through("c", recovery.FailedOver, nil, "commit", c.path("c"))
	c.through("b", recovery.Clean, nil, "cleanup", c.path("b"), "--force")
	c.cleaned("b")
	c.through("c", recovery.Protected, nil, "reprotect", c.path("c"))
	c.told()
}

// content is the disk a run recovered.
func (c *chain) content(dir string, rec *recovery.Record) []byte {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.path(dir), rec.Disks[0].Path))
	must(c.t, err)
	return b
}

// recoverBoxes starts the source's boxes again, those that were killed.
func (s *site) recoverBoxes() error {
	select {
	case <-s.drva.Done:
		s.startDRVA()
	default:
	}
	select {
	case <-s.host.Done:
		s.runHost()
	default:
	}
	return nil
}

// switched has the load end and begin as files say: the power of a source that is
// reached by commands.
func (c *counted) switched(off, on string) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	c.t.Cleanup(func() { cancel(); <-over })
	go func() {
		defer close(over)
		for ctx.Err() == nil {
			if _, err := os.Stat(off); err == nil {
				_ = c.Stop(ctx, c.vm.ID, "")
			} else if _, err := os.Stat(on); err == nil && c.host.Err == nil {
				_ = c.Start(ctx, c.vm.ID, "")
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond): // between two looks
			}
		}
	}()
}
