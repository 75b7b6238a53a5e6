// Package stores proves what is said of object stores against real servers:
// that the trial of "holdfast store verify" passes the emulators that keep
// their promises and refuses, by name, the one that does not, and that the
// whole way from a new container to a restore works on each with the command
// line alone; that a history survives takeovers, restarts of its store and an
// attacker with every credential; and that an appliance comes up before its
// store. The servers are installed by "make emulators"; a missing one is
// a failure.
package stores
