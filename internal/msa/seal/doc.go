// Package seal keeps secrets: credentials of stores, the key of the site's
// authority, what a provider of log-ins knows us by. They are put in and used by
// name; nothing gives them to a user again.
//
// The database holds them sealed; the keys are in a file of mode 0600 that is not in
// the database, so that neither a copy of the database nor its backup tells a secret.
//
//	row      base64( nonce 24 | XChaCha20-Poly1305(key, secret, aad) )
//	aad      "holdfast seal 1" 0 key id 0 name      a row under another name does not open
//	file     {"version":1,"keys":[{"id":"…","key":"…"},…]}            newest first
//	file     {"version":1,"kdf":{…},"sealed":"…"}                       with a passphrase
//
// With a passphrase the keys in the file are sealed once more, under argon2id of it;
// the manager then has to be given it at each start.
//
// # Rotation
//
// [Box.Rotate] puts a new key into the file, has the row named "" say that it is the
// one, seals all rows anew, and takes the old keys out of the file. Whoever puts a
// secret takes that row first and seals under the key it names, so that no secret is
// ever sealed under a key that is being taken out. A crash between leaves more keys
// than needed, and the next rotation goes on. Replicas on several machines need the
// same file: one that meets a key it has not got reads its file again, and else says
// which file to copy.
//
// A Box is for concurrent use and owns no goroutine.
package seal
