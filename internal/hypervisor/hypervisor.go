package hypervisor

import (
	"context"
	"time"

	"holdfast/internal/dr"
)

// Provider runs virtual machines. All methods are safe for concurrent use.
type Provider interface {
	// Name says which driver this is, as "qemu".
	Name() string
	// Capabilities says what the driver can do here. Constant after New.
	Capabilities() Capabilities
	// Start makes a VM of spec and starts it. It returns once the VM is
	// Running, or Paused when that was asked for. On error nothing is left
	// running. Kinds: Invalid (spec), Exists (this VM runs already), NotFound
	// (a disk is missing), Unavailable (the platform cannot), Canceled.
	Start(ctx context.Context, spec Spec) (VM, error)
	// Adopt takes over the VMs that were started with Keep and workDir, that
	// still run, and that this provider does not look after: those of a process
	// that ended in whatever way. What runs that are over left under workDir is
	// removed. A VM whose Start was cut short is Paused before its first
	// instruction, or killed. VMs come in order of name. One provider at a time
	// uses a work directory for VMs that are kept, until its Close. Kinds:
	// Conflict (another one does), Unavailable (a VM, or the platform, does not
	// answer: those that do are returned beside the error), Canceled.
	Adopt(ctx context.Context, workDir string) ([]VM, error)
	// Close kills every VM that still runs and was not started with Keep, and
	// waits for their ends. It lets go of the others, whose commands and Wait fail
	// from then on, and frees what the provider holds. Start and Adopt fail
	// afterwards.
	Close() error
}

// Definer is a Provider whose platform keeps books: it can know a VM that does
// not run. Both methods are safe for concurrent use.
type Definer interface {
	// Define has the platform keep a VM that Start or Adopt gave, with Keep: with
	// its end it is not gone, and the platform's own tools start it again, also
	// after the platform was restarted. No effect on one that is kept already.
	// Adopt, and Start of the same VM under the same WorkDir, work as before.
	// Kinds: Conflict (final state; a disk is on an export that goes away),
	// Unavailable, Canceled.
	Define(ctx context.Context, vm VM) error
	// Undefine has the platform forget the VMs that were started with workDir,
	// kept by Define, and do not run, with what is theirs alone; disks stay. Kinds:
	// Unavailable, Canceled.
	Undefine(ctx context.Context, workDir string) error
}

// VM is one run of a virtual machine. All methods are safe for concurrent use.
type VM interface {
	// ID and Name are those of the configuration the VM was started from.
	ID() dr.VMID
	Name() string
	// Status returns the state now, without asking the platform.
	Status() Status
	// Serial returns the path of the unix socket that carries the first serial
	// port, or "" when Spec did not ask for one. What the guest says while
	// nobody is connected is lost: start Paused, connect, then Resume.
	Serial() string
	// Monitor returns the path of the unix socket by which a host component's
	// Platform driver takes the VM, or "" when Spec did not ask for Keep, and on
	// a platform that shows its VMs by itself.
	Monitor() string
	// Events returns the VM's events, in order. There is one channel for one
	// reader; it is bounded (Event.Lost counts what did not fit) and closed
	// after the event of the final state.
	Events() <-chan Event
	// Pause halts the processors; what the guest wrote so far stays in its
	// disks' caches. No effect on a Paused VM. Kinds: Conflict (final state).
	Pause(ctx context.Context) error
	// Resume lets a Paused VM run; no effect on a Running one. After an I/O
	// error the failed operation is repeated, and the VM may be Paused again
	// at once. Kinds: Conflict (final state).
	Resume(ctx context.Context) error
	// Stop asks the guest to shut down (ACPI power button) and returns when it
	// has. No effect on a VM in a final state. A guest that does not obey in
	// opt.Limit is Running again and the error is Transient, or is killed when
	// opt.Force is set. Kinds besides: Conflict (Paused, and no Force).
	Stop(ctx context.Context, opt StopOptions) error
	// SwitchDisk moves a disk from the NBD export it was started from to the raw
	// image its Source names besides, without a restart: from the return on the
	// guest reads and writes the image alone, and nobody needs the export any
	// more. The caller sees to it that the image holds all the export does, and
	// that the export writes what it acknowledged to it. No effect on a disk that
	// is there already. On error the disk is as it was. A ctx that ends stops it
	// only before the switch-over. Kinds: NotFound (no such disk, no image),
	// Conflict (final state, or a disk with no image besides its export), Invalid
	// (an image of another size), Unavailable, Canceled.
	SwitchDisk(ctx context.Context, disk dr.DiskID) (Switch, error)
	// Screenshot returns what the guest shows on its screen, as a PNG. Kinds:
	// Conflict (final state, or Spec did not ask for a Screen), Unavailable,
	// Canceled.
	Screenshot(ctx context.Context) ([]byte, error)
	// Kill ends the VM at once, as pulling the plug does, and returns when it
	// is gone. No effect on a VM in a final state.
	Kill(ctx context.Context) error
	// Wait returns the final status once there is one. Kinds: Canceled.
	Wait(ctx context.Context) (Status, error)
}

