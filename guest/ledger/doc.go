// Command ledger is all that runs in the test guest once it is up: it verifies
// the ledger in /ledger, says what it found and READY on the first serial
// port, and then obeys the lines that arrive there (package
// internal/demo/ledger/talk has the words).
//
// The ledger is kept by SQLite or, on a disk with PostgreSQL on it, by a server that
// is started here (postgres.go, pgwire.go).
//
// Once it serves, QEMU's guest agent is started where the host has a port for it.
//
// One goroutine owns the ledger and the port's output. Two more only read: the
// port, and the power button, which ends the guest the way POWEROFF does.
package main
