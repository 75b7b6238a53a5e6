package iofilter

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store/limit"
)

// Config says what a host protects, and how. It is plain data, read from JSON.
type Config struct {
	Domain dr.DomainID `json:"domain"`
	Host   dr.HostID   `json:"host"`
	Name   string      `json:"name"`          // host name, for people
	Ack    string      `json:"ack,omitempty"` // ack rule: "async" (default), "ordered", "sync"
	VMs    []VM        `json:"vms"`

	// RingBytes is the payload retained until the DRVA has it durably; 0 means
	// DefaultRing.
	RingBytes int64 `json:"ring_bytes,omitempty"`
	// StallLimit is how long a write waits for room in a full stream while
	// none is being freed; 0 means DefaultStallLimit.
	StallLimit Duration `json:"stall_limit,omitempty"`
	// SyncBandwidth bounds what the first copy and resyncs read; the zero value
	// is no bound.
	SyncBandwidth Bandwidth `json:"sync_bandwidth,omitzero"`
	// SidecarDir is where the disks' sidecars lie: small files by which the next
	// run of a host component, here or on another host, copies only what may
	// be missing. It must be as lasting as the disks, and seen by every host
	// that may run the VMs. Empty: beside each disk image; block devices then
	// have none, and are copied whole.
	SidecarDir string `json:"sidecar_dir,omitempty"`
	// PauseFile is where it is kept what people have paused, over restarts.
	// Empty: in memory alone.
	PauseFile string `json:"pause_file,omitempty"`
}

// Bandwidth is a schedule of rates, of which the one for up counts. In JSON it
// is the text of a schedule, or a number of bytes a second.
type Bandwidth struct{ limit.Schedule }

// IsZero reports whether it bounds nothing.
func (b Bandwidth) IsZero() bool { return len(b.Rules) == 0 }

// MarshalJSON renders the text of the schedule.
func (b Bandwidth) MarshalJSON() ([]byte, error) { return json.Marshal(b.Schedule.String()) }

// UnmarshalJSON parses a number, where 0 bounds nothing, or a schedule's text.
func (b *Bandwidth) UnmarshalJSON(in []byte) (err error) {
	var n int64
	if json.Unmarshal(in, &n) == nil {
		*b, err = BytesPerSecond(n)
		return err
	}
	var text string
	if err = json.Unmarshal(in, &text); err == nil {
		b.Schedule, err = limit.ParseSchedule(text)
	}
	return err
}

// BytesPerSecond is the same rate at all times; 0 is no bound. Error: Invalid.
func BytesPerSecond(n int64) (Bandwidth, error) {
	if n == 0 {
		return Bandwidth{}, nil
	}
	s, err := limit.ParseSchedule(fmt.Sprintf("* %dB/s", n))
	return Bandwidth{s}, err
}

// VM is a protected virtual machine on the host.
type VM struct {
	Config dr.VMConfig `json:"config"` // what recovery builds the VM from; disk sizes are filled in
	Disks  []Disk      `json:"disks"`
	// Freeze says how the VM is quiesced; nil: by its guest agent, if any.
	Freeze *FreezeConfig `json:"freeze,omitempty"`
}

// Disk is one protected disk of a VM.
type Disk struct {
	ID     dr.DiskID `json:"id"`
	Name   string    `json:"name"`             // unique inside its VM; also the NBD export
	Path   string    `json:"path"`             // image file or block device: the primary, unless Source is set
	Socket string    `json:"socket"`           // unix socket the disk is served on
	Direct bool      `json:"direct,omitempty"` // bypass the host's page cache
	// Source is where the disk's content is reached when it cannot be served
	// from Path: that is only the image then, beside which the sidecar lies.
	Source *Source `json:"source,omitempty"`
	// Mirror: the hypervisor writes to the disk itself, and to the socket
	// besides; what arrives there is captured and written nowhere. It needs a
	// Source, which is only read.
	Mirror bool `json:"mirror,omitempty"`
	// Unseen: the disk may have been written by somebody else since the host
	// component had it last; no sidecar is believed, and all of it is copied.
	Unseen bool `json:"-"`
	// Held: the disk is not in its guest's path yet, so that somebody may write
	// to it unseen; it is not copied before Filter.Vouch is called for it.
	Held bool `json:"-"`
}

// Duration is a time span written as in "500ms".
type Duration time.Duration

// MarshalText renders d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText parses what time.ParseDuration does.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

func (c *Config) ring() int64 {
	if c.RingBytes == 0 {
		return DefaultRing
	}
	return c.RingBytes
}

func (c *Config) stallLimit() time.Duration {
	if c.StallLimit == 0 {
		return DefaultStallLimit
	}
	return time.Duration(c.StallLimit)
}

func (c *Config) ackRule() dr.AckRule {
	rule, _ := dr.ParseAckRule(c.Ack) // Validate has judged the word; "" is async, the zero value
	return rule
}

func invalid(object, remedy, format string, a ...any) error {
	return errs.E("iofilter.Validate", errs.Invalid, object, fmt.Errorf(format, a...)).WithRemedy(remedy)
}

