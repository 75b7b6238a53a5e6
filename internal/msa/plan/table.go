package plan

// State is where a plan stands. Names are stable.
type State string

// The states.
const (
	Ready                State = "ready"
	NoDomains            State = "no-domains"
	DirectionError       State = "direction-error"
	DomainsInUse         State = "domains-in-use"
	SyncConflict         State = "sync-conflict"
	TestInProgress       State = "test-in-progress"
	WaitingForUser       State = "waiting-for-user-input"
	CancelInProgress     State = "cancel-in-progress"
	TestInterrupted      State = "test-interrupted"
	TestComplete         State = "test-complete"
	CleanupInProgress    State = "cleanup-in-progress"
	CleanupIncomplete    State = "cleanup-incomplete"
	CleanupInterrupted   State = "cleanup-interrupted"
	RecoveryInProgress   State = "recovery-in-progress"
	IncompleteRecovery   State = "incomplete-recovery"
	RecoveryInterrupted  State = "recovery-interrupted"
	BeforeCommit         State = "before-commit"
	CommitInProgress     State = "commit-in-progress"
	CommitIncomplete     State = "commit-incomplete"
	RollbackInProgress   State = "rollback-in-progress"
	RollbackIncomplete   State = "rollback-incomplete"
	PartialRecovery      State = "partial-recovery"
	PartialReprotect     State = "partial-reprotect"
	DisasterComplete     State = "disaster-recovery-complete"
	SplitBrain           State = "recovery-split-brain"
	RecoveryStarted      State = "recovery-started"
	RecoveryComplete     State = "recovery-complete"
	ReprotectInProgress  State = "reprotect-in-progress"
	IncompleteReprotect  State = "incomplete-reprotect"
	ReprotectInterrupted State = "reprotect-interrupted"
	Deleting             State = "deleting"
	UnknownState         State = "unknown-state"
)

// Go is an operation that a state allows.
type Go struct {
	Op       Operation
	Next     State     // where the plan stands while it is done; empty: where it stood before it waited
	Runs     Operation // what is done; empty: Op itself; Rerun: what was begun last
	Reversed bool      // only when the plan runs against its home direction
}

// Line is a state of a plan.
type Line struct {
	State   State
	Words   string // what it means
	Holds   bool   // the plan's domains are taken: no other plan may run them
	Running bool   // a run is under way
	Allowed []Go
	Else    string // why all other operations are refused, and what to do
}

// recoveries lets a recovery begin, or go on.
func recoveries() []Go {
	return []Go{
		{Op: Planned, Next: RecoveryInProgress}, {Op: Disaster, Next: RecoveryInProgress},
		{Op: ForcedDisaster, Next: RecoveryInProgress}, {Op: Failback, Next: RecoveryInProgress, Reversed: true},
	}
}

func change() []Go { return []Go{{Op: Edit}, {Op: Delete, Next: Deleting}} }

func goes(parts ...[]Go) (all []Go) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// again lets an operation be repeated, by its name and by rerun.
func again(next State, ops ...Operation) (list []Go) {
	for _, op := range ops {
		list = append(list, Go{Op: op, Next: next})
	}
	return append(list, Go{Op: Rerun, Next: next, Runs: Rerun})
}

// Table is the state machine of plans: for each state what it allows, and why the
// rest is refused.
func Table() []Line {
	return append(append(restLines(), testLines()...), recoveryLines()...)
}

func restLines() []Line {
	return []Line{
		{Ready, "nothing is under way", false, false,
			goes([]Go{{Op: Test, Next: TestInProgress}}, recoveries(), change()),
			"the plan is ready and nothing was run: there is nothing to clean up, commit, roll back, reprotect, cancel or repeat"},
		{NoDomains, "the plan names no domain, or those it names are gone", false, false, change(),
			"the plan has no domain: edit it"},
		{DirectionError, "its domains run in different directions", false, false, change(),
			"its domains are protected from different sites: edit the plan, or reprotect the domains that differ by their own plans"},
		{DomainsInUse, "another plan runs a domain of it", false, false, change(),
			"another plan runs a domain of it: wait until that one has ended"},
		{SyncConflict, "both sites have changed the plan", false, false, change(),
			"both sites have changed the plan: edit it, which says what holds"},
		{Deleting, "it is being removed", false, false, nil, "the plan is being removed"},
		{UnknownState, "its runs cannot be read", false, false, nil,
			"what the plan's last run did is not known: wait until the database and the peer answer"},
	}
}

