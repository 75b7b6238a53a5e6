package index

import (
	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Rule says what a merge keeps: every version that a retained checkpoint or
// the head sees, and nothing else.
type Rule struct {
	// Retained are the seqs of the retained checkpoints, ascending. A
	// checkpoint sees versions whose seq is at most its own. The head, which
	// sees all, is retained always.
	Retained []dr.Seq
	// Bottom: nothing older exists, neither in another run nor in a parent
	// timeline, so that what has no version reads as zeroes.
	Bottom bool
	// Disks are the disks of the head and of all retained checkpoints: what is
	// of another disk is dropped. Nil keeps all disks.
	Disks map[dr.DiskID]bool
	// Dropped, when not nil, is called for each entry with a frame that is not
	// kept. The entry is valid during the call.
	Dropped func(e *Entry)
}

// Tally counts one object's frames in a merge.
type Tally struct {
	Kept, Dropped           uint64 // frames
	KeptBytes, DroppedBytes uint64 // stored bytes of them
}

// Merged is what a merge did.
type Merged struct {
	In, Out uint64  // entries read and written; pieces of zero ranges count
	Objects []Tally // by number in the Catalog
}

// Merge writes what rule keeps of the sources to dst, which it does not
// finish. Sources are one timeline's, of adjacent ranges of seqs (their order
// does not matter), and share dst's Catalog.
//
// The result has what each retained checkpoint and the head see, block by
// block, and is minimal: without any one of its entries some of them would see
// something else. A zero range may be cut in pieces where others cover it.
// Sizes of disks do not matter: what lies behind a disk's end is kept like the
// rest, so that a disk that shrinks and grows again reads as it was written.
//
// Memory: a part and a block of each source, dst's part, the versions of one
// chunk at a time, and some thousand entries kept back while zero ranges are
// open. Errors are the sources' and dst's; kind Full beyond MaxVersions or
// MaxRanges, Invalid for a Rule out of order.
func Merge(dst *Writer, sources []Source, rule Rule) (*Merged, error) {
	const op = "index.Merge"
	for i := 1; i < len(rule.Retained); i++ {
		if rule.Retained[i-1] > rule.Retained[i] {
			return nil, errs.New(op, errs.Invalid, "", "retained checkpoints are out of order")
		}
	}
	m := &merger{dst: dst, rule: rule, result: &Merged{}}
	s := sweep{cat: dst.cat, v: m}
	if err := s.run(sources); err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	m.result.In = s.read
	if n := len(dst.cat.objects) - len(m.result.Objects); n > 0 {
		m.result.Objects = append(m.result.Objects, make([]Tally, n)...)
	}
	return m.result, nil
}

// merger is the visitor that applies the rule.
type merger struct {
	dst    *Writer
	rule   Rule
	result *Merged
	disk   uint16

	list []version
	held []Entry // kept back: a piece of a zero range in it is open
	open int     // pieces
}

// version is one version of a chunk under judgement.
type version struct {
	seq   dr.Seq
	mask  uint16
	taken uint16 // blocks that a checkpoint of its gap sees here
	zero  bool
	keep  bool
	index int32 // of the entry, or of the zone less one half of the numbers
}

// zones count from here in version.index.
const zoneIndex = 1 << 30

func (m *merger) begin(disk uint16) bool {
	m.disk = disk
	return m.rule.Disks == nil || m.rule.Disks[m.dst.cat.disks[disk]]
}

func (m *merger) left(e *Entry) {
	if !e.Zero {
		m.drop(e)
	}
}

func (m *merger) chunk(c uint32, vs []Entry, zs []zone) error {
	if err := m.cut(c, zs); err != nil {
		return err
	}
	if len(vs) == 1 && len(zs) == 0 && !vs[0].Zero {
		m.tally(&vs[0]).keep(&vs[0])
		return m.put(&vs[0]) // the head sees it
	}
	m.gather(vs, zs)
	m.see()
	m.needZeroes()
	for i := range m.list {
		v := &m.list[i]
		if v.index >= zoneIndex {
			m.judge(&zs[v.index-zoneIndex], v.keep, c)
			continue
		}
		e := &vs[v.index]
		switch {
		case v.keep:
			if !e.Zero {
				m.tally(e).keep(e)
			}
			if err := m.put(e); err != nil {
				return err
			}
		case !e.Zero:
			m.drop(e)
		}
	}
	return m.settle()
}

// gather makes one list, newest first, of versions and zones.
func (m *merger) gather(vs []Entry, zs []zone) {
	m.list = m.list[:0]
	z := 0
	for i := range vs {
		for ; z < len(zs) && zs[z].seq > vs[i].Seq; z++ {
			m.list = append(m.list, version{seq: zs[z].seq, mask: fullMask, zero: true, index: int32(zoneIndex + z)})
		}
		m.list = append(m.list, version{seq: vs[i].Seq, mask: vs[i].Mask, zero: vs[i].Zero, index: int32(i)})
	}
	for ; z < len(zs); z++ {
		m.list = append(m.list, version{seq: zs[z].seq, mask: fullMask, zero: true, index: int32(zoneIndex + z)})
	}
}

// see finds the versions that some checkpoint, or the head, sees. Checkpoints
// between two versions that follow each other cut the list into gaps; inside
// one gap all checkpoints see the same: the newest version of each block.
func (m *merger) see() {
	covered := uint16(0)
	g := -1
	for i := range m.list {
		v := &m.list[i]
		now := m.older(v.seq, g)
		if now != g {
			g, covered = now, 0
		}
		v.taken = v.mask &^ covered
		v.keep = v.taken != 0
		covered |= v.mask
	}
}

// older is the number of retained checkpoints with a seq below seq. most is
// that of a version at least as new, or -1.
func (m *merger) older(seq dr.Seq, most int) int {
	c := m.rule.Retained
	lo, hi := 0, len(c)
	if most >= 0 {
		if most == 0 || c[most-1] < seq {
			return most
		}
		lo, hi = gallop(c, seq, most-1)
	}
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); c[mid] < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// gallop narrows the search down from the right: c[hi] >= seq.
func gallop(c []dr.Seq, seq dr.Seq, hi int) (int, int) {
	for step := 1; ; step *= 2 {
		lo := hi - step
		if lo < 0 {
			return 0, hi
		}
		if c[lo] < seq {
			return lo + 1, hi
		}
		hi = lo
	}
}

// needZeroes takes back the zeroes under which there are zeroes already.
func (m *merger) needZeroes() {
	data := uint16(fullMask) // blocks of which the newest kept version so far is data, or unknown
	if m.rule.Bottom {
		data = 0
	}
	for i := len(m.list) - 1; i >= 0; i-- {
		switch v := &m.list[i]; {
		case !v.keep:
		case !v.zero:
			data |= v.mask
		case v.taken&data == 0:
			v.keep = false
		default:
			data &^= v.mask
		}
	}
}

// gap keeps of zones with nothing between them the one that the oldest
// checkpoints see: the others are zeroes over zeroes.
func (m *merger) gap(from, to uint32, zs []zone) error {
	if err := m.cut(from, zs); err != nil {
		return err
	}
	keeper := -1
	if !m.rule.Bottom {
		keeper = len(zs) - 1
		for g := m.older(zs[keeper].seq, -1); keeper > 0 && m.older(zs[keeper-1].seq, -1) == g; {
			keeper--
		}
	}
	for i := range zs {
		m.judge(&zs[i], i == keeper, from)
	}
	return m.settle()
}

// judge begins or ends a piece of z at chunk c.
func (m *merger) judge(z *zone, keep bool, c uint32) {
	switch {
	case keep && !z.open:
		z.open, z.at = true, len(m.held)
		m.held = append(m.held, Entry{Seq: z.seq, Chunk: c, Mask: fullMask, Disk: m.disk, Zero: true})
		m.open++
	case !keep && z.open:
		m.ended(z, c)
	}
}

// ended ends z's piece, if it has one, before chunk c.
func (m *merger) ended(z *zone, c uint32) {
	if z.open {
		z.open = false
		m.open--
		m.held[z.at].Chunks = c - m.held[z.at].Chunk
	}
}

// cut ends all open pieces before chunk c when too much is kept back behind
// them. They go on as new pieces, so that a range costs one entry more for each
// holdBack entries written. It also writes what no piece keeps back any more.
func (m *merger) cut(c uint32, zs []zone) error {
	if len(m.held) >= max(holdBack, 4*m.open) {
		for i := range zs {
			m.ended(&zs[i], c)
		}
	}
	return m.settle()
}

func (m *merger) done() error { return m.settle() }

// put writes an entry, or keeps it back behind an open piece.
func (m *merger) put(e *Entry) error {
	if len(m.held) == 0 {
		m.result.Out++
		return m.dst.Add(e)
	}
	m.held = append(m.held, *e)
	return nil
}

// settle writes what is kept back when no piece is open.
func (m *merger) settle() error {
	if m.open > 0 {
		return nil
	}
	for i := range m.held {
		m.result.Out++
		if err := m.dst.Add(&m.held[i]); err != nil {
			return err
		}
	}
	m.held = m.held[:0]
	return nil
}

func (m *merger) tally(e *Entry) *Tally {
	if n := int(e.Object) + 1 - len(m.result.Objects); n > 0 {
		m.result.Objects = append(m.result.Objects, make([]Tally, max(n, len(m.dst.cat.objects)-len(m.result.Objects)))...)
	}
	return &m.result.Objects[e.Object]
}

func (t *Tally) keep(e *Entry) {
	t.Kept++
	t.KeptBytes += uint64(e.Stored)
}

func (m *merger) drop(e *Entry) {
	t := m.tally(e)
	t.Dropped++
	t.DroppedBytes += uint64(e.Stored)
	if m.rule.Dropped != nil {
		m.rule.Dropped(e)
	}
}
