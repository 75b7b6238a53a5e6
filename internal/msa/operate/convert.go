package operate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
)

// snapshot is a runbook as what a run is to do. stopped are the VMs that runs of the
// plan shut down: only those are started again. Kinds: Invalid, Internal.
func (o *Operator) snapshot(b *plan.Runbook, stopped map[dr.VMID]bool) (runs.Snapshot, error) {
	s := runs.Snapshot{Parallel: together, Room: map[int]int{}}
	fenced := false
	for i := range b.Groups {
		g := &b.Groups[i]
		fenced = fenced || b.Fence != "" && g.Name == b.Fence
		if g.Parallel > 0 {
			s.Room[i] = min(g.Parallel, plan.MaxBoots)
		}
		gate := map[dr.VMID]bool{}
		for _, id := range g.Gate {
			gate[id] = true
		}
		for j := range g.Steps {
			st := &g.Steps[j]
			if st.Kind == plan.KindStartSource && !stopped[st.VM] {
				continue
			}
			out, err := o.step(b, st)
			if err != nil {
				return s, err
			}
			out.Group, out.NoReturn = i, fenced && g.Name == b.Fence
			if gate[st.VM] && out.OnError == runs.Continue {
				out.OnError = runs.Gate
			}
			s.Steps = append(s.Steps, out)
		}
	}
	if len(s.Steps) == 0 {
		return s, errs.New("operate.Begin", errs.Invalid, string(b.Plan), "there is nothing to do").WithRemedy("see that its domains have VMs")
	}
	return s, nil
}

// step is a step of a runbook as one of a run.
func (o *Operator) step(b *plan.Runbook, st *plan.Step) (runs.Step, error) {
	out := runs.Step{Name: stepName(st.ID), Title: db.Text(st.Title, maxKey), Kind: string(st.Kind), Version: st.Version, OnError: onError(st.Rule)}
	for _, id := range st.Needs {
		out.After = append(out.After, stepName(id))
	}
	for _, id := range st.After {
		out.Behind = append(out.Behind, stepName(id))
	}
	var err error
	switch in := st.Inputs.(type) {
	case plan.PromptInputs:
		out.Kind = runs.KindPrompt
		out.Input, err = json.Marshal(runs.Prompt{Question: in.Ask})
		return out, err
	case plan.WaitInputs:
		if st.Kind == plan.KindDelay {
			out.Kind = runs.KindWait
			out.Input, err = json.Marshal(runs.Wait{For: in.Limit})
			return out, err
		}
		out.Limit = in.Limit
	case plan.ShutdownInputs:
		out.Limit = in.Timeout + cutTime
	case plan.ScriptInputs:
		if st.Kind == plan.KindWaitScript {
			out.Limit = in.Limit
		} else {
			out.Timeout = in.Limit // zero: for ever
		}
	}
	o.bounds(&out, st)
	if out.Input, err = wrap(b, st, st.Inputs); err != nil {
		return out, err
	}
	if u := st.Undo; u != nil {
		out.Undo = &runs.Undo{Title: db.Text(u.Title, maxKey), Kind: string(u.Kind), Version: u.Version, Timeout: effectTime, Retry: o.retry()}
		out.Undo.Input, err = wrap(b, st, u.Inputs)
	}
	return out, err
}

func wrap(b *plan.Runbook, st *plan.Step, inputs any) (json.RawMessage, error) {
	in, err := json.Marshal(inputs)
	if err != nil {
		return nil, errs.E("operate.convert", errs.Internal, string(b.Plan), err)
	}
	return json.Marshal(envelope{Plan: b.Plan, From: b.From, To: b.To, VM: st.VM, Domain: st.Domain, Inputs: in})
}

// onError is what a rule of a phase is to a run.
func onError(r plan.Rule) runs.OnError {
	switch r {
	case plan.RuleStop:
		return runs.Stop
	case plan.RuleBestEffort:
		return runs.Warn
	}
	return runs.Continue
}

func (o *Operator) retry() runs.Retry {
	return runs.Retry{Attempts: attempts, First: o.opts.Pause, Max: maxPause}
}

// bounds gives a step its times. Scripts are run once; waits repeat by themselves.
// What is tried at a protected site that may be lost is given up soon.
func (o *Operator) bounds(out *runs.Step, st *plan.Step) {
	switch st.Kind {
	case plan.KindScript, plan.KindWaitScript:
		return
	case plan.KindWaitAgent, plan.KindWaitPort:
		out.Timeout = effectTime
		return
	case plan.KindFinalSync:
		out.Limit = finalTime
	}
	out.Timeout = effectTime
	tolerant := st.Rule == plan.RuleBestEffort && atSource(st.Kind)
	if !tolerant {
		out.Retry = o.retry()
		return
	}
	if out.Timeout = tolerantTime; out.Limit == 0 || out.Limit > tolerantTime {
		out.Limit = max(tolerantTime, limitOf(st))
	}
}

// limitOf is what a plan itself says of how long a step may take.
func limitOf(st *plan.Step) time.Duration {
	if in, ok := st.Inputs.(plan.ShutdownInputs); ok {
		return in.Timeout + cutTime
	}
	return 0
}

// atSource reports whether a kind is done at the protected site.
func atSource(k plan.Kind) bool {
	switch k {
	case plan.KindSync, plan.KindFinalSync, plan.KindShutdownVM, plan.KindSourceOff:
		return true
	}
	return false
}

// stepName makes a name for a run's step of a plan's: letters, digits and . _ / - stay,
// other bytes become :XX. One that grows too long ends with its hash.
func stepName(id string) string {
	var b []byte
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '/', c == '-':
			b = append(b, c)
		default:
			b = fmt.Appendf(b, ":%02x", c)
		}
	}
	if len(b) <= maxName {
		return string(b)
	}
	sum := sha256.Sum256([]byte(id))
	return string(b[:maxName-2-2*8]) + "::" + hex.EncodeToString(sum[:8])
}

// maxName bounds the names of a run's steps, bytes.
const maxName = 200
