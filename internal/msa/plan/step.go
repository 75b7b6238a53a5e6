package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/site"
)

// Kind says what a step does. Names are stable; a changed meaning is a new
// version of the kind.
type Kind string

// The kinds, with the type of their inputs.
const (
	KindSync        Kind = "sync"         // DomainInputs: publish what is there
	KindFinalSync   Kind = "final-sync"   // DomainInputs: publish the last checkpoint
	KindShutdownVM  Kind = "shutdown-vm"  // ShutdownInputs: at the protected site
	KindSourceOff   Kind = "source-off"   // DomainInputs: nothing of it runs at the protected site
	KindWakeHost    Kind = "wake-host"    // HostInputs
	KindSuspendVM   Kind = "suspend-vm"   // VMInputs: of the recovery site
	KindResumeVM    Kind = "resume-vm"    // VMInputs
	KindFence       Kind = "fence"        // PinInputs: choose the checkpoint, end the old history there, begin the new one
	KindPin         Kind = "pin"          // PinInputs: choose and hold the checkpoint, for a test
	KindDisks       Kind = "disks"        // DisksInputs: make disks; a job of the recovery appliance, begun and polled
	KindTestNetwork Kind = "test-network" // NetworkInputs
	KindConfigure   Kind = "configure-vm" // ConfigureInputs
	KindAddress     Kind = "address-vm"   // ConfigureInputs: tell the guest its addresses
	KindPowerOn     Kind = "power-on"     // VMInputs
	KindWaitAgent   Kind = "wait-agent"   // WaitInputs
	KindWaitPort    Kind = "wait-port"    // WaitInputs
	KindWaitScript  Kind = "wait-script"  // ScriptInputs: repeated until it succeeds
	KindDelay       Kind = "delay"        // WaitInputs
	KindScript      Kind = "script"       // ScriptInputs
	KindPrompt      Kind = "prompt"       // PromptInputs
	KindPowerOff    Kind = "power-off"    // VMInputs: power off and remove a recovered VM
	KindDiscard     Kind = "discard"      // DomainInputs: disks, pins and networks of a run
	KindReturn      Kind = "return"       // DomainInputs: drop the fork
	KindStartSource Kind = "start-source" // VMInputs: start a VM of the protected site that the run shut down
	KindPromote     Kind = "promote"      // DomainInputs
	KindProtect     Kind = "protect"      // DomainInputs
	KindReverse     Kind = "reverse"      // DomainInputs
	KindRetireVM    Kind = "retire-vm"    // VMInputs: take the old VM out of service, keep its disks
	KindPlaceholder Kind = "placeholder"  // ConfigureInputs
	KindResync      Kind = "resync"       // DomainInputs: until the first recovery point
	KindCleanDomain Kind = "clean-domain" // DomainInputs: what the old direction left
)

// StepVersion is the version of every kind so far.
const StepVersion = 1

// DomainInputs are of steps about a whole domain.
type DomainInputs struct {
	Domain site.Name `json:"domain"`
	VMs    []dr.VMID `json:"vms,omitempty"`
	Reuse  bool      `json:"reuse,omitempty"` // Resync, Disks: the old disks serve as seed
	Test   bool      `json:"test,omitempty"`
	Forced bool      `json:"forced,omitempty"`
}

// VMInputs are of steps about one VM.
type VMInputs struct {
	VM   dr.VMID   `json:"vm"`
	Name site.Ref  `json:"name"`
	Site site.Name `json:"site"` // where it is
	Test bool      `json:"test,omitempty"`
}

// ShutdownInputs are of KindShutdownVM.
type ShutdownInputs struct {
	VMInputs
	Cut     bool          `json:"cut,omitempty"` // power at once
	Timeout time.Duration `json:"timeout"`       // nanoseconds; then power is cut
}

// HostInputs are of KindWakeHost.
type HostInputs struct {
	Host site.Ref `json:"host"`
}

// PinInputs are of KindFence and KindPin.
type PinInputs struct {
	Domain     site.Name `json:"domain"`
	VMs        []dr.VMID `json:"vms,omitempty"`
	Point      Point     `json:"point,omitzero"`
	Checkpoint uint64    `json:"checkpoint,omitempty"` // 0: as Point says
	Final      bool      `json:"final,omitempty"`      // the one of the final sync
	Test       bool      `json:"test,omitempty"`       // beside production
}

// DisksInputs are of KindDisks.
type DisksInputs struct {
	DomainInputs
	Mode Disks `json:"mode,omitempty"`
}

// NetworkInputs are of KindTestNetwork.
type NetworkInputs struct {
	Isolated site.Ref `json:"isolated"` // the network of the protected site it stands for
}

// ConfigureInputs are of KindConfigure, KindAddress and KindPlaceholder.
type ConfigureInputs struct {
	Domain    site.Name         `json:"domain"`
	Placement mapping.Placement `json:"placement"`
	Test      bool              `json:"test,omitempty"`
}

// WaitInputs are of KindWaitAgent, KindWaitPort and KindDelay.
type WaitInputs struct {
	VMInputs
	Port  int           `json:"port,omitempty"`
	Limit time.Duration `json:"limit"` // nanoseconds
}

