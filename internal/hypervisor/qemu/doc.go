// Package qemu runs virtual machines as QEMU processes on this host: the
// embedded hypervisor driver, which needs no management layer.
//
// A [Provider] starts one QEMU per VM as its direct child and talks to it over
// a socket pair (QMP, QEMU's JSON protocol) that no other process can reach.
// What else a run needs, the serial port's socket and the copy of a UEFI
// variable store, lies in a directory of mode 0700 that goes when the VM ends.
// A VM that is kept has two QMP monitors there besides: one for the provider
// that adopts it, one for the host component's [Platform]; run.go draws the
// directory. Its QEMU holds the directory's lock, so that a later process knows
// at once whether it lives, and is told by the socket which process it is.
// Processes are ended by their handle, never by name.
//
// Names inside QEMU, for whoever uses [VM.Execute]; N counts from 0 in the
// order of the VM's configuration:
//
//	diskN        block node of format raw, on top: what the guest sees
//	diskN-file   protocol node beneath it: a local file, block device or NBD export
//	diskN-image  in its place after SwitchDisk: the image
//	diskN-dev    the guest's device; it stops the VM on an I/O error
//	nicN         network back end
//	nicN-dev     the guest's network card
//
// So a filter is put in front of a running disk by blockdev-reopen of diskN
// with another "file", and taken out of a dead one by qom-set of
// /machine/peripheral/diskN-dev.
//
// Each VM has two goroutines: one, bound to its thread, that started the
// process and waits for it, and one that reads QMP. The first ends the second
// and makes the final move; nobody else does.
//
// # VMs that somebody else started
//
// A [Platform] drives QEMU processes by their QMP sockets and takes the disks
// of running VMs under protection and out of it again:
//
//	raw      blockdev-reopen of the raw node, or qom-set of the device    (reopen, qom-set)
//	other    VM stopped; QEMU closes the image, a storage daemon opens    (image)
//	         it and exports its content; qom-set; VM goes on
//	mirror   a job that writes to the export before the guest is answered (mirror)
//
// All it knows it reads out of QEMU, so that a driver which starts anew finds
// what the one before it left; livenode.go says how block nodes are named. A
// node for the disk's own image waits beside each attached raw disk: fail-open
// is one qom-set. QEMU ends no request that waits at a dead export before its
// reconnect delay is over, so a disk whose errors stop the VM gets none, and
// any other is helped by a storage daemon that answers in the export's place.
//
// Each VM has one goroutine more than the embedded driver's reader: it holds
// the connection, and looks for changes. Commands on one VM take turns.
package qemu
