package runs

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	"holdfast/internal/errs"
)

// Snapshot is what a run is to do, fixed when it starts.
type Snapshot struct {
	// Parallel is how many steps may run at once; 0: 20.
	Parallel int `json:"parallel,omitempty"`
	// Room is how many steps of a group may run at once, where that is less.
	Room map[int]int `json:"room,omitempty"`
	// Steps are in an order in which each comes behind those it is After.
	Steps []Step `json:"steps"`
}

// Step is one step of a snapshot. Times are nanoseconds in JSON; 0 means no bound.
type Step struct {
	Name    string `json:"name"`            // unique in the run; letters, digits, and . _ / : -
	Title   string `json:"title,omitempty"` // for people
	Kind    string `json:"kind"`            // what does it: a Doer's, [KindPrompt] or [KindWait]
	Version int    `json:"version"`         // of the kind, from 1; another one parks the run
	// Group orders steps: one begins when those of lower groups have ended,
	// however they ended.
	Group int `json:"group,omitempty"`
	// After names earlier steps, of the same or a lower group, that must have
	// ended well; else this one is skipped.
	After []string `json:"after,omitempty"`
	// Behind names earlier steps, of the same or a lower group, that must have
	// ended, however they ended.
	Behind []string `json:"behind,omitempty"`
	// Finally makes it run at the end, whatever happened before.
	Finally bool            `json:"finally,omitempty"`
	Input   json.RawMessage `json:"input,omitempty"`
	Timeout time.Duration   `json:"timeout,omitempty"` // of one attempt
	Limit   time.Duration   `json:"limit,omitempty"`   // of all attempts, waits and polls together
	Retry   Retry           `json:"retry,omitzero"`
	OnError OnError         `json:"on_error,omitempty"`
	// NoReturn marks the point behind which a run is not undone any more.
	NoReturn bool `json:"no_return,omitempty"`
	// Always runs it in a rerun also when it was done before.
	Always bool  `json:"always,omitempty"`
	Undo   *Undo `json:"undo,omitempty"`
}

// Undo is what takes a step back. It gets the key and the memory of the step, and
// looks before it acts: the step may have been interrupted anywhere.
type Undo struct {
	Title   string          `json:"title,omitempty"`
	Kind    string          `json:"kind"`
	Version int             `json:"version"`
	Input   json.RawMessage `json:"input,omitempty"`
	Timeout time.Duration   `json:"timeout,omitempty"`
	Limit   time.Duration   `json:"limit,omitempty"`
	Retry   Retry           `json:"retry,omitzero"`
}

// Retry says how often a step is tried whose error may pass, and how long is
// waited before the next attempt: First, then each time Factor times as long, at
// most Max. The zero value tries once.
type Retry struct {
	Attempts int           `json:"attempts,omitempty"` // in all
	First    time.Duration `json:"first,omitempty"`
	Max      time.Duration `json:"max,omitempty"`    // 0: no bound
	Factor   float64       `json:"factor,omitempty"` // 0: 2
}

// pause is how long to wait after so many failures, in milliseconds.
func (r Retry) pause(failures int) int64 {
	factor, d := r.Factor, float64(r.First)
	if factor == 0 {
		factor = 2
	}
	most := float64(r.Max)
	if most == 0 {
		most = float64(maxWait)
	}
	for i := 1; i < failures && d < most; i++ {
		d *= factor
	}
	return time.Duration(min(d, most)).Milliseconds()
}

// OnError is what a step's failure means for its run. Names are stable.
type OnError string

// The meanings. The zero value is Continue.
const (
	Continue OnError = "continue" // what is After it is skipped, the rest goes on, the run fails in the end
	Warn     OnError = "warn"     // it counts as a warning and stops nothing
	Gate     OnError = "gate"     // as Continue, and steps of later groups are skipped
	Stop     OnError = "stop"     // nothing new begins; the run is undone if it can be
)

// Kinds of steps that need no Doer. Version 1.
const (
	KindPrompt = "prompt" // Input: Prompt
	KindWait   = "wait"   // Input: Wait
)

// Prompt is a question to a person, which holds a run until it is answered.
type Prompt struct {
	Question string   `json:"question"`
	Choices  []string `json:"choices,omitempty"` // none: any answer
	// Within, if not zero, is when Default is taken for the answer.
	Within  time.Duration `json:"within,omitempty"`
	Default string        `json:"default,omitempty"`
}

// Wait is a timer.
type Wait struct {
	For time.Duration `json:"for"`
}

// builtin reports whether the engine itself does steps of a kind.
func builtin(kind string) bool { return kind == KindPrompt || kind == KindWait }

var nameForm = regexp.MustCompile(`^[A-Za-z0-9._/:-]{1,200}$`)

