package journal

import (
	"container/list"
	"context"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/index"
)

// HashCache keeps footers and index parts between calls of DiskHashes, which
// go over one disk range by range and meet the same ones again. All of it is
// immutable in the store, so that nothing in the cache ever becomes wrong.
// Bounded by maxHashFooters and maxHashParts. Safe for concurrent use.
type HashCache struct {
	footers lru[index.ObjectID, *Object]
	parts   lru[dr.UUID, []byte]
}

// NewHashCache returns an empty cache.
func NewHashCache() *HashCache {
	return &HashCache{footers: lru[index.ObjectID, *Object]{most: maxHashFooters}, parts: lru[dr.UUID, []byte]{most: maxHashParts}}
}

// object returns an open object, nil when it is not kept.
func (k *HashCache) object(id index.ObjectID) *Object {
	o, _ := k.footers.get(id)
	return o
}

func (k *HashCache) keepObject(o *Object) {
	const entry, zero, other = 48, 32, 4096 // bytes in memory
	f := o.Footer
	k.footers.put(o.Ref, o, other+len(f.Entries)*entry+len(f.Zeros)*zero+len(f.Hashes)*8)
}

// part returns the plain form of an index part.
func (k *HashCache) part(ctx context.Context, c *Container, p PartRef) ([]byte, error) {
	if b, ok := k.parts.get(p.ID); ok {
		return b, nil
	}
	b, err := c.OpenRunPart(ctx, p)
	if err == nil {
		k.parts.put(p.ID, b, len(b))
	}
	return b, err
}

// lru keeps values of a total size, those used last. Safe for concurrent use.
type lru[K comparable, V any] struct {
	most int // bytes

	mu    sync.Mutex // guards all below
	at    map[K]*list.Element
	order list.List // of *kept[K, V], used last first
	bytes int
}

type kept[K comparable, V any] struct {
	key   K
	value V
	size  int
}

func (l *lru[K, V]) get(key K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.at[key]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*kept[K, V]).value, true
}

// put keeps v, if it fits at all and is not there.
func (l *lru[K, V]) put(key K, v V, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, twice := l.at[key]; twice || size > l.most {
		return
	}
	if l.at == nil {
		l.at = make(map[K]*list.Element)
	}
	l.at[key] = l.order.PushFront(&kept[K, V]{key, v, size})
	for l.bytes += size; l.bytes > l.most; {
		k := l.order.Remove(l.order.Back()).(*kept[K, V])
		delete(l.at, k.key)
		l.bytes -= k.size
	}
}
