package auth

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/msa/site"
)

// Permission is one thing that may be allowed: "<noun>.<verb>". Names are stable:
// they stand in the API's document.
type Permission string

// The permissions. Every kind of configured object has a read and a write one: see
// [Reading] and [Writing].
const (
	SiteRead      Permission = "site.read"
	SiteWrite     Permission = "site.write"
	PairRead      Permission = "site-pair.read"
	PairWrite     Permission = "site-pair.write" // invite, confirm, un-pair
	StoreRead     Permission = "store.read"
	StoreWrite    Permission = "store.write"
	BoxRead       Permission = "appliance.read"
	BoxWrite      Permission = "appliance.write" // invite, drain, replace, remove
	DomainRead    Permission = "domain.read"
	DomainWrite   Permission = "domain.write"
	DomainOperate Permission = "domain.operate" // pause, resume, resync, checkpoint now
	MappingsRead  Permission = "mappings.read"
	MappingsWrite Permission = "mappings.write"
	SettingsRead  Permission = "recovery-settings.read"
	SettingsWrite Permission = "recovery-settings.write"
	PlanRead      Permission = "plan.read"
	PlanWrite     Permission = "plan.write"
	PlanTest      Permission = "plan.test"      // test and cleanup, and what such a run asks
	PlanRun       Permission = "plan.run"       // everything that takes over or gives back, and what such a run asks
	PlanReprotect Permission = "plan.reprotect" // reverse the protection afterwards
	PlanApprove   Permission = "plan.approve"   // be the second person of a real run

	RunRead       Permission = "run.read" // runs and their reports
	InventoryRead Permission = "inventory.read"
	PlaceholdWork Permission = "placeholder.write" // create, repair, remove placeholders
	AlarmRead     Permission = "alarm.read"
	AlarmWrite    Permission = "alarm.write" // acknowledge
	AlarmAdmin    Permission = "alarm.admin" // outlets
	StatsRead     Permission = "stats.read"
	EventRead     Permission = "event.read" // the change feed
	TaskRead      Permission = "task.read"
	TaskCancel    Permission = "task.cancel"
	SecretRead    Permission = "secret.read" // which there are; never what they are
	SecretWrite   Permission = "secret.write"
	UserRead      Permission = "user.read"
	UserAdmin     Permission = "user.admin" // users, their roles, the provider
	TokenOwn      Permission = "token.own"  // one's own tokens, sessions and password
	AuditRead     Permission = "audit.read"
	SystemRead    Permission = "system.read"
	SystemAdmin   Permission = "system.admin" // support bundle, certificates, settings

	BoxBeat  Permission = "appliance.beat" // of boxes: tell that they live, renew their certificate
	PeerBeat Permission = "peer.beat"      // of paired managers
)

// Role is a row of permissions. Names are stable.
type Role string

// The roles that can be granted.
const (
	Viewer          Role = "viewer"           // looks
	Auditor         Role = "auditor"          // looks, also at the audit log and users
	TestOperator    Role = "test-operator"    // tests plans and cleans up; runs nothing for real
	PlanAuthor      Role = "plan-author"      // writes plans, mappings and settings, and tests them
	ProtectionAdmin Role = "protection-admin" // protects: stores, domains, placeholders
	RecoveryAdmin   Role = "recovery-admin"   // tests, runs, reprotects and approves; writes no plan
	Admin           Role = "admin"            // everything
)

// The roles of certificates. Nobody is granted them.
const (
	boxRole  Role = "appliance"
	peerRole Role = "peer"
)

// Roles lists the roles that can be granted, from the least to the most.
func Roles() []Role {
	return []Role{Viewer, Auditor, TestOperator, PlanAuthor, ProtectionAdmin, RecoveryAdmin, Admin}
}

// Line is a permission with the roles that have it, besides Admin, which has all but
// those of certificates.
type Line struct {
	Permission Permission
	Roles      []Role
}