func testLines() []Line {
	return []Line{
		{TestInProgress, "a test is under way", true, true, []Go{{Op: Cancel, Next: CancelInProgress}},
			"a test is under way: wait, or cancel it"},
		{WaitingForUser, "a run waits for an answer", true, true,
			[]Go{{Op: Answer}, {Op: Cancel, Next: CancelInProgress}},
			"the run waits for an answer: answer the prompt, or cancel"},
		{CancelInProgress, "a run is being cancelled", true, true, nil,
			"the run is being cancelled: wait"},
		{TestInterrupted, "a test was cut off by the end of the manager", true, false,
			goes(again(TestInProgress, Test), []Go{{Op: Cleanup, Next: CleanupInProgress}}),
			"a test was interrupted: test again, or clean up"},
		{TestComplete, "the test's VMs run", true, false, []Go{{Op: Cleanup, Next: CleanupInProgress}},
			"a test's VMs are there: clean up first"},
		{CleanupInProgress, "a cleanup is under way", true, true, nil,
			"a cleanup is under way: wait"},
		{CleanupIncomplete, "a cleanup could not remove everything", true, false,
			again(CleanupInProgress, Cleanup, ForcedCleanup),
			"a cleanup is not complete: clean up again, or by force, which leaves what it cannot remove and names it"},
		{CleanupInterrupted, "a cleanup was cut off", true, false,
			again(CleanupInProgress, Cleanup, ForcedCleanup),
			"a cleanup was interrupted: clean up again"},
	}
}

func recoveryLines() []Line {
	undo := []Go{{Op: Rollback, Next: RollbackInProgress}}
	return []Line{
		{RecoveryInProgress, "a recovery is under way", true, true, []Go{{Op: Cancel, Next: CancelInProgress}},
			"a recovery is under way: wait, or cancel it"},
		{IncompleteRecovery, "a recovery has failed in part, or was cancelled", true, false,
			goes(recoveries(), []Go{{Op: Rerun, Next: RecoveryInProgress, Runs: Rerun}}, undo),
			"a recovery is not complete: run it again, which skips what is done, or roll back"},
		{RecoveryInterrupted, "a recovery was cut off", true, false,
			goes(recoveries(), []Go{{Op: Rerun, Next: RecoveryInProgress, Runs: Rerun}}, undo),
			"a recovery was interrupted: run it again, which skips what is done, or roll back"},
		{BeforeCommit, "the recovered VMs run; nothing is final", true, false,
			goes([]Go{{Op: CommitRun, Next: CommitInProgress}}, undo),
			"the recovered VMs wait for a decision: commit, or roll back"},
		{CommitInProgress, "the recovery is being made final", true, true, nil, "a commit is under way: wait"},
		{CommitIncomplete, "the commit has failed in part", true, false, again(CommitInProgress, CommitRun),
			"a commit is not complete, and parts of it are final: commit again"},
		{RollbackInProgress, "the recovery is being undone", true, true, nil, "a rollback is under way: wait"},
		{RollbackIncomplete, "the rollback has failed in part", true, false, again(RollbackInProgress, Rollback),
			"a rollback is not complete: roll back again"},
		{PartialRecovery, "another plan has recovered some of its domains", false, false,
			recoveries(),
			"some domains were recovered by another plan: recover the rest, or go on with that plan"},
		{PartialReprotect, "another plan has reprotected some of its domains", false, false,
			[]Go{{Op: Reprotect, Next: ReprotectInProgress}},
			"some domains were reprotected by another plan: reprotect the rest"},
		{DisasterComplete, "recovered and committed; the protected site was not reached", false, false,
			[]Go{{Op: Delete, Next: Deleting}},
			"the old site was not reached: when it is back it is cleaned up, then reprotect is possible"},
		{SplitBrain, "recovered, and the old site is back with its old VMs", false, false,
			[]Go{{Op: Planned, Next: RecoveryInProgress, Runs: CleanOldSite}, {Op: Rerun, Next: RecoveryInProgress, Runs: CleanOldSite}},
			"the old site still has its VMs: run the recovery again (planned, or rerun), which cleans up there and leaves the recovered VMs alone"},
		{RecoveryStarted, "the peer runs a recovery of it", true, false, nil,
			"the peer runs a recovery of this plan: look there, or wait until it is connected"},
		{RecoveryComplete, "recovered and committed", false, false,
			[]Go{{Op: Reprotect, Next: ReprotectInProgress}, {Op: Delete, Next: Deleting}},
			"the domains were recovered: reprotect is next"},
		{ReprotectInProgress, "protection is being turned round", true, true, nil, "a reprotect is under way: wait"},
		{IncompleteReprotect, "a reprotect has failed in part", true, false,
			again(ReprotectInProgress, Reprotect, ForcedReprotect),
			"a reprotect is not complete: reprotect again, or by force"},
		{ReprotectInterrupted, "a reprotect was cut off", true, false, again(ReprotectInProgress, Reprotect),
			"a reprotect was interrupted: reprotect again"},
	}
}

