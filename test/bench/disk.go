package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// makeDisk writes a file of size random bytes: every block allocated, so that
// no run pays for allocation, and nothing compressible.
//
// A disk that is to be served from the page cache is written block by block:
// the kernel caches a file in pieces as large as the writes that made them, and
// a 4 KiB write into a file made by writes of 1 MiB costs 60 us of processor
// time on ext4, where one made by writes of 4 KiB takes 2 us (Linux 6.18). A disk
// that is to be served past the cache leaves it.
func makeDisk(ctx context.Context, path string, size int64, cached bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	src := mathrand.NewChaCha8(seed)
	buf := make([]byte, mib)
	piece := len(buf)
	if cached {
		piece = blockSize
	}
	for off := int64(0); off < size; off += mib {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := src.Read(buf); err != nil {
			return err
		}
		for p := range slices.Chunk(buf, piece) {
			if _, err := f.Write(p); err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		}
	}
	if err := f.Sync(); err != nil || cached {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// settle writes back what the last run left dirty and waits for a calm disk.
func settle(ctx context.Context, dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	limit := time.Now().Add(settleWithin)
	for time.Now().Before(limit) {
		n, err := dirtyBytes()
		if err != nil {
			return err
		}
		if n <= settledDirty {
			return nil
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// dirtyBytes returns what the kernel has yet to write back.
func dirtyBytes() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "Dirty:" || f[0] == "Writeback:") {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("meminfo: %w", err)
			}
			sum += kb * 1024
		}
	}
	return sum, nil
}

// sampler remembers the content of random blocks of a disk.
type sampler struct {
	path   string
	direct bool
	seed   maphash.Seed
	blocks []int64 // block numbers
	before []uint64
	mtime  time.Time
}

// newSampler reads the sample. A disk served past the page cache is read past
// it too: cached pages would slow the run down.
func newSampler(path string, size int64, direct bool) (*sampler, error) {
	n := bufferedSamples
	if direct {
		n = directSamples
	}
	s := &sampler{path: path, direct: direct, seed: maphash.MakeSeed(), blocks: make([]int64, n)}
	for i := range s.blocks {
		s.blocks[i] = mathrand.Int64N(size / blockSize)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	s.mtime = st.ModTime()
	s.before, err = s.read()
	return s, err
}

func (s *sampler) read() ([]uint64, error) {
	flags := os.O_RDONLY
	if s.direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(s.path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := alignedBlock()
	sums := make([]uint64, len(s.blocks))
	for i, b := range s.blocks {
		if _, err := f.ReadAt(buf, b*blockSize); err != nil {
			return nil, fmt.Errorf("sample %s: %w", s.path, err)
		}
		sums[i] = maphash.Bytes(s.seed, buf)
	}
	return sums, nil
}

// alignedBlock returns a block that direct reads accept.
func alignedBlock() []byte {
	b := make([]byte, 2*blockSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (blockSize - 1)
	return b[skip:][:blockSize:blockSize]
}

// check tells whether the disk changed as writes of written bytes in all must
// have changed it. A third of what is expected of the sample is enough: it is
// random, and writes may fall on one another.
func (s *sampler) check(written, size int64) error {
	st, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if !st.ModTime().After(s.mtime) {
		return fmt.Errorf("%s was not written to", s.path)
	}
	after, err := s.read()
	if err != nil {
		return err
	}
	changed := 0
	for i := range after {
		if after[i] != s.before[i] {
			changed++
		}
	}
	return judgeSample(changed, len(after), written, size)
}

// judgeSample compares what changed of a sample with what should have. Where
// next to nothing is expected (a very short or slow run) it accepts.
func judgeSample(changed, sampled int, written, size int64) error {
	const enough = 6 // fewer are expected to be none by chance too often to judge
	expected := float64(sampled) * min(1, float64(written)/float64(size))
	if expected >= enough && float64(changed) < expected/3 {
		return fmt.Errorf("only %d of %d sampled blocks changed where %.0f were expected: the writes did not reach the disk", changed, sampled, expected)
	}
	return nil
}

// errDiffer is the one failure that nothing may explain away.
var errDiffer = errors.New("CONTENT DIFFERS")

// sameContent compares two disks byte for byte. size bytes of each are read.
func sameContent(ctx context.Context, size int64, a, b io.ReaderAt) error {
	x, y := make([]byte, mib), make([]byte, mib)
	for off := int64(0); off < size; off += mib {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(mib, size-off)
		if err := readFull(a, x[:n], off); err != nil {
			return err
		}
		if err := readFull(b, y[:n], off); err != nil {
			return err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return differAt(x[:n], y[:n], off)
		}
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("read %d bytes at %d: got %d: %w", len(p), off, n, err)
	}
	return nil
}

// differAt names the first difference.
func differAt(x, y []byte, off int64) error {
	for i := range x {
		if x[i] != y[i] {
			at := i &^ 7
			return fmt.Errorf("%w at byte %d (block %d): %x, rebuilt %x", errDiffer, off+int64(i), (off+int64(i))/blockSize,
				binary.BigEndian.Uint64(x[at:]), binary.BigEndian.Uint64(y[at:]))
		}
	}
	return nil
}
