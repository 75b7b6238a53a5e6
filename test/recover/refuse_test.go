package recover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/recovery"
	"holdfast/test/rig"
)

// The exit codes of the product that are looked at here.
const (
	exitNotFound = 3
	exitCorrupt  = 6
	exitDenied   = 7
	exitFull     = 8
)

// fails runs a recovery that must fail with one of these exit codes and these words.
func (s *site) fails(codes []int, words []string, args ...string) {
	s.t.Helper()
	_, err := s.recover(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !slices.Contains(codes, exit.ExitCode()) {
		s.t.Errorf("%v: %v, want exit code %d", args[:1], err, codes)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.t.Errorf("%v: nothing is said of %q: %v", args[:1], w, err)
		}
	}
}

// TestWrongPoint: a point that is not there, not any more, another domain's or
// damaged is refused with its reason, and nothing is left of it.
func TestWrongPoint(t *testing.T) {
	l := newLight(t)
	before := l.listing()
	other := &site{t: t, dir: l.path("other"), url: "file://" + l.path("other-store")}
	must(t, os.MkdirAll(other.path("a"), 0o700))
	other.makeContainer()
	for _, c := range []struct {
		code  int
		words string
		more  []string
	}{
		{exitNotFound, "999999", []string{"--at", "999999"}},
		{exitNotFound, "no-such-tag", []string{"--at", "tag:no-such-tag"}},
		{exitNotFound, "checkpoint", []string{"--at", "2001-01-01T00:00:00Z"}}, // older than all that is kept
		{exitNotFound, "nobody", []string{"--vm", "nobody"}},
		{exitDenied, "key", []string{"--key", other.key()}},
		{exitNotFound, "timeline", []string{"--timeline", other.timelines()[0].ID.String()}},
	} {
		for _, op := range []string{"test", "disaster"} {
			l.fails([]int{c.code}, []string{c.words}, l.newRun(op, c.more...)...)
			if n := len(l.qemus("b")); n > 0 {
				t.Errorf("%d VMs run", n)
			}
			if _, err := os.Stat(l.path("b/run.json")); err == nil {
				l.removed()
			}
			l.onlyNew(before, "pin/*")
		}
	}
	// Content is damaged: no point is left, or the run finds out when it reads.
	good := l.content()
	for _, op := range []string{"test", "disaster"} {
		for path, b := range good {
			bad := bytes.Clone(b)
			for i := len(bad) / 8; i < len(bad)/4; i++ {
				bad[i] ^= 0xff
			}
			must(t, os.WriteFile(path, bad, 0o600))
		}
		l.fails([]int{exitNotFound, exitCorrupt}, []string{"checkpoint"}, l.newRun(op, "--mode", "full")...)
		if n := len(l.qemus("b")); n > 0 {
			t.Errorf("%d VMs run", n)
		}
		if op == "test" {
			l.removed()
		}
		for path, b := range good {
			must(t, os.WriteFile(path, b, 0o600))
		}
	}
	l.rest("b") // somebody has restored the objects
	rec, err := readRun(l.path("b"))
	must(t, err)
	l.judgeDisk(rec)
	l.removed()
	l.onlyNew(before, leftByDisaster...)
}

// content are the journal objects that hold more than a few blocks, by path.
func (s *site) content() map[string][]byte {
	s.t.Helper()
	out := map[string][]byte{}
	must(s.t, filepath.WalkDir(s.path("store/t"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(filepath.Dir(p)) != "j" {
			return err
		}
		b, err := os.ReadFile(p)
		if len(b) > 16<<10 {
			out[p] = b
		}
		return err
	}))
	return out
}

