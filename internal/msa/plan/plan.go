package plan

import (
	"fmt"
	"time"

	"holdfast/internal/msa/site"
)

// Plan says how domains are recovered: together, in which order, with what around
// it.
type Plan struct {
	site.Meta
	Description  string        `json:"description,omitempty"`
	From         site.Name     `json:"from"` // the protected site in the plan's home direction
	To           site.Name     `json:"to"`
	Mappings     site.Name     `json:"mappings,omitempty"` // empty: those of the two sites
	Domains      []site.Name   `json:"domains"`
	VMs          []VM          `json:"vms,omitempty"`      // of others the defaults hold
	Callouts     []Callout     `json:"callouts,omitempty"` // around phases
	Suspend      []site.Ref    `json:"suspend,omitempty"`  // VMs of the recovery site that make room
	TestNetworks []TestNetwork `json:"test_networks,omitempty"`
	Point        Point         `json:"point,omitzero"` // unless the run says another
	Disks        Disks         `json:"disks,omitempty"`
	Commit       Commit        `json:"commit,omitzero"`
	SyncTest     bool          `json:"sync_before_test,omitempty"` // a test begins with what was written last
	TwoPersons   bool          `json:"two_persons,omitempty"`      // a real run needs a second person's agreement
	MaxBoots     int           `json:"max_boots,omitempty"`        // VMs started at once; 0: the site's
	TestEvery    site.Span     `json:"test_every,omitzero"`        // remind when the last test is older; zero: never
	TestAt       string        `json:"test_at,omitempty"`          // a time-table of tests, as "zone Europe/Berlin; sat 02:30"; empty: none
	TestKeep     site.Span     `json:"test_keep,omitzero"`         // clean a test of the time-table up after so long, 1m to 7d; zero: by hand
}

// Kind is site.KindPlan.
func (*Plan) Kind() site.Kind { return site.KindPlan }

// References lists the objects a plan names.
func (p *Plan) References() []site.Reference {
	refs := []site.Reference{
		{Field: "from", Kind: site.KindSite, Name: p.From}, {Field: "to", Kind: site.KindSite, Name: p.To},
		{Field: "mappings", Kind: site.KindMappings, Name: p.Mappings},
	}
	for i, d := range p.Domains {
		refs = append(refs, site.Reference{Field: fmt.Sprintf("domains[%d]", i), Kind: site.KindDomain, Name: d})
	}
	return refs
}

// TestNetwork replaces, in this plan's tests, the test network of the mappings.
type TestNetwork struct {
	From site.Ref `json:"from"` // at the protected site
	To   site.Ref `json:"to"`   // at the recovery site
}

// Disks says how disks are built. The zero value is instant.
type Disks string

// The ways to build disks, as package recovery has them.
const (
	DisksInstant Disks = ""     // VMs boot at once, blocks come when they are asked for
	DisksFull    Disks = "full" // VMs boot when their disks are whole
	DisksWarm    Disks = "warm" // the disks of a standby
)

// Commit says what happens before the commit when nobody decides. The zero value:
// nothing, but reminders.
type Commit struct {
	Policy CommitPolicy `json:"policy,omitempty"`
	After  site.Span    `json:"after,omitzero"` // 300s to 24h
}

// CommitPolicy is an automatic decision. The zero value is none.
type CommitPolicy string

// The policies.
const (
	CommitByHand   CommitPolicy = ""
	CommitAuto     CommitPolicy = "commit"
	CommitRollback CommitPolicy = "rollback"
)

// Point says which checkpoint of each domain is recovered. The zero value is the
// newest. One field at most is given.
type Point struct {
	App     bool                 `json:"app,omitempty"`     // the newest application-consistent one
	At      time.Time            `json:"at,omitzero"`       // the newest one not after this time
	Tag     string               `json:"tag,omitempty"`     // the newest one of this tag
	Domains map[site.Name]uint64 `json:"domains,omitempty"` // a checkpoint for each; others: the newest
}

// VM is what a plan says of one VM.
type VM struct {
	VM       site.Ref   `json:"vm"`                 // by name or id, at the protected site
	Priority int        `json:"priority,omitempty"` // 1 to 5; 0: 3
	After    []site.Ref `json:"after,omitempty"`    // VMs of the same priority that must be up before
	Start    Start      `json:"start,omitempty"`
	Agent    *site.Span `json:"agent,omitempty"` // wait for the guest's agent, 0s to 3599s; left out: 5m; 0s: do not wait
	Port     *WaitPort  `json:"port,omitempty"`
	Ready    *Script    `json:"ready,omitempty"`    // is repeated until it succeeds
	Delay    site.Span  `json:"delay,omitzero"`     // before the steps after the start, up to 3599s
	Stop     Stop       `json:"stop,omitzero"`      // at the protected site
	Pre      []Callout  `json:"pre,omitempty"`      // before it is started
	Post     []Callout  `json:"post,omitempty"`     // after it is up
	Critical bool       `json:"critical,omitempty"` // if it fails, later priorities do not begin
}

// Start says whether a VM is started. The zero value is that it is.
type Start string

// The ways to start.
const (
	PowerOn  Start = ""
	StayDown Start = "off"
)

// Stop says how a guest of the protected site is shut down.
type Stop struct {
	Cut     bool       `json:"cut,omitempty"`     // power is cut at once
	Timeout *site.Span `json:"timeout,omitempty"` // then power is cut, 0s to 3599s; left out: 5m
}

// WaitPort waits until a TCP port of the guest accepts a connection.
type WaitPort struct {
	Port    int       `json:"port"`
	Timeout site.Span `json:"timeout"` // 1s to 3599s
}

// Run says where a callout happens. Names are stable.
type Run string

// The places.
const (
	OnManager   Run = "manager"
	OnAppliance Run = "appliance"
	InGuest     Run = "guest"
	Prompt      Run = "prompt" // asks people, and waits
)

// Callout is a script or a prompt at one place of a run.
type Callout struct {
	Name string      `json:"name"`
	At   Place       `json:"at,omitzero"`    // in a plan: around which phase; of a VM: nothing
	Only []Operation `json:"only,omitempty"` // of these operations; empty: each that has the place
	Run  Run         `json:"run"`
	Script
	Ask   string `json:"ask,omitempty"`             // Prompt: what is asked
	Fatal bool   `json:"stop_on_failure,omitempty"` // a failure ends the run; else it is a warning
}

// Place is before or after a phase.
type Place struct {
	Before Phase `json:"before,omitempty"`
	After  Phase `json:"after,omitempty"`
}

// Script is a command. No shell reads its words.
type Script struct {
	Command []string          `json:"command,omitempty"`
	Env     map[string]string `json:"env,omitempty"`       // besides what each run tells: HOLDFAST_…
	Timeout *site.Span        `json:"timeout,omitempty"`   // 0s to 59999s; left out: 300s; 0s: none
	VM      site.Ref          `json:"vm,omitempty"`        // InGuest at a phase: in which guest
	Box     site.Name         `json:"appliance,omitempty"` // OnAppliance: on which
}

// Limit is how long the script may take; zero: for ever.
func (s *Script) Limit() time.Duration {
	if s.Timeout == nil {
		return DefaultTimeout
	}
	return s.Timeout.D()
}

func or(s *site.Span, d time.Duration) time.Duration {
	if s == nil {
		return d
	}
	return s.D()
}

// priority is the VM's priority, 1 to 5.
func (v *VM) priority() int {
	if v == nil || v.Priority == 0 {
		return DefaultPriority
	}
	return v.Priority
}
