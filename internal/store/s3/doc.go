// Package s3 keeps a container in a bucket of Amazon S3 or of any store that
// speaks its protocol and keeps its conditions on writes: conditional PUT
// (If-None-Match), which is what create-once stands on. A store that ignores
// the condition looks the same until two writers race; probe it before use.
//
//	s3://BUCKET[/PREFIX][?endpoint=https://host:port&region=REGION&path-style=true&ca=/file]
//
// # Requests
//
// Create is exactly one PUT, never a multipart upload: the object is there
// whole or not at all. Only when no answer comes does one HEAD follow, because
// some stores close the connection on a body they refuse. Its body travels with a SHA-256 in the signature and a
// CRC32C that the store checks and keeps; a read of a whole object is checked
// against the latter when the store tells it. Nothing is repeated here, that
// is package retry's business, and no redirect is followed. A call gives up,
// with kind Transient, when the store does not finish in a generous time.
//
// # Versions, locks and deletion
//
// A bucket with Object Lock keeps versions. There a plain deletion would free
// nothing: it would put a marker in front of the object. Delete therefore
// removes the key's versions themselves, the oldest first, so that no older
// content ever comes back, and is refused (Denied) at a version that is still
// locked. What was removed before the refusal was older and hidden.
//
// Somebody else's credentials may still put a marker in front of a locked
// object. It counts as what it is in S3, a deletion: reads and lists do not
// find the key, and Create takes it again where the store's condition looks at
// the newest version only, as Amazon's does; others refuse (Exists). The
// locked bytes are not lost; they lie behind the marker until the lock ends, and come back when the
// marker's version is deleted. Hence no right to delete for a publisher.
//
// Whether the bucket has versions and locks is asked once, by Check. They must
// not be turned on afterwards under a running process.
//
// # Credentials
//
// From AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; else
// from the shared credentials file (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE);
// else from the machine's role, unless AWS_EC2_METADATA_DISABLED is true.
// Never from an address, never anonymous, never in a log or an error.
//
// A publisher needs s3:PutObject, s3:GetObject and s3:ListBucket, with locks
// s3:PutObjectRetention and s3:GetObjectRetention, and to look at the bucket
// s3:GetBucketVersioning and s3:GetBucketObjectLockConfiguration. Deletion
// needs s3:DeleteObject, or in a bucket with versions s3:ListBucketVersions
// and s3:DeleteObjectVersion; s3:BypassGovernanceRetention is never used.
//
// The package starts no goroutine of its own; net/http has its.
package s3
