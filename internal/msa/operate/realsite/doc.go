// Package realsite does the steps of plans with the product's own boxes: recoveries
// below a directory by package recovery, the protected site by its DRVA and host
// components, guests and platforms by what the manager is given for them.
//
// # What a recovery does at once
//
// One domain of one plan is one recovery.Run, in
//
//	DIR/PLAN/DOMAIN/N       a recovery; N counts
//	DIR/PLAN/DOMAIN/testN   a test
//
// and a plan's steps take it from one stage to the next (ADR 39):
//
//	step of the plan     recovery
//	pin                  begin a test; choose, pin
//	fence                begin a recovery; choose, lay out, fence, settle, fork
//	disks                resolve, hydrate
//	configure            the VM's name, size and networks in the run's record
//	power-on             start that VM
//	power-off            stop that VM
//	discard              cleanup of a test; rollback of a recovery, which drops the fork
//	promote              the rest of recover, then commit; waits until disks are whole
//	resync               reprotect: waits for the first recovery point
//
// return, protect and reverse are parts of what the step before does: they look that it
// is so. Source VMs are shut down, and asked, through recovery.Source.
//
// # Owners
//
// The process that does a run's first step owns it, serves its disks and attends to it
// between steps. When it dies, the next that is asked for a step of it takes it over:
// [Site.Open] does so for all that are there. Several managers that share a database do
// not share these directories: the runs of a site are on one machine.
package realsite
