package index

import (
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
)

// TestBlocksAgainstModel compares a set with a map, through every method.
func TestBlocksAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Two pages and a bit, so that whole pages come about.
		size := rapid.Int64Range(0, (2*coverPage+3)*dr.ChunkSize).Draw(t, "size")
		blocks := (size + dr.BlockSize - 1) / dr.BlockSize
		draw := func(name string) (*Blocks, map[int64]bool) {
			b, model := NewBlocks(size), map[int64]bool{}
			for range rapid.IntRange(0, 4).Draw(t, name+" ranges") {
				off := rapid.Int64Range(-10*dr.BlockSize, size+10).Draw(t, name+" off")
				n := rapid.Int64Range(-1, size+dr.ChunkSize).Draw(t, name+" n")
				if rapid.Bool().Draw(t, name+" small") {
					n = min(n, 40*dr.BlockSize)
				}
				b.AddBytes(off, n)
				for at := max(off, 0) / dr.BlockSize; n > 0 && at*dr.BlockSize < off+n && at < blocks; at++ {
					model[at] = true
				}
			}
			if rapid.IntRange(0, 9).Draw(t, name+" all") == 0 {
				b.AddAll()
				for at := range blocks {
					model[at] = true
				}
			}
			return b, model
		}
		same := func(what string, b *Blocks, model map[int64]bool) {
			if got := b.Count(); got != uint64(len(model)) {
				t.Fatalf("%s: %d blocks, want %d", what, got, len(model))
			}
			n := 0
			for off, length := range b.Bytes() {
				for at := off / dr.BlockSize; at < (off+length)/dr.BlockSize; at++ {
					if n++; !model[at] {
						t.Fatalf("%s: block %d is in the set", what, at)
					}
				}
			}
			if n != len(model) {
				t.Fatalf("%s: stretches of %d blocks, want %d", what, n, len(model))
			}
		}
		a, am := draw("a")
		b, bm := draw("b")
		same("a", a, am)
		rest := map[int64]bool{}
		for at := range am {
			if !bm[at] {
				rest[at] = true
			}
		}
		without := NewBlocks(size)
		for off, n := range a.Without(b) {
			without.AddBytes(off, n)
		}
		same("a without b", without, rest)
		same("a, still", a, am)
		r, err := NewResolver(new(Catalog), 1, []Disk{{Size: size}})
		if err != nil {
			t.Fatal(err)
		}
		r.Only(0, a)
		if got := r.Left(); got != uint64(len(am)) {
			t.Fatalf("of %d blocks %d are left to be found", len(am), got)
		}
		r.Only(0, b)
		if got := r.Answered(0).Count(); got != uint64(blocks)-uint64(len(am)-len(rest)) {
			t.Fatalf("%d of %d blocks are answered for", got, blocks)
		}
		a.Union(b)
		for at := range bm {
			am[at] = true
		}
		same("a and b", a, am)
	})
}
