package site

import (
	"fmt"
	"time"

	"holdfast/internal/msa/problem"
	"holdfast/internal/store/limit"
)

// Mode is how a domain is protected. Names are stable.
type Mode string

// The modes. The zero value is Failover.
const (
	Failover   Mode = ""     // disks are built when they are needed
	Continuous Mode = "warm" // a standby at the recovery site follows
	// Periodic is of platforms without a disk path, every few minutes, with no order over
	// VMs. This release has no such platform: Check refuses it, and what has it all the
	// same, from an earlier release, is not protected, and told.
	Periodic Mode = "periodic"
)

// PeriodicRemedy is what to do about a domain in mode Periodic.
const PeriodicRemedy = `leave mode out, or choose "warm": both capture every write`

// ProtectedDomain is VMs that are protected, cut and recovered together, and how.
// A VM is in one domain at most.
type ProtectedDomain struct {
	Meta
	Description string     `json:"description,omitempty"`
	From        Name       `json:"from"`         // the site that protects it in its home direction
	To          Name       `json:"to,omitempty"` // where it is to be recovered; empty: nowhere yet
	VMs         []Ref      `json:"vms,omitempty"`
	Adopt       []Rule     `json:"adopt,omitempty"`     // which VMs are added by themselves
	Stores      []Name     `json:"stores"`              // the first is read first
	Appliance   Name       `json:"appliance,omitempty"` // a DRVA; empty: the manager chooses by load
	Mode        Mode       `json:"mode,omitempty"`
	Ack         string     `json:"ack,omitempty"`         // "async" (also empty), "ordered", "sync"
	Interval    Span       `json:"interval,omitzero"`     // between checkpoints, 1s to 1m; zero: 5s
	AppInterval Span       `json:"app_interval,omitzero"` // between application-consistent ones; zero: none
	RPOTarget   Span       `json:"rpo_target,omitzero"`   // 2s to 30d; zero: no promise, no alarms
	Retention   Retention  `json:"retention"`
	Priority    string     `json:"priority,omitempty"`    // "low", "normal" (also empty), "high"
	Compression string     `json:"compression,omitempty"` // "fastest", "default" (also empty), "better", "none"
	Bandwidth   string     `json:"bandwidth,omitempty"`   // a schedule, as "zone UTC; mon-fri 08:00-18:00 20MB/s"
	LogSize     int64      `json:"log_size,omitempty"`    // of the replication log, bytes; 0: the appliance's part
	Recipients  []string   `json:"recipients,omitempty"`  // who can open the container, besides the managers
	TestRemind  Span       `json:"test_remind,omitzero"`  // remind when untested for so long; zero: never
	Suspended   bool       `json:"suspended,omitempty"`   // paused by a user
	Preseed     []DiskSeed `json:"preseed,omitempty"`     // images at the recovery appliance to begin from
}

// Kind is KindDomain.
func (*ProtectedDomain) Kind() Kind { return KindDomain }

// Rule has the manager add VMs that are in no domain, as they appear. Every field that is given must
// match; one must be.
type Rule struct {
	Tag    string `json:"tag,omitempty"`    // a tag the VM has
	Folder Ref    `json:"folder,omitempty"` // the VM's folder, or one above
}

// DiskSeed names an image at the recovery appliance that holds a disk as it was once:
// brought there on other ways than through the store. A standby's first build, and
// recoveries whose disks are built as a whole, begin from it: what differs from the
// container is fetched alone. The image is copied for that, unless Take is set.
type DiskSeed struct {
	VM   Ref    `json:"vm"`
	Disk string `json:"disk"`           // name inside the VM
	Path string `json:"path"`           // of a raw image of the disk's size; absolute, at the recovery appliance
	Take bool   `json:"take,omitempty"` // the image itself becomes the recovered VM's disk
}

