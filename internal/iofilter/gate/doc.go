// Package gate decides when a host may hold, release and confirm: the host's
// side of the rounds by which a protected domain gets its checkpoints.
//
// Two kinds of rounds exist. In a coordinated cut (writes acknowledged by the
// primary alone, several hosts) the DRVA says Hold; the host puts a Marker in
// its stream and from then on keeps back the completions of writes that enter
// the stream behind it; the DRVA says Release once every host holds. The cut is
// good only if every host was still holding when Release came, because then no
// guest anywhere could act on a write behind a marker before all markers were
// placed. In a mark round (writes that wait for the DRVA) nothing is held: the
// host only says whether everything it acknowledged is in the stream.
//
//	         Hold                    Release
//	open ───────────▶ holding(round) ───────▶ open, OK
//	                     │ Expire: the guest has waited long enough
//	                     │ Outside, Disconnect
//	                     ▼
//	                   open; a later Release is answered with the reason
//
//	inside ◀──────────▶ outside     (Outside, Inside; independent of the above,
//	                                 but no hold starts or survives outside)
//
// The package is pure: no clock, no goroutine, no I/O, no lock. The caller
// passes monotonic times and serialises all calls with the very lock under
// which it appends to the stream; "in the same critical section" below means
// that lock. The same code runs in the host component and in the simulation
// that searches for orders of events in which a cut would be inconsistent.
package gate
