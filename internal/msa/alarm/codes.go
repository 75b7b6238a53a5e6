package alarm

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says how much an event matters. Names are stable.
type Severity string

// The severities, the least first.
const (
	Info    Severity = "info"    // worth knowing
	Warning Severity = "warning" // something will go wrong, or is not as it should be
	Error   Severity = "error"   // something is wrong: protection or recovery is not what was promised
)

var severities = []Severity{Info, Warning, Error}

// AtLeast reports whether s matters as much as o. What is no severity matters most.
func (s Severity) AtLeast(o Severity) bool {
	a, b := slices.Index(severities, s), slices.Index(severities, o)
	return a < 0 || a >= b
}

// Valid reports whether it is one of the severities.
func (s Severity) Valid() bool { return slices.Contains(severities, s) }

// Code names a declared event. Codes are stable.
type Code string

// The codes. Of the alarms the object is the thing the condition is about.
const (
	PlatformAway     Code = "platform-away"
	InventoryPartial Code = "inventory-partial"
	AdoptRefused     Code = "adopt-refused"
	Adopted          Code = "adopted"
	PlaceholderFails Code = "placeholder-fails"

	RPOMissed       Code = "rpo-missed"
	NotProtected    Code = "not-protected"
	Unconfigured    Code = "unconfigured-disk"
	LogFilling      Code = "log-filling"
	BackPressure    Code = "back-pressure"
	Tracking        Code = "tracking"
	HistoryShort    Code = "history-short"
	HistoryFull     Code = "history-full"
	StoreAway       Code = "store-away"
	StoreSlow       Code = "store-slow"
	CopyBehind      Code = "copy-behind"
	UpkeepStuck     Code = "upkeep-stuck"
	ApplianceAway   Code = "appliance-away"
	ApplianceOld    Code = "appliance-old"
	ClockSkew       Code = "clock-skew"
	ApplianceBack   Code = "appliance-restarted"
	PeerAway        Code = "peer-away"
	CertificateEnds Code = "certificate-ends"
	SplitBrain      Code = "split-brain"
	SettingsStale   Code = "settings-unpublished"

	RunStarted  Code = "run-started"
	RunEnded    Code = "run-ended"
	RunFailed   Code = "run-failed"
	RunParked   Code = "run-parked"
	RunWaits    Code = "run-waits"
	TestOverdue Code = "test-overdue"
	NotReady    Code = "plan-not-ready"
	TestLeft    Code = "test-not-cleaned"
	CommitWaits Code = "commit-waits"

	LoginBlocked  Code = "login-blocked"
	AuditBroken   Code = "audit-broken"
	OutletFails   Code = "outlet-fails"
	DatabaseSmall Code = "data-disk-full"
	OutletTest    Code = "outlet-test"
)

// Definition is what is declared of a code.
type Definition struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Alarm    bool     `json:"alarm"` // it holds until it is over; else it is an event of a moment
	Object   string   `json:"object"`
	Words    string   `json:"words"`  // what it means
	Remedy   string   `json:"remedy"` // what to do
}

// Table lists every code there is, in the order of the documents. A copy.
func Table() []Definition {
	return slices.Concat(inventoryCodes, protectionCodes, runCodes, managerCodes)
}

var inventoryCodes = []Definition{
	{PlatformAway, Error, true, "site", "the site's platform does not answer: its inventory stays as it was", "see that the hypervisor's daemon runs and can be reached from the manager; recovery from the store needs neither"},
	{InventoryPartial, Warning, true, "site", "a part of the site's platform could not be read", "see the words: a host that is away, or a VM that has more of something than can be kept"},
	{AdoptRefused, Warning, true, "site", "VMs match rules of adoption and are in no domain all the same", "make the rules of the domains exclude each other, make room in the domain, or correct it"},
	{Adopted, Info, false, "domain", "VMs were added to a domain by its rules", "nothing, unless they should not have been: then change the rule and remove them"},
	{PlaceholderFails, Warning, true, "site/VM", "a placeholder cannot be made or removed", "see the words: another VM may have its name; recovery works without it"},
}