// Retention says how much history a domain keeps.
type Retention struct {
	Schedule  []Slot `json:"schedule"`
	SizeLimit int64  `json:"size_limit,omitempty"` // bytes of history; 0: none
	AlarmOnly bool   `json:"alarm_only,omitempty"` // beyond SizeLimit: alarm, instead of a shorter history
	Floor     Span   `json:"floor,omitzero"`       // SizeLimit never shortens history below
	TagFor    Span   `json:"tag_for,omitzero"`     // how long tagged checkpoints stay; zero: as the schedule
	Lock      Span   `json:"lock,omitzero"`        // nothing needed can be deleted for so long; zero: no lock
}

// Slot keeps one checkpoint every so often, for so long. Every zero: each one.
type Slot struct {
	Every Span `json:"every,omitzero"`
	For   Span `json:"for"`
}

// Window is how far back the history reaches.
func (r *Retention) Window() time.Duration {
	var far time.Duration
	for _, s := range r.Schedule {
		far = max(far, s.For.D())
	}
	return far
}

// Matches reports whether a VM comes in by the rule.
func (r Rule) Matches(vm *VM) bool {
	if r.Tag == "" && r.Folder == "" {
		return false
	}
	tagged := r.Tag == ""
	for _, t := range vm.Tags {
		tagged = tagged || t == r.Tag
	}
	return tagged && (r.Folder == "" || vm.Folder.Below(r.Folder))
}

// Below reports whether a folder is another one or inside it.
func (r Ref) Below(folder Ref) bool {
	return r == folder || len(r) > len(folder) && r[:len(folder)] == folder && r[len(folder)] == '/'
}

// Check adds every problem the domain has by itself.
func (d *ProtectedDomain) Check(l *problem.List) {
	c := CheckHead(l, d)
	c.Lines("description", d.Description, MaxText)
	needName(c, "from", d.From, "site")
	if d.To != "" {
		needName(c, "to", d.To, "site")
	}
	if d.To == d.From && d.To != "" {
		c.At("to").Block(problem.Contrary, "the recovery site is the protected site", "name another site")
	}
	d.checkMembers(c)
	d.checkPlace(c)
	d.checkPromises(c)
	d.Retention.check(c.At("retention"))
}

func (d *ProtectedDomain) checkMembers(c problem.Checker) {
	c.Count("vms", len(d.VMs), MaxDomainVMs)
	c.Count("adopt", len(d.Adopt), MaxRules)
	if len(d.VMs) == 0 && len(d.Adopt) == 0 {
		c.At("vms").Block(problem.Missing, "the domain protects nothing", "name VMs, or a rule that adopts them")
	}
	for i, vm := range d.VMs {
		c.NeedText(fmt.Sprintf("vms[%d]", i), string(vm), MaxRef)
	}
	problem.Unique(c, "vms", d.VMs, func(r Ref) string { return string(r) })
	for i, r := range d.Adopt {
		at := c.Index("adopt", i)
		at.Text("tag", r.Tag, MaxRef)
		at.Text("folder", string(r.Folder), MaxRef)
		if r.Tag == "" && r.Folder == "" {
			at.Block(problem.Missing, "the rule says nothing", "give a tag, a folder, or both")
		}
	}
	c.Count("preseed", len(d.Preseed), MaxDomainVMs*4)
	for i, s := range d.Preseed {
		at := c.Index("preseed", i)
		at.NeedText("vm", string(s.VM), MaxRef)
		at.NeedText("disk", s.Disk, MaxRef)
		at.NeedText("path", s.Path, MaxURL)
		if s.Path != "" && s.Path[0] != '/' {
			at.At("path").Block(problem.Form, "the path is not absolute", "write it from the root on")
		}
	}
	problem.Unique(c, "preseed", d.Preseed, func(s DiskSeed) string { return string(s.VM) + "/" + s.Disk })
}

