package maintain

import (
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

// checkHashes compares the block hashes a history gives for its end, range by
// range, with what was written.
func (w *world) checkHashes(h *journal.History, l *line) {
	if w.hashes == nil {
		w.hashes = journal.NewHashCache()
	}
	for _, d := range l.disks {
		chunks := uint32((d.Size + dr.ChunkSize - 1) / dr.ChunkSize)
		step := 1 + uint32(w.rng.IntN(int(chunks)))
		for from := uint32(0); from < chunks; from += step {
			got, err := h.DiskHashes(w.t.Context(), w.hashes, d.ID, from, min(from+step, chunks))
			if err != nil {
				w.fail("hashes of %s: %v", l.id, err)
				return
			}
			for b := uint64(from) * dr.BlocksPerChunk; b < min(uint64(from+step)*dr.BlocksPerChunk, uint64(d.Size/dr.BlockSize)); b++ {
				if _, unpublished := l.cell[d.ID][b]; !unpublished && !w.hashIs(got, b, l.head[d.ID][b]) {
					w.fail("block %d of disk %s of %s has the hash of something else", b, d.ID, l.id)
					return
				}
			}
		}
	}
}

// hashIs reports whether block b is said to have a content; 0 is zeroes, with
// or without a frame.
func (w *world) hashIs(d *journal.DiskHashes, b uint64, content uint32) bool {
	at := b - uint64(d.First)*dr.BlocksPerChunk
	w.compared++
	if d.Masks[at/dr.BlocksPerChunk]>>(at%dr.BlocksPerChunk)&1 == 0 {
		return content == 0
	}
	return d.Under[d.Keys[at]].Hasher().Sum(blockOf(content)) == d.Hashes[at]
}

// TestHashesFromDamage: a history that lost an object has no hashes: nobody
// knows which blocks it held.
func TestHashesFromDamage(t *testing.T) {
	w := newWorld(t, seed(t), testPolicy(), nil)
	defer w.close()
	l := w.lines[0]
	for range 3 * journal.Window {
		w.write(l, 4)
		w.publish(l, true)
	}
	all, err := keysUnder(t.Context(), w.back, journal.JournalPrefix(l.id))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.back.Delete(t.Context(), all[len(all)/2].Key); err != nil {
		t.Fatal(err)
	}
	h, err := w.c.History(t.Context(), journal.HistoryOptions{Timeline: l.id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.DiskHashes(t.Context(), journal.NewHashCache(), l.disks[0].ID, 0, 4); err == nil {
		t.Fatal("hashes of a history with a hole")
	}
}
