package recovery

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
)

// Mode is how disks are built. The zero value is Instant.
type Mode string

// The modes. Names are stable.
const (
	Instant Mode = "instant" // VMs boot at once, blocks come when they are asked for
	Full    Mode = "full"    // VMs boot when their disks are whole
	Warm    Mode = "warm"    // the disks of a standby that was kept ready
)

// Decision is what happens to a run before its commit when nobody decides. The
// zero value is that nothing does.
type Decision string

// The decisions.
const (
	Wait         Decision = ""
	AutoCommit   Decision = "commit"
	AutoRollback Decision = "rollback"
)

// Override changes a VM's configuration of the checkpoint. Zero fields change
// nothing.
type Override struct {
	Name      string            `json:"name,omitempty"`
	CPUs      int               `json:"cpus,omitempty"`
	MemoryMiB int64             `json:"memory_mib,omitempty"`
	Networks  map[string]string `json:"networks,omitempty"` // recorded name to name here
	Cards     map[int]Card      `json:"cards,omitempty"`    // by place, over Networks
	Down      bool              `json:"down,omitempty"`     // it is not started, also when it has ended
}

// Card changes one network card. Zero fields change nothing.
type Card struct {
	Network string `json:"network,omitempty"` // name here
	MAC     string `json:"mac,omitempty"`
}

// Request says what is to be recovered, and how. It is kept in the record, and
// holds no secret: Access says where those are.
type Request struct {
	URL      string            `json:"container"`
	Access   map[string]string `json:"access,omitempty"`   // for Options.Open: where the identity is
	Timeline string            `json:"timeline,omitempty"` // id; empty: the current one
	At       string            `json:"at"`                 // as for journal.History.FindAt, or Final
	VMs      []string          `json:"vms,omitempty"`      // names or ids; empty: all
	// Groups are started one after the other, each VM by name or id; what is in
	// none comes last, together.
	Groups    [][]string                    `json:"groups,omitempty"`
	Parallel  int                           `json:"parallel,omitempty"` // VMs started at once; 0: 4
	Mode      Mode                          `json:"mode"`
	Standby   string                        `json:"standby,omitempty"` // Warm: its directory
	Rate      int64                         `json:"rate,omitempty"`    // Instant: of filling in the background, bytes a second; 0: no bound
	Networks  map[string]hypervisor.Network `json:"networks,omitempty"`
	Overrides map[string]Override           `json:"overrides,omitempty"` // by recorded name or id

	Platform    map[string]string      `json:"platform,omitempty"` // what runs the VMs, for who makes the Provider
	Accelerator hypervisor.Accelerator `json:"accelerator,omitempty"`
	ExitOnReset bool                   `json:"exit_on_reset,omitempty"`
	NoBoot      bool                   `json:"no_boot,omitempty"` // Clone: disks alone
	Evidence    time.Duration          `json:"evidence_after,omitempty"`

	Auto  Decision      `json:"auto,omitempty"`
	After time.Duration `json:"auto_after,omitempty"`

	Forced    bool                 `json:"forced,omitempty"` // Disaster: the source is not asked to stop
	Source    map[string]string    `json:"source,omitempty"` // Planned: for Options.Source
	Onto      map[dr.DiskID]string `json:"onto,omitempty"`   // Failback: old disks, absolute paths
	NoProtect bool                 `json:"no_protect,omitempty"`
	Protect   ProtectRequest       `json:"protect,omitzero"`

	By    string `json:"by,omitempty"`
	Note  string `json:"note,omitempty"`
	Label string `json:"label,omitempty"` // what who asks calls the domain
	// Origin tells apart who asks: two may have the same names for what they recover.
	Origin string `json:"origin,omitempty"`
}

