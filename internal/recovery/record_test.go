package recovery

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

var allStates = []State{
	Preparing, PreSyncing, ShuttingDown, FinalSync, Fencing, Hydrating, Booting, Promoting, Reversing, RollingBack, Unwinding, Cleaning,
	Tested, BeforeCommit, FailedOver, Protected, RolledBack, Unwound, Cloned, Clean, Incomplete, CleanupIncomplete,
}

var allActions = []Action{Recover, Commit, Rollback, Unwind, Reprotect, Cleanup}

// TestStateMachine compares what may be done in each state, after each action,
// with the table.
func TestStateMachine(t *testing.T) {
	const want = `
preparing/recover: recover rollback unwind cleanup
hydrating/recover: recover rollback unwind cleanup
booting/recover: recover rollback unwind cleanup
promoting/commit: commit rollback
reversing/reprotect: reprotect
rolling-back/rollback: rollback
unwinding/unwind: unwind
cleaning/cleanup: cleanup
tested/recover: cleanup
before-commit/recover: commit rollback
failed-over/commit: reprotect
protected/reprotect:
rolled-back/rollback: recover unwind cleanup
unwound/unwind: cleanup
cloned/recover: cleanup
clean/cleanup: cleanup
incomplete/recover: recover rollback unwind cleanup
incomplete/commit: commit rollback unwind cleanup
cleanup-incomplete/cleanup: cleanup
`
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		where, allowed, _ := strings.Cut(line, ":")
		state, action, _ := strings.Cut(where, "/")
		rec := &Record{Operation: Planned, State: State(state), Action: Action(action)}
		var got []string
		for _, a := range allActions {
			if rec.admit(a) == nil {
				got = append(got, string(a))
			}
		}
		if strings.TrimSpace(allowed) != strings.Join(got, " ") {
			t.Errorf("%s: %v", line, got)
		}
	}
	for _, op := range []Operation{Test, Clone} {
		for _, s := range allStates {
			for _, a := range []Action{Commit, Rollback, Unwind, Reprotect} {
				if (&Record{Operation: op, State: s, Action: Recover}).admit(a) == nil {
					t.Errorf("a %s that is %s has a %s", op, s, a)
				}
			}
		}
	}
	for _, s := range allStates { // whatever a state is, something ends it, or nothing is left to do
		if !s.Active() && s != Unwound && s != Clean && s != Protected && next(s) == "" {
			t.Errorf("nobody is told what follows %s", s)
		}
	}
}

func TestEveryOperationEnds(t *testing.T) {
	for _, op := range operations {
		for _, a := range allActions {
			if !has(op, a) {
				continue
			}
			steps := program(a, &Record{Operation: op})
			if len(steps) == 0 {
				t.Errorf("%s has no steps of %s", op, a)
			}
			for _, st := range steps {
				if !st.state.Active() || !bytes.ContainsAny([]byte(fmt.Sprint(underWay[a])), string(st.state)) {
					t.Errorf("%s %s: step %s runs in state %s", op, a, st.name, st.state)
				}
			}
		}
	}
}

func sample() *Record {
	return &Record{
		Format: recordFormat, ID: dr.NewUUID(), Operation: Disaster, State: BeforeCommit, Action: Recover, Try: 1,
		Created: time.Unix(1700000000, 0).UTC(), Request: Request{URL: "file:///x", Mode: Full, At: "latest"},
		Disks: []DiskRecord{{ID: dr.DiskID{UUID: dr.NewUUID()}, Size: 4096, Path: "disks/a/b.raw"}},
	}
}

func TestRecordIsRefused(t *testing.T) {
	good, err := sample().encode()
	check(t, err)
	if _, err := decode(good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		break_ func(*Record)
		kind   errs.Kind
	}{
		"newer format":           {func(r *Record) { r.Format++ }, errs.Invalid},
		"unknown state":          {func(r *Record) { r.State = "happy" }, errs.Corrupt},
		"unknown operation":      {func(r *Record) { r.Operation = "dance" }, errs.Corrupt},
		"unknown action":         {func(r *Record) { r.Action = "sing" }, errs.Corrupt},
		"a path that leads away": {func(r *Record) { r.Disks[0].Path = "../../etc/passwd" }, errs.Corrupt},
		"a disk of no size":      {func(r *Record) { r.Disks[0].Size = 0 }, errs.Corrupt},
		"process 1":              {func(r *Record) { r.Launched = []Process{{Name: "drva", PID: 1}} }, errs.Corrupt},
		"a request of no mode":   {func(r *Record) { r.Request.Mode = "" }, errs.Corrupt},
	} {
		rec := sample()
		c.break_(rec)
		b, err := rec.encode()
		check(t, err)
		if _, err := decode(b); !errs.Is(err, c.kind) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decode(bytes.Replace(good, []byte(`"format"`), []byte(`"unknown": 1, "format"`), 1)); !errs.Is(err, errs.Corrupt) {
		t.Errorf("an unknown field: %v", err)
	}
}

// FuzzRecord: whatever is in run.json, nothing panics, and what is taken is
// written as it was read.
func FuzzRecord(f *testing.F) {
	good, err := sample().encode()
	check(f, err)
	f.Add(good)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := decode(b)
		if err != nil {
			return
		}
		again, err := rec.encode()
		check(t, err)
		other, err := decode(again)
		check(t, err)
		third, err := other.encode()
		check(t, err)
		if !bytes.Equal(again, third) {
			t.Fatalf("%s\n%s", again, third)
		}
		_ = ReportOf(rec)
	})
}

func TestRequestIsRefused(t *testing.T) {
	for name, q := range map[string]Request{
		"no container":        {Mode: Full},
		"unknown mode":        {URL: "x", Mode: "soon"},
		"warm, of nothing":    {URL: "x", Mode: Warm},
		"a standby, not warm": {URL: "x", Mode: Full, Standby: "/s"},
		"auto, at no time":    {URL: "x", Mode: Full, Auto: AutoCommit},
		"a time, no auto":     {URL: "x", Mode: Full, After: time.Hour},
		"too parallel":        {URL: "x", Mode: Full, Parallel: maxParallel + 1},
		"a relative old disk": {URL: "x", Mode: Full, Onto: map[dr.DiskID]string{{}: "disk.raw"}},
	} {
		w := newWorld(t)
		s, _ := w.process(-1)
		if _, err := s.Begin(runDir, Disaster, q); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
