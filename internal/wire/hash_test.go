package wire

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// randomAnswer is a well-formed answer about n chunks.
func randomAnswer(rng *rand.Rand, n int) *HashAnswer {
	a := &HashAnswer{ID: rng.Uint32(), Keys: make([]HashKey, 1+rng.IntN(MaxHashKeys)), States: make([]ChunkState, n), Pieces: []HashPiece{}, Hashes: []uint64{}}
	for i := range a.Keys {
		a.Keys[i][0], a.Keys[i][31] = byte(i), byte(rng.Uint32())
	}
	for i := range a.States {
		if a.States[i] = ChunkState(rng.IntN(3)); a.States[i] != HashKnown {
			continue
		}
		for left := uint16(rng.Uint32()) | 1; left != 0; {
			mask := left & uint16(rng.Uint32())
			if mask == 0 {
				mask = left
			}
			a.Pieces = append(a.Pieces, HashPiece{Chunk: uint16(i), Mask: mask, Key: uint8(rng.IntN(len(a.Keys)))})
			for range bits.OnesCount16(mask) {
				a.Hashes = append(a.Hashes, rng.Uint64())
			}
			left &^= mask
		}
	}
	return a
}

func TestHashesRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		a := randomAnswer(rng, 1+rng.IntN(MaxHashChunks))
		f := a.Append(nil)
		var h Head
		if err := h.Parse(f); err != nil || h.Type != TypeHashAnswer {
			t.Fatal(h, err)
		}
		got, err := ParseHashAnswer(f[HeadSize:])
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	m := HashAsk{ID: 7, Disk: 3, First: 1 << 20, Count: MaxHashChunks, Need: 1 << 40}
	got, err := ParseHashAsk(m.Append(nil)[HeadSize:])
	if err != nil || got != m {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestLargestHashAnswer(t *testing.T) {
	a := &HashAnswer{Keys: make([]HashKey, MaxHashKeys), States: make([]ChunkState, MaxHashChunks)}
	for i := range a.States {
		a.States[i] = HashKnown
		for b := range dr.BlocksPerChunk {
			a.Pieces, a.Hashes = append(a.Pieces, HashPiece{Chunk: uint16(i), Mask: 1 << b, Key: uint8(b)}), append(a.Hashes, uint64(b))
		}
	}
	f := a.Append(nil)
	if got := len(f) - HeadSize; got != MaxHashAnswer {
		t.Fatalf("%d bytes, the bound is %d", got, MaxHashAnswer)
	}
	if _, err := ParseHashAnswer(f[HeadSize:]); err != nil {
		t.Fatal(err)
	}
}

func TestHashRefusals(t *testing.T) {
	good := func() *HashAnswer {
		return &HashAnswer{Keys: make([]HashKey, 1), States: []ChunkState{HashKnown, HashZero, HashUnknown},
			Pieces: []HashPiece{{Chunk: 0, Mask: 1}, {Chunk: 0, Mask: 2}}, Hashes: []uint64{1, 2}}
	}
	for name, spoil := range map[string]func(a *HashAnswer){
		"no chunks":             func(a *HashAnswer) { a.States, a.Pieces, a.Hashes = nil, nil, nil },
		"too many chunks":       func(a *HashAnswer) { a.States = append(a.States, make([]ChunkState, MaxHashChunks)...) },
		"too many keys":         func(a *HashAnswer) { a.Keys = make([]HashKey, MaxHashKeys+1) },
		"unknown state":         func(a *HashAnswer) { a.States[2] = 3 },
		"known without a piece": func(a *HashAnswer) { a.States[1] = HashKnown },
		"zero with a piece":     func(a *HashAnswer) { a.States[0] = HashZero },
		"unknown with a piece":  func(a *HashAnswer) { a.States[0] = HashUnknown },
		"no such chunk":         func(a *HashAnswer) { a.Pieces[1].Chunk = 3 },
		"no such key":           func(a *HashAnswer) { a.Pieces[0].Key = 1 },
		"empty piece":           func(a *HashAnswer) { a.Pieces[1].Mask, a.Hashes = 0, a.Hashes[:1] },
		"a block twice":         func(a *HashAnswer) { a.Pieces[1].Mask = 1 },
		"out of order":          func(a *HashAnswer) { a.States[1] = HashKnown; a.Pieces[0].Chunk = 1 },
		"a hash too few":        func(a *HashAnswer) { a.Hashes = a.Hashes[:1] },
		"a hash too many":       func(a *HashAnswer) { a.Hashes = append(a.Hashes, 3) },
	} {
		a := good()
		if _, err := ParseHashAnswer(a.Append(nil)[HeadSize:]); err != nil {
			t.Fatal(err)
		}
		spoil(a)
		if _, err := ParseHashAnswer(a.Append(nil)[HeadSize:]); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, m := range map[string]HashAsk{"no chunks": {}, "too many": {Count: MaxHashChunks + 1}, "beyond any disk": {Count: 1, First: dr.MaxDiskSize / dr.ChunkSize}} {
		if _, err := ParseHashAsk(m.Append(nil)[HeadSize:]); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHashKeysAreNotPrinted(t *testing.T) {
	k := HashKey{1: 0xab, 2: 0xcd}
	j, err := json.Marshal(map[string]any{"key": k, "answer": HashAnswer{Keys: []HashKey{k}}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", k, "answer", HashAnswer{Keys: []HashKey{k}})
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%x", k), fmt.Sprintf("%#v", k), fmt.Sprintf("%+v", HashAnswer{Keys: []HashKey{k}}), string(j), b.String()} {
		if !strings.Contains(s, redacted) || strings.Contains(strings.ToLower(s), "abcd") || strings.Contains(s, "171") {
			t.Errorf("printed: %s", s)
		}
	}
}

// TestHashDocument compares docs/format/wire.md with the code.
func TestHashDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/format/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	comma := func(n int) string {
		s := fmt.Sprint(n)
		if n >= 1000 {
			s = fmt.Sprintf("%d,%03d", n/1000, n%1000)
		}
		return s
	}
	for _, line := range []string{
		fmt.Sprintf("| %d | hash-ask | host |", TypeHashAsk),
		fmt.Sprintf("| %d | hash-answer | DRVA |", TypeHashAnswer),
		fmt.Sprintf("feature `%s`", FeatureHash),
		fmt.Sprintf("## Hash-ask, %d bytes", hashAskSize),
		"## Hash-answer, at most " + comma(MaxHashAnswer) + " bytes",
		fmt.Sprintf("| 18 | 2 | count | chunks, 1-%d |", MaxHashChunks),
		fmt.Sprintf("| 6 | 2 | keys | at most %d |", MaxHashKeys),
		"| 8 | 2 | pieces | at most " + comma(MaxHashPieces) + " |",
		fmt.Sprintf("| %d | %d each | keys |", hashAnswerHead, HashKeySize),
		fmt.Sprintf("| | %d each | pieces |", hashPieceSize),
		fmt.Sprintf("%d unknown, %d zero, %d known", HashUnknown, HashZero, HashKnown),
	} {
		if !strings.Contains(string(b), line) {
			t.Errorf("wire.md lacks %q", line)
		}
	}
}

func FuzzHashAnswer(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		f.Add(randomAnswer(rng, 3).Append(nil)[HeadSize:])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := ParseHashAnswer(in)
		if err != nil {
			return
		}
		again := a.Append(nil)[HeadSize:]
		if string(again) != string(in) {
			t.Fatal("another encoding of the same")
		}
	})
}

func FuzzHashAsk(f *testing.F) {
	f.Add((&HashAsk{ID: 1, Count: 2, Need: 3}).Append(nil)[HeadSize:])
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := ParseHashAsk(in)
		if err == nil && string(a.Append(nil)[HeadSize:]) != string(in) {
			t.Fatal("another encoding of the same")
		}
	})
}
