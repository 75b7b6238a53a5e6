package runs

import (
	"encoding/json"
	"slices"
	"strconv"
)

// spec is a step as its row keeps it: the snapshot's, resolved.
type spec struct {
	Step
	Deps   []int  `json:"deps,omitempty"`   // numbers of the steps it is after, all lower than its own
	Undoes int    `json:"undoes,omitempty"` // the number of the step it takes back; 0: none
	Origin string `json:"origin,omitempty"` // the key under which an earlier run did it
}

// step is a row of run_steps.
type step struct {
	seq      int
	phase    Phase
	spec     spec
	status   Status
	blocks   bool // what is after it is skipped
	executes bool // an attempt was begun and has not reported
	attempt  int  // attempts begun
	failures int  // in a row
	due      int64
	begun    int64
	ended    int64
	done     int64
	total    int64
	note     string
	memory   string
	output   string

	live  bool // of this worker: a goroutine executes it
	dirty bool // differs from its row
	fresh bool // has no row yet
}

// key is the name under which a step's effect is made, in every attempt.
func key(run string, seq int) string { return run + "/" + strconv.Itoa(seq) }

// unfold makes a run's rows of its snapshot: the steps in their order, then what
// undoes them, the last first, so that each row depends on lower numbers alone.
func unfold(s *Snapshot) []*step {
	byName := make(map[string]int, len(s.Steps))
	var out []*step
	for i, st := range s.Steps {
		seq := i + 1
		byName[st.Name] = seq
		sp := spec{Step: st}
		for _, name := range st.After {
			sp.Deps = append(sp.Deps, byName[name])
		}
		sp.Undo = nil
		phase := Forward
		if st.Finally {
			phase = Finally
		}
		out = append(out, &step{seq: seq, phase: phase, spec: sp, status: Inactive, fresh: true})
	}
	return append(out, unfoldUndo(s, out)...)
}

// unfoldUndo makes the rows that take steps back: in the reverse order of groups
// and dependencies, also over steps between that need no undoing.
func unfoldUndo(s *Snapshot, forward []*step) (out []*step) {
	// later[n] are the undo rows that must have ended before step n is undone.
	later := make(map[int][]int)
	next := len(forward) + 1
	for i := len(s.Steps) - 1; i >= 0; i-- {
		st, seq := &s.Steps[i], i+1
		waits := later[seq]
		if u := st.Undo; u != nil {
			title := u.Title
			if title == "" {
				title = "undo: " + st.Title
			}
			out = append(out, &step{seq: next, phase: Undoing, status: Inactive, fresh: true, spec: spec{
				Step: Step{Name: "undo:" + st.Name, Title: title, Kind: u.Kind, Version: u.Version, Group: -st.Group,
					Input: u.Input, Timeout: u.Timeout, Limit: u.Limit, Retry: u.Retry},
				Deps: waits, Undoes: seq,
			}})
			waits = []int{next}
			next++
		}
		for _, dep := range forward[i].spec.Deps {
			for _, w := range waits {
				if !slices.Contains(later[dep], w) {
					later[dep] = append(later[dep], w)
				}
			}
		}
	}
	return out
}

// inherit marks what an earlier run has done. Steps that were taken back there are
// to be done again.
func inherit(steps, before []*step, run string, now int64) {
	old := make(map[string]*step, len(before))
	undone := make(map[int]bool)
	for _, st := range before {
		if st.phase == Forward {
			old[st.spec.Name] = st
		}
		if st.spec.Undoes > 0 && st.begun > 0 {
			undone[st.spec.Undoes] = true
		}
	}
	for _, st := range steps {
		was := old[st.spec.Name]
		if st.phase != Forward || st.spec.Always || was == nil || !was.achieved() || undone[was.seq] ||
			was.spec.Kind != st.spec.Kind || was.spec.Version != st.spec.Version || !sameJSON(was.spec.Input, st.spec.Input) {
			continue
		}
		st.status, st.begun, st.ended, st.memory, st.note = AlreadyDone, now, now, was.memory, "done by run "+run
		if st.spec.Origin = was.spec.Origin; st.spec.Origin == "" {
			st.spec.Origin = key(run, was.seq)
		}
	}
}

// achieved reports whether the step's work is done: a failure that counts as a warning
// is not, and is tried again in a rerun.
func (st *step) achieved() bool { return st.status.done() && st.failures == 0 }

func sameJSON(a, b json.RawMessage) bool { return string(a) == string(b) }
