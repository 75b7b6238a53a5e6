package dr

import (
	"crypto/sha256"
	"encoding/binary"
)

// OriginRun is the nonce under which a sidecar vouches for a disk that was not
// brought to its state by a run of a host component, but rebuilt from checkpoint
// c of a timeline: it holds just that, but for the regions the sidecar calls
// open. An appliance that begins a log at this checkpoint knows the nonce, and
// nobody else. It is never 0.
func OriginRun(t TimelineID, c CheckpointID, seq Seq, d DiskID) uint64 {
	b := []byte("holdfast origin v1")
	b = append(b, t.UUID[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(c))
	b = binary.LittleEndian.AppendUint64(b, uint64(seq))
	b = append(b, d.UUID[:]...)
	sum := sha256.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:]) | 1
}