// Validate checks the configuration against itself and against the host it is
// to run on: files and directories must be there. Errors are of kind Invalid
// and say what to change.
func (c *Config) Validate() error {
	switch {
	case c.Domain.IsZero():
		return invalid("domain", "set domain to the UUID of the protected domain", "no domain is named")
	case c.Host.IsZero():
		return invalid("host", "set host to a UUID of its own, once and for all", "no host is named")
	case c.Name == "" || len(c.Name) > maxName:
		return invalid("name", "set name to the host's name", "the host's name must have 1 to %d bytes", maxName)
	case c.RingBytes != 0 && (c.RingBytes < MinRing || c.RingBytes > MaxRing):
		return invalid("ring_bytes", "leave it out for 64 MiB", "%d is not within %d and %d", c.RingBytes, int64(MinRing), int64(MaxRing))
	case c.StallLimit < 0 || time.Duration(c.StallLimit) > pressureLimit:
		return invalid("stall_limit", "leave it out for 500ms", "%v is not within 0 and %v", time.Duration(c.StallLimit), pressureLimit)
	}
	if _, ok := dr.ParseAckRule(c.Ack); !ok && c.Ack != "" {
		return invalid("ack", "use async, ordered or sync", "%q is no ack rule", c.Ack)
	}
	if st, err := os.Stat(c.SidecarDir); c.SidecarDir != "" && (err != nil || !st.IsDir()) {
		return invalid("sidecar_dir", "create the directory "+c.SidecarDir, "the sidecars' directory does not exist")
	}
	return c.validateVMs()
}

// seen finds what must be unique.
type seen struct {
	vms     map[dr.VMID]bool
	disks   map[dr.DiskID]bool
	paths   map[string]bool
	sockets map[string]bool
}

func (c *Config) validateVMs() error {
	s := seen{make(map[dr.VMID]bool), make(map[dr.DiskID]bool), make(map[string]bool), make(map[string]bool)}
	disks := 0
	for i := range c.VMs {
		vm := &c.VMs[i]
		name := vm.Config.Name
		switch {
		case name == "" || len(name) > maxName:
			return invalid("vms", "set config.name", "the name of VM %d must have 1 to %d bytes", i, maxName)
		case vm.Config.ID.IsZero():
			return invalid(name, "set config.id to the VM's UUID", "the VM has no id")
		case s.vms[vm.Config.ID]:
			return invalid(name, "give each VM its own id", "duplicate VM %v", vm.Config.ID)
		}
		s.vms[vm.Config.ID] = true
		if err := vm.Freeze.validate(name); err != nil {
			return err
		}
		if err := s.validateDisks(vm); err != nil {
			return err
		}
		disks += len(vm.Disks)
	}
	if disks > maxDisks {
		return invalid("vms", "use several domains", "a host protects at most %d disks, not %d", maxDisks, disks)
	}
	return nil
}

func (s *seen) validateDisks(vm *VM) error {
	names := make(map[string]bool)
	for i := range vm.Disks {
		d := &vm.Disks[i]
		object := vm.Config.Name + "/" + d.Name
		switch {
		case d.Name == "" || len(d.Name) > maxName:
			return invalid(vm.Config.Name, "set name, as in disk0", "the name of disk %d must have 1 to %d bytes", i, maxName)
		case names[d.Name]:
			return invalid(object, "give each disk of a VM its own name", "duplicate disk name")
		case d.ID.IsZero():
			return invalid(object, "set id to the disk's UUID", "the disk has no id")
		case s.disks[d.ID]:
			return invalid(object, "give each disk its own id", "duplicate disk %v", d.ID)
		}
		names[d.Name], s.disks[d.ID] = true, true
		if err := s.validatePath(d, object); err != nil {
			return err
		}
		if err := s.validateSocket(d, object); err != nil {
			return err
		}
	}
	return nil
}

func (s *seen) validatePath(d *Disk, object string) error {
	real, err := filepath.EvalSymlinks(d.Path)
	if err != nil {
		return invalid(object, "name an existing raw image or block device", "the primary cannot be found: %w", err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return invalid(object, "use an absolute path", "the primary cannot be found: %w", err)
	}
	if err := d.validateSource(object); err != nil {
		return err
	}
	if s.paths[real] {
		return invalid(object, "protect each disk once", "duplicate disk: %s is named twice", d.Path)
	}
	s.paths[real] = true
	st, err := os.Stat(real)
	switch {
	case err != nil:
		return invalid(object, "make the primary accessible", "the primary cannot be examined: %w", err)
	case st.Mode().IsRegular() && st.Size() == 0:
		return invalid(object, "create the disk with its size first", "the primary is empty")
	case st.Size() > dr.MaxDiskSize:
		return invalid(object, "use smaller disks", "the primary is larger than 64 TiB")
	}
	return nil
}

func (s *seen) validateSocket(d *Disk, object string) error {
	path, err := filepath.Abs(d.Socket)
	if d.Socket == "" || err != nil {
		return invalid(object, "set socket to the path the hypervisor connects to", "the disk has no socket")
	}
	dir := filepath.Dir(path)
	switch {
	case len(d.Socket) > maxSocketPath:
		return invalid(object, "choose a shorter directory", "the socket's path is longer than %d bytes", maxSocketPath)
	case s.sockets[path]:
		return invalid(object, "give each disk its own socket", "duplicate socket %s", d.Socket)
	}
	s.sockets[path] = true
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return invalid(object, "create the directory "+dir, "the socket's directory does not exist")
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return invalid(object, "run as a user who may write to "+dir, "the socket's directory is not writable: %w", err)
	}
	return nil
}
