package plan

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/errs"
)

// specified is what each state allows, typed from the feature map (the recovery
// plan state machine of SRM, with the commit window): "operation>next". A comment
// marks what goes beyond it.
var specified = map[State]string{
	Ready:           "test>test-in-progress planned>recovery-in-progress disaster>recovery-in-progress forced-disaster>recovery-in-progress failback>recovery-in-progress edit>ready delete>deleting",
	NoDomains:       "edit>no-domains delete>deleting",
	DirectionError:  "edit>direction-error delete>deleting",
	DomainsInUse:    "edit>domains-in-use delete>deleting",
	SyncConflict:    "edit>sync-conflict delete>deleting",
	TestInProgress:  "cancel>cancel-in-progress",
	WaitingForUser:  "answer>recovery-in-progress cancel>cancel-in-progress",
	TestInterrupted: "test>test-in-progress rerun>test-in-progress cleanup>cleanup-in-progress", // cleanup: ours
	TestComplete:    "cleanup>cleanup-in-progress",
	// "none"
	CleanupInProgress:  "",
	CleanupIncomplete:  "cleanup>cleanup-in-progress forced-cleanup>cleanup-in-progress rerun>cleanup-in-progress",
	CleanupInterrupted: "cleanup>cleanup-in-progress forced-cleanup>cleanup-in-progress rerun>cleanup-in-progress",
	CancelInProgress:   "",
	RecoveryInProgress: "cancel>cancel-in-progress",
	// recovery again; rollback: ours, nothing is final yet
	IncompleteRecovery:  "planned>recovery-in-progress disaster>recovery-in-progress forced-disaster>recovery-in-progress failback>recovery-in-progress rerun>recovery-in-progress rollback>rollback-in-progress",
	RecoveryInterrupted: "planned>recovery-in-progress disaster>recovery-in-progress forced-disaster>recovery-in-progress failback>recovery-in-progress rerun>recovery-in-progress rollback>rollback-in-progress",
	BeforeCommit:        "commit>commit-in-progress rollback>rollback-in-progress",
	CommitInProgress:    "",
	CommitIncomplete:    "commit>commit-in-progress rerun>commit-in-progress",
	RollbackInProgress:  "",
	RollbackIncomplete:  "rollback>rollback-in-progress rerun>rollback-in-progress",
	PartialRecovery:     "planned>recovery-in-progress disaster>recovery-in-progress forced-disaster>recovery-in-progress failback>recovery-in-progress",
	PartialReprotect:    "reprotect>reprotect-in-progress",
	DisasterComplete:    "delete>deleting",
	SplitBrain:          "planned>recovery-in-progress rerun>recovery-in-progress",
	RecoveryStarted:     "",
	RecoveryComplete:    "reprotect>reprotect-in-progress delete>deleting",
	ReprotectInProgress: "",
	IncompleteReprotect: "reprotect>reprotect-in-progress forced-reprotect>reprotect-in-progress rerun>reprotect-in-progress",
	// forced only from incomplete
	ReprotectInterrupted: "reprotect>reprotect-in-progress rerun>reprotect-in-progress",
	Deleting:             "",
	UnknownState:         "",
}

// lastDone is what was begun last in states that allow rerun.
var lastDone = map[State]Operation{
	TestInterrupted: Test, CleanupIncomplete: Cleanup, CleanupInterrupted: Cleanup, IncompleteRecovery: Planned,
	RecoveryInterrupted: Disaster, CommitIncomplete: CommitRun, RollbackIncomplete: Rollback,
	IncompleteReprotect: Reprotect, ReprotectInterrupted: Reprotect, SplitBrain: Disaster,
}

