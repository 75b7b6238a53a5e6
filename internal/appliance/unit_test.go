package appliance

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/internal/control"
	"holdfast/internal/errs"
)

// TestUnitRunsOn: a process that takes another configuration as it runs is not ended; one
// that refuses, knows no such call, or is not there, is. Whoever dies in between has it
// asked again.
func TestUnitRunsOn(t *testing.T) {
	dir := shortDir(t)
	config := filepath.Join(dir, "drva.json")
	answer := map[string]error{"refused": errs.New("x", errs.Conflict, "", "it takes a restart")}
	old, asked := false, 0
	has := "" // by the process
	b := newBoxes(t, func(args []string) map[string]control.Handler {
		has = args[len(args)-1]
		calls := status(struct{}{})
		if !old {
			calls["/reconfigure"] = func(context.Context, []byte) (any, error) {
				asked++
				text, err := os.ReadFile(config)
				if err == nil {
					err = answer[string(text)]
				}
				if err == nil {
					has = string(text)
				}
				return struct{}{}, err
			}
		}
		return calls
	})
	all, socket := b.all(), filepath.Join(dir, "s.sock")
	fresh := func() *unit { return newUnit(&all, newBox(Options{}).log, "drva", dir, "drva") }
	sockets := []string{filepath.Join(dir, "nobody.sock"), socket}
	run := func(u *unit, text string, want ...string) {
		t.Helper()
		check(t, u.configured(t.Context(), []byte(text), sockets...))
		check(t, u.up(t.Context(), socket))
		if got := b.said(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		if file, err := os.ReadFile(config); err != nil || string(file) != text || has != text {
			t.Errorf("%s: the file is %q, the process has %q, %v", text, file, has, err)
		}
	}
	u := fresh()
	run(u, "one", "start drva")
	run(u, "two")
	run(u, "refused", "end drva", "start drva")
	run(u, "three")
	run(fresh(), "three")
	if asked != 3 {
		t.Errorf("it was asked %d times", asked)
	}
	check(t, os.Remove(u.startedPath())) // an agent that dies before its note
	run(fresh(), "three")
	check(t, os.Remove(u.startedPath())) // one that had written the file alone, and is told something else now
	check(t, os.WriteFile(config, []byte("four"), 0o600))
	run(fresh(), "two")
	b.kill()
	run(u, "five", "start drva")
	old = true
	run(u, "refused", "end drva", "start drva")
	run(u, "six", "end drva", "start drva")
	b.stuck = errs.New("end", errs.Denied, "drva", "it is somebody else's")
	if err := u.configured(t.Context(), []byte("seven"), sockets...); !errs.Is(err, errs.Denied) {
		t.Errorf("it cannot be ended: %v", err)
	}
	if text, err := os.ReadFile(config); err != nil || string(text) != "six" || has != "six" {
		t.Errorf("the running process's configuration is %q, %v", text, err)
	}
	b.stuck = nil
	run(u, "seven", "end drva", "start drva")
}

// TestUnit: a process has the configuration it was started with, whoever dies when, and
// is not started again without need.
func TestUnit(t *testing.T) {
	dir := shortDir(t)
	b := newBoxes(t, func([]string) map[string]control.Handler { return status(struct{}{}) })
	all, socket := b.all(), filepath.Join(dir, "s.sock")
	fresh := func() *unit { return newUnit(&all, newBox(Options{}).log, "drva", dir, "drva") }
	run := func(u *unit, config string, want ...string) {
		t.Helper()
		check(t, u.configured(t.Context(), []byte(config)))
		check(t, u.up(t.Context(), socket))
		if got := b.said(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
	u := fresh()
	run(u, "one", "start drva")
	run(u, "one")
	run(fresh(), "one") // another agent finds it
	run(u, "two", "end drva", "start drva")
	b.kill()
	run(fresh(), "two", "start drva")

	// An agent that dies between the end of the old process and the note restarts
	// whatever runs.
	check(t, os.Remove(u.startedPath()))
	run(fresh(), "two", "end drva", "start drva")

	// One that cannot be ended goes on with what it has, and is ended later.
	b.stuck = errs.New("end", errs.Denied, "drva", "it is somebody else's")
	for range 2 {
		if err := fresh().configured(t.Context(), []byte("three")); !errs.Is(err, errs.Denied) {
			t.Errorf("configured: %v", err)
		}
		if text, err := os.ReadFile(u.config); err != nil || string(text) != "two" {
			t.Errorf("the running process's configuration is %q, %v", text, err)
		}
	}
	b.stuck = nil
	run(fresh(), "three", "end drva", "start drva")
	run(u, "two", "end drva", "start drva")

	// One that ends at once is tried ever less often.
	b.kill()
	b.fail(errs.New("launch", errs.Unavailable, "drva", "it ended at once"))
	for range 5 {
		if err := u.up(t.Context(), socket); !errs.Is(err, errs.Unavailable) {
			t.Errorf("up: %v", err)
		}
	}
	if got := b.said(); len(got) != 1 {
		t.Errorf("%d starts in a row", len(got))
	}
	u.soon()
	if err := u.up(t.Context(), socket); err == nil || len(b.said()) != 1 {
		t.Errorf("soon is not at once: %v", err)
	}
	b.fail(nil)
	u.soon()
	run(u, "two", "start drva")
}
