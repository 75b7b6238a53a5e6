package appliance

import (
	"context"
	"encoding/json"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
)

// synced is the memory of a sync: the checkpoint that it cut.
type synced struct {
	Checkpoint dr.CheckpointID `json:"checkpoint"`
}

// Sync waits until the DRVA has a whole copy of every disk and cuts a checkpoint, which
// is published when it is done: a job that is looked at again. With final it is the last
// one, which must cover all of the domain. Doing it again costs one checkpoint more.
func (d *DRVA) Sync(ctx context.Context, a *operate.Act, in *plan.DomainInputs, final bool) (runs.Result, error) {
	const op = "appliance.Sync"
	m, err := d.domain(in.Domain)
	if err != nil {
		return runs.Result{}, err
	}
	object, socket := "domain "+string(in.Domain), d.socket(m)
	var st drvaStatus
	if err := ask(ctx, socket, "/status", nil, &st); err != nil {
		d.unit.soon()
		return runs.Result{}, err
	}
	if st.Paused != nil {
		return runs.Result{}, errs.New(op, errs.Conflict, object, "protection of the domain is paused").WithRemedy("end the pause: set suspended to false, or holdfast resume at the DRVA")
	}
	var memo synced
	if len(a.Memory) > 0 {
		if err := json.Unmarshal(a.Memory, &memo); err != nil {
			return runs.Result{}, errs.E(op, errs.Corrupt, object, err)
		}
	}
	if memo.Checkpoint != 0 {
		p := st.Checkpoints.LastPublished
		if p == nil || p.ID < memo.Checkpoint {
			return runs.Result{Again: levelEvery, Memory: a.Memory, Note: "its last checkpoint is being published"}, nil
		}
		if final && p.Scope != dr.Group { // or a later one: the guests are off, a group one of then holds as much
			return runs.Result{}, errs.New(op, errs.Unavailable, object, "the last checkpoint does not cover the whole domain").
				WithRemedy("see the DRVA's status: a host is away; run it again when that is back")
		}
		return runs.Result{Memory: a.Memory}, nil
	}
	if why, done, total := behind(&st); why != "" {
		a.Progress(done, total)
		return runs.Result{Again: levelEvery, Note: why}, nil
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	var reply struct {
		dr.Checkpoint
	}
	limited, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	if err := control.CallLocal(limited, socket, "/checkpoint", map[string]any{"tag": a.Run}, &reply); err != nil {
		return runs.Result{}, err
	}
	if reply.ID == 0 {
		return runs.Result{}, errs.New(op, errs.Internal, object, "the DRVA does not say which checkpoint it cut")
	}
	b, err := json.Marshal(synced{reply.ID})
	return runs.Result{Again: levelEvery / 10, Memory: b}, err
}

// behind says what is missing before a checkpoint holds every write so far; "": nothing.
// done and total count disks.
func behind(st *drvaStatus) (why string, done, total int64) {
	hosts := map[string]string{}
	for _, h := range st.Hosts {
		hosts[h.Name] = h.State
	}
	total = int64(len(st.Disks))
	for _, d := range st.Disks {
		switch at := hosts[d.Host]; {
		case d.Host == "":
			why = "a disk is at no host that is there"
		case at != "live":
			why = "host " + d.Host + " is " + at
		case d.State == "synced":
			done++
		}
	}
	switch {
	case st.State != "serving":
		why = "the DRVA is " + st.State
	case total == 0:
		why = "no host has told of a disk"
	case why == "" && done < total:
		why = "disks are being copied"
	}
	return why, done, total
}
