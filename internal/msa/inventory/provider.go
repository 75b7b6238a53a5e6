package inventory

import (
	"context"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/site"
)

// Provider tells what a site's platform has. All methods are safe for concurrent
// use. Every implementation passes inventorytest.Run.
type Provider interface {
	// Name says what it is, as "libvirt".
	Name() string
	// Watch begins to watch. Changes from this call on are in the watcher's updates.
	// Kinds: Unavailable (it was closed), Canceled.
	Watch(ctx context.Context) (Watcher, error)
	// Places returns what keeps placeholders; nil: the platform keeps no books in
	// which a VM could be that does not run.
	Places() hypervisor.PlaceKeeper
	// Close lets go of the platform and ends all watchers. VMs are not touched.
	Close() error
}

// Watcher gives the updates of one watch, in order. Of one goroutine at a time.
type Watcher interface {
	// Next waits for the next update. The first is Whole. On Unavailable the platform
	// is away; Next may be called again, and the next update is Whole. Kinds besides:
	// Canceled.
	Next(ctx context.Context) (Update, error)
	// Close ends the watch.
	Close()
}

// Update is what is different since the update before, or all there is. Lists of
// VMs have each id once.
type Update struct {
	// Whole replaces all that was known; nil: the others say what is different.
	Whole *site.Inventory
	// Missing says which part of the platform could not be asked for Whole: what is
	// not in it is not known to be gone. nil: it is complete.
	Missing error
	// Places replaces all but VMs, as Whole does; it has no VMs itself. nil: as before.
	Places *site.Inventory
	VMs    []site.VM // new, or different
	Gone   []dr.VMID
}

// Empty reports whether nothing is different.
func (u *Update) Empty() bool {
	return u.Whole == nil && u.Places == nil && len(u.VMs) == 0 && len(u.Gone) == 0
}
