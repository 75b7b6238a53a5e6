package api

import "time"

// Event is one change of something the manager knows.
type Event struct {
	Seq    int64     `json:"seq" doc:"Its number in the feed, which is the id of the server-sent event"`
	At     time.Time `json:"at"`
	Kind   string    `json:"kind" doc:"Of what changed: a kind of objects, draft, run, inventory, alarm, …"`
	Name   string    `json:"name" doc:"Its name or id"`
	Folder string    `json:"folder,omitempty"`
	Action string    `json:"action" doc:"create, change, delete, or a word of the kind's own"`
	By     string    `json:"by,omitempty" doc:"Who did it; missing: the manager itself"`
}

// Place is a place in the feed.
type Place struct {
	Last int64 `json:"last" doc:"The newest number there is"`
}
