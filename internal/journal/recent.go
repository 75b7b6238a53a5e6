package journal

import (
	"bytes"
	"context"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// recentEnds keeps header and footer of objects (all of small ones) that were just published from
// this very Container, for the maintenance that runs beside the publisher: it
// would otherwise read each of them from the store again, with as many requests
// as publishing takes. Memory is bounded; what was dropped is read. Safe for
// concurrent use; the zero value is empty and keeps nothing until asked once.
type recentEnds struct {
	mu     sync.Mutex
	wanted bool
	ends   map[string]objectEnds
	order  []string // of ends, oldest first
	bytes  int
}

// objectEnds are the parts of an object that are not frames.
type objectEnds struct {
	size int64 // of the whole object
	head []byte
	end  []byte // sealed footer and tail; of an object up to wholeSize all of it
}

func (e *objectEnds) bytes() int { return len(e.head) + len(e.end) }

// want begins to keep.
func (r *recentEnds) want() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.wanted {
		r.wanted, r.ends = true, make(map[string]objectEnds)
	}
}

// add keeps the ends of a whole object, if anybody has asked for any.
func (r *recentEnds) add(key string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.wanted || r.ends[key].size != 0 || len(body) < segment.HeaderSize+segment.TailSize {
		return
	}
	off, _, _, err := segment.ParseTail(body[len(body)-segment.TailSize:])
	if err != nil || off > int64(len(body)) {
		return
	}
	if len(body) <= wholeSize {
		off = 0
	}
	e := objectEnds{int64(len(body)), bytes.Clone(body[:segment.HeaderSize]), bytes.Clone(body[off:])}
	r.ends[key] = e
	r.order = append(r.order, key)
	for r.bytes += e.bytes(); r.bytes > maxRecentBytes || len(r.order) > maxRecent; {
		oldest := r.ends[r.order[0]]
		r.bytes -= oldest.bytes()
		delete(r.ends, r.order[0])
		r.order = r.order[1:]
	}
}

// get returns the ends of an object that the store says has size bytes.
func (r *recentEnds) get(key string, size int64) (objectEnds, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.ends[key]
	return e, ok && e.size == size
}

// loadRecent is load for maintenance: of what was just published from here it
// needs no read, and small objects come whole.
func (c *Container) loadRecent(ctx context.Context, t dr.TimelineID, n dr.ObjectNumber, size int64) (*loaded, error) {
	id := index.ObjectID{Timeline: t, Number: n}
	l := &loaded{number: n, key: ObjectName(id), size: size}
	e, ok := c.recent.get(l.key, size)
	if !ok {
		return c.loadEnds(ctx, id, size, wholeSize)
	}
	l.keepWhole(e.end)
	l.headRaw = e.head
	l.parseHeader(c, id)
	return l, l.parseEnd(ctx, c, e.end)
}
