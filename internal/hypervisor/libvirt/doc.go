// Package libvirt protects the virtual machines of a libvirt daemon, and starts
// recovered ones there: the driver for hosts whose VMs a management layer owns.
// It speaks libvirt's own protocol, in Go, over the daemon's unix socket.
//
// What distinguishes it from package qemu is that somebody else keeps books.
// libvirt's XML says what each VM is; virsh, other managers, and libvirt itself
// at the next start, act on it. So this package keeps that XML true, or says
// where it cannot, and leaves in it all that is needed to undo what was done.
//
// # Ways into a disk's path
//
//	route      what is done                              XML of the running VM   pause
//	blockcopy  libvirt's own block copy onto the export, shows the export        one pivot, after a
//	           with synchronous writes, and a pivot                              pass over the disk
//	monitor    QEMU's raw node gets the export as its    shows the file,         one command
//	           file, behind libvirt's back               which is still right
//	                                                     for what libvirt does
//	mirror     a write-blocking mirror, behind           true                    one command
//	           libvirt's back
//
// The pass of a block copy writes each block of the disk onto itself, through
// the export. That is harmless on two conditions, both kept in blockcopy.go:
// writes of the guest must be synchronous, or old content overwrites new; and
// the disk must not be one whose driver unmaps (discard='unmap'), because QEMU
// then begins by clearing the target, which is the disk itself. Such disks take
// the monitor route, whatever was asked for.
//
// Commands over QEMU's monitor leave the VM "tainted: custom-monitor" in
// libvirt's log. A snapshot, a storage migration or a backup by libvirt is
// refused by QEMU while a mirror runs; with an export in the path it works, and
// a snapshot then leads the guest past the export: [hypervisor.ChangedChain].
//
// # What is left in the XML
//
// The definition that the next start uses names the export for as long as it is
// attached, so that no power cycle takes a VM out of protection silently. What
// stood there before is in the VM's metadata, under [MetadataURI], for this
// package and, in plain XML, for a person:
//
//	<holdfast:protection xmlns:holdfast="urn:holdfast:libvirt:1">
//	  <disk name="vda" state="attached" route="blockcopy" socket="/run/…" export="…"
//	        format="raw" size="…" type="file" werror="" rerror="" discard="">
//	    <source file="/var/lib/libvirt/images/web.raw"/>
//	  </disk>
//	</holdfast:protection>
//
// It is written before the first step and removed after the last, so that a
// driver that finds it knows what another one was about. While a disk grows its
// record says halted="true" besides: the VM stands still because of a driver, and
// whoever finds that, and is not that driver, lets it go on.
//
// # Names inside QEMU
//
// Nodes and jobs of ours are holdfast-DISK…; libvirt's are libvirt-N-format
// over libvirt-N-storage, with the N of <source index='N'/>. After a fail-open
// the two of libvirt are made again over the local file, so that whatever
// libvirt does next works on what the guest uses.
//
// # VMs that we start
//
// A [Provider] starts transient VMs, until Define has libvirt keep them; the
// isolated networks of their cards are drawn in bubble.go. [RunURI] names the part of their metadata in
// which a later process finds what it has to know; run.go draws it. A disk that
// is on an export now and moves to an image later is described as that image, and
// the export is a node of QEMU's, holdfast-DISK, that is put beneath libvirt's
// format node before the guest runs and taken out by SwitchDisk. [Platform]
// leaves such disks alone until then.
//
//	Start       create, paused ─▶ exports in front ─▶ metadata "started" ─▶ resume
//	Adopt       "started": taken over    "starting": ended    neither: its directory goes
//	SwitchDisk  reopen on the image ─▶ drop the export ─▶ metadata
//	Define      metadata "defined" ─▶ networks ─▶ definition
//	Undefine    definition ─▶ directory ─▶ networks
//
// # Concurrency
//
// In a Platform, one goroutine keeps the connection, hears events and looks at every VM from
// time to time; all else runs on its caller. Changes to one VM take turns. In a
// Provider, one goroutine hears events, and each VM that ends has one until
// libvirt has let go of it.
package libvirt
