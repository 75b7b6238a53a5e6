package drva

import (
	"math/bits"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/segment"
	"holdfast/internal/wire"
)

// askOn asks on a host's connection and returns the answer.
func askOn(t *testing.T, h *host, m wire.HashAsk) *wire.HashAnswer {
	t.Helper()
	h.mu.Lock()
	_, err := h.nc.Write(m.Append(nil))
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	var a *wire.HashAnswer
	eventually(t, "the question is answered", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		a = h.hashes[m.ID]
		return a != nil
	})
	return a
}

// matches compares an answer about the chunks from first on with a disk.
func matches(t *testing.T, a *wire.HashAnswer, first int, img []byte) {
	t.Helper()
	masks := make([]uint16, len(a.States))
	at := 0
	for _, p := range a.Pieces {
		masks[p.Chunk] |= p.Mask
		hasher := segment.HashKey(a.Keys[p.Key]).Hasher()
		for m := p.Mask; m != 0; m &= m - 1 {
			off := (first+int(p.Chunk))*dr.ChunkSize + bits.TrailingZeros16(m)*dr.BlockSize
			if hasher.Sum(img[off:off+dr.BlockSize]) != a.Hashes[at] {
				t.Fatalf("the block at %d has another hash", off)
			}
			at++
		}
	}
	for i, mask := range masks {
		if a.States[i] == wire.HashUnknown {
			t.Fatalf("chunk %d is unknown", first+i)
		}
		for b := range dr.BlocksPerChunk {
			off := (first+i)*dr.ChunkSize + b*dr.BlockSize
			if mask>>b&1 == 0 && off < len(img) && [dr.BlockSize]byte(img[off:off+dr.BlockSize]) != zeroBlock {
				t.Fatalf("the block at %d is said to be zero", off)
			}
		}
	}
}

// TestHashesHoldWhatIsNeeded: an answer comes when the record it needs is
// published, and holds it; not for a disk the host does not have.
func TestHashesHoldWhatIsNeeded(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20, 3<<20), r)
	h.sync()
	for i := range uint32(5) {
		h.writes(40)
		h.settle()
		h.mu.Lock()
		need := h.next - 1
		h.mu.Unlock()
		for disk := range uint16(2) {
			img := h.image(disk, ^dr.Seq(0))
			count := len(img) / dr.ChunkSize
			a := askOn(t, h, wire.HashAsk{ID: 10*i + uint32(disk) + 1, Disk: disk, Count: uint16(count), Need: need})
			matches(t, a, 0, img)
		}
	}
	// Behind the disk's end nothing is known.
	a := askOn(t, h, wire.HashAsk{ID: 1000, Disk: 0, First: 15, Count: 3})
	if a.States[0] == wire.HashUnknown || a.States[1] != wire.HashUnknown || a.States[2] != wire.HashUnknown {
		t.Fatalf("states %v", a.States)
	}
}

// TestTooManyQuestionsEndTheConnection: about a disk the host does not have, or
// of a record that never comes, there is no answer; and who asks on is dropped.
func TestTooManyQuestionsEndTheConnection(t *testing.T) {
	for _, m := range []wire.HashAsk{{ID: 1, Disk: 7, Count: 1}, {ID: 1, Count: 1, Need: 1 << 30}} {
		r := newRig(t, nil, nil)
		r.start()
		h := connected(t, newHost(t, r, seeded(t), dr.Async, 1<<20), r)
		h.sync()
		for range 2 * maxAsks {
			h.mu.Lock()
			_, err := h.nc.Write(m.Append(nil))
			h.mu.Unlock()
			if err != nil {
				break
			}
		}
		<-h.closed
		h.mu.Lock()
		if len(h.hashes) > 0 {
			t.Errorf("%+v is answered", m)
		}
		h.mu.Unlock()
	}
}

// TestKnownDisksAreHashed: a host that begins anew is told of which of its
// disks there is an earlier state.
func TestKnownDisksAreHashed(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := newHost(t, r, rng, dr.Async, 1<<20, 1<<20)
	second := h.hello.VMs[1]
	h.hello.VMs = h.hello.VMs[:1]
	connected(t, h, r)
	if len(h.welcome.Hashed) != 0 || len(h.welcome.Unsynced) != 1 {
		t.Fatalf("%+v", h.welcome)
	}
	h.sync()
	h.capture(record.Record{Kind: record.Zero, Length: dr.BlockSize})
	h.settle()
	h.disconnect()
	again := newHost(t, r, rng, dr.Async)
	again.hello.Host, again.hello.VMs = h.hello.Host, append(h.hello.VMs, second)
	connected(t, again, r)
	if w := again.welcome; len(w.Unsynced) != 2 || len(w.Hashed) != 1 || w.Hashed[0] != 0 || w.Features[0] != wire.FeatureHash {
		t.Fatalf("%+v", w)
	}
}
