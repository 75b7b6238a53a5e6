package extent

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// check compares a bitmap with a model of it, through every reading method.
func check(t *rapid.T, b *Bitmap, model []bool) {
	var count int64
	next := uint32(0)
	for c, want := range model {
		if got := b.Test(uint32(c)); got != want {
			t.Fatalf("chunk %d: got %v, want %v", c, got, want)
		}
		if !want {
			continue
		}
		count++
		if got, ok := b.Next(next); !ok || got != uint32(c) {
			t.Fatalf("next from %d: got %d %v, want %d", next, got, ok, c)
		}
		next = uint32(c) + 1
	}
	if got, ok := b.Next(next); ok {
		t.Fatalf("next from %d: got %d, want none", next, got)
	}
	if got := b.Count(); got != count {
		t.Fatalf("count %d, want %d", got, count)
	}
}

func TestBitmapAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 200*ChunkSize).Draw(t, "size")
		b := NewBitmap(size)
		model := make([]bool, b.Chunks())
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				off := rapid.Int64Range(-ChunkSize, 201*ChunkSize).Draw(t, "off")
				n := rapid.Int64Range(-1, 201*ChunkSize).Draw(t, "n")
				b.Set(off, n)
				for c := range model {
					disk := Range{0, size}.Intersect(Chunk(uint32(c)))
					model[c] = model[c] || n > 0 && !Range{off, n}.Intersect(disk).Empty()
				}
			},
			"clear": func(t *rapid.T) {
				c := rapid.Uint32Range(0, 220).Draw(t, "chunk")
				want := int(c) < len(model) && model[c]
				if got := b.ClearChunk(c); got != want {
					t.Fatalf("clear %d: got %v, want %v", c, got, want)
				}
				if want {
					model[c] = false
				}
			},
			"set all": func(t *rapid.T) {
				b.SetAll()
				for c := range model {
					model[c] = true
				}
			},
			"": func(t *rapid.T) { check(t, b, model) },
		})
	})
}

func TestBitmapExtremes(t *testing.T) {
	b := NewBitmap(3*ChunkSize + 1)
	for _, r := range []Range{
		{math.MaxInt64, math.MaxInt64}, {math.MinInt64, math.MaxInt64}, {-5, 5}, {0, 0},
		{3*ChunkSize + 1, 1}, {0, math.MinInt64}, {-10, -10},
	} {
		if b.Set(r.Off, r.Len); b.Count() != 0 {
			t.Fatalf("Set%v set %d chunks", r, b.Count())
		}
	}
	if b.Set(ChunkSize, math.MaxInt64); b.Count() != 3 || b.Test(0) {
		t.Fatalf("to the end of the disk: %d chunks", b.Count())
	}
	if b.Test(4) || b.Test(63) || b.Test(math.MaxUint32) || b.ClearChunk(math.MaxUint32) {
		t.Fatal("a chunk beyond the disk is set")
	}
	if _, ok := b.Next(math.MaxUint32); ok {
		t.Fatal("next beyond the disk")
	}
	var zero Bitmap
	zero.SetAll()
	if zero.Set(0, 100); zero.Count() != 0 || zero.Test(0) || zero.ClearChunk(0) {
		t.Fatal("the zero bitmap holds a chunk")
	}
	for _, size := range []int64{-1, MaxSize + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("NewBitmap(%d) did not panic", size)
				}
			}()
			NewBitmap(size)
		}()
	}
}

func TestBitmapConcurrent(t *testing.T) {
	const chunks, writers, clearers = 1 << 12, 4, 3
	b := NewBitmap(chunks * ChunkSize)
	var cleared atomic.Int64
	var wg sync.WaitGroup
	b.SetAll()
	for range clearers { // each chunk is won by exactly one clearer
		wg.Go(func() {
			for c := range uint32(chunks) {
				if b.ClearChunk(c) {
					cleared.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if cleared.Load() != chunks || b.Count() != 0 {
		t.Fatalf("%d clears won of %d; %d chunks left", cleared.Load(), chunks, b.Count())
	}
	for w := range writers { // neighbours in one word, set by different writers
		wg.Go(func() {
			for c := w; c < chunks; c += writers {
				b.Set(int64(c)*ChunkSize, 1)
			}
		})
	}
	wg.Wait()
	if b.Count() != chunks {
		t.Fatalf("%d chunks set, want %d", b.Count(), chunks)
	}
}

func TestBitmapDoesNotAllocate(t *testing.T) {
	b := NewBitmap(1 << 40)
	n := testing.AllocsPerRun(100, func() {
		b.Set(12345, 1<<30)
		c, _ := b.Next(3)
		b.ClearChunk(c)
		_ = b.Test(c)
		_ = b.Count()
	})
	if n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkBitmapSetOneBlock(b *testing.B) {
	bm := NewBitmap(4 << 40)
	off := int64(0)
	for b.Loop() {
		bm.Set(off, BlockSize)
		off = (off + 7919*BlockSize) & (4<<40 - 1)
	}
}