// ProtectRequest says how the VMs are protected at the recovery site.
type ProtectRequest struct {
	Quota    int64  `json:"quota,omitempty"`    // of the log, bytes; 0: 4 GiB
	Interval string `json:"interval,omitempty"` // between checkpoints; empty: the DRVA's default
	// Copies are further stores that get a copy of the container, as the DRVA's
	// configuration has them.
	Copies []ProtectCopy `json:"copies,omitempty"`
}

// ProtectCopy is one of them.
type ProtectCopy struct {
	Container   string `json:"container"`             // URL
	Credentials string `json:"credentials,omitempty"` // file; empty: the process's own
}

// check reports what makes no sense whatever the container holds.
func (q *Request) check() error {
	switch {
	case q.URL == "":
		return fmt.Errorf("no container is named")
	case !slices.Contains([]Mode{Instant, Full, Warm}, q.Mode):
		return fmt.Errorf("mode %q is none of instant, full and warm", q.Mode)
	case (q.Mode == Warm) != (q.Standby != ""):
		return fmt.Errorf("mode warm, and no other, needs a standby's directory")
	case q.Parallel < 0 || q.Parallel > maxParallel:
		return fmt.Errorf("%d VMs at once are not in 1…%d", q.Parallel, maxParallel)
	case len(q.Groups) > maxGroups || len(q.VMs) > maxVMs || len(q.Overrides) > maxVMs:
		return fmt.Errorf("more groups or VMs than any run has")
	case !slices.Contains([]Decision{Wait, AutoCommit, AutoRollback}, q.Auto):
		return fmt.Errorf("automatic decision %q is neither commit nor rollback", q.Auto)
	case (q.Auto == Wait) != (q.After == 0) || q.After < 0:
		return fmt.Errorf("an automatic decision, and nothing else, needs a time after which it is taken")
	case len(q.By) > maxText || len(q.Note) > maxText || len(q.Label) > maxText || len(q.Origin) > maxText || q.Evidence < 0 || q.Rate < 0 || q.Protect.Quota < 0:
		return fmt.Errorf("a text is longer than %d bytes, or a number negative", maxText)
	}
	for id, path := range q.Onto {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("the old disk of %s is at %q, which is not absolute", id, path)
		}
	}
	return nil
}

func (q *Request) parallel() int {
	if q.Parallel == 0 {
		return defaultParallel
	}
	return q.Parallel
}

// groupOf is the group in which a VM starts.
func (q *Request) groupOf(cfg *dr.VMConfig) int {
	for i, g := range q.Groups {
		if slices.Contains(g, cfg.Name) || slices.Contains(g, cfg.ID.String()) {
			return i
		}
	}
	return len(q.Groups)
}

// wanted reports whether a VM is to be recovered.
func (q *Request) wanted(cfg *dr.VMConfig) bool {
	return len(q.VMs) == 0 || slices.Contains(q.VMs, cfg.Name) || slices.Contains(q.VMs, cfg.ID.String())
}

// down reports whether a VM is not to be started.
func (q *Request) down(v *VMRecord) bool { return q.Overrides[v.Source.String()].Down }

// apply returns the configuration a VM is built from here.
func (q *Request) apply(cfg dr.VMConfig) dr.VMConfig {
	o, ok := q.Overrides[cfg.ID.String()]
	if !ok {
		o = q.Overrides[cfg.Name]
	}
	if o.Name != "" {
		cfg.Name = o.Name
	}
	if o.CPUs != 0 {
		cfg.CPUs = o.CPUs
	}
	if o.MemoryMiB != 0 {
		cfg.MemoryMiB = o.MemoryMiB
	}
	cfg.NICs = slices.Clone(cfg.NICs)
	for i, n := range cfg.NICs {
		if to := o.Networks[n.Network]; to != "" {
			cfg.NICs[i].Network = to
		}
		if c := o.Cards[i]; c.Network != "" {
			cfg.NICs[i].Network = c.Network
		}
		if c := o.Cards[i]; c.MAC != "" {
			cfg.NICs[i].MAC = c.MAC
		}
	}
	return cfg
}
