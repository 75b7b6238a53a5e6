package verify

// Role is who works with a container, by the rights it is given.
type Role string

// The roles. Each can have credentials of its own.
const (
	Publisher  Role = "publisher"  // the DRVA: create, read, list; needs no right to delete
	Maintainer Role = "maintainer" // retention and garbage collection: and delete
	Recovery   Role = "recovery"   // restores, checks, inspections: read and list
)

// Roles lists all roles, the one with the most rights last.
func Roles() []Role { return []Role{Recovery, Publisher, Maintainer} }

// demand is what one role asks of a property.
type demand uint8

const (
	free  demand = iota // any verdict will do
	sound               // must not be broken; need not be there
	must                // must pass
)

// demandsOf says for each role what it asks.
type demandsOf struct{ recovery, publisher, maintainer demand }

func (d demandsOf) of(role Role) demand {
	switch role {
	case Recovery:
		return d.recovery
	case Publisher:
		return d.publisher
	case Maintainer:
	}
	return d.maintainer
}

// accepts reports whether role can live with verdict v.
func (d demandsOf) accepts(role Role, v Verdict) bool {
	switch d.of(role) {
	case must:
		return v == Pass || v == Warn
	case sound:
		return v != Fail
	case free:
	}
	return true
}

// demands is what each role needs of each property. A property that anyone
// may see broken is in nobody's interest: what is not needed must at least be
// sound, except plain figures.
var demands = map[string]demandsOf{
	propList:        {must, must, must},
	propCreate:      {free, must, must},
	propRead:        {must, must, must},
	propDelete:      {sound, sound, must},
	propCreateOnce:  {sound, must, must},
	propOverwrite:   {sound, must, must},
	propRecreate:    {sound, sound, must},
	propReadAfter:   {sound, must, must},
	propListAfter:   {sound, must, must},
	propListOrder:   {sound, must, must},
	propListPaging:  {sound, must, must},
	propKeys:        {sound, must, must},
	propRanges:      {sound, must, must},
	propObjectSize:  {sound, must, must},
	propDeleteStays: {sound, sound, must},
	propLock:        {free, sound, sound},
	propClock:       {free, free, free},
	propLatency:     {free, free, free},
	propThroughput:  {free, free, free},
	propDurable:     {sound, sound, sound},
	propUnchanged:   {sound, must, must},
}

// The names of the properties.
const (
	propList        = "list"
	propCreate      = "create"
	propRead        = "read"
	propDelete      = "delete"
	propCreateOnce  = "create-once"
	propOverwrite   = "no-overwrite"
	propRecreate    = "create-after-delete"
	propReadAfter   = "read-after-create"
	propListAfter   = "list-after-create"
	propListOrder   = "list-order"
	propListPaging  = "list-paging"
	propKeys        = "keys"
	propRanges      = "ranges"
	propObjectSize  = "object-size"
	propDeleteStays = "delete-stays"
	propLock        = "lock"
	propClock       = "clock"
	propLatency     = "latency"
	propThroughput  = "throughput"
	propDurable     = "durable"
	propUnchanged   = "unchanged"
)