// ScriptInputs are of KindScript and KindWaitScript.
type ScriptInputs struct {
	Name    string            `json:"name"`
	Run     Run               `json:"run"`
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	Limit   time.Duration     `json:"limit,omitempty"` // nanoseconds; 0: none
	Box     site.Name         `json:"appliance,omitempty"`
	VM      *VMInputs         `json:"vm,omitempty"`
}

// PromptInputs are of KindPrompt.
type PromptInputs struct {
	Name string    `json:"name"`
	Ask  string    `json:"ask"`
	VM   *VMInputs `json:"vm,omitempty"`
}

// inputsOf gives a fresh value of the inputs of each kind.
var inputsOf = map[Kind]any{
	KindSync: DomainInputs{}, KindFinalSync: DomainInputs{}, KindShutdownVM: ShutdownInputs{}, KindSourceOff: DomainInputs{},
	KindWakeHost: HostInputs{}, KindSuspendVM: VMInputs{}, KindResumeVM: VMInputs{}, KindFence: PinInputs{}, KindPin: PinInputs{},
	KindDisks: DisksInputs{}, KindTestNetwork: NetworkInputs{}, KindConfigure: ConfigureInputs{}, KindAddress: ConfigureInputs{},
	KindPowerOn: VMInputs{}, KindWaitAgent: WaitInputs{}, KindWaitPort: WaitInputs{}, KindWaitScript: ScriptInputs{},
	KindDelay: WaitInputs{}, KindScript: ScriptInputs{}, KindPrompt: PromptInputs{}, KindPowerOff: VMInputs{},
	KindDiscard: DomainInputs{}, KindReturn: DomainInputs{}, KindStartSource: VMInputs{}, KindPromote: DomainInputs{},
	KindProtect: DomainInputs{}, KindReverse: DomainInputs{}, KindRetireVM: VMInputs{}, KindPlaceholder: ConfigureInputs{},
	KindResync: DomainInputs{}, KindCleanDomain: DomainInputs{},
}

// DecodeInputs reads the inputs of a step from JSON, as a pointer to the kind's
// type. A kind or version it does not know, or a field, is of kind Invalid: whoever
// runs the step parks the run.
func DecodeInputs(k Kind, version int, b []byte) (any, error) {
	const op = "plan.DecodeInputs"
	zero, ok := inputsOf[k]
	if !ok || version != StepVersion {
		return nil, errs.New(op, errs.Invalid, string(k), fmt.Sprintf("version %d of this step is not known here", version)).
			WithRemedy("go on with the version of the manager that began the run, or cancel it")
	}
	in := reflect.New(reflect.TypeOf(zero)).Interface()
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return nil, errs.E(op, errs.Invalid, string(k), err)
	}
	return in, nil
}

// Step is one thing that is done. Its ID is unique in a runbook and the same
// whenever the same plan is compiled: with the run's id it is the key under which
// a box knows that it has done it.
type Step struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Version int       `json:"version"`
	Title   string    `json:"title"` // for people
	Rule    Rule      `json:"rule"`
	Needs   []string  `json:"needs,omitempty"` // ids of steps that must have succeeded, else this one is skipped
	After   []string  `json:"after,omitempty"` // ids of steps that must have ended
	VM      dr.VMID   `json:"vm,omitzero"`     // of a chain
	Domain  site.Name `json:"domain,omitempty"`
	Inputs  any       `json:"inputs"`         // of the kind's type
	Undo    *Undo     `json:"undo,omitempty"` // nil: there is nothing to take back
}

// Undo takes back a step that was begun, whether it was done or not: it looks.
type Undo struct {
	Kind    Kind   `json:"kind"`
	Version int    `json:"version"`
	Title   string `json:"title"`
	Inputs  any    `json:"inputs"` // of the kind's type
}

// Group is steps that go together: each begins when what it names allows, the
// first when the group before has ended.
type Group struct {
	Name     string `json:"name"` // unique in the runbook: "p1", "before p1"
	Phase    Phase  `json:"phase"`
	Title    string `json:"title"`
	Parallel int    `json:"parallel,omitempty"` // VMs at once; 0: no bound
	Steps    []Step `json:"steps"`
	// Gate: the chains of these VMs must have succeeded, else no later group begins.
	Gate []dr.VMID `json:"gate,omitempty"`
}

// LeftOut is a VM that a recovery from a disaster goes without, and why.
type LeftOut struct {
	VM  site.Ref `json:"vm"`
	Why string   `json:"why"`
}

// Runbook is an operation of a plan as ordered steps. It is fixed when the run
// begins, and plain data.
type Runbook struct {
	Plan      site.Name    `json:"plan"`
	Version   site.Version `json:"plan_version"`
	Operation Operation    `json:"operation"`
	From      site.Name    `json:"from"` // the protected site in this run's direction
	To        site.Name    `json:"to"`
	Domains   []site.Name  `json:"domains"`
	Groups    []Group      `json:"groups"`
	Fence     string       `json:"fence,omitempty"` // name of the group before which a failure or cancel is unwound: what was begun is undone
	Commit    Commit       `json:"commit,omitzero"`
	LeftOut   []LeftOut    `json:"left_out,omitempty"`
}

// Steps is how many steps a runbook has, those that undo not counted.
func (r *Runbook) Steps() (n int) {
	for i := range r.Groups {
		n += len(r.Groups[i].Steps)
	}
	return n
}