// walk compares what admit says of every state and operation with what was
// specified.
func walk(admit func(Standing, Operation) (Standing, Operation, error)) (bad []string) {
	for state, allowed := range specified {
		want := map[Operation]State{}
		for _, w := range strings.Fields(allowed) {
			op, next, _ := strings.Cut(w, ">")
			want[Operation(op)] = State(next)
		}
		for _, op := range Operations() {
			s := Standing{State: state, Doing: lastDone[state], Reversed: true}
			if state == WaitingForUser {
				s.Paused, s.Doing = RecoveryInProgress, Planned
			}
			next, _, err := admit(s, op)
			switch {
			case want[op] == "" && err == nil:
				bad = append(bad, fmt.Sprintf("%s allows %s", state, op))
			case want[op] == "" && (!errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" || next != s):
				bad = append(bad, fmt.Sprintf("%s refuses %s without a reason: %v", state, op, err))
			case want[op] != "" && (err != nil || next.State != want[op]):
				bad = append(bad, fmt.Sprintf("%s, %s: leads to %s (%v), want %s", state, op, next.State, err, want[op]))
			}
		}
	}
	return bad
}

func TestEveryStateAndOperation(t *testing.T) {
	if len(specified) != len(Table()) {
		t.Fatalf("%d states are specified, the table has %d", len(specified), len(Table()))
	}
	for _, b := range walk(Standing.Admit) {
		t.Error(b)
	}
}

// TestWalkCatches breaks the machine in one pair at a time.
func TestWalkCatches(t *testing.T) {
	for name, broken := range map[string]func(Standing, Operation) (Standing, Operation, error){
		"test without cleanup": func(s Standing, op Operation) (Standing, Operation, error) {
			if s.State == TestComplete && op == Test {
				return Standing{State: TestInProgress, Doing: Test}, Test, nil
			}
			return s.Admit(op)
		},
		"no cleanup": func(s Standing, op Operation) (Standing, Operation, error) {
			if s.State == TestComplete && op == Cleanup {
				return s, "", errs.New("x", errs.Conflict, "", "").WithRemedy("none")
			}
			return s.Admit(op)
		},
		"no reason": func(s Standing, op Operation) (Standing, Operation, error) {
			if _, _, err := s.Admit(op); err != nil {
				return s, "", errs.New("x", errs.Conflict, "", "no")
			}
			return s.Admit(op)
		},
	} {
		if len(walk(broken)) == 0 {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestGuards(t *testing.T) {
	home := Begin()
	if _, _, err := home.Admit(Failback); !errs.Is(err, errs.Conflict) {
		t.Errorf("failback at home: %v", err)
	}
	if next, runs, err := (Standing{State: SplitBrain, Doing: Disaster}).Admit(Planned); err != nil || runs != CleanOldSite || next.Doing != CleanOldSite {
		t.Errorf("split brain: %v, %s, %v", next, runs, err)
	}
	if next, runs, err := (Standing{State: IncompleteRecovery, Doing: Disaster}).Admit(Rerun); err != nil || runs != Disaster || next.Doing != Disaster {
		t.Errorf("rerun: %v, %s, %v", next, runs, err)
	}
	waiting, err := Standing{State: TestInProgress, Doing: Test}.After(Asked)
	if err != nil || waiting.State != WaitingForUser {
		t.Fatalf("%v, %v", waiting, err)
	}
	if back, _, err := waiting.Admit(Answer); err != nil || back != (Standing{State: TestInProgress, Doing: Test}) {
		t.Errorf("answer: %v, %v", back, err)
	}
	turned, err := Standing{State: ReprotectInProgress, Doing: Reprotect}.After(Succeeded)
	if err != nil || turned != (Standing{State: Ready, Reversed: true}) {
		t.Errorf("reprotect: %v, %v", turned, err)
	}
}

// TestEveryStateHasAWayOn: from each state an operation or event leads on, each
// state can be reached, and each running state ends whatever happens.
func TestEveryStateHasAWayOn(t *testing.T) {
	reached := map[State]bool{Ready: true, UnknownState: true} // unknown: what is read from a broken database
	for range Table() {
		for _, l := range Table() {
			if !reached[l.State] {
				continue
			}
			for _, g := range l.Allowed {
				if g.Next != "" {
					reached[g.Next] = true
				}
			}
			for _, m := range Moves() {
				if m.From == l.State {
					reached[m.To] = true
				}
			}
		}
	}
	for _, l := range Table() {
		if !reached[l.State] {
			t.Errorf("%s cannot be reached", l.State)
		}
		events := 0
		ends := map[Event]bool{}
		for _, m := range Moves() {
			if m.From == l.State {
				events++
				ends[m.Event] = true
				if LineOf(m.To) == nil {
					t.Errorf("%s, %s: leads to %q, which is no state", l.State, m.Event, m.To)
				}
			}
		}
		if events == 0 && len(l.Allowed) == 0 && l.State != Deleting {
			t.Errorf("there is no way out of %s", l.State)
		}
		if l.Running && !ends[Interrupted] {
			t.Errorf("%s has no way on when the manager dies", l.State)
		}
		if l.Running && !l.Holds {
			t.Errorf("%s runs and does not hold its domains", l.State)
		}
		if l.Else == "" || l.Words == "" {
			t.Errorf("%s is not explained", l.State)
		}
	}
}

// TestCancelLeavesAWayOn: wherever a run is cancelled, the state it ends in allows
// an operation other than change.
func TestCancelLeavesAWayOn(t *testing.T) {
	for _, op := range []Operation{Test, Planned, Disaster, ForcedDisaster, Failback, CleanOldSite} {
		s := Standing{State: CancelInProgress, Doing: op, Reversed: true}
		for _, e := range []Event{Cancelled, Interrupted} {
			next, err := s.After(e)
			if err != nil {
				t.Errorf("%s, %s: %v", op, e, err)
				continue
			}
			if len(LineOf(next.State).Allowed) == 0 {
				t.Errorf("%s, %s: ends in %s, which allows nothing", op, e, next.State)
			}
		}
	}
}

// specifiedFailover is the recovery of one domain, typed from the feature map.
const specifiedFailover = `
protected start preparing
warming synced warm
warming complete preparing
warm complete preparing
preparing planned pre-syncing
preparing disaster fencing
preparing test hydrating
pre-syncing ok source-shutdown
source-shutdown ok final-sync
final-sync ok fencing
pre-syncing fault unwinding
source-shutdown fault unwinding
final-sync fault unwinding
unwinding ok protected
fencing ok hydrating
hydrating bootable booting
booting ok before-commit
booting fault failed-over-incomplete
before-commit commit promoting
before-commit rollback rolling-back
rolling-back ok protected
promoting ok failed-over
failed-over reprotect reversing
reversing ok protected
failed-over peer-returned split-brain
split-brain clean-old-site failed-over
testing ok test-complete
test-complete cleanup cleaning
cleaning ok protected
cleaning fault cleanup-incomplete
cleanup-incomplete force protected`

func TestDomainMachines(t *testing.T) {
	for line := range strings.Lines(strings.TrimSpace(specifiedFailover)) {
		w := strings.Fields(line)
		if to, ok := Follow(FailoverArrows(), Failover(w[0]), w[1]); !ok || to != Failover(w[2]) {
			t.Errorf("%s, %s: leads to %s, want %s", w[0], w[1], to, w[2])
		}
	}
	for _, to := range []Replication{PausedUser, PausedSystem, Backpressure, Tracking, DeltaSync, Disconnected, ErrorState} {
		if !reaches(ReplicationArrows(), Protected, to) || !reaches(ReplicationArrows(), to, Protected) {
			t.Errorf("protection does not go from protected to %s and back", to)
		}
	}
	for _, from := range []Failover{Preparing, Warming, FailedIncomplete, DomainSplitBrain, CleaningIncomplete} {
		if !reaches(FailoverArrows(), from, AtRest) {
			t.Errorf("%s never ends", from)
		}
	}
	if _, ok := Follow(FailoverArrows(), AtRest, "commit"); ok {
		t.Error("a domain at rest was committed")
	}
	checkArrows(t, ReplicationArrows())
	checkArrows(t, FailoverArrows())
}

func checkArrows[S ~string](t *testing.T, arrows []Arrow[S]) {
	t.Helper()
	seen := map[string]bool{}
	for _, a := range arrows {
		k := string(a.From) + " " + a.Event
		if seen[k] {
			t.Errorf("%s leads to two states", k)
		}
		seen[k] = true
	}
}

func reaches[S ~string](arrows []Arrow[S], from, to S) bool {
	seen := map[S]bool{from: true}
	for range arrows {
		for _, a := range arrows {
			if seen[a.From] {
				seen[a.To] = true
			}
		}
	}
	return seen[to]
}

var rewrite = flag.Bool("rewrite", false, "write the tables into docs/operate/plans.md")

// TestDocumentHasTheTables keeps docs/operate/plans.md equal to the tables.
func TestDocumentHasTheTables(t *testing.T) {
	const path = "../../../docs/operate/plans.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, table := range []string{"states", "events", "phases", "domains", "weights"} {
		begin, end := "<!-- table: "+table+" -->\n", "<!-- end -->\n"
		i := strings.Index(doc, begin)
		if i < 0 {
			t.Errorf("the document has no table %q", table)
			continue
		}
		i += len(begin)
		j := strings.Index(doc[i:], end)
		if j < 0 {
			t.Fatalf("table %q has no end", table)
		}
		want := Markdown(table)
		if doc[i:i+j] != want && !*rewrite {
			t.Errorf("table %q is not what the code says; run go test ./internal/msa/plan -run TestDocument -rewrite", table)
		}
		doc = doc[:i] + want + doc[i+j:]
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if Markdown("other") != "" {
		t.Error("a table that is none")
	}
}

func TestWeightsAreOfEachCodeOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range Weights() {
		if seen[string(w.Code)] || w.Each <= 0 || w.Most < w.Each || w.Words == "" {
			t.Errorf("weight of %s", w.Code)
		}
		seen[string(w.Code)] = true
	}
}

func TestStoriesNameKnownPhases(t *testing.T) {
	for _, s := range Stories() {
		seen := map[Phase]bool{}
		for _, r := range s.Rows {
			if seen[r.Phase] {
				t.Errorf("%s has %s twice", s.Operation, r.Phase)
			}
			seen[r.Phase] = true
		}
		if s.Fence != "" && !seen[s.Fence] {
			t.Errorf("%s: no phase %s", s.Operation, s.Fence)
		}
	}
	for _, l := range Table() {
		for _, g := range l.Allowed {
			if !slices.Contains(Operations(), g.Op) {
				t.Errorf("%s allows %s, which nobody can ask for", l.State, g.Op)
			}
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(stories)), slices.Sorted(maps.Keys(specifiedPhases))) {
		t.Error("an operation has no specified phases")
	}
	for op, want := range specifiedPhases {
		s, _ := StoryOf(op)
		var got []string
		for _, r := range s.Rows {
			got = append(got, string(r.Phase)+":"+string(r.Rule))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s:\n got %s\nwant %s", op, strings.Join(got, " "), want)
		}
	}
}

const p1to5 = " p1:warn p2:warn p3:warn p4:warn p5:warn"

// specifiedPhases is the table of ordered steps, typed from the feature map.
var specifiedPhases = map[Operation]string{
	Test:            "sync:warn wake:warn suspend:warn disks:warn test-network:warn" + p1to5,
	Planned:         "sync:stop shutdown:stop prepare:stop final-sync:stop wake:warn fence:stop disks:stop suspend:warn" + p1to5,
	Failback:        "sync:stop shutdown:stop prepare:stop final-sync:stop wake:warn fence:stop disks:stop suspend:warn" + p1to5,
	Disaster:        "sync:best-effort shutdown:best-effort prepare:best-effort final-sync:best-effort wake:warn fence:warn disks:warn suspend:warn" + p1to5,
	ForcedDisaster:  "wake:warn fence:warn disks:warn suspend:warn" + p1to5,
	Cleanup:         "power-off:warn resume:warn discard:warn",
	ForcedCleanup:   "power-off:best-effort resume:best-effort discard:best-effort",
	CommitRun:       "promote:stop protect:warn",
	Rollback:        "power-off:stop discard:stop return:stop restart:warn resume:warn",
	Reprotect:       "reverse:stop placeholders:stop resync:stop clean:stop",
	ForcedReprotect: "reverse:best-effort placeholders:best-effort resync:best-effort clean:best-effort",
	CleanOldSite:    "shutdown:best-effort clean:stop",
}