// Event is what happens to a plan without being asked. Names are stable.
type Event string

// The events. The first group is what a run reports, the second what is seen of
// other plans and of the peer.
const (
	Succeeded      Event = "succeeded"
	SucceededAlone Event = "succeeded-alone" // the protected site was not reached
	Failed         Event = "failed"          // a step that counts has failed
	Unwound        Event = "unwound"         // a planned run has failed, and the protected site is in service again
	Interrupted    Event = "interrupted"     // the run cannot go on by itself
	Cancelled      Event = "cancelled"
	Asked          Event = "asked" // a prompt is open

	SomeRecovered   Event = "some-recovered" // by another plan
	AllRecovered    Event = "all-recovered"
	NoneRecovered   Event = "none-recovered"
	SomeReprotected Event = "some-reprotected"
	AllReprotected  Event = "all-reprotected"
	DomainsGone     Event = "domains-gone"
	DirectionsMixed Event = "directions-mixed"
	DomainsTaken    Event = "domains-taken"
	BothEdited      Event = "both-edited"
	Settled         Event = "settled"       // what kept the plan from being ready is over
	PeerReturned    Event = "peer-returned" // with its old VMs
	PeerReplaced    Event = "peer-replaced" // without them: it was built anew, or is given up
	PeerRecovering  Event = "peer-recovering"
	PeerRecovered   Event = "peer-recovered"
)

// Move is where an event leads.
type Move struct {
	From  State
	Event Event
	Of    []Operation // only when the run is one of these; empty: any
	To    State
	Flips bool // the plan's direction is reversed by it
}

// Moves is what events do. The first that fits holds.
func Moves() []Move {
	return append(runMoves(), seenMoves()...)
}