// TestFullDisk: what cannot fit is refused before anything is done, with what is
// needed and what there is; what finds out in the middle is resumed once there is
// room, or is undone without.
func TestFullDisk(t *testing.T) {
	l := newLight(t)
	before := l.listing()
	mount := l.path("b")
	must(t, os.Mkdir(mount, 0o700))
	resize := func(flags uintptr, pages int) {
		t.Helper()
		must(t, unix.Mount("tmpfs", mount, "tmpfs", flags, fmt.Sprintf("size=%d", pages*os.Getpagesize())))
	}
	resize(0, 256)
	t.Cleanup(func() { must(t, unix.Unmount(mount, 0)) })
	l.fails([]int{exitFull}, []string{mount, "has room for", "are needed"}, l.newRun("disaster")...)
	rec, err := readRun(l.path("b"))
	must(t, err)
	if rec.Fence != 0 || !rec.Fork.IsZero() {
		t.Errorf("the source was fenced before it was known that there is no room: %+v", rec.Steps)
	}
	l.onlyNew(before)
	l.emptied()
	resize(unix.MS_REMOUNT, 4*diskSize/os.Getpagesize())
	_, err = l.recover(l.newRun("disaster")...)
	must(t, err)
	rec, err = readRun(l.path("b"))
	must(t, err)
	content := int(rec.Disks[0].Bytes) / os.Getpagesize()
	l.emptied()
	outcomes := map[string]int{}
	for pages := content; pages < content+16; pages += 2 {
		resize(unix.MS_REMOUNT, pages)
		mode := []string{"full", "instant"}[l.rng.IntN(2)]
		outcome := l.squeezed(mode, func() { resize(unix.MS_REMOUNT, 4*content) })
		t.Logf("%d pages more than the content, mode %s: %s", pages-content, mode, outcome)
		outcomes[outcome]++
	}
	if len(outcomes) < 2 {
		t.Errorf("the disk was never full in the middle: %v", outcomes)
	}
	l.onlyNew(before, leftByDisaster...)
}

// squeezed recovers where there is hardly room.
func (l *light) squeezed(mode string, room func()) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second) // an instant one waits for room
	defer cancel()
	st := new(recovery.Status)
	err := rig.Command(ctx, st, append([]string{"recover"}, append(l.newRun("disaster", "--mode", mode), "-o", "json")...)...)
	outcome := "it fits"
	var exit *exec.ExitError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		outcome = "it waits for room"
	case errors.As(err, &exit) && exit.ExitCode() == exitFull:
		outcome = "it says that there is no room"
	default:
		l.t.Errorf("%v", err)
	}
	if _, e := os.Stat(l.path("b/run.json")); e == nil {
		if err != nil && l.rng.IntN(2) == 0 {
			room()
			l.rest("b")
			outcome += ", and is resumed"
		}
		if err == nil || strings.HasSuffix(outcome, "resumed") {
			rec, err := readRun(l.path("b"))
			must(l.t, err)
			l.judgeDisk(rec)
		}
		l.emptied()
	}
	return outcome
}

// emptied is removed of a run whose directory is a mount.
func (l *light) emptied() {
	l.t.Helper()
	if st, err := l.recover("cleanup", l.path("b"), "--force"); err != nil || st.State != recovery.Clean {
		l.t.Errorf("cleanup: %v, %v", st.State, err)
	}
	l.cleaned("b")
	entries, err := os.ReadDir(l.path("b"))
	must(l.t, err)
	for _, e := range entries {
		must(l.t, os.RemoveAll(filepath.Join(l.path("b"), e.Name())))
	}
}

// TestCancelled stops a test and a disaster at each of their steps, from the
// keyboard and from another shell: each can be resumed, or undone. The short test
// takes every second step.
func TestCancelled(t *testing.T) {
	l := newLight(t)
	before := l.listing()
	for _, op := range []string{"test", "disaster"} {
		_, err := l.recover(l.newRun(op)...)
		must(t, err)
		rec, err := readRun(l.path("b"))
		must(t, err)
		l.removed()
		done := map[recovery.State]int{}
		every := 2
		if long() {
			every = 1
		}
		for k := 0; k < len(rec.Steps); k += every {
			done[l.cancelledAt(op, k, k/every%2 == 0)]++
		}
		t.Logf("%s: %v", op, done)
	}
	l.onlyNew(before, leftByDisaster...)
}

// cancel has the process that owns a run stop what it does.
func (s *site) cancel(dir string) error {
	return rig.Command(s.t.Context(), nil, "recover", "cancel", s.path(dir))
}

