package durable

const (
	// PageSize is the unit of alignment of direct I/O, in bytes: it fits every
	// device we know, those with 512-byte and those with 4096-byte sectors.
	PageSize = 4096
	// MaxVectors bounds the slices of one WriteAtv: the kernel's own limit
	// (IOV_MAX).
	MaxVectors = 1024
	// zeroChunk is how much Prewrite writes at once, in bytes: large enough to
	// stream, small enough to notice a cancelled context soon.
	zeroChunk = 1 << 20
	// directFrom is the size, in bytes, from which content that begins on a page
	// is written past the page cache. Copying journal objects into it was 30 %
	// of a DRVA's processor time, and nobody reads them soon.
	directFrom = 1 << 20
	// tempTries bounds the attempts at a free temporary name; names carry 64
	// random bits, so a second try is already a sign of trouble.
	tempTries = 4
	// lockNoteMax bounds, in bytes, what is read of a lock's note about its
	// holder.
	lockNoteMax = 64
)