func runMoves() []Move {
	planned := []Operation{Planned, Failback}
	clean := []Operation{CleanOldSite}
	test := []Operation{Test}
	return []Move{
		{From: TestInProgress, Event: Succeeded, To: TestComplete},
		{From: TestInProgress, Event: Failed, To: TestComplete},
		{From: TestInProgress, Event: Interrupted, To: TestInterrupted},
		{From: TestInProgress, Event: Asked, To: WaitingForUser},
		{From: WaitingForUser, Event: Interrupted, Of: test, To: TestInterrupted},
		{From: WaitingForUser, Event: Interrupted, To: RecoveryInterrupted},
		{From: CancelInProgress, Event: Cancelled, Of: test, To: TestComplete},
		{From: CancelInProgress, Event: Cancelled, Of: clean, To: SplitBrain},
		{From: CancelInProgress, Event: Cancelled, To: IncompleteRecovery},
		{From: CancelInProgress, Event: Unwound, Of: planned, To: Ready},
		{From: CancelInProgress, Event: Interrupted, Of: test, To: TestInterrupted},
		{From: CancelInProgress, Event: Interrupted, Of: clean, To: SplitBrain},
		{From: CancelInProgress, Event: Interrupted, To: RecoveryInterrupted},
		{From: CleanupInProgress, Event: Succeeded, To: Ready},
		{From: CleanupInProgress, Event: Failed, To: CleanupIncomplete},
		{From: CleanupInProgress, Event: Interrupted, To: CleanupInterrupted},
		{From: RecoveryInProgress, Event: Succeeded, Of: clean, To: RecoveryComplete},
		{From: RecoveryInProgress, Event: Failed, Of: clean, To: SplitBrain},
		{From: RecoveryInProgress, Event: Interrupted, Of: clean, To: SplitBrain},
		{From: RecoveryInProgress, Event: Succeeded, To: BeforeCommit},
		{From: RecoveryInProgress, Event: Failed, To: IncompleteRecovery},
		{From: RecoveryInProgress, Event: Unwound, Of: planned, To: Ready},
		{From: RecoveryInProgress, Event: Interrupted, To: RecoveryInterrupted},
		{From: RecoveryInProgress, Event: Asked, To: WaitingForUser},
		{From: CommitInProgress, Event: Succeeded, To: RecoveryComplete},
		{From: CommitInProgress, Event: SucceededAlone, To: DisasterComplete},
		{From: CommitInProgress, Event: Failed, To: CommitIncomplete},
		{From: CommitInProgress, Event: Interrupted, To: CommitIncomplete},
		{From: RollbackInProgress, Event: Succeeded, To: Ready},
		{From: RollbackInProgress, Event: Failed, To: RollbackIncomplete},
		{From: RollbackInProgress, Event: Interrupted, To: RollbackIncomplete},
		{From: ReprotectInProgress, Event: Succeeded, To: Ready, Flips: true},
		{From: ReprotectInProgress, Event: Failed, To: IncompleteReprotect},
		{From: ReprotectInProgress, Event: Interrupted, To: ReprotectInterrupted},
	}
}

func seenMoves() []Move {
	moves := []Move{
		{From: Ready, Event: SomeRecovered, To: PartialRecovery},
		{From: Ready, Event: AllRecovered, To: RecoveryComplete},
		{From: PartialRecovery, Event: AllRecovered, To: RecoveryComplete},
		{From: PartialRecovery, Event: NoneRecovered, To: Ready},
		{From: RecoveryComplete, Event: SomeReprotected, To: PartialReprotect},
		{From: RecoveryComplete, Event: AllReprotected, To: Ready, Flips: true},
		{From: PartialReprotect, Event: AllReprotected, To: Ready, Flips: true},
		{From: DisasterComplete, Event: PeerReturned, To: SplitBrain},
		{From: DisasterComplete, Event: PeerReplaced, To: RecoveryComplete},
		{From: SplitBrain, Event: PeerReplaced, To: RecoveryComplete},
		{From: Ready, Event: PeerRecovering, To: RecoveryStarted},
		{From: RecoveryStarted, Event: PeerRecovered, To: RecoveryComplete},
		{From: RecoveryStarted, Event: Settled, To: Ready},
		{From: UnknownState, Event: Settled, To: Ready},
	}
	for _, m := range []Move{
		{From: Ready, Event: DomainsGone, To: NoDomains}, {From: Ready, Event: DirectionsMixed, To: DirectionError},
		{From: Ready, Event: DomainsTaken, To: DomainsInUse}, {From: Ready, Event: BothEdited, To: SyncConflict},
	} {
		moves = append(moves, m, Move{From: m.To, Event: Settled, To: Ready})
	}
	return moves
}
