// Package appliance makes a box what its manager wants it to be: the head of an
// enrolled DRVA or host component.
//
//	command.Agent ── Setup ──▶ DRVA, Host ── config files 0600, start, protect ──▶ processes
//	              ── commands ▶ their Sync, Shutdown, Retire, …    ── local calls ──▶ processes
//	              ◀─ Report ─── how they stand                     ◀── /status ──── processes
//
// # A box's directory
//
//	DIR/key.pem, cert.pem, ca.pem, manager.json    what enrolment made; "tls" of the processes
//	DIR/setup.json                                 the newest Setup, so that a box comes up without its manager
//	DIR/drva/drva.json                             the DRVA's configuration; drva.started: the digest of what runs
//	DIR/drva/<id>/                                 a domain's key, credentials, status socket and log
//	DIR/host/<id>/                                 a domain's host component: configuration, record, sockets
//
// <id> is the first eight digits of the domain's id: paths of sockets are short.
//
// # Processes
//
// A process is not the agent's child in any way that matters: it has a session of its
// own and outlives the agent, which finds it again by its status socket and command
// line. One that has ended is started again, after pauses that grow; one whose
// configuration is another is ended in order and started with the new one. The digest of
// the configuration is written when the old process has ended and before the new one
// begins, so that an agent that dies in between restarts what may have the old one.
//
// # Letting go
//
// A Setup is made so when all that it has no more was let go of: the domains of a DRVA
// by the end of the process that had them, VMs of a host by unprotecting them. What it
// has more is started then, and goes on being tried; that is told as a problem.
package appliance
