package durabletest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"holdfast/internal/durable"
)

// Loss says what stopped the machine.
type Loss uint8

const (
	// PowerLoss: only the disk remains, with any part of what was not durable.
	PowerLoss Loss = iota
	// ProcessDeath: the kernel lives on. Everything written is readable, and
	// still not durable.
	ProcessDeath
)

// Image returns a new file system with what the next start would find if this
// one stopped now. The same seed on the same state gives the same image. The
// original goes on undisturbed. The image has no hook.
func (fs *FS) Image(seed uint64, loss Loss) *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	cfg := fs.cfg
	cfg.Hook = nil
	out := New(cfg)
	out.root = fs.root.clone(map[*node]*node{})
	out.n = fs.n
	r := rand.New(rand.NewPCG(seed, 0xc4a5))
	all := out.root.walk(nil, map[*node]bool{})
	slices.SortFunc(all, func(a, b *node) int { return cmp.Compare(a.born, b.born) })
	for _, n := range all {
		switch {
		case loss == ProcessDeath:
			n.orphan(r)
		case n.names != nil:
			n.loseNames(r)
		default:
			n.loseContent(r)
		}
	}
	out.recount()
	return out
}

// walk lists every node once, those with names that are only pending too.
func (n *node) walk(list []*node, seen map[*node]bool) []*node {
	if n == nil || seen[n] {
		return list
	}
	seen[n] = true
	list = append(list, n)
	for _, names := range append([]nameChange{n.stableNames, n.names}, n.changes...) {
		for _, child := range names {
			list = child.walk(list, seen)
		}
	}
	return list
}

// How much of what is pending survives: the extremes are as likely as the
// mixtures, because most mistakes show at one of them.
const (
	loseAll = iota
	keepAll
	keepFirst // in order, the last one torn
	keepSome  // any of them, torn anywhere
	howMany
)

func (n *node) loseNames(r *rand.Rand) {
	how, cut := r.IntN(howMany), r.IntN(len(n.changes)+1)
	for i, c := range n.changes {
		keep := how == keepAll || how == keepFirst && i < cut || how == keepSome && r.IntN(2) == 0
		if keep {
			c.on(n.stableNames)
		}
	}
	n.names, n.changes = maps.Clone(n.stableNames), nil
}

func (n *node) loseContent(r *rand.Rand) {
	how, cut := r.IntN(howMany), r.IntN(len(n.pending)+1)
	unit := int64(pageSize)
	if r.IntN(2) == 0 {
		unit = sectorSize
	}
	if how == keepSome {
		r.Shuffle(len(n.pending), func(i, j int) { n.pending[i], n.pending[j] = n.pending[j], n.pending[i] })
	}
	growth := how != loseAll && r.IntN(4) > 0 // does a larger size survive
	for i, p := range n.pending {
		whole := how == keepAll || how == keepFirst && i < cut
		if how == loseAll || how == keepFirst && i > cut {
			continue
		}
		n.keep(p, whole, unit, growth, r)
	}
	n.view, n.viewSize, n.pending = maps.Clone(n.stable), n.stableSize, nil
}

// keep puts a pending write, or some units of it, on the disk.
func (n *node) keep(p *write, whole bool, unit int64, growth bool, r *rand.Rand) {
	if p.truncate {
		if whole || r.IntN(2) == 0 {
			n.commit(p)
		}
		return
	}
	chance := 1 + r.IntN(15) // of 16
	for at := int64(0); at < int64(len(p.data)); {
		off := p.off + at
		step := min(unit-off%unit, int64(len(p.data))-at)
		if whole || r.IntN(16) < chance {
			n.keepUnit(p.data[at:at+step], off, growth)
		}
		at += step
	}
}

func (n *node) keepUnit(data []byte, off int64, growth bool) {
	end := off + int64(len(data))
	if end > n.stableSize {
		if !growth {
			return
		}
		n.stableSize = end
	}
	n.stable.write(data, off)
}

// orphan is the death of the process alone: writes on their way get done in
// whole or in part, nothing becomes durable.
func (n *node) orphan(r *rand.Rand) {
	for _, p := range n.pending {
		if !p.flying {
			continue
		}
		p.flying = false
		if r.IntN(2) == 0 || p.truncate {
			continue
		}
		// The view shows the whole write already; take the tail back.
		done := int64(r.IntN(len(p.data)+1)) &^ (sectorSize - 1)
		n.view.write(p.before[done:], p.off+done)
		p.data = p.data[:done]
	}
}

// recount sums up the allocated pages after content was lost.
func (fs *FS) recount() {
	fs.pages = 0
	for _, n := range fs.root.walk(nil, map[*node]bool{}) {
		n.links = 0
		fs.pages += int64(len(n.view))
	}
	for _, n := range fs.root.walk(nil, map[*node]bool{}) {
		for _, child := range n.names {
			child.links++
		}
	}
}

// Flip damages one byte of path's content at rest: it is combined with mask by
// exclusive or. A zero mask or a place outside the file is an error.
func (fs *FS) Flip(path string, off int64, mask byte) error {
	b := make([]byte, 1)
	if err := fs.Peek(path, b, off); err != nil {
		return err
	}
	if mask == 0 {
		return fmt.Errorf("flipping %s with mask 0 changes nothing", path)
	}
	return fs.Poke(path, []byte{b[0] ^ mask}, off)
}

// Peek reads path's content without counting as an operation.
func (fs *FS) Peek(path string, p []byte, off int64) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.find(path)
	if err != nil {
		return durable.Wrap("durabletest.Peek", path, err)
	}
	if off < 0 || off+int64(len(p)) > n.viewSize {
		return durable.Wrap("durabletest.Peek", path, syscall.EINVAL)
	}
	n.view.read(p, off)
	return nil
}

// Poke overwrites content at rest, durably, without counting as an operation:
// damage, or the old content of a write that the device lost.
func (fs *FS) Poke(path string, p []byte, off int64) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.find(path)
	if err != nil {
		return durable.Wrap("durabletest.Poke", path, err)
	}
	if off < 0 || off+int64(len(p)) > n.viewSize {
		return durable.Wrap("durabletest.Poke", path, syscall.EINVAL)
	}
	n.view.write(p, off)
	n.stable.write(p, off)
	return nil
}
