// Package live ties a host component to the hypervisor beside it: it protects
// VMs that are running, by name, and keeps up with what happens to them.
//
// A [Manager] has a [hypervisor.Platform] and a [Host], the Filter. To protect a
// VM it asks the platform for its disks, has the Filter serve each, and has the
// platform put the Filter's socket in the disk's path; on any error it undoes
// all of it. What it protects stands in a record, a file that is written before
// anything is attached, so that whoever comes after a crash knows what may be:
//
//	protect    record ─▶ Filter serves ─▶ attach each disk
//	unprotect  detach each disk ─▶ Filter lets go ─▶ record
//
// The file is JSON: {"version": 1, "vms": [VM…]}; see Entry.
//
// A guest that writes to its disk while no export is in the path writes unseen:
// after a start of the VM, a fail-open, or a detach for a resize the disk is
// compared with the DRVA's copy, or sent whole, once it is attached again. The
// record notes that before it can happen, and forgets it after the sync has
// begun. From the moment it is known the Filter holds the disk: no checkpoint
// counts on it until the Manager vouches for it again, which it does only with the
// export in the path, or with the VM off.
//
// A [Watchdog] is a process of its own. It asks the host component every second
// whether it lives; when it has not answered for a limit it kills it and has the
// platform take its exports out of all paths, so that the guests go on with
// their own disks alone.
//
// The host component keeps a [Guard] over its watchdog: it starts another one when
// it has ended, and lends it the disks' listening sockets, so that a hypervisor
// that connects again in the moment of the host component's death is not refused.
// They speak over a socket pair, one message each, the answer to a ping apart in
// one direction:
//
//	h PATH  + descriptor    hold this socket
//	d PATH                  let go of it
//	p                       ping ─▶ p
//
// Once the host component is dead the watchdog serves there what it noted as
// unseen, by the raw image, until the guests are taken off.
//
// One mutex of the Manager makes its changes go one after the other. Run follows
// the platform's changes; nothing else starts a goroutine.
package live
