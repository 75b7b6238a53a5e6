// Package plan holds recovery plans and all decisions about them that need no
// I/O: what is wrong with a plan, which operation a state allows, which steps an
// operation is made of, how ready a plan is.
//
//	plan.go      what an admin writes
//	check.go     every problem of it; order.go: priorities, dependencies, cycles
//	table.go     the state machine as data; state.go: how it is used
//	domain.go    the state machines of domains, as data
//	confirm.go   who must agree to a real run
//	story.go     which phases an operation has, in which order, and what a failure does
//	compile.go   plan + operation + inventories + mappings → Runbook
//	ready.go     the dry run: a score and every problem
//
// # Tables are data
//
// The tables of states and of phases are values. Code walks them, tests walk them
// against what was specified, and docs/operate/plans.md is drawn from them by
// Markdown: there is no second place in which to say what is allowed. ADR 32.
//
// # A runbook
//
//	Runbook
//	 ├─ Group "before sync"   callouts, one after the other
//	 ├─ Group "sync"          steps of one phase, together
//	 ├─ …                     a group begins when the one before has ended
//	 ├─ Group "p1"            one chain of steps for each VM
//	 │     configure → address → pre… → power-on → wait… → delay → post…
//	 └─ Fence                 the group before which a planned run that fails is
//	                          unwound: what was begun is undone, the last first
//
// A step names those it needs (they must have succeeded, else it is skipped) and
// those it comes after (they must have ended, in whatever way). Its kind, version
// and inputs are plain data, fixed when the run begins: who carries it out knows
// the kinds, and parks a run with a kind or version it does not know.
//
// Everything here is pure: no clock, no goroutine, no randomness. The same
// arguments give the same runbook, byte for byte.
package plan
