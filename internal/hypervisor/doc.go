// Package hypervisor is the contract between Holdfast and whatever runs virtual
// machines: start a VM from its recorded configuration and the disks that
// recovery made, watch it, and end it in an orderly way or at once.
//
// Nouns: a [Provider] runs VMs on one host or site; a [VM] is one run of one
// virtual machine, from start to its end, never started twice; a [Source] says
// where a disk's bytes are; a [Network] says what stands behind a network card.
// Drivers live beneath this package (qemu is the embedded one, libvirt has a
// daemon run VMs, fake is scripted for tests) and all answer to the same suite in
// hypervisortest.
//
// A VM that is kept outlives the provider that started it, and its process: the
// work directory is how the next one finds it. A VM may begin on an export and
// move to the image behind it when that is complete.
//
// States of a VM and the moves between them:
//
//	            ┌──────────────┐
//	Starting ──►│   Running    │◄──────┐ orderly stop not obeyed in time
//	   │  │     └─┬────▲───┬───┘       │
//	   │  │ Pause,│    │   └────► Stopping ──────┐
//	   │  │ I/O   ▼    │Resume        │          │
//	   │  └────► Paused┘◄─────────────┘          │
//	   │           │          I/O error          │
//	   └───────────┴──────────────┬──────────────┘
//	                              ▼
//	                    Stopped │ Crashed          (final)
//
// Stopped is an end that somebody wanted: the guest, Stop, or Kill. Crashed is
// any other. A VM that meets an I/O error on a disk is Paused, not Crashed:
// nothing was lost, and Resume tries again.
//
// [Lifecycle] keeps state, events and waiters for drivers, so that all drivers
// behave alike. It starts no goroutine.
package hypervisor