// Capabilities says what a driver can do.
type Capabilities struct {
	NBD         bool // disks may be NBD exports on unix sockets
	Serial      bool // VM.Serial
	Pause       bool // Pause, Resume, Spec.Paused
	OrderlyStop bool // Stop reaches the guest
	UEFI        bool // firmware "uefi" can be had on this host
	NVMe        bool // disks may be on bus "nvme"
	UserNet     bool // networks of kind User
	NamedNet    bool // networks of kind Named
	IOErrors    bool // a disk error pauses the VM and is an event
}

// Spec is everything a VM is started from.
type Spec struct {
	Config  dr.VMConfig
	Sources map[dr.DiskID]Source // one for every disk of Config
	StartOptions
}

// Source says where a disk's bytes are. With a Path alone, there. With a Socket,
// at the export; a Path besides names the image that SwitchDisk goes to, which
// has the disk's size from the start and which nobody locks.
type Source struct {
	Path   string // a raw image file or a block device on this host
	Socket string // a unix socket on which an NBD server exports the disk
	Export string // the NBD export's name; may be empty
}

// Accelerator says how the guest's instructions are run.
type Accelerator string

// The accelerators.
const (
	AutoAccelerator Accelerator = ""    // KVM where it was proved to work, else TCG
	KVM             Accelerator = "kvm" // the processor runs them
	TCG             Accelerator = "tcg" // emulation: slow, works everywhere
)

// NetworkKind says what stands behind a network. The zero value is Isolated.
type NetworkKind uint8

const (
	// Isolated reaches nothing but other cards on the isolated network of the same
	// recorded name: of the same VM and, where the platform can, of the VMs that
	// are kept under the same work directory, as those of one test.
	Isolated NetworkKind = iota
	// User gives the guest addresses and name resolution from a network of its
	// own that reaches neither the host nor anything beyond.
	User
	// Named is a network the platform has, by its Name.
	Named
)

// Network is what a recorded network name is mapped to.
type Network struct {
	Kind NetworkKind
	Name string // Named: of the platform's network; else empty
}

// StartOptions are the choices of one start. The zero value starts a VM
// without serial port, running, on the best accelerator.
type StartOptions struct {
	WorkDir     string // where the run's private directory is made; "": the system's temporary directory
	Accelerator Accelerator
	Keep        bool               // the VM outlives the provider and its process, until Adopt finds it; needs WorkDir
	Serial      bool               // give the VM a serial port on a unix socket
	SerialLog   string             // file to which all that the serial port says is appended; "": none; needs Serial
	Screen      bool               // give the VM a graphics card, for Screenshot
	Agent       bool               // give the VM a port for its guest's agent, where the platform can: see Guest
	Paused      bool               // leave it Paused before the first instruction
	ExitOnReset bool               // a guest that resets ends, Stopped, instead of booting again
	Direct      bool               // local disks bypass the host's page cache
	Networks    map[string]Network // by recorded network name; every card's must be there
}

// StopOptions say how far an orderly stop may go. The zero value waits
// DefaultStopLimit and then gives up.
type StopOptions struct {
	Limit time.Duration // for the guest to obey; 0: DefaultStopLimit
	Force bool          // kill the VM when it did not
}

// EffectiveLimit returns Limit or its default.
func (o StopOptions) EffectiveLimit() time.Duration {
	if o.Limit <= 0 {
		return DefaultStopLimit
	}
	return o.Limit
}
