// Package fakesite is a world for package operate without hypervisors or stores: what
// steps did is state, in memory or in a row of a database, and everything that must not
// happen is noticed where it happens. It serves tests and demonstrations: failures are
// scripted, a process can be ended before, in and after each effect, boots take as long
// as is said.
//
// What is noticed (State.Broken): an effect twice; a call of an older epoch than one
// that was seen, if it was not refused; a VM that two plans run; a source VM started
// beside its recovered one.
package fakesite
