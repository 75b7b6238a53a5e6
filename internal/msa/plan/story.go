package plan

// Operation is what is asked of a plan. Names are stable.
type Operation string

// The operations. Edit and Delete change the plan itself, Answer and Cancel the
// run that is under way, Rerun repeats what was begun last.
const (
	Test            Operation = "test"
	Cleanup         Operation = "cleanup"
	ForcedCleanup   Operation = "forced-cleanup"
	Planned         Operation = "planned"
	Disaster        Operation = "disaster"
	ForcedDisaster  Operation = "forced-disaster"
	CommitRun       Operation = "commit"
	Rollback        Operation = "rollback"
	Reprotect       Operation = "reprotect"
	ForcedReprotect Operation = "forced-reprotect"
	Failback        Operation = "failback"
	Cancel          Operation = "cancel"
	Rerun           Operation = "rerun"
	Answer          Operation = "answer"
	Edit            Operation = "edit"
	Delete          Operation = "delete"

	// CleanOldSite is what a recovery is after the old site came back: it is not
	// asked for, but what planned and rerun mean then.
	CleanOldSite Operation = "clean-old-site"
)

// Operations lists what can be asked, in the order of the tables.
func Operations() []Operation {
	return []Operation{Test, Cleanup, ForcedCleanup, Planned, Disaster, ForcedDisaster, CommitRun, Rollback,
		Reprotect, ForcedReprotect, Failback, Cancel, Rerun, Answer, Edit, Delete}
}

// Phase is a part of an operation; callouts are placed around phases. Names are
// stable.
type Phase string

// The phases.
const (
	PhaseSync         Phase = "sync"
	PhaseShutdown     Phase = "shutdown"
	PhasePrepare      Phase = "prepare"
	PhaseFinalSync    Phase = "final-sync"
	PhaseWake         Phase = "wake"
	PhaseSuspend      Phase = "suspend"
	PhaseFence        Phase = "fence"
	PhaseDisks        Phase = "disks"
	PhaseTestNetwork  Phase = "test-network"
	PhaseP1           Phase = "p1"
	PhaseP2           Phase = "p2"
	PhaseP3           Phase = "p3"
	PhaseP4           Phase = "p4"
	PhaseP5           Phase = "p5"
	PhasePowerOff     Phase = "power-off"
	PhaseResume       Phase = "resume"
	PhaseDiscard      Phase = "discard"
	PhaseReturn       Phase = "return"
	PhaseRestart      Phase = "restart"
	PhasePromote      Phase = "promote"
	PhaseProtect      Phase = "protect"
	PhaseReverse      Phase = "reverse"
	PhasePlaceholders Phase = "placeholders"
	PhaseResync       Phase = "resync"
	PhaseClean        Phase = "clean"
)

// starts are the phases in which VMs start, by priority from 1 on.
var starts = [Priorities]Phase{PhaseP1, PhaseP2, PhaseP3, PhaseP4, PhaseP5}

// Rule says what a failure of a step does. Names are stable.
type Rule string

// The rules.
const (
	RuleStop       Rule = "stop"        // the run ends; a planned one is unwound if it has not fenced yet
	RuleWarn       Rule = "warn"        // what needs the step is skipped, the rest goes on, and the run ends incomplete
	RuleBestEffort Rule = "best-effort" // it counts as done, with a warning
)

// Row is a phase of an operation.
type Row struct {
	Phase Phase
	Rule  Rule
	Words string // for people
}

// Story is the phases of an operation, in order.
type Story struct {
	Operation Operation
	Rows      []Row
	Fence     Phase // from its begin on, nothing is unwound; empty: nothing ever is
	Prompts   bool  // people may be asked
	Real      bool  // production changes: it needs a confirmation
}

func startRows() []Row {
	return []Row{
		{PhaseP1, RuleWarn, "configure, address, start and wait for VMs of priority 1"},
		{PhaseP2, RuleWarn, "the same for priority 2, when all of 1 are up or have failed"},
		{PhaseP3, RuleWarn, "the same for priority 3"},
		{PhaseP4, RuleWarn, "the same for priority 4"},
		{PhaseP5, RuleWarn, "the same for priority 5"},
	}
}

