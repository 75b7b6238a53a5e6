package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/report"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// reportOf makes the report of a run from its rows.
func reportOf(ctx context.Context, tx *db.Tx, id string) (*report.Report, error) {
	e, err := EntryOf(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	run, err := runs.Get(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	steps, err := runs.Steps(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	notes, err := runs.Notes(ctx, tx, id, maxPage)
	if err != nil {
		return nil, err
	}
	h, err := headFor(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	r := &report.Report{
		Run: id, Plan: string(e.Plan), Version: uint64(h.Version), Operation: string(e.Operation), From: string(h.From), To: string(h.To),
		Status: statusOf(&run), State: string(e.State), By: e.By, Agreed: e.Agreed, Began: run.Created, Ended: run.Ended, Notes: e.Notes,
	}
	for _, l := range h.LeftOut {
		r.LeftOut = append(r.LeftOut, string(l.VM)+": "+l.Why)
	}
	reportSteps(r, h, steps, notes)
	r.Domains = reportDomains(h, &run, steps)
	return r, nil
}

// statusOf is how a run stands as a report says it.
func statusOf(run *runs.Run) report.Status {
	switch run.State {
	case runs.Succeeded:
		return report.Success
	case runs.WithWarnings:
		return report.Warning
	case runs.Failed:
		return report.Error
	case runs.Cancelled:
		return report.Cancelled
	}
	return report.Running
}

// reportSteps numbers steps by phase, group and place: 1.3.2 is the second step of the
// third group, going forward.
func reportSteps(r *report.Report, h *head, steps []runs.StepState, notes []runs.Note) {
	said := map[int][]runs.Note{}
	for _, n := range notes {
		said[n.Seq] = append(said[n.Seq], n)
	}
	part := map[runs.Phase]int{runs.Forward: 1, runs.Undoing: 2, runs.Finally: 3}
	place := map[[2]int]int{}
	for i := range steps {
		st := &steps[i]
		if st.Phase == runs.Undoing && st.Begun.IsZero() {
			continue // there was nothing to undo
		}
		group := st.Step.Group
		name := h.group(group)
		if st.Phase == runs.Undoing {
			group, name = 0, "unwind"
		}
		place[[2]int{part[st.Phase], group}]++
		out := report.Step{Number: fmt.Sprintf("%d.%d.%d", part[st.Phase], group+1, place[[2]int{part[st.Phase], group}]), Title: st.Step.Title,
			Group: name, Status: report.Status(st.Status), Began: st.Begun, Ended: st.Ended, Output: st.Output}
		if id, _ := h.about(&st.Step); !id.IsZero() {
			out.VM = id.String()
			if vm := h.vm(id); vm != nil && vm.Name != "" {
				out.VM = string(vm.Name)
			}
		}
		for _, n := range said[st.Seq] {
			if n.Level == runs.Error {
				out.Errors = append(out.Errors, n.Words)
			} else {
				out.Warnings = append(out.Warnings, n.Words)
			}
		}
		if st.Status == runs.Skipped || st.Step.Kind == runs.KindPrompt && st.Note != "" {
			out.Warnings = append(out.Warnings, st.Note)
		}
		r.Steps = append(r.Steps, out)
	}
}

// reportDomains says what the run came to for each domain.
func reportDomains(h *head, run *runs.Run, steps []runs.StepState) []report.Domain {
	byName := map[site.Name]*report.Domain{}
	stoppedAt := map[site.Name]time.Time{}
	up := map[dr.VMID]time.Time{} // when it was up; zero: it is not
	for _, d := range h.Domains {
		byName[d] = &report.Domain{Name: string(d)}
	}
	for i := range h.VMs {
		if d := byName[h.VMs[i].Domain]; d != nil {
			d.VMs++
		}
	}
	for i := range steps {
		st := &steps[i]
		id, name := h.about(&st.Step)
		d := byName[name]
		if d == nil || st.Phase != runs.Forward {
			continue
		}
		good := st.Status.Ended() && !st.Missed && st.Status != runs.Skipped
		switch plan.Kind(st.Step.Kind) {
		case plan.KindShutdownVM:
			stoppedAt[name] = later(stoppedAt[name], st.Ended)
		case plan.KindPin, plan.KindFence:
			pinned(d, st)
		case plan.KindPowerOn, plan.KindWaitAgent, plan.KindWaitPort, plan.KindWaitScript:
			switch {
			case good && (plan.Kind(st.Step.Kind) == plan.KindPowerOn || !up[id].IsZero()):
				up[id] = later(up[id], st.Ended)
			default:
				delete(up, id)
			}
		}
	}
	var out []report.Domain
	last := map[site.Name]time.Time{}
	for id, at := range up {
		if vm := h.vm(id); vm != nil && byName[vm.Domain] != nil {
			byName[vm.Domain].Up++
			last[vm.Domain] = later(last[vm.Domain], at)
		}
	}
	for _, name := range h.Domains {
		d := byName[name]
		if d.Up > 0 {
			d.RTO = last[name].Sub(run.Created).Seconds()
		}
		if !d.Time.IsZero() {
			d.RPO = max(0, first(stoppedAt[name], run.Created).Sub(d.Time).Seconds())
		}
		out = append(out, *d)
	}
	return out
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func first(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// pinned enters the checkpoint a step chose.
func pinned(d *report.Domain, st *runs.StepState) {
	var p Pinned
	if len(st.Memory) == 0 || json.Unmarshal(st.Memory, &p) != nil || p.Checkpoint == 0 {
		return // it chose none yet
	}
	d.Checkpoint, d.Time, d.Kind, d.Tag = p.Checkpoint, db.Time(p.TimeMS), p.Kind, p.Tag
}
