package hypervisor

import "context"

// AgentPort is the name of the virtio-serial port by which a guest's agent talks.
const AgentPort = "org.qemu.guest_agent.0"

// Guest is a VM, or a LiveVM, whose guest can be asked by QEMU's guest agent. Safe for
// concurrent use; package guest has the commands.
type Guest interface {
	// AskGuest has the agent do one command, and stores its answer in result; args and
	// result may be nil. Nothing a guest says may be believed. A command whose ctx ends
	// may still take effect. Kinds: Unavailable (no agent answers), Transient (its answer
	// did not come), Invalid (it refused), Conflict (the VM has ended), Canceled.
	AskGuest(ctx context.Context, command string, args, result any) error
}

// Suspender is a LiveVM that can be halted to make room. Safe for concurrent use.
type Suspender interface {
	// Suspend halts the processors: the guest keeps its memory. No effect on a VM that is
	// paused or off; Powered.PowerOn lets it go on. Kinds: NotFound, Unavailable, Canceled.
	Suspend(ctx context.Context) error
}

// Renamer is a LiveVM that can get another name. Safe for concurrent use.
type Renamer interface {
	// Rename gives a VM that is off a name; no effect when it has it. Kinds: Conflict (it
	// runs), Exists (another VM has the name), NotFound, Unavailable, Canceled.
	Rename(ctx context.Context, name string) error
}
