package durabletest

import "maps"

const (
	pageSize   = 4096
	sectorSize = 512
)

// content is sparse file content in pages. Pages are never changed once
// stored, so that copies of the map may share them.
type content map[int64]*[pageSize]byte

// each calls do for every page the range touches with the overlap.
func each(off, n int64, do func(page, from, to, at int64)) {
	for at := int64(0); at < n; {
		page, from := (off+at)/pageSize, (off+at)%pageSize
		to := min(pageSize, from+n-at)
		do(page, from, to, at)
		at += to - from
	}
}

func (c content) read(p []byte, off int64) {
	each(off, int64(len(p)), func(page, from, to, at int64) {
		if b := c[page]; b != nil {
			copy(p[at:], b[from:to])
		} else {
			clear(p[at : at+to-from])
		}
	})
}

func (c content) write(p []byte, off int64) {
	each(off, int64(len(p)), func(page, from, to, at int64) {
		b := new([pageSize]byte)
		if old := c[page]; old != nil && to-from < pageSize {
			*b = *old
		}
		copy(b[from:to], p[at:])
		c[page] = b
	})
}

// missing counts the pages of a range that are not allocated.
func (c content) missing(off, n int64) (count int64) {
	each(off, n, func(page, _, _, _ int64) {
		if c[page] == nil {
			count++
		}
	})
	return count
}

func (c content) truncate(size int64) {
	for page := range c {
		if page*pageSize >= size {
			delete(c, page)
		}
	}
	if size%pageSize != 0 && c[size/pageSize] != nil {
		b := *c[size/pageSize]
		clear(b[size%pageSize:])
		c[size/pageSize] = &b
	}
}

// write is a change of content, or of size, that is not durable yet.
type write struct {
	off      int64
	data     []byte
	before   []byte // what it replaced, while flying
	flying   bool   // the caller waits for it
	doomed   bool   // a Sync over it failed: none will ever cover it
	truncate bool   // set the size to off
}

// node is a file or a directory.
type node struct {
	born    int64 // operation that made it: an order that does not depend on names
	changed int64 // operation of the last change, as a clock
	links   int   // names of a file

	// Files.
	view, stable         content // as read; as surely on disk
	viewSize, stableSize int64
	pending              []*write // in order of start

	// Directories; nil for files.
	names, stableNames map[string]*node
	changes            []nameChange
}

// nameChange sets names of a directory in one step; nil removes.
type nameChange map[string]*node

func (c nameChange) on(names map[string]*node) {
	for name, n := range c {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

func newDir(now int64) *node {
	return &node{born: now, changed: now, names: map[string]*node{}, stableNames: map[string]*node{}}
}

func newFile(now int64) *node {
	return &node{born: now, changed: now, links: 1, view: content{}, stable: content{}}
}

// apply makes a change of names visible, and durable at the next SyncDir.
func (n *node) apply(c nameChange) {
	c.on(n.names)
	n.changes = append(n.changes, c)
}

// settle makes the chosen pending writes durable. Parts of earlier writes that
// they cover can no longer come back.
func (n *node) settle(chosen func(*write) bool) {
	var rest []*write
	for _, p := range n.pending {
		if !chosen(p) {
			rest = append(rest, p)
			continue
		}
		n.commit(p)
		if !p.truncate {
			rest = hide(rest, p.off, p.off+int64(len(p.data)))
		}
	}
	n.pending = rest
}

func (n *node) commit(p *write) {
	if p.truncate {
		n.stable.truncate(p.off)
		n.stableSize = p.off
		return
	}
	n.stable.write(p.data, p.off)
	n.stableSize = max(n.stableSize, p.off+int64(len(p.data)))
}

// hide cuts the range out of finished writes. Writes on their way stay whole:
// which of two concurrent writes wins is open.
func hide(list []*write, from, to int64) []*write {
	var out []*write
	for _, p := range list {
		end := p.off + int64(len(p.data))
		if p.flying || p.truncate || end <= from || p.off >= to {
			out = append(out, p)
			continue
		}
		if p.off < from {
			out = append(out, &write{off: p.off, data: p.data[:from-p.off], doomed: p.doomed})
		}
		if end > to {
			out = append(out, &write{off: to, data: p.data[to-p.off:], doomed: p.doomed})
		}
	}
	return out
}

// clone copies a tree; files with several names stay one file.
func (n *node) clone(seen map[*node]*node) *node {
	if c := seen[n]; c != nil {
		return c
	}
	c := &node{born: n.born, changed: n.changed, links: n.links, viewSize: n.viewSize, stableSize: n.stableSize}
	seen[n] = c
	if n.names == nil {
		c.view, c.stable = maps.Clone(n.view), maps.Clone(n.stable)
		for _, p := range n.pending {
			q := *p
			c.pending = append(c.pending, &q)
		}
		return c
	}
	c.names, c.stableNames = cloneNames(n.names, seen), cloneNames(n.stableNames, seen)
	for _, ch := range n.changes {
		c.changes = append(c.changes, nameChange(cloneNames(ch, seen)))
	}
	return c
}

func cloneNames(names map[string]*node, seen map[*node]*node) map[string]*node {
	out := make(map[string]*node, len(names))
	for name, n := range names {
		if n == nil {
			out[name] = nil
			continue
		}
		out[name] = n.clone(seen)
	}
	return out
}
