// Package hypervisortest is the suite every driver of package hypervisor must
// pass ([Run] for a Provider, [RunPlatform] for a Platform), and the boot sectors that make a VM which runs in milliseconds: one
// that obeys its power button, one that does not.
package hypervisortest
