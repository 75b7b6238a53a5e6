// Package takeover lets one process of the host component go on in the place of
// another, on the same machine and of the same user: for an upgrade. Guests
// notice a pause.
//
// Each host component has a private unix socket of mode 0600 ([Listen]). The
// next one, the heir, asks there ([Ask]); each side sees by SO_PEERCRED that the
// other is of its own user. What they say to each other:
//
//	heir                              predecessor
//	u32 length, JSON ask      ───▶    is it the same host and domain?
//	                          ◀───    'o' with the descriptor of the socket asked on,
//	                                  or 'n', u32 length, JSON refusal
//	'g'  it is prepared       ───▶    guests' operations end, primaries are closed
//	                          ◀───    'h', an iofilter.Legacy; or a refusal
//	'r'  all is open          ───▶    from here on it has no connections
//	                          ◀───    'y'  they are yours
//	's'  it serves            ───▶    from here on it does not come back
//	                          ◀───    'l'  it has left its status socket
//	'a'  it answers there     ───▶    ends
//
// Up to 's' the predecessor still has all descriptors: if the heir fails or
// takes too long, the predecessor makes sure that it has ended and serves again.
// Up to 'y' the heir has not read from a connection, so that guests go on on the
// same ones; between 'y' and 's' it may have, and they must connect again. An
// heir that is not given the 'y' ends. After 's' it goes on alone, whatever
// becomes of the other. The lock of each primary stands between the two in any
// case: only one of them can have it open.
//
// The socket asked on is inherited first, so that a connection to it succeeds as
// long as either of them lives: by that a watchdog of the dead one knows that its
// guests are not alone ([Inherited]).
//
// Integers are little-endian. Every read has a limit of time and size. A value
// is used by one goroutine at a time. No goroutines are left behind.
package takeover
