package model

import (
	"encoding/binary"
	"sort"
	"sync"
	"time"

	"holdfast/internal/dr"
)

// The site every test builds: two hosts with one VM each, of two disks each,
// the first buffered, the second direct.
const (
	hosts        = 2
	disksPerHost = 2
	disks        = hosts * disksPerHost
)

// hostOf returns which host, and so which VM, has a disk.
func hostOf(disk int) int { return disk / disksPerHost }

// place is a range of bytes of a disk.
type place struct {
	disk   int
	off, n int64
}

func (p place) end() int64 { return p.off + p.n }

// cut returns the place's bytes out of the disks of an image.
func (p place) cut(img *image) []byte { return img[p.disk][p.off:p.end()] }

// image is the content of all disks at one point.
type image [disks][]byte

// times remembers when numbered steps were issued and when they were
// acknowledged, by the machine's wall clock, which the appliance uses too. The
// first is taken before the step, the second after it, so that what is said to
// be acknowledged at a moment was so. Safe for concurrent use.
type times struct {
	mu            sync.Mutex
	issued, acked []time.Time // guarded by mu; by step, from 0
}

func (s *times) issue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, time.Now().Round(0))
}

func (s *times) ack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = append(s.acked, time.Now().Round(0))
}

// before returns how many steps were issued and how many acknowledged before t.
func (s *times) before(t time.Time) (issued, acked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return countBefore(s.issued, t), countBefore(s.acked, t)
}

func countBefore(at []time.Time, t time.Time) int {
	return sort.Search(len(at), func(i int) bool { return !at[i].Before(t) })
}

// all returns how many steps were issued and how many acknowledged.
func (s *times) all() (issued, acked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.issued), len(s.acked)
}

// chain is a counter that hops: step n (from 1) writes n to slot (n-1) mod
// len(slots), and is issued only when step n-1 was acknowledged.
type chain struct {
	times
	id    int
	slots []place
}

// slotOf returns where step n is written.
func (c *chain) slotOf(n uint64) int { return int((n - 1) % uint64(len(c.slots))) }

// last returns the newest of the steps 1 to m that slot i has seen; 0: none.
func (c *chain) last(i int, m uint64) uint64 {
	k := uint64(len(c.slots))
	if m < uint64(i)+1 {
		return 0
	}
	return (m-uint64(i)-1)/k*k + uint64(i) + 1
}

const slotMagic = 0x686f6c6466617374

// encode fills p with what step n writes.
func (c *chain) encode(p []byte, n uint64) {
	pattern(p[24:], mix(uint64(c.id)<<48^n))
	binary.LittleEndian.PutUint64(p, slotMagic)
	binary.LittleEndian.PutUint64(p[8:], uint64(c.id))
	binary.LittleEndian.PutUint64(p[16:], n)
}

// opKind is what a region's operation does.
type opKind uint8

const (
	opWrite opKind = iota
	opZero
	opTrim // reads as zeroes afterwards: the primaries are files
)

// op is one operation of a region.
type op struct {
	kind   opKind
	off, n int64 // inside the region
	seed   uint64
}

// apply does to buf, the region's content, what o does.
func (o *op) apply(buf []byte) {
	if o.kind == opWrite {
		pattern(buf[o.off:o.off+o.n], o.seed)
		return
	}
	clear(buf[o.off : o.off+o.n])
}

// region is a part of a disk with one writer and one operation at a time.
type region struct {
	times
	place
	id  int
	ops []op // guarded by times.mu; ops[i] is step i
}

// begin notes that o is about to be issued.
func (r *region) begin(o op) {
	r.mu.Lock()
	r.ops = append(r.ops, o)
	r.mu.Unlock()
	r.issue()
}

func (r *region) op(i int) op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops[i]
}

// initial returns the region's content before its first operation.
func (r *region) initial() []byte {
	buf := make([]byte, r.n)
	prefill(buf, r.disk, r.off)
	return buf
}

// truth is what the writers know.
type truth struct {
	chains  []*chain
	regions []*region
}

// prefill is what the disks hold before protection: every third chunk is a
// hole, another one is zeroes, the rest is content.
func prefill(buf []byte, disk int, off int64) {
	for at := int64(0); at < int64(len(buf)); {
		chunk := (off + at) / dr.ChunkSize
		inside := (off + at) % dr.ChunkSize
		n := min(dr.ChunkSize-inside, int64(len(buf))-at)
		p := buf[at : at+n]
		if chunk%3 == 0 {
			patternFrom(p, mix(uint64(disk)<<32|uint64(chunk)), inside)
		} else {
			clear(p)
		}
		at += n
	}
}

// isHole reports whether a chunk of the disks is not allocated at first.
func isHole(chunk int64) bool { return chunk%3 == 1 }

// pattern fills p with bytes that tell seed and position apart.
func pattern(p []byte, seed uint64) { patternFrom(p, seed, 0) }

func patternFrom(p []byte, seed uint64, from int64) {
	var word [8]byte
	for at := from; len(p) > 0; {
		binary.LittleEndian.PutUint64(word[:], mix(seed+uint64(at/8)))
		n := copy(p, word[at%8:])
		p, at = p[n:], at+int64(n)
	}
}

// mix spreads the bits of x (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
