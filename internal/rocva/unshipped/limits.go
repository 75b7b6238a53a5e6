package unshipped

const (
	// objectSize is from which size in bytes on an object is closed: what a
	// publisher aims at.
	objectSize = 16 << 20
	// maxFrames is how many frames an object gets at most: a quarter of what it may
	// have, so that zero ranges and footer fit too.
	maxFrames = 1 << 15
	// maxZeros is how many zero ranges an object gets before it is closed: a
	// chunk adds 16 at most, and 65,536 are allowed.
	maxZeros = 1 << 15
	// maxRanges bounds the stretches a result lists of a disk: people look at
	// them.
	maxRanges = 1000
	// labelPrefix begins the label of every branch made here.
	labelPrefix = "unshipped of "
)
