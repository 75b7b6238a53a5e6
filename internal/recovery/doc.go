// Package recovery carries out recoveries: a test beside production, a planned
// migration, a disaster's failover, a failback, a clone. It says what is done in
// which order, remembers how far it came, and undoes it; building disks is
// package rocva's, running VMs a hypervisor driver's.
//
// A [Run] is one recovery. All it is lies in one directory:
//
//	DIR/run.json      what was asked, decided and done: the record
//	DIR/disks/        VM/DISK.raw
//	DIR/vms/          what the hypervisor driver keeps of each VM
//	DIR/control.sock  answers while a process owns the run
//	DIR/evidence/     serial output and screenshots; stays
//	DIR/protect/      configuration, certificates and log of the protection here
//	DIR/report.json   stays
//	DIR/LOCK          held by the process that owns the run
//
// # Record and steps
//
// A run does an [Action] as a list of named steps. Before a step begins and after
// it has ended run.json is rewritten durably. Each step finds out what it did in
// an earlier life of the process and is right to do twice: a run that is killed
// anywhere goes on with [Service.Resume], or is undone.
//
//	preparing ─▶ hydrating ─▶ booting ─▶ tested ──cleanup──▶ cleaning ─▶ clean      test
//	preparing ─▶ fencing ─▶ hydrating ─▶ booting ─▶ before-commit                   disaster
//	pre-syncing ─▶ shutting-down ─▶ final-sync ─▶ fencing ─▶ …      as above        planned
//	         └─────────┴─── error ──┴─▶ unwinding ─▶ unwound  (the source goes on)
//	before-commit ──commit──▶ promoting ─▶ failed-over ──reprotect──▶ reversing ─▶ protected
//	before-commit ──rollback─▶ rolling-back ─▶ rolled-back ──resume at another point──▶ preparing
//	anything under way ── error ──▶ incomplete; its process died ──▶ the same, interrupted
//
// The order that matters: a pin before what it holds is read, the fence before
// the fork, the fork before the first boot; in cleaning VMs, then what they used,
// then pins. A test makes no fence, no fork and no journal object.
//
// Fencing claims the next epoch of the source's timeline and ends its history
// with a FENCE: whoever still publishes there is refused at his next object. The
// fork is the current timeline from then on, so that an appliance that is started
// again over the old log is refused as well.
//
// A Run has one owner goroutine at a time, its caller's; Status and Cancel may be
// called from others.
package recovery
