package dr

// AckRule says what a guest's write waits for. The zero value is Async.
type AckRule uint8

const (
	// Async: the primary disk has it and the host's stream holds it.
	Async AckRule = iota
	// Ordered: besides, the DRVA has given it its place in the domain's order.
	Ordered
	// Sync: besides, the DRVA's replication log holds it durably.
	Sync
)

// String returns the name used in configuration.
func (r AckRule) String() string {
	switch r {
	case Async:
		return "async"
	case Ordered:
		return "ordered"
	case Sync:
		return "sync"
	}
	return "unknown"
}

// ParseAckRule is the inverse of String; ok is false for any other word.
func ParseAckRule(s string) (r AckRule, ok bool) {
	for _, r := range []AckRule{Async, Ordered, Sync} {
		if s == r.String() {
			return r, true
		}
	}
	return 0, false
}

// Disk is a protected disk.
type Disk struct {
	ID   DiskID `json:"id"`
	VM   VMID   `json:"vm"`
	Name string `json:"name"` // unique inside its VM, as "disk0"
	Size int64  `json:"size"` // bytes
}

// VMConfig is what recovery needs to build the VM again at another site: the
// configuration of the checkpoint, not of today. It is stored, sealed, under
// meta/ in the container.
type VMConfig struct {
	ID        VMID     `json:"id"`
	Name      string   `json:"name"`
	CPUs      int      `json:"cpus"`
	MemoryMiB int64    `json:"memory_mib"`
	Machine   string   `json:"machine"`  // QEMU machine type, as "pc" or "q35"
	Firmware  string   `json:"firmware"` // "bios" or "uefi"
	Disks     []VMDisk `json:"disks"`    // in boot order
	NICs      []NIC    `json:"nics"`
}

// VMDisk places a protected disk in its VM.
type VMDisk struct {
	ID   DiskID `json:"id"`
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Bus  string `json:"bus"`  // "virtio", "scsi", "nvme" or "ide"
}

// NIC is a network card of a VM.
type NIC struct {
	MAC     string `json:"mac"`
	Model   string `json:"model"`   // "virtio-net-pci", "e1000"…
	Network string `json:"network"` // name at the protected site; mapped at recovery
}
