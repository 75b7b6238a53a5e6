package setup

import (
	"fmt"
	"slices"

	"holdfast/internal/copies"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
)

// Report is what a box tells of itself, every ten seconds at least. It is whole: what is
// not in it is not so, once the box is up.
type Report struct {
	// Generation is of the Setup that the box is: all that it has no more was let go
	// of, processes and all. "": of none yet.
	Generation string `json:"generation,omitempty"`
	Started    int64  `json:"started,omitempty"` // UTC milliseconds when the agent began; by its clock
	// Problems say what of the newest Setup could not be made so.
	Problems []Problem `json:"problems,omitempty"`
	// Lives are domains whose committed recovery is in this box: it has their VMs and
	// protects them.
	Lives   []site.Name    `json:"lives,omitempty"`
	Domains []DomainReport `json:"domains,omitempty"`
	Figures []Figure       `json:"figures,omitempty"`
}

// Problem is something of a Setup that a box could not do. It goes on trying.
type Problem struct {
	Object string `json:"object"` // as "domain erp", "domain erp/vm1"
	Words  string `json:"words"`
	Remedy string `json:"remedy,omitempty"`
}

// State is how a domain, or a VM of it, stands at the box that tells. Names are stable;
// they are those of plan.Replication, and "fenced".
type State string

// The states.
const (
	Starting     State = "configuring"
	InitialSync  State = "initial-sync"
	Protected    State = "protected"
	Paused       State = "paused-user"
	BackPressure State = "backpressure"
	Tracking     State = "tracking"
	DeltaSync    State = "delta-sync"
	Disconnected State = "disconnected"
	Failing      State = "error"
	// Fenced: another one publishes the domain; this one has stopped for good.
	Fenced State = "fenced"
)

// DomainReport is a domain as a box sees it: a DRVA tells State and points, a host
// component its VMs.
type DomainReport struct {
	Name   site.Name  `json:"name"`
	State  State      `json:"state"`
	Cause  string     `json:"cause,omitempty"` // why it is not Protected
	Remedy string     `json:"remedy,omitempty"`
	Newest int64      `json:"newest,omitempty"` // UTC milliseconds of the newest recovery point; 0: none, or not told
	Points int64      `json:"points,omitempty"` // recovery points there are; 0: none, or not told
	VMs    []VMReport `json:"vms,omitempty"`
	// Upkeep is how its history stands; nil: it is not maintained here, or not yet.
	Upkeep *Upkeep `json:"upkeep,omitempty"`
	// Copies are the container's in further stores, as the DRVA keeps them.
	Copies []CopyReport `json:"copies,omitempty"`
}

// Upkeep is how the history of a domain stands, by its last maintenance.
type Upkeep struct {
	Stuck  int64  `json:"stuck,omitempty"`  // UTC milliseconds since when each try has failed; 0: it works
	Error  string `json:"error,omitempty"`  // of the last try
	Began  int64  `json:"began,omitempty"`  // when the history could begin, UTC milliseconds; 0: not known
	Oldest int64  `json:"oldest,omitempty"` // UTC milliseconds of the oldest recovery point; 0: none
	Reach  int64  `json:"reach,omitempty"`  // how far back its schedule reaches, milliseconds
	Needed int64  `json:"needed,omitempty"` // bytes of what the history needs
}

// CopyState is how a copy of a container stands; names are those of package copies, and
// stable.
type CopyState string

// The states of copies.
const (
	CopyMaking  CopyState = "copying"
	CopyBehind  CopyState = "behind"
	CopyCurrent CopyState = "current"
	CopyAway    CopyState = "away"
	CopyFull    CopyState = "full"
	CopyFailing CopyState = "error"
	// CopyFenced: the domain was recovered from it, or taken over there.
	CopyFenced CopyState = "fenced"
)

// Copy is what is told of a domain's copy in a store; nil: nothing. r may be nil.
func (r *DomainReport) Copy(store site.Name) *CopyReport {
	if r == nil {
		return nil
	}
	for i := range r.Copies {
		if r.Copies[i].Store == store {
			return &r.Copies[i]
		}
	}
	return nil
}

// CopyReport is how a copy of a domain's container stands.
type CopyReport struct {
	Store  site.Name `json:"store"`
	State  CopyState `json:"state"`
	Cause  string    `json:"cause,omitempty"`
	Remedy string    `json:"remedy,omitempty"`
	Newest int64     `json:"newest,omitempty"` // UTC milliseconds of its newest recovery point; 0: none
	Lag    int64     `json:"lag,omitempty"`    // milliseconds that this is older than the first store's
}

// CopyReports is what a DRVA tells of copies, by store: of those that it has already.
func CopyReports(list []Copy, told []copies.Status) (out []CopyReport) {
	for _, c := range list {
		i := slices.IndexFunc(told, func(s copies.Status) bool { return s.Name == c.Container })
		if i < 0 {
			continue
		}
		s := &told[i]
		x := CopyReport{Store: c.Store, State: CopyState(s.State), Cause: Clip(s.Cause), Remedy: Clip(s.Remedy), Lag: max(0, s.Lag.Milliseconds())}
		if !s.Newest.IsZero() {
			x.Newest = s.Newest.UnixMilli()
		}
		out = append(out, x)
	}
	return out
}

// VMReport is a VM as its host component sees it.
type VMReport struct {
	ID     dr.VMID  `json:"id"`
	Ref    site.Ref `json:"ref"`
	State  State    `json:"state"` // the worst of its disks'
	Cause  string   `json:"cause,omitempty"`
	Remedy string   `json:"remedy,omitempty"`
	// Bare names disks that are not captured; the VM's others are.
	Bare []string `json:"bare,omitempty"`
}

// Figure is a sample of a metric of an object: "domain erp", "vm erp/vm1", "store s3",
// "appliance drva-1".
type Figure struct {
	Metric stats.Metric `json:"metric"`
	Object string       `json:"object"`
	Value  int64        `json:"value"`
}

// IsUp reports whether the box has become what some Setup says since its agent began.
// Before, it may not know yet what an earlier agent left in it, and what it does not name
// may be there.
func (r *Report) IsUp() bool { return r.Generation != "" }

// Check refuses a report that is larger than any box's. Kind Invalid.
func (r *Report) Check() error {
	vms, copies := 0, 0
	for i := range r.Domains {
		vms += len(r.Domains[i].VMs)
		copies = max(copies, len(r.Domains[i].Copies))
	}
	for _, b := range []struct {
		what    string
		n, most int
	}{
		{"figures", len(r.Figures), MaxFigures}, {"domains", len(r.Domains), MaxDomains}, {"VMs", vms, MaxVMs},
		{"problems", len(r.Problems), MaxProblems}, {"copies of one domain", copies, site.MaxStores - 1}, {"recovered domains", len(r.Lives), MaxDomains}, {"bytes of a generation", len(r.Generation), 64},
	} {
		if b.n > b.most {
			return errs.New("setup.Check", errs.Invalid, "report", fmt.Sprintf("it has %d %s, at most %d are taken", b.n, b.what, b.most)).WithRemedy("tell less")
		}
	}
	return nil
}