// Matrix is the table of permissions and roles: all there is to say about who may
// do what. A copy, in the order of the documents.
func Matrix() []Line {
	all := []Role{Viewer, Auditor, TestOperator, PlanAuthor, ProtectionAdmin, RecoveryAdmin}
	with := func(more ...Role) []Role { return append(slices.Clone(all), more...) }
	return []Line{
		{SiteRead, with(peerRole)}, {SiteWrite, nil},
		{PairRead, all}, {PairWrite, nil},
		{StoreRead, all}, {StoreWrite, []Role{ProtectionAdmin}},
		{BoxRead, all}, {BoxWrite, nil},
		{DomainRead, with(peerRole)}, {DomainWrite, []Role{ProtectionAdmin}}, {DomainOperate, []Role{ProtectionAdmin, RecoveryAdmin}},
		{MappingsRead, all}, {MappingsWrite, []Role{PlanAuthor}},
		{SettingsRead, all}, {SettingsWrite, []Role{PlanAuthor}},
		{PlanRead, with(peerRole)}, {PlanWrite, []Role{PlanAuthor}},
		{PlanTest, []Role{TestOperator, PlanAuthor, RecoveryAdmin}},
		{PlanRun, []Role{RecoveryAdmin}}, {PlanReprotect, []Role{RecoveryAdmin}}, {PlanApprove, []Role{RecoveryAdmin}},
		{RunRead, all}, {InventoryRead, with(peerRole)}, {PlaceholdWork, []Role{ProtectionAdmin, PlanAuthor}},
		{AlarmRead, all}, {AlarmWrite, []Role{TestOperator, PlanAuthor, ProtectionAdmin, RecoveryAdmin}}, {AlarmAdmin, nil},
		{StatsRead, all}, {EventRead, all}, {TaskRead, all},
		{TaskCancel, []Role{TestOperator, PlanAuthor, ProtectionAdmin, RecoveryAdmin}},
		{SecretRead, []Role{ProtectionAdmin}}, {SecretWrite, []Role{ProtectionAdmin}},
		{UserRead, []Role{Auditor}}, {UserAdmin, nil}, {TokenOwn, all},
		{AuditRead, []Role{Auditor}}, {SystemRead, all}, {SystemAdmin, nil},
		{BoxBeat, []Role{boxRole}}, {PeerBeat, []Role{peerRole}},
	}
}

// allowed is Matrix for looking up; it is made once and never changed.
var allowed = func() map[Role]map[Permission]bool {
	m := map[Role]map[Permission]bool{Admin: {}}
	for _, l := range Matrix() {
		if l.Permission != BoxBeat && l.Permission != PeerBeat {
			m[Admin][l.Permission] = true
		}
		for _, r := range l.Roles {
			if m[r] == nil {
				m[r] = map[Permission]bool{}
			}
			m[r][l.Permission] = true
		}
	}
	return m
}()

// Has reports whether a role has a permission. A role that is none has nothing.
func (r Role) Has(p Permission) bool { return allowed[r][p] }

// Valid reports whether p is one of the permissions there are.
func (p Permission) Valid() bool {
	return slices.ContainsFunc(Matrix(), func(l Line) bool { return l.Permission == p })
}

// Reading is the permission to read objects of a kind.
func Reading(k site.Kind) Permission { return Permission(string(k) + ".read") }

// Writing is the permission to make, change and delete objects of a kind.
func Writing(k site.Kind) Permission { return Permission(string(k) + ".write") }

// Markdown renders Matrix for the documents.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| may |")
	for _, r := range Roles() {
		fmt.Fprintf(&b, " %s |", r)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Roles())) + "\n")
	for _, l := range Matrix() {
		if l.Permission == BoxBeat || l.Permission == PeerBeat {
			continue
		}
		fmt.Fprintf(&b, "| `%s` |", l.Permission)
		for _, r := range Roles() {
			mark := ""
			if r.Has(l.Permission) {
				mark = "x"
			}
			fmt.Fprintf(&b, " %s |", mark)
		}
		b.WriteString("\n")
	}
	return b.String()
}
