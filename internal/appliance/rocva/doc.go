// Package rocva is what a recovery appliance does for plans: it takes recoveries of
// package recovery, one for each domain of a plan, from stage to stage, keeps standbys,
// and is the protected site of the domains that live in recoveries it has committed.
//
// # What is where
//
//	DIR/setup.json         the newest setup, so that the appliance comes up without its manager
//	DIR/access/DOMAIN/     key and credentials of the domain's container, of the newest setup; 0600
//	DIR/r/PLAN/DOMAIN/N    a recovery; N counts, over all sites that have a plan of that name. Long names are cut: sockets lie below
//	DIR/r/PLAN/DOMAIN/testN  a test
//	DIR/warm/DOMAIN/HISTORY/  the standby of a domain that is continuous
//	DIR/seeds/DOMAIN.json  where disks are that held the domain before
//	DIR/seeds/DOMAIN/      those of them that were a recovery's here
//
// # What a recovery does at once
//
// A plan's steps take a recovery.Run from one stage to the next (ADR 39):
//
//	step of the plan     recovery
//	pin                  begin a test; choose, pin
//	fence                begin a recovery; choose, lay out, fence, settle, fork
//	disks                say how they are built: at once, when needed, of a standby, onto old ones; resolve, hydrate
//	configure            the VM's name, size, networks and cards in the run's record
//	power-on             start that VM; its place is made free
//	address, script      by the guest's agent
//	power-off            stop that VM
//	discard              cleanup of a test; rollback of a recovery, which drops the fork
//	promote              the rest of recover, then commit; waits until disks are whole
//	resync               reprotect: waits for the first recovery point
//	clean                cleanup of a recovery the domain has left; its disks become seeds
//
// return, protect and reverse are parts of what the step before does: they look that it
// is so.
//
// # Owners
//
// The process that has DIR owns its runs, serves their disks and attends to them between
// steps. When it dies, VMs and their protection go on; the next process takes all over:
// [Appliance.Run].
package rocva
