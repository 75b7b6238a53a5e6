package hypervisor

import (
	"context"
	"strings"

	"holdfast/internal/dr"
)

// Powered is a LiveVM whose power can be switched. Safe for concurrent use.
type Powered interface {
	// PowerOn starts the VM and returns when it runs; no effect on one that does, and a
	// paused one goes on. Kinds: NotFound (it is gone), Unavailable (the platform
	// cannot start it, or does not answer), Invalid (it is refused), Canceled.
	PowerOn(ctx context.Context) error
	// ShutDown asks the guest to shut down (ACPI power button) and does not wait; no
	// effect on a VM that is off. Kinds: NotFound, Unavailable, Canceled.
	ShutDown(ctx context.Context) error
	// PowerOff ends the VM at once, as pulling the plug does, and returns when it is
	// off; no effect on one that is. Kinds: NotFound, Unavailable, Canceled.
	PowerOff(ctx context.Context) error
}

// Retirer is a LiveVM that can be taken out of service. Safe for concurrent use.
type Retirer interface {
	// Retire gives a VM that is off the name that RetiredName says, so that another
	// can have its own, and sees that it does not start with its host. Its disks stay.
	// No effect on one that is retired. Kinds: Conflict (it runs), NotFound,
	// Unavailable, Exists (another VM has that name), Canceled.
	Retire(ctx context.Context) error
}

// RetiredName is what a VM is called once it is retired: its name, and enough of its
// id to be unique.
func RetiredName(name string, id dr.VMID) string {
	suffix := ".retired-" + id.String()[:8]
	if strings.HasSuffix(name, suffix) {
		return name
	}
	return name + suffix
}
