// Package fake is a hypervisor without machines, for tests of whoever drives
// one: its VMs start, stop, hang, crash and meet disk errors as the test's
// script says, at once and without a process. A
// [Platform] is the same for VMs that are there already, on a [Host] that
// outlives it.
//
// It keeps the whole contract of package hypervisor and passes the same suite
// as real drivers. Time passes only where a script asks for it, so it runs
// inside testing/synctest. It starts no goroutine but timers.
package fake
