package rocva

import (
	"context"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/copies"
	"holdfast/internal/drva"
	"holdfast/internal/iofilter"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
	"holdfast/internal/recovery"
)

// standing asks what protects a domain that lives here how it stands.
func (s *Appliance) standing(ctx context.Context, name site.Name, r *recovery.Run) (d setup.DomainReport, figures []setup.Figure) {
	d = setup.DomainReport{Name: name, State: setup.Starting}
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	box, host := r.Sockets()
	var st struct {
		drva.Status
		Copies []copies.Status `json:"copies"`
	}
	if err := control.CallLocal(ctx, box, "/status", nil, &st); err != nil {
		if rec := r.Record(); rec.Hydrated && len(rec.Launched) > 0 {
			d.State, d.Cause = setup.Failing, setup.Clip(errNoAnswer.Error()+": "+err.Error())
		} else {
			d.Cause = "its protection begins when its disks are whole"
		}
		return d, nil
	}
	if m, err := s.domain(name); err == nil {
		d.Copies = setup.CopyReports(m.Copies, st.Copies)
	}
	object := "domain " + string(name)
	add := func(m stats.Metric, object string, v int64) {
		figures = append(figures, setup.Figure{Metric: m, Object: object, Value: v})
	}
	if st.RPO >= 0 {
		add(stats.RPO, object, int64(st.RPO*1000))
	}
	d.State = setup.Protected
	if t := st.Checkpoints.LastGroup; !t.IsZero() {
		d.Newest = t.UnixMilli()
		add(stats.PointAge, object, max(0, time.Since(t).Milliseconds()))
	} else {
		d.State, d.Cause = setup.InitialSync, "its first checkpoint is being published"
	}
	add(stats.LogUsed, object, st.Log.Used)
	add(stats.LogQuota, object, st.Log.Quota)
	switch {
	case st.Publisher.Stopped != "":
		d.State, d.Cause = setup.Fenced, setup.Clip(st.Publisher.Stopped)
	case st.Paused != nil:
		d.State, d.Cause = setup.Paused, "protection is paused"
	}
	var h iofilter.Status
	if err := control.CallLocal(ctx, host, "/status", nil, &h); err != nil {
		if d.State == setup.Protected {
			d.State, d.Cause = setup.Tracking, setup.Clip(errNoAnswer.Error()+": "+err.Error())
		}
		return d, figures
	}
	tracked := map[string]int64{}
	for _, disk := range h.Disks {
		tracked[disk.VMName] += disk.DirtyBytes
		if disk.State == iofilter.Resync || disk.State == iofilter.Syncing || disk.State == iofilter.Tracking {
			if d.State == setup.Protected {
				d.State, d.Cause = setup.DeltaSync, setup.Clip(disk.VMName+" "+disk.Name+": "+disk.Cause)
			}
		}
	}
	for vm, v := range tracked {
		add(stats.Tracked, "vm "+string(name)+"/"+vm, v)
	}
	return d, figures
}

// Capacity is what the box has, for its manager.
func (s *Appliance) Capacity() map[string]int64 {
	return map[string]int64{"domains": int64(len(s.Lives()))}
}
