// Package pattern is what the test guest guest/writer writes, and how to check
// it from the host: blocks whose place, order and content follow from a
// worker's number and the count of its writes alone.
//
// A block of 4 KiB repeats this in each of its 8 sectors, little endian:
//
//	offset  0  u64  block's number on the disk
//	        8  u64  number of the worker's write, from 1
//	       16  …    bytes derived from both
//
// The package does no I/O of its own and holds no state.
package pattern

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// Block is the grain of writes, bytes.
	Block = 4096
	// Workers is how many write to each disk at the same time.
	Workers = 4
	// Region is how many blocks a worker owns: 4 MiB, so that a run overwrites
	// each many times.
	Region = 1024
	// DiskBytes is what a disk must have at least.
	DiskBytes = Workers * Region * Block

	sector = 512
	header = 16
)

// At returns the block that a worker's nth write (from 1) goes to.
func At(worker int, n uint64) uint64 {
	x := (n + uint64(worker)<<32) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 32
	return uint64(worker)*Region + x%Region
}

// Fill makes p the content of the nth write to block.
func Fill(p []byte, block, n uint64) {
	for s := 0; s < Block; s += sector {
		binary.LittleEndian.PutUint64(p[s:], block)
		binary.LittleEndian.PutUint64(p[s+8:], n)
		x := block*0x9e3779b97f4a7c15 + n
		for i := s + header; i < s+sector; i += 8 {
			x = x*6364136223846793005 + 1442695040888963407
			binary.LittleEndian.PutUint64(p[i:], x)
		}
	}
}

// Stamp returns the number of the write that p's first sector is of.
func Stamp(p []byte) uint64 { return binary.LittleEndian.Uint64(p[8:]) }

// Check verifies a worker's region after its last write number acknowledged;
// one more may have been under way. It returns what is wrong, in words.
func Check(disk io.ReaderAt, worker int, acknowledged uint64) (problems []string) {
	last := map[uint64]uint64{}
	for n := uint64(1); n <= acknowledged; n++ {
		last[At(worker, n)] = n
	}
	underway := At(worker, acknowledged+1)
	got, want := make([]byte, Block), make([]byte, Block)
	for i := range uint64(Region) {
		block := uint64(worker)*Region + i
		if _, err := disk.ReadAt(got, int64(block)*Block); err != nil {
			return append(problems, fmt.Sprintf("block %d: %v", block, err))
		}
		n := last[block]
		if block == underway && Stamp(got) == acknowledged+1 {
			n = acknowledged + 1
		}
		if clear(want); n > 0 {
			Fill(want, block, n)
		}
		if p := differ(block, n, got, want); p != "" {
			problems = append(problems, p)
		}
	}
	return problems
}

// differ names the first sector that is not as wanted.
func differ(block, n uint64, got, want []byte) string {
	for s := 0; s < Block; s += sector {
		if string(got[s:s+sector]) != string(want[s:s+sector]) {
			return fmt.Sprintf("block %d sector %d holds write %d of block %d, want write %d",
				block, s/sector, binary.LittleEndian.Uint64(got[s+8:]), binary.LittleEndian.Uint64(got[s:]), n)
		}
	}
	return ""
}
