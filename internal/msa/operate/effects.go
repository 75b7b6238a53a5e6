package operate

import (
	"context"

	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// Act is one attempt of one step: what package runs says of it, and for whom it is.
// Epoch grows from owner to owner and from run to run of a plan: what has seen a
// larger one for the plan refuses.
type Act struct {
	*runs.Call
	Plan     site.Name
	Origin   string    // the fingerprint of the authority of the site whose plan it is; "": it is not said
	From, To site.Name // the sites, in the run's direction
	Domain   site.Name // the one the step is about, or whose VM; empty: none
}

// Effects is how steps act on the world. Every method may be called again for what
// was done: it looks, and finds by Act.Key or by the world itself that there is nothing
// left to do (Result.AlreadyDone). Right before an effect it asks Act.Hold. Work that
// lasts is begun under the key and looked at again (Result.Again). What another run of
// the same plan did is the plan's: a recovery that goes on finds disks and VMs there.
// A method returns soon after its context ends. Kinds of errors decide repeats: see
// runs.Doer. Methods are called concurrently.
type Effects interface {
	Source
	Target
	Guests
	Ends
}

// Source is what is done at the protected site.
type Source interface {
	// Sync has everything that is written published, while VMs run; with Final it is
	// the last checkpoint, of a domain of which nothing runs any more.
	Sync(ctx context.Context, a *Act, in *plan.DomainInputs, final bool) (runs.Result, error)
	// Running reports whether a VM runs at a site.
	Running(ctx context.Context, a *Act, vm *plan.VMInputs) (bool, error)
	// Shutdown asks a guest to shut down, and does not wait.
	Shutdown(ctx context.Context, a *Act, vm *plan.VMInputs) error
	// Cut takes a VM's power.
	Cut(ctx context.Context, a *Act, vm *plan.VMInputs) error
	// SourceOff sees that nothing of the domain runs, and lets its disks go.
	SourceOff(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	// StartSource starts a VM again that a run of the plan has shut down. None that
	// runs, and none at a site that does not own the domain.
	StartSource(ctx context.Context, a *Act, vm *plan.VMInputs) (runs.Result, error)
}

// Target is what is done at the recovery site before VMs start.
type Target interface {
	// WakeHost powers a standby host on, and is looked at again until it is there.
	WakeHost(ctx context.Context, a *Act, in *plan.HostInputs) (runs.Result, error)
	// Suspend makes room; Resume gives it back.
	Suspend(ctx context.Context, a *Act, vm *plan.VMInputs) (runs.Result, error)
	Resume(ctx context.Context, a *Act, vm *plan.VMInputs) (runs.Result, error)
	// Fence chooses the checkpoint, takes the next epoch of the domain and begins its
	// new history there: the old site's next object is refused. Memory is a Pinned. A
	// recovery of which the checkpoint is chosen keeps it, and warns if another was
	// asked for.
	Fence(ctx context.Context, a *Act, in *plan.PinInputs) (runs.Result, error)
	// Pin chooses a test's checkpoint and holds it. Memory is a Pinned.
	Pin(ctx context.Context, a *Act, in *plan.PinInputs) (runs.Result, error)
	// Disks makes the domain's disks: a job, done when VMs can boot.
	Disks(ctx context.Context, a *Act, in *plan.DisksInputs) (runs.Result, error)
	// TestNetwork makes an isolated network.
	TestNetwork(ctx context.Context, a *Act, in *plan.NetworkInputs) (runs.Result, error)
}

// Guests is what is done with one recovered VM.
type Guests interface {
	// Configure makes the VM as it is to be, with the domain's disks.
	Configure(ctx context.Context, a *Act, in *plan.ConfigureInputs) (runs.Result, error)
	// Address has the guest told its addresses, before or after it starts.
	Address(ctx context.Context, a *Act, in *plan.ConfigureInputs) (runs.Result, error)
	// PowerOn starts it; no effect on one that runs.
	PowerOn(ctx context.Context, a *Act, vm *plan.VMInputs) (runs.Result, error)
	// AgentUp and PortUp report whether a guest answers. An error is an answer that
	// did not come, and is asked for again.
	AgentUp(ctx context.Context, a *Act, vm *plan.VMInputs) (bool, error)
	PortUp(ctx context.Context, a *Act, vm *plan.VMInputs, port int) (bool, error)
	// Script runs a command to its end; what it prints goes to Act.Output. One whose
	// manager died in the middle is run again, with the same HOLDFAST_KEY.
	Script(ctx context.Context, a *Act, in *plan.ScriptInputs) (runs.Result, error)
	// PowerOff powers a recovered VM off and removes it.
	PowerOff(ctx context.Context, a *Act, vm *plan.VMInputs) (runs.Result, error)
}

// Ends is how a test or recovery ends.
type Ends interface {
	// Discard removes disks, pins and networks of the plan's test or recovery.
	Discard(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	// Return makes the protected site's history the current one again.
	Return(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	// Promote makes the recovered VMs the domain: a job, done when all their data is
	// there. Protect begins their protection.
	Promote(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	Protect(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	// Reverse protects the recovered VMs towards the old site; Resync is done at
	// their first recovery point there.
	Reverse(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	Resync(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
	// Retire takes an old VM out of service and keeps its disks; Placeholder puts a
	// placeholder in its place.
	Retire(ctx context.Context, a *Act, vm *plan.VMInputs) (runs.Result, error)
	Placeholder(ctx context.Context, a *Act, in *plan.ConfigureInputs) (runs.Result, error)
	// Clean removes what the old direction left of the domain.
	Clean(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error)
}

// Pinned is the memory of a step that chose a checkpoint: reports tell it.
type Pinned struct {
	Checkpoint uint64 `json:"checkpoint"`
	TimeMS     int64  `json:"time_ms"` // when it was cut, UTC milliseconds since 1970
	Kind       string `json:"kind,omitempty"`
	Tag        string `json:"tag,omitempty"`
}
