// Package appliance runs the boxes of a site under their agents: real DRVA and host
// component processes, which the agents start, keep and let go of, and a QEMU.
package appliance
