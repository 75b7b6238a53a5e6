package iofilter

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// again is another Filter over the same disks, as after a restart.
func (r *running) again(legacy *Legacy) (f *Filter, stop func()) {
	r.t.Helper()
	f, err := New(r.cfg, Options{Dial: r.drva.dial, Legacy: legacy})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	<-f.Running()
	return f, func() {
		r.t.Helper()
		cancel()
		if err := <-ran; err != nil {
			r.t.Error(err)
		}
	}
}

// pausedDisks are the disks that are paused, by their place.
func pausedDisks(f *Filter) (out []int) {
	for i, d := range f.Status().Disks {
		if d.State == PausedUser {
			out = append(out, i)
		}
	}
	return out
}

// TestPausesOutliveTheProcess: whatever is paused, a restart, a takeover and a
// failed takeover leave it as it was; also that one disk of a paused host was
// resumed.
func TestPausesOutliveTheProcess(t *testing.T) {
	r := runFilter(t, 1<<20, 1<<20, 1<<20)
	r.cfg.PauseFile = filepath.Join(t.TempDir(), "paused")
	r.stop()
	disks := r.Protected()[0].Disks
	one := func(i int) Target { return Target{Disks: []dr.DiskID{disks[i].ID}} }
	f, stop := r.again(nil)
	for _, step := range []struct {
		what string
		do   func(*Filter) error
		want []int
	}{
		{"all", func(f *Filter) error { return f.Pause(Target{}) }, []int{0, 1, 2}},
		{"all but one", func(f *Filter) error { return f.Resume(one(1)) }, []int{0, 2}},
		{"again", func(f *Filter) error { return f.Pause(one(1)) }, []int{0, 1, 2}},
		{"none", func(f *Filter) error { return f.Resume(Target{}) }, nil},
		{"one", func(f *Filter) error { return f.Pause(one(2)) }, []int{2}},
		{"none again", func(f *Filter) error { return f.Resume(one(2)) }, nil},
	} {
		if err := step.do(f); err != nil {
			t.Fatal(step.what, err)
		}
		look := func(how string) {
			t.Helper()
			eventually(t, step.what+" "+how, func() bool { return slices.Equal(pausedDisks(f), step.want) && f.Status().Link.Up })
		}
		look("at once")
		stop()
		f, stop = r.again(nil)
		look("after a restart")
		legacy, err := f.HandOver(t.Context(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		f, stop = r.again(legacy)
		look("after a takeover")
	}
	if _, err := os.Stat(r.cfg.PauseFile); err == nil {
		t.Error("a file tells of pauses, and there is none")
	}
	stop()
}

// TestPauseIsNotLostInATakeover: who asks the process that hands over is told
// to ask again.
func TestPauseIsNotLostInATakeover(t *testing.T) {
	r := runFilter(t, 1<<20)
	legacy, err := r.HandOver(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"pause": r.Pause(Target{}), "resume": r.Resume(Target{}), "sync": r.Sync(Target{}, SyncHash)} {
		if !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.RemedyOf(err), "repeat") {
			t.Errorf("%s by who has handed over: %v", what, err)
		}
	}
	_ = legacy.Close()
}

// TestPauseFile: what cannot be written changes nothing, what is damaged means
// that all is paused, what a former version hands over is written, and disks
// that leave are forgotten.
func TestPauseFile(t *testing.T) {
	r := runFilter(t, 1<<20, 1<<20)
	r.stop()
	disks := r.Protected()[0].Disks
	path := filepath.Join(t.TempDir(), "paused")
	r.cfg.PauseFile = filepath.Join(t.TempDir(), "none", "paused")
	f, stop := r.again(nil)
	if err := f.Pause(Target{}); err == nil || errs.RemedyOf(err) == "" || len(pausedDisks(f)) > 0 {
		t.Errorf("a pause that cannot be kept: %v, paused %v", err, pausedDisks(f))
	}
	stop()
	r.cfg.PauseFile = path
	write := func(text string) {
		t.Helper()
		if err := durable.WriteFile(durable.OS{}, path, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("{]")
	f, stop = r.again(nil)
	if got := pausedDisks(f); len(got) != 2 {
		t.Errorf("a damaged file: paused %v", got)
	}
	if err := f.Resume(Target{}); err != nil {
		t.Error(err)
	}
	legacy, err := f.HandOver(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	legacy.Disks[1].Paused = true // as if it had been, in a version that writes no file
	_, stop = r.again(legacy)
	stop()
	f, stop = r.again(nil)
	if got := pausedDisks(f); !slices.Equal(got, []int{1}) {
		t.Errorf("paused before an upgrade: %v", got)
	}
	if _, err := f.Unprotect(t.Context(), r.cfg.VMs[0].Config.ID, []dr.DiskID{disks[1].ID}, UnprotectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the pause of a disk that left is kept")
	}
	stop()
}

func FuzzPauses(f *testing.F) {
	b, _ := json.Marshal(pauses{All: true, Except: []dr.DiskID{{UUID: dr.NewUUID()}}})
	f.Add(b)
	f.Add([]byte(`{"all":false,"except":[""]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := parsePauses(in)
		if err != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := parsePauses(out); err != nil || !q.equal(&p) {
			t.Fatalf("%+v became %+v, %v", p, q, err)
		}
	})
}