// sourceRows is what is done at the protected site before its VMs move.
func sourceRows(rule Rule) []Row {
	return []Row{
		{PhaseSync, rule, "the protected site publishes what it has, while VMs run"},
		{PhaseShutdown, rule, "shut down the protected VMs, P5 first, P1 last; dependents before what they depend on"},
		{PhasePrepare, rule, "see that no protected VM runs, and let their disks go"},
		{PhaseFinalSync, rule, "publish the last checkpoint"},
	}
}

// targetRows is what is done at the recovery site.
func targetRows(rule Rule) []Row {
	return append([]Row{
		{PhaseWake, RuleWarn, "wake standby hosts"},
		{PhaseFence, rule, "choose the checkpoint of each domain, take its next epoch and go on from there: the old site's next object is refused"},
		{PhaseDisks, rule, "make disks from the checkpoint"},
		{PhaseSuspend, RuleWarn, "suspend non-critical VMs of the recovery site"},
	}, startRows()...)
}

func rows(parts ...[]Row) (all []Row) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func cleanupRows(rule Rule) []Row {
	return []Row{
		{PhasePowerOff, rule, "power off the test's VMs and remove them"},
		{PhaseResume, rule, "resume the VMs that were suspended"},
		{PhaseDiscard, rule, "remove the test's disks, pins and networks"},
	}
}

func reprotectRows(rule Rule) []Row {
	return []Row{
		{PhaseReverse, rule, "protect the recovered VMs where they are: the direction is reversed"},
		{PhasePlaceholders, rule, "take the old VMs out of service, put placeholders in their place by the mappings of the way back"},
		{PhaseResync, rule, "ship what differs; old disks serve as seed; wait for the first recovery point"},
		{PhaseClean, rule, "remove what the old direction left"},
	}
}

// Stories returns every operation that has steps, with its phases.
func Stories() []Story {
	return []Story{
		{Test, rows([]Row{
			{PhaseSync, RuleWarn, "publish recent changes, if the plan says so"},
			{PhaseWake, RuleWarn, "wake standby hosts"},
			{PhaseSuspend, RuleWarn, "suspend non-critical VMs of the recovery site"},
			{PhaseDisks, RuleWarn, "choose and pin the checkpoint, make disks from it; replication goes on"},
			{PhaseTestNetwork, RuleWarn, "make isolated networks"},
		}, startRows()), "", true, false},
		{Cleanup, cleanupRows(RuleWarn), "", false, false},
		{ForcedCleanup, cleanupRows(RuleBestEffort), "", false, false},
		{Planned, rows(sourceRows(RuleStop), targetRows(RuleStop)), PhaseFence, true, true},
		{Disaster, rows(sourceRows(RuleBestEffort), targetRows(RuleWarn)), "", true, true},
		{ForcedDisaster, targetRows(RuleWarn), "", true, true},
		{CommitRun, []Row{
			{PhasePromote, RuleStop, "the recovered VMs are the domain; the rest of their data comes"},
			{PhaseProtect, RuleWarn, "protect them here"},
		}, "", false, true},
		{Rollback, []Row{
			{PhasePowerOff, RuleStop, "power off the recovered VMs and remove them"},
			{PhaseDiscard, RuleStop, "remove their disks"},
			{PhaseReturn, RuleStop, "the protected site's history is the current one again"},
			{PhaseRestart, RuleWarn, "start the protected VMs again that a planned migration shut down"},
			{PhaseResume, RuleWarn, "resume the VMs that were suspended"},
		}, "", false, true},
		{Reprotect, reprotectRows(RuleStop), "", false, true},
		{ForcedReprotect, reprotectRows(RuleBestEffort), "", false, true},
		{Failback, rows(sourceRows(RuleStop), targetRows(RuleStop)), PhaseFence, true, true},
		{CleanOldSite, []Row{
			{PhaseShutdown, RuleBestEffort, "shut down what still runs at the old site"},
			{PhaseClean, RuleStop, "take the old VMs out of service there; what they wrote and never published is kept as a branch"},
		}, "", false, true},
	}
}

var stories = func() map[Operation]*Story {
	m := map[Operation]*Story{}
	for _, s := range Stories() {
		m[s.Operation] = &s
	}
	return m
}()

// StoryOf returns the phases of an operation; ok is false for one without steps.
func StoryOf(op Operation) (s *Story, ok bool) {
	s, ok = stories[op]
	return s, ok
}

// has reports whether the operation has a phase.
func (s *Story) has(p Phase) bool {
	for _, r := range s.Rows {
		if r.Phase == p {
			return true
		}
	}
	return false
}