// cancelledAt cancels a run at its k-th step.
func (l *light) cancelledAt(op string, k int, keyboard bool) recovery.State {
	l.t.Helper()
	must(l.t, os.Mkdir(l.path("b"), 0o700))
	p := l.command(l.newRun(op)...)
	l.watch("b", p, 0, k, atBegin, 0, l.rng, func() {
		if keyboard {
			_ = p.Signal(syscall.SIGINT) // it may have ended
		} else {
			_ = l.cancel("b") // nothing may be under way any more
		}
	})
	<-p.Done
	rec, err := readRun(l.path("b"))
	must(l.t, err)
	ended := rec.State
	switch {
	case rec.State == recovery.Clean && op == "test" && keyboard:
	case rec.State == recovery.Incomplete && rec.Kind == "canceled" && rec.Error != "", rec.State == recovery.Tested, rec.State == recovery.BeforeCommit:
		if l.rng.IntN(2) == 0 {
			l.rest("b")
			rec, err := readRun(l.path("b"))
			must(l.t, err)
			l.judgeDisk(rec)
		}
	default:
		l.t.Errorf("%s, cancelled in step %d, is %s: %s %s", op, k, rec.State, rec.Kind, rec.Error)
	}
	l.removed()
	return ended
}

// TestCancelledMigration stops a planned migration at each step: before the
// source's history is ended the source goes on, after that the run is rolled back,
// and then it does.
func TestCancelledMigration(t *testing.T) {
	src := newCounted(t)
	src.protected()
	l := &light{counted: src, rng: seeded(t)}
	src.switched(src.path("a/off"), src.path("a/on"))
	args := src.newRun("planned", "--mode", "full", "--source-drva", src.path("a/drva.sock"), "--source-host", src.path("a/host.sock"),
		"--guest-stop", "rm -f "+src.path("a/on")+"; touch "+src.path("a/off"), "--guest-start", "rm -f "+src.path("a/off")+"; touch "+src.path("a/on"))
	states := map[recovery.State]int{}
	stride := 2 // and which half is drawn
	if long() {
		stride = 1
	}
	for k := l.rng.IntN(stride); ; k += stride {
		must(t, os.Mkdir(src.path("b"), 0o700))
		src.drva.Doom() // after the fence it ends
		p := src.command(args...)
		struck := src.watch("b", p, 0, k, atBegin, 0, l.rng, func() {
			if l.rng.IntN(2) == 0 {
				_ = p.Signal(syscall.SIGINT) // it may have ended
			} else {
				_ = src.cancel("b") // as above
			}
		})
		<-p.Done
		rec, err := readRun(src.path("b"))
		must(t, err)
		states[rec.State]++
		switch {
		case rec.State == recovery.Unwound && rec.Fence == 0:
		case rec.State == recovery.Incomplete, rec.State == recovery.BeforeCommit:
			st, err := src.recover("rollback", src.path("b"))
			if err != nil || st.State != recovery.RolledBack && st.State != recovery.Unwound {
				t.Fatalf("%s: %v", st.State, err)
			}
		default:
			t.Fatalf("cancelled in step %d it is %s: %s", k, rec.State, rec.Error)
		}
		l.removed()
		if rec.Fence != 0 { // the DRVA finds out when it publishes next
			must(t, src.awaitEnd(src.drva))
		}
		must(t, src.recoverBoxes())
		count := src.load.Count()
		src.writesAgain(count)
		if !struck {
			break
		}
	}
	src.protected()
	t.Logf("%v", states)
	if states[recovery.Unwound] < 4/stride {
		t.Errorf("%v", states)
	}
	_ = src.Stop(t.Context(), src.vm.ID, "")
}

// awaitEnd waits for the end of a process that has to end by itself.
func (s *site) awaitEnd(p *rig.Process) error {
	select {
	case <-p.Done:
		return nil
	case <-time.After(patience):
		return errors.New(p.Name + " does not end")
	}
}

// writesAgain waits until the source's guest writes more than it had.
func (c *counted) writesAgain(than int64) {
	c.t.Helper()
	for end := time.Now().Add(patience); c.load.Count() <= than; time.Sleep(20 * time.Millisecond) { // between two looks
		if time.Now().After(end) {
			c.t.Fatal("the source's guest writes nothing any more")
		}
	}
}
