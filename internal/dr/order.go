package dr

// Units of capture, in bytes. Both are part of the container format.
const (
	// BlockSize is the grain of everything after the filter.
	BlockSize = 4096
	// ChunkSize is the grain of the index and of dirty tracking.
	ChunkSize = 64 << 10
	// BlocksPerChunk is the number of blocks a chunk mask covers.
	BlocksPerChunk = ChunkSize / BlockSize
	// MaxDiskSize bounds a protected disk (64 TiB, as vSphere 7 does a VMDK).
	MaxDiskSize = 64 << 40
)

// Seq is the place of a record in its domain's one total order. The first
// record is 1; 0 means "none" or "not yet sequenced". Never reused on a
// timeline.
type Seq uint64

// HostSeq is the place of a record in one host session's stream. The first
// record is 1; 0 means "none".
type HostSeq uint64

// Session numbers the host sessions of a domain: one run of one host
// component, as recorded in the replication log. 0 means "none".
type Session uint32

// Epoch is the reign of one publisher over a timeline; a higher epoch fences
// every lower one. The first is 1.
type Epoch uint32

// ObjectNumber is the dense number of a journal object: its name is the
// commit and the fence. The first is 1.
type ObjectNumber uint64

// CheckpointID names a checkpoint inside a domain; rising, never reused on a
// timeline. The first is 1; 0 means "none".
type CheckpointID uint64
