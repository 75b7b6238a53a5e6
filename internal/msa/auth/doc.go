// Package auth decides who is asking and what they may do.
//
// # Who
//
// A [Principal] is who a request comes from. There are four kinds: a person with a
// session (local password, or an OpenID Connect provider), a person's API token, a
// box of the site with its certificate, a paired manager with its certificate.
// [Auth.Authenticate] finds out which; what it cannot tell it refuses.
//
// # What
//
// A [Permission] is one thing to do; a [Role] is a row of permissions in a table
// that is data ([Matrix]); a [Grant] gives a user a role in a folder and all below
// it, and the empty folder is everywhere. A token may do what its holder may and its
// scope allows as well. Who may test may not run: these are different permissions
// and different roles. A real run may need a second person: see [Ask].
//
// # How it is kept
//
//	password    argon2id in PHC form; the form says its own cost, so that the cost can rise
//	session     256 random bits in a cookie; the database has their SHA-256
//	API token   "hft_" + 256 random bits; the database has their SHA-256
//	single-use  as a token, for set-up, enrolment, pairing; deleted by the one who spends it
//	CSRF token  HMAC of the session's token: needs no row, and dies with it
//
// An attempt to log in is counted before the password is looked at, so that attempts
// at once are not free, and by name, by address, and by both: a stranger can lock
// themself out, and hardly anybody else.
//
// Sessions are rows of our own and not a session library's: the libraries keep them
// as opaque blobs under statements of one engine, so that "end all sessions of this
// user, in the transaction that takes their role away" is not possible.
//
// Functions with a transaction do what they say in it. An Auth is for concurrent use
// and owns no goroutine.
package auth