func (d *ProtectedDomain) checkPlace(c problem.Checker) {
	c.Count("stores", len(d.Stores), MaxStores)
	if len(d.Stores) == 0 {
		c.At("stores").Block(problem.Missing, "the domain is published nowhere", "name a store")
	}
	for i, s := range d.Stores {
		needName(c, fmt.Sprintf("stores[%d]", i), s, "store")
	}
	problem.Unique(c, "stores", d.Stores, func(n Name) string { return string(n) })
	if d.Appliance != "" {
		needName(c, "appliance", d.Appliance, "appliance")
	}
	if d.Mode == Periodic {
		c.At("mode").Block(problem.Form, fmt.Sprintf("domain %s would not be protected: no platform of this release is protected periodically", d.Name), PeriodicRemedy)
	} else {
		problem.OneOf(c, "mode", d.Mode, Failover, Continuous)
	}
	problem.OneOf(c, "ack", d.Ack, "", "async", "ordered", "sync")
	problem.OneOf(c, "priority", d.Priority, "", "low", "normal", "high")
	problem.OneOf(c, "compression", d.Compression, "", "fastest", "default", "better", "none")
	if d.LogSize != 0 {
		problem.Within(c, "log_size", d.LogSize, MinLogSize, MaxLogSize)
	}
	checkBandwidth(c, "bandwidth", d.Bandwidth)
	c.Count("recipients", len(d.Recipients), MaxRecipients)
	for i, r := range d.Recipients {
		c.NeedText(fmt.Sprintf("recipients[%d]", i), r, MaxURL)
	}
	problem.Unique(c, "recipients", d.Recipients, func(s string) string { return s })
}

func (d *ProtectedDomain) checkPromises(c problem.Checker) {
	WithinSpan(c, "interval", d.Interval, MinInterval, MaxInterval, true)
	WithinSpan(c, "rpo_target", d.RPOTarget, MinRPOTarget, MaxRPOTarget, true)
	WithinSpan(c, "app_interval", d.AppInterval, MinAppEvery, MaxAppEvery, true)
	WithinSpan(c, "test_remind", d.TestRemind, 24*time.Hour, 366*24*time.Hour, true)
	every := d.Interval
	if every == 0 {
		every = Span(DefaultEvery)
	}
	if d.RPOTarget != 0 && d.RPOTarget < every {
		c.At("rpo_target").Block(problem.Contrary, fmt.Sprintf("%s cannot be kept with a checkpoint every %s", d.RPOTarget, every), "raise the target, or shorten the interval")
	}
}

func (r *Retention) check(c problem.Checker) {
	c.Count("schedule", len(r.Schedule), MaxSlots)
	if len(r.Schedule) == 0 {
		c.At("schedule").Block(problem.Missing, "no history is kept", "say how long: every checkpoint for 24h, say")
	}
	for i, s := range r.Schedule {
		at := c.Index("schedule", i)
		WithinSpan(at, "for", s.For, MinHistory, MaxHistory, false)
		if s.Every < 0 || s.Every > s.For {
			at.At("every").Block(problem.Contrary, "one point every "+s.Every.String()+" is none in "+s.For.String(), "keep points more often, or longer")
		}
		if i > 0 && (s.Every <= r.Schedule[i-1].Every || s.For <= r.Schedule[i-1].For) {
			at.Block(problem.Contrary, "it keeps nothing that the slot before does not", "order slots from often and short to seldom and long")
		}
	}
	if r.SizeLimit != 0 {
		problem.Within(c, "size_limit", r.SizeLimit, MinHistorySize, 1<<60)
	}
	WithinSpan(c, "floor", r.Floor, 0, MaxHistory, true)
	WithinSpan(c, "tag_for", r.TagFor, MinHistory, MaxHistory, true)
	WithinSpan(c, "lock", r.Lock, MinHistory, MaxHistory, true)
	if r.Floor.D() > r.Window() {
		c.At("floor").Block(problem.Contrary, "it is longer than the history", "choose at most "+Span(r.Window()).String())
	}
	if r.AlarmOnly && r.SizeLimit == 0 {
		c.At("alarm_only").Block(problem.Contrary, "there is no limit to alarm at", "give size_limit, or leave it out")
	}
}

func checkBandwidth(c problem.Checker, field, text string) {
	if _, err := limit.ParseSchedule(text); err != nil {
		c.At(field).Block(problem.Form, err.Error(), "write a rate, or days, hours and rates: zone UTC; mon-fri 08:00-18:00 20MB/s")
	}
}
