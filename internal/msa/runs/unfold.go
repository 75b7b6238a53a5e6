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
	Waits  []int  `json:"waits,omitempty"`  // numbers of those it is behind, likewise
	Undoes int    `json:"undoes,omitempty"` // the number of the step it takes back; 0: none
	Origin string `json:"origin,omitempty"` // the key under which an earlier run did or began it
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

// key is the step's own: that of the run that began it first, of those this one goes
// on from.
func (st *step) key(run string) string {
	if st.spec.Origin != "" {
		return st.spec.Origin
	}
	return key(run, st.seq)
}

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
		for _, name := range st.Behind {
			sp.Waits = append(sp.Waits, byName[name])
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
		for _, dep := range slices.Concat(forward[i].spec.Deps, forward[i].spec.Waits) {
			for _, w := range waits {
				if !slices.Contains(later[dep], w) {
					later[dep] = append(later[dep], w)
				}
			}
		}
	}
	return out
}

// inherit marks what an earlier run has done, and hands down the keys of what it
// began: whoever does such a step looks for the effect under the name it was made
// under. Steps that were taken back there are to be done again, as are those whose
// kind or input is another, and what is after these.
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
	other := make(map[int]bool) // by number: not the step it was
	for _, st := range steps {
		was := old[st.spec.Name]
		if st.phase != Forward || was == nil || undone[was.seq] || was.spec.Kind != st.spec.Kind || was.spec.Version != st.spec.Version ||
			!sameJSON(was.spec.Input, st.spec.Input) || slices.ContainsFunc(st.spec.Deps, func(dep int) bool { return other[dep] }) {
			other[st.seq] = true
			continue
		}
		if st.spec.Always || was.begun == 0 {
			continue
		}
		st.spec.Origin, st.memory = was.key(run), was.memory
		if was.achieved() {
			st.status, st.begun, st.ended, st.note = AlreadyDone, now, now, "done by run "+run
		}
	}
}

// achieved reports whether the step's work is done: a failure that counts as a warning
// is not, and is tried again in a rerun.
func (st *step) achieved() bool { return st.status.done() && st.failures == 0 }

func sameJSON(a, b json.RawMessage) bool { return string(a) == string(b) }
