// Package pair has the managers of two sites know each other: for live work, such as
// planned migration and the status of the other side. Recovery from a disaster needs
// none of it.
//
//	A's admin   Invite: a token, good once            hfp1.base64url({manager, fingerprint, secret, site})
//	B's admin   Accept: B dials A, which the fingerprint in the token proves, and sends
//	            the secret and its own authority's certificate; B trusts A from here (Trust)
//	A           Present: the pair is "presented", and A does not trust it yet
//	A's admin   compares the fingerprint that B shows, and calls Confirm: "trusted"
//
// One token and one comparison. The token says that B's admin was asked; the comparison
// says that it was B who answered, should the token have been stolen.
//
// From then on each calls the other over TLS 1.3, both sides proved: each knows the
// other by its authority's fingerprint and takes its authority for nothing but
// holdfast://manager/<its site>; a box of the other site is nobody here.
//
// # Status
//
// Each side beats every ten seconds, whichever of its replicas is first. A pair knows
// when its own beats were taken (out) and when the other's came (in): a way that is
// open in one direction alone is seen as that.
//
// # When a certificate changes
//
// A manager's own certificate changes by itself and is not noticed. When a site's
// authority changes, its pairs are refused by both, which is told as that; then the
// sites are paired again, with a token of the same pair. What is presented counts
// beside the old trust until it is confirmed, and then instead of it.
//
// Functions with a transaction do what they say in it. A Monitor owns no goroutine but
// that of its Run.
package pair