// Check refuses a snapshot that could not be carried out. Kind Invalid; the error
// names the step.
func (s *Snapshot) Check() error {
	bad := func(step, words string) error { return errs.New("runs.Check", errs.Invalid, step, words) }
	if len(s.Steps) == 0 || len(s.Steps) > maxSteps/2 {
		return bad("snapshot", fmt.Sprintf("%d steps; there may be 1 to %d", len(s.Steps), maxSteps/2))
	}
	if s.Parallel < 0 || s.Parallel > maxParallel {
		return bad("snapshot", fmt.Sprintf("%d steps at once; at most %d", s.Parallel, maxParallel))
	}
	for group, n := range s.Room {
		if n < 1 || n > maxParallel {
			return bad(fmt.Sprintf("group %d", group), fmt.Sprintf("%d steps at once; 1 to %d", n, maxParallel))
		}
	}
	seen := make(map[string]*Step, len(s.Steps))
	for i := range s.Steps {
		st := &s.Steps[i]
		if !nameForm.MatchString(st.Name) {
			return bad(fmt.Sprintf("step %d", i+1), "its name is not 1 to 200 letters, digits and . _ / : -")
		}
		if seen[st.Name] != nil {
			return bad(st.Name, "two steps have this name")
		}
		if words := st.check(seen); words != "" {
			return bad(st.Name, words)
		}
		seen[st.Name] = st
	}
	return nil
}

// check says what is wrong with a step, given those before it.
func (st *Step) check(seen map[string]*Step) string {
	if n := len(st.After) + len(st.Behind); n > maxAfter {
		return fmt.Sprintf("it is after %d steps by name; at most %d", n, maxAfter)
	}
	for _, name := range slices.Concat(st.After, st.Behind) {
		dep := seen[name]
		switch {
		case dep == nil:
			return fmt.Sprintf("it is after %q, which is no step before it", name)
		case dep.Finally != st.Finally || dep.Group > st.Group:
			return fmt.Sprintf("it is after %q, which is in another phase or a later group", name)
		}
	}
	if !slices.Contains([]OnError{"", Continue, Warn, Gate, Stop}, st.OnError) {
		return fmt.Sprintf("on error %q is not known", st.OnError)
	}
	if st.Finally && (st.Undo != nil || st.OnError == Stop || st.NoReturn) {
		return "a step that runs at the end is not undone, stops nothing and is no point of no return"
	}
	if len(st.Title) > maxName || st.Group < -1000 || st.Group > 1000 {
		return "its title or group is beyond any bound"
	}
	if words := checkWork(st.Kind, st.Version, st.Input, st.Timeout, st.Limit, st.Retry); words != "" {
		return words
	}
	if u := st.Undo; u != nil {
		if builtin(u.Kind) {
			return "what undoes a step is no prompt and no timer"
		}
		if words := checkWork(u.Kind, u.Version, u.Input, u.Timeout, u.Limit, u.Retry); words != "" {
			return "its undo: " + words
		}
	}
	return ""
}

func checkWork(kind string, version int, input json.RawMessage, timeout, limit time.Duration, r Retry) string {
	switch {
	case !nameForm.MatchString(kind) || version < 1:
		return "its kind or version is missing"
	case len(input) > 0 && !json.Valid(input):
		return "its input is not JSON"
	case timeout < 0 || timeout > maxWait || limit < 0 || limit > maxWait:
		return fmt.Sprintf("its timeout or limit is not 0 to %v", maxWait)
	case r.Attempts < 0 || r.Attempts > maxAttempts || r.First < 0 || r.First > maxWait || r.Max < 0 || r.Max > maxWait || !(r.Factor == 0 || r.Factor >= 1 && r.Factor <= 100):
		return "its retry is beyond any bound"
	}
	switch kind {
	case KindPrompt:
		var p Prompt
		if json.Unmarshal(input, &p) != nil || p.Question == "" || len(p.Question) > maxWords || len(p.Choices) > maxChoices || p.Within < 0 || p.Within > maxWait {
			return "its input is no question of a bounded length"
		}
		if slices.ContainsFunc(p.Choices, func(c string) bool { return c == "" || len(c) > maxName }) || len(p.Default) > maxWords ||
			p.Within > 0 && p.accepts(p.Default) != nil {
			return "its choices or its default answer are not such as a person could give"
		}
	case KindWait:
		var w Wait
		if json.Unmarshal(input, &w) != nil || w.For < 0 || w.For > maxWait {
			return fmt.Sprintf("its input is no time of at most %v", maxWait)
		}
	}
	return ""
}

// accepts refuses an answer the prompt does not offer.
func (p *Prompt) accepts(answer string) error {
	if answer == "" || len(answer) > maxWords || len(p.Choices) > 0 && !slices.Contains(p.Choices, answer) {
		return errs.New("runs.Answer", errs.Invalid, p.Question, "this is none of the answers it takes").
			WithRemedy(fmt.Sprintf("answer one of %q", p.Choices))
	}
	return nil
}
