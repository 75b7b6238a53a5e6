package plan

import "time"

const (
	// MaxDomains of one plan, as SRM's 250 groups.
	MaxDomains = 250
	// MaxVMs of one plan.
	MaxVMs = 2000
	// MaxCallouts of one plan.
	MaxCallouts = 200
	// MaxVMCallouts is how many one VM has before, and after, its start.
	MaxVMCallouts = 16
	// MaxDepends is on how many VMs one may wait.
	MaxDepends = 32
	// MaxSuspended is how many VMs of the recovery site make room.
	MaxSuspended = 2000
	// MaxWords bounds a command's words; a kernel takes 128 KiB in all.
	MaxWords = 64
	// MaxArgument bounds one word, or the value of one variable, bytes.
	MaxArgument = 4096
	// MaxEnvironment bounds a command's variables.
	MaxEnvironment = 64
	// MaxPrompt bounds what a prompt says, bytes.
	MaxPrompt = 2048
	// MaxBoots bounds what may be started at once.
	MaxBoots = 1000
	// MaxNetworks bounds a plan's own test networks.
	MaxNetworks = 500
)

// Ranges of times, those SRM's admins know.
const (
	// MaxWait bounds waits and delays of a VM.
	MaxWait = 3599 * time.Second
	// MaxTimeout bounds a script; DefaultTimeout is what it gets unasked. Zero
	// written down means that it may take as long as it likes.
	MaxTimeout     = 59999 * time.Second
	DefaultTimeout = 300 * time.Second
	// DefaultAgentWait is how long a guest's agent is waited for; zero written
	// down means not at all.
	DefaultAgentWait = 5 * time.Minute
	// DefaultShutdown is how long a guest may take to shut down before its power
	// is cut.
	DefaultShutdown = 5 * time.Minute
	// MinCommit and MaxCommit bound the time to look before an automatic decision.
	MinCommit = 300 * time.Second
	MaxCommit = 86400 * time.Second
	// ApprovalHolds is how long a second person's agreement counts.
	ApprovalHolds = time.Hour
)

// Priorities: P1 starts first, P5 last. DefaultPriority is of a VM of which
// nothing is said.
const (
	Priorities      = 5
	DefaultPriority = 3
)
