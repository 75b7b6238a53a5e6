package boottrace

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// disks of tests, by their numbers.
var disks = [3]dr.DiskID{{UUID: dr.UUID{1}}, {UUID: dr.UUID{2}}, {UUID: dr.UUID{3}}}

func disk(n uint16) (dr.DiskID, bool) {
	if int(n) < len(disks) {
		return disks[n], true
	}
	return dr.DiskID{}, false
}

// TestRecorder: each chunk once, in the order of first reads, as a plain list
// and set would have it; nothing beyond the bound, and no allocation.
func TestRecorder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	r := NewRecorder()
	var want Trace
	seen := map[Chunk]bool{}
	for len(want.Chunks) < MaxChunks {
		n, first := uint16(rng.IntN(4)), uint32(rng.IntN(1<<14))
		last := first + uint32(rng.IntN(20))
		r.Note(n, first, last)
		for c := first; c <= last && len(seen) < MaxChunks; c++ {
			id, _ := disk(n)
			if k := (Chunk{id, c}); !seen[k] {
				seen[k] = true
				want.Chunks = append(want.Chunks, k)
			}
		}
	}
	if r.Len() != MaxChunks {
		t.Fatalf("%d chunks noted", r.Len())
	}
	r.Note(0, 1<<20, 1<<20)
	known := want.Chunks[:0]
	for _, c := range want.Chunks {
		if !c.Disk.IsZero() {
			known = append(known, c)
		}
	}
	if got := r.Trace(disk); !reflect.DeepEqual(got.Chunks, known) {
		t.Fatalf("%d chunks, want %d, or in another order", len(got.Chunks), len(known))
	}
	r, at := NewRecorder(), uint32(0)
	if n := testing.AllocsPerRun(1000, func() { at += 7; r.Note(1, at, at+9) }); n != 0 {
		t.Errorf("a note allocates %v times", n)
	}
	r.Stop()
	before := r.Len()
	r.Note(2, 0, 0)
	if r.Len() != before {
		t.Error("noted after the end")
	}
}

// TestLargest: a trace at all its bounds fits MaxSize and is read back; what is
// beyond them is left out.
func TestLargest(t *testing.T) {
	var tr Trace
	for i := range MaxChunks + 5 {
		id := dr.DiskID{UUID: dr.UUID{byte(i), byte(i>>8) % 2, 1}}
		tr.Chunks = append(tr.Chunks, Chunk{id, uint32(i%2) * (dr.MaxDiskSize/dr.ChunkSize - 1)})
	}
	b := tr.Encode()
	if len(b) > MaxSize {
		t.Errorf("%d bytes, at most %d are promised", len(b), MaxSize)
	}
	got, err := Decode(b)
	if err != nil || len(got.Chunks) == 0 || len(got.Chunks) > MaxChunks {
		t.Fatalf("%d chunks, %v", len(got.Chunks), err)
	}
	if _, err := Decode(append(b, 0)); !errs.Is(err, errs.Corrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil {
		t.Error("an oversized trace is read")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Trace{Chunks: []Chunk{{disks[0], 1}, {disks[1], 1 << 19}, {disks[0], 0}}}.Encode())
	f.Add([]byte{version, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(tr.Encode())
		if err != nil || !reflect.DeepEqual(again, tr) {
			t.Fatalf("%+v becomes %+v, %v", tr, again, err)
		}
	})
}
