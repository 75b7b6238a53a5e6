package store

const (
	// MaxObject bounds an object's size in bytes: 64 MiB, twice the largest
	// object Holdfast writes.
	MaxObject = 64 << 20
	// MaxKey bounds a key's length in bytes: half of what S3 and Azure take,
	// so that a container may lie under a prefix.
	MaxKey = 512
	// MaxElement bounds one element of a key in bytes: file systems take 255.
	MaxElement = 200
	// MaxList bounds one answer of List: what S3 gives at most.
	MaxList = 1000
	// MaxBatch bounds the keys of one DeleteBatch: what Azure takes. S3 takes
	// 1000.
	MaxBatch = 256
	// MaxLockYear bounds a lock's end: four digits are what dates in S3 have,
	// and a lock nobody can take back must not be for ever by a slip.
	MaxLockYear = 9999
)
