package hypervisor

import "time"

const (
	// MaxDisks bounds the disks of a VM: what fits the slots of the smallest
	// machine type beside the network cards.
	MaxDisks = 16
	// MaxNICs bounds the network cards of a VM, as ESXi and common practice do (10 there).
	MaxNICs = 8
	// MaxCPUs bounds the processors of a VM: more needs options we do not set.
	MaxCPUs = 255
	// MinMemoryMiB bounds a VM's memory from below, MiB: no BIOS boots in less.
	MinMemoryMiB = 8
	// MaxMemoryMiB bounds it from above, MiB: no host we run on has more.
	MaxMemoryMiB = 16 << 20
	// DefaultStopLimit is how long an orderly stop may take when StopOptions
	// names no limit: what guests of the field need to shut services down.
	DefaultStopLimit = 2 * time.Minute
	// MaxScreenshot bounds what a guest may show, bytes, as a PNG or unpacked:
	// 8192 by 8192 points take 192 MiB, and no screen of the field has a quarter.
	MaxScreenshot = 64 << 20
	// pressEvery is how often an orderly stop presses the power button: a guest
	// that is still booting does not see the first time, and one that shuts
	// down already does not mind the next.
	pressEvery = 2 * time.Second
	// eventQueue bounds the events of one VM nobody has read yet. When it is
	// full the oldest goes, and a later one says how many went.
	eventQueue = 64
	// changeQueue bounds the changes of one platform nobody has read yet, in
	// the same way: a host's VMs all starting at once fit.
	changeQueue = 256
	// greetLimit bounds the wait for an NBD server's greeting.
	greetLimit = 5 * time.Second
)
