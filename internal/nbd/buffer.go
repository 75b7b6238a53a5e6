package nbd

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// pageAlign satisfies every O_DIRECT device we know of (logical blocks of 512
// and 4096 bytes) and the memory alignment of its buffers.
const pageAlign = 4096

// buffer is a page-aligned piece of memory with a count of its users. The
// last release gives it back to its pool.
type buffer struct {
	b    []byte
	refs atomic.Int32
	pool *bufferPool
	acct *account
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		acct, n := b.acct, len(b.b)
		b.acct = nil
		b.pool.put(b)
		if acct != nil {
			acct.give(n)
		}
	}
}

// alone reports whether the caller is the only user.
func (b *buffer) alone() bool { return b.refs.Load() == 1 }

// account is the memory one connection has taken from the pool.
type account struct {
	used  atomic.Int64
	freed chan struct{} // capacity 1; written by whoever gives memory or an operation back, read by the loop
}

func (a *account) give(n int) {
	a.used.Add(int64(-n))
	a.signal()
}

func (a *account) signal() {
	select {
	case a.freed <- struct{}{}:
	default:
	}
}

// bufferPool keeps buffers of a server for reuse, in classes of a quarter of a
// power of two (at most a fifth is wasted, which a payload of a power of two
// with a header in front would not be spared by coarser ones). Unlike sync.Pool it is not
// emptied by the garbage collector, so a steady load allocates nothing.
type bufferPool struct {
	mu       sync.Mutex
	retained int64
	free     map[int][]*buffer // by size
}

func newBufferPool() *bufferPool { return &bufferPool{free: make(map[int][]*buffer)} }

// classOf rounds a size up to its class.
func classOf(n int) int {
	step := max(pageAlign, 1<<bits.Len(uint(n-1))>>3)
	return (n + step - 1) &^ (step - 1)
}

// get returns a buffer of at least n bytes with one user, charged to acct.
func (p *bufferPool) get(n int, acct *account) *buffer {
	size := classOf(n)
	var b *buffer
	p.mu.Lock()
	if l := p.free[size]; len(l) > 0 {
		b = l[len(l)-1]
		p.free[size] = l[:len(l)-1]
		p.retained -= int64(size)
	}
	p.mu.Unlock()
	if b == nil {
		b = &buffer{b: alignedBytes(size), pool: p}
	}
	b.refs.Store(1)
	b.acct = acct
	if acct != nil {
		acct.used.Add(int64(size))
	}
	return b
}

func (p *bufferPool) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := len(b.b)
	if p.retained+int64(size) > poolRetain {
		return // to the garbage collector
	}
	p.retained += int64(size)
	p.free[size] = append(p.free[size], b)
}

// alignedBytes allocates n bytes that start on a page.
func alignedBytes(n int) []byte {
	raw := make([]byte, n+pageAlign)
	shift := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (pageAlign - 1)
	return raw[shift : shift+n : shift+n]
}

// alignedTo reports whether p starts on a multiple of align, a power of two.
func alignedTo(p []byte, align int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))&uintptr(align-1) == 0
}
