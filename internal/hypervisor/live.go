package hypervisor

import (
	"context"
	"time"

	"holdfast/internal/dr"
)

// Platform is a hypervisor whose VMs are there already: what live protection
// needs of it. A driver need not be a Provider as well. All methods are safe
// for concurrent use.
type Platform interface {
	// Name says which driver this is, as "qemu" or "libvirt".
	Name() string
	// VMs lists the VMs of this host, powered off ones included, in order of
	// name. Kinds: Unavailable (the hypervisor does not answer), Canceled.
	VMs(ctx context.Context) ([]LiveVM, error)
	// VM finds one by name or UUID. Kinds besides: NotFound, Conflict (the
	// name is not unique).
	VM(ctx context.Context, nameOrID string) (LiveVM, error)
	// Changes returns what happens to VMs, in order of happening per VM. One
	// channel for one reader, bounded (Change.Lost counts what did not fit),
	// closed by Close. A reader that sees Lost lists again.
	Changes() <-chan Change
	// Close lets go of the hypervisor and of everything the driver started.
	// VMs run on.
	Close() error
}

// LiveVM is a VM that somebody else defined and started. All methods are safe
// for concurrent use; those that change the VM are carried out one at a time.
type LiveVM interface {
	// Info is what the VM is now. Kinds: NotFound (it is gone), Unavailable.
	Info(ctx context.Context) (VMInfo, error)
	// Prepare says where an export that is going to be attached to disk gets
	// the disk's content, and makes that reachable. InPath: the path of a raw
	// image or device, which the export reads and writes in the guest's place;
	// or, for any other format, an NBD export of the content, which answers
	// from Attach to Detach only, and which keeps every write it acknowledged
	// whatever happens to the process behind it. Mirror: an NBD export for
	// reading alone, which answers at once; what is written to the attached
	// export must not be written there. What Prepare started ends with Detach,
	// FailOpen or Close; calling it again gives the same answer. Kinds as
	// Attach.
	Prepare(ctx context.Context, disk string, c Capture) (Source, error)
	// Attach puts an NBD export in the path of a running VM's disk, or beside
	// it, without a restart, so that from the return on every write of the
	// guest passes the export. The export serves the same content as the disk:
	// what Prepare named. On error the disk is as it was. A ctx that ends
	// stops it only before the switch-over, which is finished or undone.
	// Kinds: NotFound (no such disk), Conflict (attached already, in use by a
	// job, or the VM is powered off), Invalid (the way does not suit the
	// disk), Unavailable, Canceled.
	Attach(ctx context.Context, disk string, a Attachment) (Switch, error)
	// Detach takes the export out again: from the return on the guest writes
	// to its own disk alone, and nothing it had been acknowledged is lost.
	// No effect on a disk that is not attached. Kinds as Attach.
	Detach(ctx context.Context, disk string) (Switch, error)
	// FailOpen is Detach when the export does not answer any more: the guest
	// goes on with its own disk, its unanswered writes are repeated there. The
	// process behind the export must be dead: what it still did to the disk
	// afterwards would be lost or mixed. Where errors reach the guest another
	// server may answer in its place, with the same content: then the guest need
	// not wait for the driver to start one. Kinds as Attach.
	FailOpen(ctx context.Context, disk string) (Switch, error)
	// Resize gives a raw disk more bytes while its VM runs. With an export in its
	// path, which a names, the VM stands still while its own image grows, serve
	// makes the export serve the new size, and the disk is attached to it again:
	// no write is lost, and none passes the export by. Nothing is connected to the
	// export when serve is called, once; without an export a is zero, and serve is
	// called when the image has grown. On error the disk is as it was, except that
	// it is detached, grown, when serve failed or the export could not be attached
	// again. Kinds as Attach, besides: Invalid (fewer bytes than the disk has, or
	// a disk that cannot grow this way).
	Resize(ctx context.Context, disk string, size int64, a Attachment, serve func(context.Context) error) (Switch, error)
	// Freeze asks the guest's agent to flush and freeze its file systems and
	// returns how many there are. The driver thaws by itself after limit
	// (0: DefaultFreezeLimit), whatever its caller does. A Freeze that fails
	// leaves nothing frozen. Kinds: Unavailable (no agent), Transient (it did
	// not answer in time), Conflict (frozen).
	Freeze(ctx context.Context, limit time.Duration) (filesystems int, err error)
	// Thaw ends a freeze. It reports how many file systems it thawed; 0 when
	// they had thawed by themselves, which makes the point in time worthless
	// as an application-consistent one.
	Thaw(ctx context.Context) (filesystems int, err error)
}

