package api

import (
	"time"

	"holdfast/internal/msa/file"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// The objects an admin configures. They are described where they are defined, field
// by field, and in the API's document.
type (
	// Name is the handle of an object: it never changes.
	Name = site.Name
	// Ref is a name that a platform gives, or a folder.
	Ref = site.Ref
	// Kind says what an object is.
	Kind = site.Kind
	// Meta is what every object has.
	Meta = site.Meta
	// Object is any of those below, by pointer.
	Object = site.Object
	// Site is a place with hypervisor hosts.
	Site = site.Site
	// SitePair is the agreement of two sites' managers to work together.
	SitePair = site.SitePair
	// Store is a place for containers.
	Store = site.Store
	// Appliance is a box the manager looks after.
	Appliance = site.Appliance
	// Domain is a protected domain.
	Domain = site.ProtectedDomain
	// Mappings says what at one site stands for what at another.
	Mappings = mapping.Mappings
	// RecoverySettings overrides the mappings for one VM.
	RecoverySettings = site.RecoverySettings
	// Plan is a recovery plan.
	Plan = plan.Plan
)

// Changes is what applying a file does.
type Changes = file.Changes

// Page is a part of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; missing: this is the last"`
}

// Version says what answers.
type Version struct {
	Release string    `json:"release" doc:"The release of Holdfast"`
	API     string    `json:"api" doc:"The version of this API"`
	Now     time.Time `json:"now" doc:"The time by the manager's database"`
}

// Health says how the manager stands.
type Health struct {
	Status string `json:"status" doc:"ok"`
}
