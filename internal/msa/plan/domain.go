package plan

import "slices"

// Replication is how a domain's protection stands. Names are stable.
type Replication string

// The states of protection.
const (
	Created      Replication = "created"
	Configuring  Replication = "configuring"
	InitialSync  Replication = "initial-sync"
	Protected    Replication = "protected"
	PausedUser   Replication = "paused-user"
	PausedSystem Replication = "paused-system"
	Backpressure Replication = "backpressure"
	Tracking     Replication = "tracking"   // only what is dirty is remembered
	DeltaSync    Replication = "delta-sync" // what was missed is being sent
	Disconnected Replication = "disconnected"
	ErrorState   Replication = "error"
)

// Flags stand beside the state and do not depend on it.
type Flags struct {
	RPOMissed     bool `json:"rpo_missed,omitempty"`
	HistoryShort  bool `json:"history_short,omitempty"`
	StoreAway     bool `json:"store_away,omitempty"`
	NeedsConfig   bool `json:"needs_config,omitempty"` // a disk or VM appeared that no rule covers
	PlaceholderOf bool `json:"placeholder_missing,omitempty"`
}

// Failover is how a domain's recovery stands. Names are stable.
type Failover string

// The states of a recovery of one domain.
const (
	AtRest             Failover = "protected" // or imported
	Warming            Failover = "warming"
	WarmStandby        Failover = "warm"
	Preparing          Failover = "preparing"
	PreSyncing         Failover = "pre-syncing"
	SourceShutdown     Failover = "source-shutdown"
	FinalSync          Failover = "final-sync"
	Unwinding          Failover = "unwinding"
	Fencing            Failover = "fencing"
	Hydrating          Failover = "hydrating"
	Booting            Failover = "booting"
	FailedIncomplete   Failover = "failed-over-incomplete"
	DomainUndecided    Failover = "before-commit"
	Promoting          Failover = "promoting"
	RollingBack        Failover = "rolling-back"
	FailedOver         Failover = "failed-over"
	Reversing          Failover = "reversing"
	DomainSplitBrain   Failover = "split-brain"
	Testing            Failover = "testing"
	DomainTested       Failover = "test-complete"
	Cleaning           Failover = "cleaning"
	CleaningIncomplete Failover = "cleanup-incomplete"
)

// Arrow is a transition of a domain's machine: from one state to another, by an
// event in words that are stable.
type Arrow[S ~string] struct {
	From  S
	Event string
	To    S
}

// ReplicationArrows is the machine of a domain's protection.
func ReplicationArrows() []Arrow[Replication] {
	arrows := []Arrow[Replication]{
		{Created, "configure", Configuring},
		{Configuring, "configured", InitialSync},
		{InitialSync, "synced", Protected},
		{InitialSync, "fault", ErrorState},
		{Configuring, "fault", ErrorState},
		{ErrorState, "configure", Configuring},
		{PausedUser, "resume", DeltaSync},
		{PausedSystem, "resume", DeltaSync},
		{Tracking, "drained", DeltaSync},
		{Disconnected, "connected", DeltaSync},
		{DeltaSync, "synced", Protected},
		{Backpressure, "drained", Protected},
		{Backpressure, "overflow", Tracking},
	}
	for _, from := range []Replication{Protected, Backpressure, DeltaSync, Tracking} {
		arrows = append(arrows, Arrow[Replication]{from, "pause", PausedUser}, Arrow[Replication]{from, "pause-system", PausedSystem},
			Arrow[Replication]{from, "lost", Disconnected}, Arrow[Replication]{from, "fault", ErrorState})
	}
	return append(arrows, Arrow[Replication]{Protected, "slow", Backpressure}, Arrow[Replication]{Protected, "overflow", Tracking},
		Arrow[Replication]{DeltaSync, "overflow", Tracking})
}

// FailoverArrows is the machine of one domain's recovery. A run that was
// interrupted goes on in the state it was in.
func FailoverArrows() []Arrow[Failover] {
	return []Arrow[Failover]{
		{AtRest, "start", Preparing},
		{AtRest, "warm", Warming},
		{Warming, "synced", WarmStandby},
		{Warming, "complete", Preparing},
		{WarmStandby, "complete", Preparing},
		{WarmStandby, "stop", AtRest},
		{Preparing, "planned", PreSyncing},
		{Preparing, "disaster", Fencing},
		{Preparing, "test", Hydrating},
		{Preparing, "fault", AtRest},
		{PreSyncing, "ok", SourceShutdown},
		{PreSyncing, "fault", Unwinding},
		{SourceShutdown, "ok", FinalSync},
		{SourceShutdown, "fault", Unwinding},
		{FinalSync, "ok", Fencing},
		{FinalSync, "fault", Unwinding},
		{Unwinding, "ok", AtRest},
		{Unwinding, "planned", PreSyncing}, // it was not unwound: what was shut down is down
		{Unwinding, "disaster", Fencing},
		{Unwinding, "rollback", RollingBack},
		{Fencing, "ok", Hydrating},
		{Fencing, "fault", FailedIncomplete},
		{Hydrating, "bootable", Booting},
		{Hydrating, "bootable-test", Testing},
		{Hydrating, "fault", FailedIncomplete},
		{Hydrating, "fault-test", DomainTested},
		{Booting, "ok", DomainUndecided},
		{Booting, "fault", FailedIncomplete},
		{FailedIncomplete, "again", Fencing},
		{FailedIncomplete, "rollback", RollingBack},
		{DomainUndecided, "commit", Promoting},
		{DomainUndecided, "rollback", RollingBack},
		{RollingBack, "ok", AtRest},
		{Promoting, "ok", FailedOver},
		{FailedOver, "reprotect", Reversing},
		{FailedOver, "peer-returned", DomainSplitBrain},
		{DomainSplitBrain, "clean-old-site", FailedOver},
		{Reversing, "ok", AtRest},
		{Testing, "ok", DomainTested},
		{Testing, "fault", DomainTested},
		{DomainTested, "cleanup", Cleaning},
		{DomainTested, "test", Hydrating},
		{Cleaning, "ok", AtRest},
		{Cleaning, "fault", CleaningIncomplete},
		{CleaningIncomplete, "cleanup", Cleaning},
		{CleaningIncomplete, "force", AtRest},
	}
}

// Follow returns where an event leads; ok is false when the state does not allow
// it.
func Follow[S ~string](arrows []Arrow[S], from S, event string) (to S, ok bool) {
	i := slices.IndexFunc(arrows, func(a Arrow[S]) bool { return a.From == from && a.Event == event })
	if i < 0 {
		return from, false
	}
	return arrows[i].To, true
}
