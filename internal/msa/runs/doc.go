// Package runs carries out recovery plans so that no crash, pause or takeover
// does a step twice in effect or forgets one: the manager's step journal.
//
// A run is a [Snapshot] of typed steps, stored by [Start] in the
// caller's own transaction. Workers, one per replica, carry runs out:
//
//	Start ─▶ active ─▶ succeeded │ with-warnings │ failed │ cancelled     ends, one each
//	           │ ▲
//	           ▼ │ Resume, Skip, Cancel
//	         parked        a step kind this release does not know, or it crashed too often
//
//	phases:  forward ──all ended──────────────▶ finally ─▶ end
//	            └─ error that stops, or cancel ─▶ undo ─▶ finally ─▶ end
//
//	steps:   inactive ─▶ running ─▶ success │ warning │ error │ cancelled
//	            └─▶ skipped, cancelled, already-done
//
// # Which step, when
//
// A step begins when all steps of its phase in lower groups have ended, all steps
// it is After have ended well, and there is room (Snapshot.Parallel, and the
// worker's own bound). What its error means is data, [OnError]: what depends on it
// is skipped, or it was but a warning, or the whole run stops. A run that stops, or
// is cancelled, before a NoReturn step began is undone: each begun step's Undo, in
// the reverse order. Steps with Finally run at the end whatever happened. Neither
// undo nor finally can be cancelled. What has to happen is computed from the rows
// alone, by a pure function: advance.go.
//
// # Who, and for how long
//
// A worker claims a run by a lease and a new epoch on the run's row, and renews it.
// At 80 % of the lease, by the monotonic or the wall clock, whichever is first (the
// one stands still while a machine sleeps, the other jumps), it interrupts what it
// does of that run. Every commit first updates the run's row under owner and epoch,
// which locks it: who lost the run can write nothing any more. Lease times are the
// database's. Prompts, timers, polls and retries that wait are rows with a time;
// a run in which nothing else goes on is let go of and held by nobody.
//
// One transaction ends the steps that have ended and begins those that follow; only
// then are they executed. A run whose owner died shows which steps it had begun:
// those are executed again, under a new attempt.
//
// # What an implementer of a step promises
//
// [Doer.Do] may be called again for a step that was done: the process died after
// the effect, before the commit. So it looks before it acts: the effect is made
// under Call.Key, which is the same in every attempt (run id and number of the
// step), or is found and left as it is. Right before each effect it asks
// [Call.Hold], and it hands Call.Epoch to whatever can refuse an older one; a lease
// cannot stop a request that is on the wire. Work that lasts is not one step but a
// job: started under a fixed id, then looked at by returning Result.Again. Do
// returns soon after its context ends: until it has, its run is not let go of. It
// never panics on purpose; a panic fails the step and nothing else.
//
// The rows are read by [Get], [List], [Steps] and the change feed, [Events].
// All functions here work in the transaction they are given. A [Worker] owns one
// goroutine that claims, one that renews, one watchdog, one per run it holds and
// one per step that executes.
package runs
