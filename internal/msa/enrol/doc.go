// Package enrol makes boxes known to their site's manager: DRVAs, host components and
// recovery appliances.
//
//	admin      Invite: a token, good once      hfe1.base64url({manager, fingerprint, secret, …})
//	box        Join: dials the manager, which the fingerprint in the token proves,
//	           and sends the secret and a certificate request for a key of its own
//	manager    Accept: spends the secret, signs, remembers the certificate
//	box        Beat every ten seconds, with the certificate; Renew when two thirds are over
//
// # Who a box is
//
// The manager says who a box is, not the box: of its certificate request only the
// public key is taken. A certificate is holdfast://appliance/<name>, and besides what
// its role makes it on the data path: holdfast://host/<id> of a host component,
// holdfast://drva/<domain> for each domain that is assigned to a DRVA. The addresses
// in it are those that the admin gave, else the one it came from.
//
// # Which certificate counts
//
// The row of a box has the digest of its newest certificate, and of the one before
// until the newest was used: a box that lost the answer to its renewal still gets in
// with the old one. Any other is refused by the manager, so that a box that was
// replaced or revoked is out at once. Boxes do not ask the manager about each other:
// there a stolen certificate counts until it expires, which is why they are short.
//
// An [Agent] is the box's side: it writes the directory that a box's "tls" setting
// names, and keeps it fresh. Functions with a transaction do what they say in it.
package enrol
