// Command init is the first program of the test guest, run by the kernel out
// of the initial RAM file system: it loads the drivers, finds the root file
// system by its label, mounts it and becomes the program there.
//
// It looks at every partition of every disk, so the guest boots whatever place
// its disk has, on the virtio or the NVMe bus. When it cannot go on it says FATAL on the console,
// in the words the host understands, and powers the machine off.
package main
