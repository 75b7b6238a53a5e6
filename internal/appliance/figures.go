package appliance

import (
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
)

// rates are counters of a DRVA, a moment ago and now, of which a second's worth is told.
// The zero value has none.
type rates struct {
	at                  time.Time
	in, stored, sent    uint64
	inPS, storedPS, sPS float64
}

// note takes the counters of now. After a restart they begin anew, and so does this.
func (r *rates) note(now time.Time, st *drvaStatus) {
	in, stored, sent := st.BytesIn, st.BytesStored, st.Store.BytesIn
	if d := now.Sub(r.at).Seconds(); !r.at.IsZero() && d > 0 && in >= r.in && stored >= r.stored && sent >= r.sent {
		r.inPS, r.storedPS, r.sPS = float64(in-r.in)/d, float64(stored-r.stored)/d, float64(sent-r.sent)/d
	}
	r.at, r.in, r.stored, r.sent = now, in, stored, sent
}

// Report tells how the DRVA and its domains are.
func (d *DRVA) Report() *setup.Report {
	r := d.report()
	s := d.current()
	if s == nil || s.DRVA == nil {
		return r
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var used, quota int64
	for i := range s.DRVA.Domains {
		m := &s.DRVA.Domains[i]
		seen := d.seen[m.Name]
		if seen == nil {
			seen = &served{}
		}
		r.Domains = append(r.Domains, seen.report(m))
		if seen.status != nil {
			r.Figures = append(r.Figures, seen.figures(m.Name)...)
			used, quota = used+seen.status.Log.Used, quota+seen.status.Log.Quota
		}
	}
	r.Figures = append(r.Figures, load(d.Name, used, quota))
	slices.SortFunc(r.Domains, byName)
	return r
}

// report is how a domain stands.
func (s *served) report(m *setup.Domain) setup.DomainReport {
	r := setup.DomainReport{Name: m.Name, State: setup.Starting}
	st := s.status
	if st == nil {
		if s.err != nil {
			r.State, r.Cause, r.Remedy = setup.Failing, setup.Clip(s.err.Error()), setup.Clip(errs.RemedyOf(s.err))
		}
		if s.err != nil && fenced(s.err) {
			r.State, r.Remedy = setup.Fenced, "nothing, if the domain was recovered elsewhere: it is tried again, in case that is rolled back"
		}
		return r
	}
	if !st.Checkpoints.LastGroup.IsZero() {
		r.Newest = st.Checkpoints.LastGroup.UnixMilli()
	}
	if st.Maintenance != nil {
		r.Points = int64(st.Maintenance.Kept)
	}
	r.Upkeep = s.upkeep()
	r.State, r.Cause = standing(st)
	r.Copies = setup.CopyReports(m.Copies, st.Copies)
	if n := len(st.Errors); n > 0 && r.State == setup.Failing {
		r.Cause, r.Remedy = setup.Clip(st.Errors[n-1].Error), setup.Clip(st.Errors[n-1].Remedy)
	}
	return r
}

// upkeep is how the domain's history stands.
func (s *served) upkeep() *setup.Upkeep {
	m := s.status.Maintenance
	if m == nil {
		return nil
	}
	u := &setup.Upkeep{Error: setup.Clip(m.trouble()), Reach: m.Promised.Milliseconds(), Needed: m.Stats.Live}
	for _, x := range []struct {
		at time.Time
		to *int64
	}{{s.stuck, &u.Stuck}, {m.Began, &u.Began}, {m.Oldest, &u.Oldest}} {
		if !x.at.IsZero() {
			*x.to = x.at.UnixMilli()
		}
	}
	return u
}

// trouble is why the history is not maintained; "": it is.
func (m *upkeepStatus) trouble() string {
	if m.Failures == 0 {
		return m.Waiting
	}
	return m.LastError
}

// fenced reports whether a process that does not answer has ended because another one
// publishes the domain, as far as its last words tell: it is not there to be asked.
func fenced(err error) bool {
	return slices.ContainsFunc([]string{"the domain was recovered: timeline", "this publisher has epoch"}, func(words string) bool {
		return strings.Contains(err.Error(), words)
	})
}

// standing is a DRVA's state in a manager's words.
func standing(st *drvaStatus) (setup.State, string) {
	why, _, _ := behind(st)
	fresh := st.Checkpoints.LastGroup.IsZero()
	switch {
	case st.Publisher.Stopped != "":
		return setup.Fenced, setup.Clip(st.Publisher.Stopped)
	case st.State == "waiting for the store":
		return setup.Failing, "the store cannot be reached"
	case st.Paused != nil:
		return setup.Paused, "protection is paused"
	case st.State == "full":
		return setup.BackPressure, "the log is full: hosts track what changes"
	case st.State != "serving":
		return setup.Starting, "the DRVA is " + st.State
	case len(st.Disks) == 0:
		return setup.Starting, why
	case slices.ContainsFunc(st.Disks, lost):
		return setup.Disconnected, why
	case why != "" && fresh:
		return setup.InitialSync, why
	case why != "":
		return setup.DeltaSync, why
	case fresh:
		return setup.InitialSync, "its first checkpoint is being published"
	}
	return setup.Protected, ""
}

// figures are a domain's samples.
func (s *served) figures(name site.Name) (out []setup.Figure) {
	st, object := s.status, "domain "+string(name)
	add := func(m stats.Metric, v int64) { out = append(out, setup.Figure{Metric: m, Object: object, Value: v}) }
	if st.RPO >= 0 {
		add(stats.RPO, int64(st.RPO*1000))
	}
	if t := st.Checkpoints.LastGroup; !t.IsZero() {
		add(stats.PointAge, max(0, time.Since(t).Milliseconds()))
	}
	add(stats.LogUsed, st.Log.Used)
	add(stats.LogQuota, st.Log.Quota)
	add(stats.WriteBytes, int64(s.rates.inPS))
	add(stats.StoredBytes, int64(s.rates.storedPS))
	add(stats.SentBytes, int64(s.rates.sPS))
	if m := st.Maintenance; m != nil && m.Generation != 0 {
		add(stats.HistoryBytes, m.Stats.Stored)
		if !m.Oldest.IsZero() {
			add(stats.HistorySpan, max(0, time.Since(m.Oldest).Milliseconds()))
		}
	}
	return out
}

// load is how busy the machine or the log is, whichever is more.
func load(name string, used, quota int64) setup.Figure {
	permille := int64(0)
	if quota > 0 {
		permille = used * 1000 / quota
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		permille = max(permille, int64(info.Loads[0])*1000/(1<<16)/int64(runtime.NumCPU()))
	}
	return setup.Figure{Metric: stats.ApplianceLoad, Object: "appliance " + name, Value: permille}
}

// Report tells how the host's domains and VMs are.
func (h *Host) Report() *setup.Report {
	r := h.report()
	s := h.current()
	if s == nil || s.Host == nil {
		return r
	}
	for _, d := range s.Host.Domains {
		m := h.member(d.ID.String()[:8], d)
		dom, figures, problems := m.report(d)
		r.Domains = append(r.Domains, dom)
		r.Figures = append(r.Figures, figures...)
		for _, p := range problems {
			if len(r.Problems) < setup.MaxProblems {
				r.Problems = append(r.Problems, p)
			}
		}
	}
	r.Figures = append(r.Figures, load(h.Name, 0, 0))
	r.Figures = r.Figures[:min(len(r.Figures), setup.MaxFigures)]
	slices.SortFunc(r.Domains, byName)
	return r
}

// states are those of a host component in a manager's words.
var states = map[iofilter.State]setup.State{
	iofilter.Streaming: setup.Protected, iofilter.NotActive: setup.Protected, iofilter.Syncing: setup.InitialSync,
	iofilter.Resync: setup.DeltaSync, iofilter.BackPressure: setup.BackPressure, iofilter.Disconnected: setup.Disconnected,
	iofilter.Tracking: setup.Tracking, iofilter.PausedUser: setup.Paused, iofilter.PausedSystem: setup.Tracking, iofilter.Failed: setup.Failing,
}

// worse orders states: the worst of its disks is a VM's, the worst VM's the domain's.
var worse = []setup.State{setup.Protected, setup.BackPressure, setup.DeltaSync, setup.Tracking, setup.Paused, setup.InitialSync, setup.Disconnected, setup.Starting, setup.Failing, setup.Fenced}

func worst(a, b setup.State) setup.State {
	if slices.Index(worse, b) > slices.Index(worse, a) {
		return b
	}
	return a
}

// report is how the domain's VMs on this host stand.
func (m *member) report(d setup.HostDomain) (r setup.DomainReport, figures []setup.Figure, problems []setup.Problem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r = setup.DomainReport{Name: d.Name, State: setup.Protected}
	if m.seen == nil {
		r.State = setup.Starting
		if m.err != nil {
			r.State, r.Cause = setup.Failing, setup.Clip(m.err.Error())
		}
	}
	for _, vm := range d.VMs {
		v := setup.VMReport{ID: vm.ID, Ref: vm.Ref, State: setup.Starting}
		if p, ok := m.vms[vm.ID]; ok {
			v.State, v.Cause, v.Remedy = setup.Failing, p.Words, p.Remedy
			problems = append(problems, p)
		}
		if m.seen != nil {
			figures = append(figures, vmFigures(&v, d.Name, m.seen)...)
		}
		for _, disk := range m.bare[vm.ID].Disks {
			if disk.Skipped != "" {
				v.Bare = append(v.Bare, disk.Name)
			}
		}
		if w := worst(r.State, v.State); w != r.State {
			r.State, r.Cause, r.Remedy = w, string(vm.Ref)+": "+v.Cause, v.Remedy
		}
		r.VMs = append(r.VMs, v)
	}
	return r, figures, problems
}

// vmFigures fills in how a VM's disks are, and returns its samples.
func vmFigures(v *setup.VMReport, domain site.Name, st *iofilter.Status) []setup.Figure {
	var dirty, done, total int64
	there := false
	for _, d := range st.Disks {
		if d.VM != v.ID {
			continue
		}
		state, known := states[d.State]
		if !known {
			state = setup.Failing
		}
		if !there {
			there, v.State, v.Cause, v.Remedy = true, state, setup.Clip(d.Cause), setup.Clip(d.Remedy)
		} else if worst(v.State, state) != v.State {
			v.State, v.Cause, v.Remedy = state, setup.Clip(d.Cause), setup.Clip(d.Remedy)
		}
		dirty, done, total = dirty+d.DirtyBytes, done+d.SyncDone, total+d.SyncTotal
	}
	if !there {
		return nil
	}
	if v.State == setup.Protected {
		v.Cause, v.Remedy = "", ""
	}
	object := "vm " + string(domain) + "/" + string(v.Ref)
	out := []setup.Figure{{Metric: stats.Tracked, Object: object, Value: dirty}}
	if total > 0 {
		out = append(out, setup.Figure{Metric: stats.SyncDone, Object: object, Value: done}, setup.Figure{Metric: stats.SyncTotal, Object: object, Value: total})
	}
	return out
}

// lost reports whether no host has a disk.
func lost(d drva.Disk) bool { return d.Host == "" }

// Capacity is what the box has, for its manager to place domains by.
func (d *DRVA) Capacity() map[string]int64 {
	c := machine()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.seen {
		if s.status != nil {
			c["domains"]++
			c["log_used"] += s.status.Log.Used
		}
	}
	c["log_bytes"] = d.pool()
	if d.now != nil && d.now.DRVA != nil && d.now.DRVA.LogPool > 0 {
		c["log_bytes"] = d.now.DRVA.LogPool
	}
	return c
}

// Capacity is what the box has.
func (h *Host) Capacity() map[string]int64 { return machine() }

// machine is what every box tells of its machine.
func machine() map[string]int64 {
	c := map[string]int64{"cpus": int64(runtime.NumCPU())}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		c["memory_mib"] = int64(info.Totalram) * int64(info.Unit) >> 20
	}
	return c
}
