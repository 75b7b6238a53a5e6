package api

// Applied is what applying a file changes, or has changed.
type Applied struct {
	Changes
	Digest string  `json:"digest" doc:"Of these changes: send it as expect, and exactly they are made or nothing is"`
	Faults []Fault `json:"faults" doc:"What is wrong with the outcome; a blocker keeps it from being applied"`
	Done   bool    `json:"done" doc:"They were made"`
}