// Capture says where an export stands. The zero value is InPath.
type Capture uint8

const (
	// InPath: the guest's disk is the export, and the export writes to the
	// primary. Cheapest; the export is in the way of reads too.
	InPath Capture = iota
	// Mirror: the hypervisor writes to its own disk and, before it answers the
	// guest, to the export as well (a write-blocking mirror). For formats and
	// storage a filter should not stand in front of. It fails open by itself,
	// holds the disk's one place for a job, and costs more for each write.
	Mirror
)

// String returns the name used in configuration.
func (c Capture) String() string {
	switch c {
	case InPath:
		return "in-path"
	case Mirror:
		return "mirror"
	}
	return "unknown"
}

// ParseCapture is the inverse of String; ok is false for any other word. The
// empty word is InPath.
func ParseCapture(s string) (c Capture, ok bool) {
	switch s {
	case "", "in-path":
		return InPath, true
	case "mirror":
		return Mirror, true
	}
	return 0, false
}

// Attachment is an export to attach.
type Attachment struct {
	Socket  string // unix socket of the NBD server
	Export  string // export's name
	Capture Capture
}

// Switch is how a disk was switched over.
type Switch struct {
	// Pause is how long the guest's I/O stood still, as seen from outside: the
	// duration of the commands between which no request is served.
	Pause time.Duration
	Route string // the sequence of commands used, as "reopen", "qom-set", "mirror", "blockcopy"
}

// VMInfo is a VM as it is now.
type VMInfo struct {
	Config  dr.VMConfig // disks in boot order; IDs of disks are zero: they belong to protection
	Running bool        // it has a process; a paused VM has
	Paused  bool        // Running, and its processors are halted: nothing of it writes that is not under way
	Disks   []LiveDisk  // as Config.Disks, with what capture needs to know
	Agent   bool        // a guest agent answered lately
	Place   Place       // where it is filed
}

// LiveDisk is a disk of a VM.
type LiveDisk struct {
	Name     string // unique inside its VM, stable over restarts: "disk0", or libvirt's target as "vda"
	Path     string // of the image or block device; empty: not on a path of this host
	Format   string // "raw", "qcow2"…; what QEMU calls it
	Size     int64  // bytes the guest sees
	ReadOnly bool   // never captured
	Shared   bool   // several VMs may write to it: cannot be captured
	Attached bool   // an export is in its path, or mirrored to
	Socket   string // Attached: the export's socket
	Problem  string // why it cannot be captured, in words with the remedy; empty: it can
}

// ChangeKind says what happened to a VM. The zero value is ChangedConfig.
type ChangeKind uint8

// The changes.
const (
	ChangedConfig ChangeKind = iota // name, memory, processors, cards: Info tells
	ChangedDisks                    // a disk was added, removed or resized
	ChangedState                    // started, stopped, paused, resumed: Info tells
	ChangedChain                    // a snapshot was taken or dropped: a disk's path or format is another
	VMAppeared                      // defined, or migrated to this host
	VMGone                          // undefined, or migrated away
	DiskStalled                     // the VM met an I/O error on Disk and waits
)

// String returns the stable lower-case name.
func (k ChangeKind) String() string {
	names := [...]string{"config changed", "disks changed", "state changed", "disk chain changed", "vm appeared", "vm gone", "disk stalled"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Change is something that happened to a VM.
type Change struct {
	Kind   ChangeKind
	Time   time.Time
	VM     dr.VMID
	Name   string
	Disk   string // when one disk is meant
	Detail string // the platform's words
	Lost   int    // changes before this one that did not fit the queue
}

// DefaultFreezeLimit is how long a guest may stay frozen: writes of its
// applications wait meanwhile.
const DefaultFreezeLimit = 10 * time.Second
