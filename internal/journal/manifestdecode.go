package journal

import (
	"encoding/binary"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// decoder takes a manifest's plain form apart. The first thing wrong ends it:
// everything after is zero. What it allocates is bounded by the bytes given:
// a count is compared with what is left first.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
		d.b = nil
	}
}

func (d *decoder) uint() uint64 {
	n, k := binary.Uvarint(d.b)
	if k <= 0 {
		d.fail("it ends too early")
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) int() int64 {
	n, k := binary.Varint(d.b)
	if k <= 0 {
		d.fail("it ends too early")
		return 0
	}
	d.b = d.b[k:]
	return n
}

// size is an unsigned number that fits an int64.
func (d *decoder) size() int64 {
	n := int64(d.uint())
	if n < 0 {
		d.fail("a size is out of bounds")
		return 0
	}
	return n
}

// small is an unsigned number of at most most.
func (d *decoder) small(most uint64) uint64 {
	n := d.uint()
	if n > most {
		d.fail("a value of %d is above %d", n, most)
		return 0
	}
	return n
}

func (d *decoder) bytes(n int) []byte {
	if len(d.b) < n {
		d.fail("it ends too early")
		return make([]byte, n) // n is small or was compared with the bytes left
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) uuid() dr.UUID              { return dr.UUID(d.bytes(len(dr.UUID{}))) }
func (d *decoder) time() time.Time            { return fromNanos(d.int()) }
func (d *decoder) span() time.Duration        { return time.Duration(d.int()) }
func (d *decoder) flag() bool                 { return d.small(1) == 1 }
func (d *decoder) text(most int) string       { return string(d.bytes(int(d.small(uint64(most))))) }
func (d *decoder) place(n int) uint64         { return d.inTable(d.uint(), n) }
func (d *decoder) digest() (g segment.Digest) { copy(g[:], d.bytes(len(g))); return g }

func (d *decoder) inTable(i uint64, n int) uint64 {
	if i >= uint64(n) {
		d.fail("it names entry %d of a table of %d", i, n)
		return 0
	}
	return i
}

// count reads the number of elements that take at least least bytes each.
func (d *decoder) count(most, least int) int {
	n := d.uint()
	if n > uint64(most) || n > uint64(len(d.b)/least) {
		d.fail("a list of %d elements is out of bounds", n)
		return 0
	}
	return int(n)
}

// uncolumn reads what column wrote.
func uncolumn[T any](d *decoder, list []T, f func(*T, uint64)) {
	last := uint64(0)
	for i := range list {
		last += uint64(d.int())
		f(&list[i], last)
	}
}

// decodeManifest is the inverse of encode. Kind Corrupt for anything else.
func decodeManifest(plain []byte) (*Manifest, error) {
	const op = "journal.ReadManifest"
	d := &decoder{b: plain}
	version := d.uint()
	if d.err == nil && (version < manifestFirst || version > manifestVersion) {
		return nil, errs.New(op, errs.Invalid, "", fmt.Sprintf("the manifest has version %d; this release reads versions %d to %d", version, manifestFirst, manifestVersion)).
			WithRemedy("use a newer release of Holdfast")
	}
	m := &Manifest{Timeline: dr.TimelineID{UUID: d.uuid()}, Generation: d.uint(), Created: d.time(), By: d.text(maxName)}
	m.Anchor = d.anchor()
	m.Policy = d.policy()
	m.Stats = d.stats()
	disks := make([]dr.DiskID, d.count(len(plain), 16))
	for i := range disks {
		disks[i].UUID = d.uuid()
	}
	timelines := make([]dr.TimelineID, d.count(len(plain), 16))
	for i := range timelines {
		timelines[i].UUID = d.uuid()
	}
	m.Runs = d.runs(disks)
	m.Objects = d.objects(timelines)
	m.Points = d.points(d.diskLists(disks))
	m.Tombstones = d.tombstones(timelines)
	m.Children = d.children()
	if version > manifestFirst {
		d.added(m)
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes follow its end", len(d.b))
	}
	if d.err != nil {
		return nil, errs.E(op, errs.Corrupt, "", d.err)
	}
	if err := m.Check(); err != nil {
		return nil, errs.E(op, errs.Corrupt, "", err)
	}
	return m, nil
}

func (d *decoder) anchor() Anchor {
	return Anchor{
		Number: dr.ObjectNumber(d.uint()), Digest: d.digest(), Epoch: dr.Epoch(d.small(1<<32 - 1)),
		Next: dr.ObjectNumber(d.uint()), LastSeq: dr.Seq(d.uint()), Objects: d.uint(), Fences: d.uint(),
	}
}

func (d *decoder) policy() (p Policy) {
	p.Schedule = make([]Slot, d.count(maxSlots, 2))
	for i := range p.Schedule {
		p.Schedule[i] = Slot{Every: d.span(), For: d.span()}
	}
	p.SizeLimit, p.AlarmOnly = d.int(), d.flag()
	p.Floor, p.Grace = d.span(), d.span()
	return p
}

func (d *decoder) stats() Stats {
	return Stats{
		Stored: d.int(), Live: d.int(), Reclaimable: d.int(), Index: d.int(), Entries: uint64(d.int()),
		Written: d.int(), LastRun: d.time(), Took: d.span(), Paused: d.text(maxWords),
	}
}

func (d *decoder) runs(disks []dr.DiskID) []RunRef {
	const partLeast = 16 + 6
	runs := make([]RunRef, d.count(maxRuns, 3))
	total := 0
	for i := range runs {
		r := &runs[i]
		r.First, r.Last = dr.Seq(d.uint()), dr.Seq(d.uint())
		n := d.count(maxParts-total, partLeast)
		r.Parts = make([]PartRef, 0, n)
		total += n
	}
	if total > len(d.b)/partLeast {
		d.fail("it has more index parts than bytes")
		return nil
	}
	parts := make([]PartRef, total)
	for i := range parts {
		parts[i].ID = d.uuid()
	}
	disk := func(i uint64) (id dr.DiskID) {
		if i = d.inTable(i, len(disks)); d.err == nil {
			id = disks[i]
		}
		return id
	}
	chunk := func(n uint64) uint32 {
		if n >= segment.MaxChunks {
			d.fail("a chunk is out of bounds")
		}
		return uint32(n)
	}
	uncolumn(d, parts, func(p *PartRef, v uint64) { p.Size = int64(v) })
	uncolumn(d, parts, func(p *PartRef, v uint64) { p.Entries = v })
	uncolumn(d, parts, func(p *PartRef, v uint64) { p.First.Disk = disk(v) })
	uncolumn(d, parts, func(p *PartRef, v uint64) { p.First.Chunk = chunk(v) })
	uncolumn(d, parts, func(p *PartRef, v uint64) { p.Last.Disk = disk(v) })
	uncolumn(d, parts, func(p *PartRef, v uint64) { p.Last.Chunk = chunk(v) })
	for i := range runs {
		n := cap(runs[i].Parts)
		runs[i].Parts, parts = parts[:n:n], parts[n:]
		for _, p := range runs[i].Parts {
			runs[i].Entries += p.Entries
		}
	}
	return runs
}

func (d *decoder) objects(timelines []dr.TimelineID) []ObjectState {
	journal := d.count(maxManifestObjects, 2+4)
	all := make([]ObjectState, journal+d.count(maxManifestObjects-journal, 16+4))
	uncolumn(d, all[:journal], func(o *ObjectState, v uint64) {
		if v = d.inTable(v, len(timelines)); d.err == nil {
			o.ID.Timeline = timelines[v]
		}
	})
	uncolumn(d, all[:journal], func(o *ObjectState, v uint64) { o.ID.Number = dr.ObjectNumber(v) })
	for i := range all[journal:] {
		all[journal+i].ID.Data = d.uuid()
	}
	for i := range all {
		all[i].Size = d.size()
	}
	for i := range all {
		all[i].Live = all[i].Size - d.size()
	}
	uncolumn(d, all, func(o *ObjectState, v uint64) { o.Created = fromNanos(int64(v)) })
	uncolumn(d, all, func(o *ObjectState, v uint64) { o.Retain = fromNanos(int64(v)) })
	return all
}

func (d *decoder) diskLists(disks []dr.DiskID) [][]dr.CheckpointDisk {
	const diskLeast = 1 + 16 + 1 + 1
	lists := make([][]dr.CheckpointDisk, d.count(maxPoints, 1))
	for i := range lists {
		n := d.count(segment.MaxDisks, diskLeast)
		if n == 0 {
			continue
		}
		lists[i] = make([]dr.CheckpointDisk, n)
		for j := range lists[i] {
			k := &lists[i][j]
			if at := d.place(len(disks)); d.err == nil {
				k.ID = disks[at]
			}
			k.VM.UUID, k.Size, k.Synced = d.uuid(), d.size(), d.flag()
		}
	}
	return lists
}

func (d *decoder) points(lists [][]dr.CheckpointDisk) []Point {
	const pointLeast = 8 + 4
	ps := make([]Point, d.count(maxPoints, pointLeast))
	uncolumn(d, ps, func(p *Point, v uint64) { p.ID = dr.CheckpointID(v) })
	uncolumn(d, ps, func(p *Point, v uint64) { p.Seq = dr.Seq(v) })
	uncolumn(d, ps, func(p *Point, v uint64) { p.Object = dr.ObjectNumber(v) })
	uncolumn(d, ps, func(p *Point, v uint64) { p.Time = fromNanos(int64(v)) })
	uncolumn(d, ps, func(p *Point, v uint64) { p.PublishedAt = fromNanos(int64(v)) })
	uncolumn(d, ps, func(p *Point, v uint64) { p.Kind = dr.CheckpointKind(d.inTable(v, int(dr.UserTagged)+1)) })
	uncolumn(d, ps, func(p *Point, v uint64) { p.Scope = dr.Scope(d.inTable(v, int(dr.Group)+1)) })
	uncolumn(d, ps, func(p *Point, v uint64) {
		if v = d.inTable(v, len(lists)); d.err == nil {
			p.Disks = lists[v]
		}
	})
	for i := range ps {
		d.pointTexts(&ps[i])
		if d.err != nil {
			return nil
		}
	}
	return ps
}

func (d *decoder) pointTexts(p *Point) {
	p.Tag, p.Suspect = d.text(segment.MaxTag), d.text(maxWords)
	if n := d.count(segment.MaxMissing, 16); n > 0 {
		p.Missing = make([]dr.VMID, n)
		for j := range p.Missing {
			p.Missing[j].UUID = d.uuid()
		}
	}
	p.Reasons = make([]Reason, d.count(maxReasons, 2))
	for j := range p.Reasons {
		p.Reasons[j] = Reason{Kind: reasonKinds[d.place(len(reasonKinds))], Name: d.text(maxName)}
	}
}

func (d *decoder) tombstones(timelines []dr.TimelineID) []Tombstone {
	all := make([]Tombstone, d.count(maxTombstones, 3+2))
	for i := range all {
		switch d.small(tombPart) {
		case tombPart:
			all[i].Key = PartName(d.uuid())
		case tombData:
			all[i].Key = ObjectName(index.ObjectID{Data: d.uuid()})
		default:
			if at, n := d.place(len(timelines)), d.uint(); d.err == nil {
				all[i].Key = ObjectName(index.ObjectID{Timeline: timelines[at], Number: dr.ObjectNumber(n)})
			}
		}
	}
	uncolumn(d, all, func(t *Tombstone, v uint64) { t.Since = fromNanos(int64(v)) })
	for i := range all {
		all[i].Bytes = d.size()
	}
	return all
}

func (d *decoder) children() []Child {
	all := make([]Child, d.count(maxTimelines, 16+2))
	for i := range all {
		all[i] = Child{Timeline: dr.TimelineID{UUID: d.uuid()}, Checkpoint: dr.CheckpointID(d.uint()), Seq: dr.Seq(d.uint())}
	}
	return all
}

// added is what version 2 added.
func (d *decoder) added(m *Manifest) {
	m.Policy.TagFor = d.span()
	m.Policy.LockMode = lockModes[d.place(len(lockModes))]
	m.Policy.LockWindow = d.span()
	for i := range m.Objects {
		if m.Objects[i].ID.Data.IsZero() {
			m.Objects[i].Print = Fingerprint(binary.LittleEndian.Uint64(d.bytes(8)))
		}
	}
	if !d.flag() {
		return
	}
	const pointLeast = 4
	n := &Counted{At: d.time(), Made: d.time(), Head: d.size()}
	n.Points = make([]CountedPoint, d.count(maxPoints, pointLeast))
	uncolumn(d, n.Points, func(p *CountedPoint, v uint64) { p.ID = dr.CheckpointID(v) })
	uncolumn(d, n.Points, func(p *CountedPoint, v uint64) { p.Time = fromNanos(int64(v)) })
	for i := range n.Points {
		n.Points[i].Last = d.size()
	}
	for i := range n.Points {
		n.Points[i].Alone = d.size()
	}
	m.Counted = n
}
