package seal

const (
	// MaxSecret bounds a secret, bytes: a chain of certificates with its key fits.
	MaxSecret = 64 << 10
	// MaxName bounds a secret's name, bytes.
	MaxName = 255
	// maxSecrets bounds how many there are; each costs a rotation a row.
	maxSecrets = 10000
	// maxKeys in a file: one is, two are while they are rotated; more after crashes.
	maxKeys = 16
	// maxFile bounds the key file, bytes.
	maxFile = 16 << 10
	// batch is how many rows one transaction of a rotation seals anew: it keeps
	// SQLite's other writers waiting.
	batch = 64
	// page bounds a list.
	page = 1000

	// Cost of a passphrase, paid once at each start: RFC 9106's first
	// recommendation is 2 GiB, which appliances have not got to spare.
	kdfMemory  = 256 << 10 // KiB
	kdfPasses  = 3
	kdfThreads = 4
	// What we accept of a file's cost.
	mostMemory  = 4 << 20 // KiB
	mostPasses  = 64
	mostThreads = 64
	// minPassphrase: it is attacked without limit by whoever has the file.
	minPassphrase = 16
)
