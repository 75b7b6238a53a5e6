// Package operate carries out recovery plans: it joins what package plan decides
// with the step journal of package runs, so that a plan's state, its run and its
// domains change together or not at all.
//
//	begin.go     an operation is asked for: state table, claims, runbook, run; one transaction
//	convert.go   a runbook as a snapshot of steps
//	act.go       cancel, answer, resume, skip
//	joined.go    what a run's prompt, parking or end means for its plan; in the run's own transaction
//	seen.go      what other plans and the peer did, as the plan sees it
//	domain.go    where each domain's recovery stands
//	rows.go      the rows of a plan
//	effects.go   Effects, by which steps act on the world; kinds.go: a Doer for each kind
//	world.go     what is configured, as the catalog has it; readiness
//	history.go   runs that were, and their reports; report.go: what a report says
//	clock.go     tests by time-table, reminders, decisions before a commit
//
// # One transaction
//
//	Begin    lock run, plan │ Admit │ claim domains │ Compile │ runs.Start │ plan's row
//	a pass of the run's worker … │ prompt opened │ plan waits for an answer
//	the last pass                │ run ends      │ After(event), domains, claims, report
//
// Nothing is reconciled later: whoever dies, the rows agree. Locks are taken in the
// order run, plan, domains, feed.
//
// # Who may act
//
// A plan has one run at a time; the next one's owners have larger epochs than all of
// the run before. Effects hand the epoch to whatever can refuse an older one, so that
// a call of a worker that was taken over, or of a run that was given up, does nothing.
//
// An [Operator] is for concurrent use, by several processes on one database. It owns
// no goroutine but that of [Operator.Watch], its caller's.
package operate
