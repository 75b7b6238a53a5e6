package api

import (
	"encoding/json"
	"time"
)

// Draft is an object that is being worked on and that nothing acts on yet. It may
// be wrong in everything but its form.
type Draft struct {
	ID      string          `json:"id"`
	Version uint64          `json:"version" doc:"Of the draft: its ETag"`
	Kind    Kind            `json:"kind"`
	Name    Name            `json:"name"`
	Base    uint64          `json:"base,omitempty" doc:"The version of the object the draft began from; missing: it is to be a new one"`
	Object  json.RawMessage `json:"object" doc:"As it is to be: the schema of its kind"`
	By      string          `json:"by" doc:"Who made the draft"`
	Editor  string          `json:"editor" doc:"Who changed it last"`
	Changed time.Time       `json:"changed"`
}

// NewDraft asks for a draft: of what there is under the name; of a copy, with from;
// or of object.
type NewDraft struct {
	Kind   Kind            `json:"kind" doc:"site, site-pair, store, appliance, domain, mappings, recovery-settings or plan"`
	Name   Name            `json:"name" maxLength:"63"`
	From   Name            `json:"from,omitempty" maxLength:"63" doc:"Begin with a copy of this object"`
	Object json.RawMessage `json:"object,omitempty" doc:"Begin with this: the schema of the kind"`
}

// SaveDraft is another state of a draft.
type SaveDraft struct {
	Object json.RawMessage `json:"object" doc:"The schema of the draft's kind"`
}

// Validation is what was found.
type Validation struct {
	OK     bool    `json:"ok" doc:"Nothing keeps it from being stored"`
	Faults []Fault `json:"faults" doc:"Everything that is wrong or worth knowing, blockers first"`
	More   int     `json:"more,omitempty" doc:"Found besides those"`
}

// Committed is what became of a draft.
type Committed struct {
	Kind     Kind    `json:"kind"`
	Name     Name    `json:"name"`
	Version  uint64  `json:"version"`
	Warnings []Fault `json:"warnings" doc:"What is wrong, and does not keep it from being stored"`
}