var protectionCodes = []Definition{
	{RPOMissed, Error, true, "domain", "the newest recovery point is older than the domain's target", "see the domain's status: the store, the log or the line is too slow, or a host is away"},
	{NotProtected, Error, true, "domain/VM", "a VM of a domain is not protected", "see the VM's status at its host component; take it out of the domain if that is meant"},
	{Unconfigured, Warning, true, "domain/VM", "a VM has a disk that is not protected", "see why the disk cannot be captured, or exclude it"},
	{LogFilling, Warning, true, "domain", "the replication log is nearly full: guests will go on unprotected when it is", "see why publishing is behind; give the log more room, or the domain more bandwidth"},
	{BackPressure, Warning, true, "domain", "guests are slowed down because protection is behind, for more than five minutes", "give the domain more bandwidth or a faster store; or accept longer times between points"},
	{Tracking, Error, true, "domain", "changes are tracked and not shipped, for more than five minutes: no new points", "see the DRVA and the line to it; it catches up by itself when they are back"},
	{HistoryShort, Warning, true, "domain", "the history does not reach as far back as it should", "see whether it was stopped or shortened by its size limit; it grows again by itself"},
	{HistoryFull, Warning, true, "domain", "the history has reached its size limit", "raise the limit, keep less, or let it be shortened"},
	{StoreAway, Error, true, "store", "a store does not answer", "see the store; points wait in the log, and are published when it is back"},
	{StoreSlow, Warning, true, "store", "the store takes long to put objects", "see the line and the store's own metrics"},
	{CopyBehind, Warning, true, "domain", "the copy of a domain in one of its further stores is not kept", "see the domain's status, which says of each store why"},
	{UpkeepStuck, Warning, true, "domain", "history has not been thinned for a day: it costs more than it should", "see `holdfast gc status`; the credentials may lack the right to delete"},
	{ApplianceAway, Error, true, "appliance", "an appliance has not reported", "see its host and its service; a new one takes over with `holdfast appliance replace`"},
	{ApplianceOld, Warning, true, "appliance", "an appliance runs another release than the manager", "upgrade it"},
	{ClockSkew, Warning, true, "appliance", "an appliance's clock differs from the manager's", "have both use the same time servers"},
	{ApplianceBack, Info, false, "appliance", "an appliance was started again", "nothing, unless it happens often: then see its log"},
	{PeerAway, Warning, true, "site", "the manager of the peer site does not answer", "see the line and that manager; recovery from a disaster does not need it"},
	{CertificateEnds, Warning, true, "certificate", "a certificate ends within a week, and was not renewed", "see why the appliance does not report: certificates of appliances renew themselves while they do"},
	{SettingsStale, Warning, true, "domain", "what is known of the domain could not be stored in its container: a fresh manager would find older plans there", "see the words; recovery of the disks is not affected"},
	{SplitBrain, Error, true, "domain", "the old site is back with VMs that were recovered elsewhere", "run the plan again: it cleans the old site and leaves the recovered VMs alone"},
}

var runCodes = []Definition{
	{RunStarted, Info, false, "plan", "a run has begun", "nothing"},
	{RunEnded, Info, false, "plan", "a run has ended well", "nothing"},
	{RunFailed, Error, false, "plan", "a run has ended with errors", "see its report; run it again: what was done is not done twice"},
	{RunParked, Error, true, "run", "a run waits for an operator: it has crashed too often, or has a step this release does not know", "see why; resume, skip the step, or cancel"},
	{RunWaits, Warning, true, "run", "a run waits for an answer", "answer its prompt"},
	{TestOverdue, Warning, true, "plan", "the plan has not been tested for longer than was asked for", "test it"},
	{NotReady, Warning, true, "plan", "a plan could not be run as it is", "see its readiness: every problem is listed with what to do"},
	{TestLeft, Warning, true, "plan", "a test was not cleaned up: its VMs and disks are still there", "run the cleanup, forced if need be"},
	{CommitWaits, Warning, true, "plan", "a recovery waits to be committed or rolled back", "decide: until then both ways are open, and the old history is kept"},
}

var managerCodes = []Definition{
	{LoginBlocked, Warning, false, "user or address", "somebody tried too many passwords", "ask whether it was they; see the audit log for the address"},
	{AuditBroken, Error, true, "manager", "the audit log's chain is broken", "see where with `holdfast audit verify`; find out who had access to the database"},
	{OutletFails, Warning, true, "outlet", "an outlet does not take events", "correct its settings, and send a test"},
	{DatabaseSmall, Error, true, "manager", "the disk of the manager's database is nearly full", "make room: without it no run can begin"},
	{OutletTest, Info, false, "outlet", "this is a test of an outlet", "nothing"},
}

// defined is Table for looking up; it is made once and never changed.
var defined = func() map[Code]Definition {
	m := map[Code]Definition{}
	for _, d := range Table() {
		m[d.Code] = d
	}
	return m
}()

// Of returns what is declared of a code; false: there is no such code.
func Of(c Code) (Definition, bool) { d, ok := defined[c]; return d, ok }

// Markdown renders the table for docs/operate/alarms.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| code | | of | means | what to do |\n|---|---|---|---|---|\n")
	for _, d := range Table() {
		kind := "event"
		if d.Alarm {
			kind = "alarm"
		}
		fmt.Fprintf(&b, "| `%s` | %s, %s | %s | %s | %s |\n", d.Code, d.Severity, kind, d.Object, d.Words, d.Remedy)
	}
	return b.String()
}
