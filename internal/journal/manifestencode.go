package journal

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/index"
)

// manifestVersion is the first value of a manifest's plain form. Version 2
// added what stands at its end: the rest of the policy, fingerprints, counts.
// Version 1 is read and not written any more.
const (
	manifestVersion = 2
	manifestFirst   = 1
)

// table numbers values in the order of their first use.
type table[T comparable] struct {
	list  []T
	place map[T]uint64
}

func newTable[T comparable]() *table[T] { return &table[T]{place: make(map[T]uint64)} }

func (t *table[T]) of(v T) uint64 {
	i, ok := t.place[v]
	if !ok {
		i = uint64(len(t.list))
		t.list = append(t.list, v)
		t.place[v] = i
	}
	return i
}

// columns is a manifest being encoded: one column after the other, so that
// equal things lie together and compress.
type columns struct{ b []byte }

func (c *columns) uint(n uint64)    { c.b = binary.AppendUvarint(c.b, n) }
func (c *columns) int(n int64)      { c.b = binary.AppendVarint(c.b, n) }
func (c *columns) uuid(u dr.UUID)   { c.b = append(c.b, u[:]...) }
func (c *columns) time(t time.Time) { c.int(nanos(t)) }

func (c *columns) text(s string) {
	c.uint(uint64(len(s)))
	c.b = append(c.b, s...)
}

func (c *columns) flag(v bool) {
	n := uint64(0)
	if v {
		n = 1
	}
	c.uint(n)
}

// nanos is t as stored: nanoseconds since 1970, 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// column writes f of every element as the difference to the one before.
func column[T any](c *columns, list []T, f func(*T) uint64) {
	last := uint64(0)
	for i := range list {
		v := f(&list[i])
		c.int(int64(v - last)) // wraps, and wraps back
		last = v
	}
}

// encode returns the manifest's plain form; docs/format/journal.md draws it.
// m passes Check.
func (m *Manifest) encode() []byte {
	disks, timelines, lists := newTable[dr.DiskID](), newTable[dr.TimelineID](), &diskLists{}
	for i := range m.Runs {
		for _, p := range m.Runs[i].Parts {
			disks.of(p.First.Disk)
			disks.of(p.Last.Disk)
		}
	}
	for i := range m.Objects {
		if !m.Objects[i].ID.Timeline.IsZero() {
			timelines.of(m.Objects[i].ID.Timeline)
		}
	}
	tombs := splitTombs(m.Tombstones, timelines)
	for i := range m.Points {
		lists.of(m.Points[i].Disks, disks)
	}
	c := &columns{}
	c.uint(manifestVersion)
	c.uuid(m.Timeline.UUID)
	c.uint(m.Generation)
	c.time(m.Created)
	c.text(m.By)
	c.anchor(&m.Anchor)
	c.policy(&m.Policy)
	c.stats(&m.Stats)
	c.uint(uint64(len(disks.list)))
	for _, d := range disks.list {
		c.uuid(d.UUID)
	}
	c.uint(uint64(len(timelines.list)))
	for _, t := range timelines.list {
		c.uuid(t.UUID)
	}
	c.runs(m.Runs, disks)
	c.objects(m.Objects, timelines)
	c.diskLists(lists, disks)
	c.points(m.Points, lists)
	c.tombstones(m.Tombstones, tombs, timelines)
	c.children(m.Children)
	c.added(m)
	return c.b
}

// added is what version 2 added.
func (c *columns) added(m *Manifest) {
	c.int(int64(m.Policy.TagFor))
	c.uint(uint64(slices.Index(lockModes, m.Policy.LockMode)))
	c.int(int64(m.Policy.LockWindow))
	for i := range m.Objects {
		if m.Objects[i].ID.Data.IsZero() {
			c.b = binary.LittleEndian.AppendUint64(c.b, uint64(m.Objects[i].Print))
		}
	}
	c.flag(m.Counted != nil)
	if m.Counted == nil {
		return
	}
	ps := m.Counted.Points
	c.time(m.Counted.At)
	c.time(m.Counted.Made)
	c.uint(uint64(m.Counted.Head))
	c.uint(uint64(len(ps)))
	column(c, ps, func(p *CountedPoint) uint64 { return uint64(p.ID) })
	column(c, ps, func(p *CountedPoint) uint64 { return uint64(nanos(p.Time)) })
	for i := range ps {
		c.uint(uint64(ps[i].Last))
	}
	for i := range ps {
		c.uint(uint64(ps[i].Alone))
	}
}

func (c *columns) anchor(a *Anchor) {
	c.uint(uint64(a.Number))
	c.b = append(c.b, a.Digest[:]...)
	c.uint(uint64(a.Epoch))
	c.uint(uint64(a.Next))
	c.uint(uint64(a.LastSeq))
	c.uint(a.Objects)
	c.uint(a.Fences)
}

func (c *columns) policy(p *Policy) {
	c.uint(uint64(len(p.Schedule)))
	for _, s := range p.Schedule {
		c.int(int64(s.Every))
		c.int(int64(s.For))
	}
	c.int(p.SizeLimit)
	c.flag(p.AlarmOnly)
	c.int(int64(p.Floor))
	c.int(int64(p.Grace))
}

func (c *columns) stats(s *Stats) {
	for _, n := range []int64{s.Stored, s.Live, s.Reclaimable, s.Index, int64(s.Entries), s.Written, nanos(s.LastRun), int64(s.Took)} {
		c.int(n)
	}
	c.text(s.Paused)
}

func (c *columns) runs(runs []RunRef, disks *table[dr.DiskID]) {
	c.uint(uint64(len(runs)))
	var parts []PartRef
	for _, r := range runs {
		c.uint(uint64(r.First))
		c.uint(uint64(r.Last))
		c.uint(uint64(len(r.Parts)))
		parts = append(parts, r.Parts...)
	}
	for _, p := range parts {
		c.uuid(p.ID)
	}
	column(c, parts, func(p *PartRef) uint64 { return uint64(p.Size) })
	column(c, parts, func(p *PartRef) uint64 { return p.Entries })
	column(c, parts, func(p *PartRef) uint64 { return disks.of(p.First.Disk) })
	column(c, parts, func(p *PartRef) uint64 { return uint64(p.First.Chunk) })
	column(c, parts, func(p *PartRef) uint64 { return disks.of(p.Last.Disk) })
	column(c, parts, func(p *PartRef) uint64 { return uint64(p.Last.Chunk) })
}

func (c *columns) objects(all []ObjectState, timelines *table[dr.TimelineID]) {
	journal := 0 // journal objects come first
	for journal < len(all) && all[journal].ID.Data.IsZero() {
		journal++
	}
	c.uint(uint64(journal))
	c.uint(uint64(len(all) - journal))
	column(c, all[:journal], func(o *ObjectState) uint64 { return timelines.of(o.ID.Timeline) })
	column(c, all[:journal], func(o *ObjectState) uint64 { return uint64(o.ID.Number) })
	for _, o := range all[journal:] {
		c.uuid(o.ID.Data)
	}
	for i := range all {
		c.uint(uint64(all[i].Size))
	}
	for i := range all {
		c.uint(uint64(all[i].Size - all[i].Live)) // mostly 0 or small against the size
	}
	column(c, all, func(o *ObjectState) uint64 { return uint64(nanos(o.Created)) })
	column(c, all, func(o *ObjectState) uint64 { return uint64(nanos(o.Retain)) })
}

// diskLists keeps every list of disks once: they change with a disk, not with
// a checkpoint.
type diskLists struct{ list [][]dr.CheckpointDisk }

func (l *diskLists) of(ds []dr.CheckpointDisk, disks *table[dr.DiskID]) uint64 {
	for i := len(l.list) - 1; i >= 0; i-- { // mostly the newest
		if slices.Equal(l.list[i], ds) {
			return uint64(i)
		}
	}
	l.list = append(l.list, ds)
	for _, d := range ds {
		disks.of(d.ID)
	}
	return uint64(len(l.list) - 1)
}

func (c *columns) diskLists(l *diskLists, disks *table[dr.DiskID]) {
	c.uint(uint64(len(l.list)))
	for _, ds := range l.list {
		c.uint(uint64(len(ds)))
		for _, d := range ds {
			c.uint(disks.of(d.ID))
			c.uuid(d.VM.UUID)
			c.uint(uint64(d.Size))
			c.flag(d.Synced)
		}
	}
}

func (c *columns) points(ps []Point, lists *diskLists) {
	c.uint(uint64(len(ps)))
	column(c, ps, func(p *Point) uint64 { return uint64(p.ID) })
	column(c, ps, func(p *Point) uint64 { return uint64(p.Seq) })
	column(c, ps, func(p *Point) uint64 { return uint64(p.Object) })
	column(c, ps, func(p *Point) uint64 { return uint64(nanos(p.Time)) })
	column(c, ps, func(p *Point) uint64 { return uint64(nanos(p.PublishedAt)) })
	column(c, ps, func(p *Point) uint64 { return uint64(p.Kind) })
	column(c, ps, func(p *Point) uint64 { return uint64(p.Scope) })
	column(c, ps, func(p *Point) uint64 { return lists.of(p.Disks, nil) })
	for i := range ps {
		p := &ps[i]
		c.text(p.Tag)
		c.text(p.Suspect)
		c.uint(uint64(len(p.Missing)))
		for _, vm := range p.Missing {
			c.uuid(vm.UUID)
		}
		c.uint(uint64(len(p.Reasons)))
		for _, r := range p.Reasons {
			c.uint(uint64(slices.Index(reasonKinds, r.Kind)))
			c.text(r.Name)
		}
	}
}

// tomb is a tombstone's key taken apart.
type tomb struct {
	part bool // an index part, else id
	id   index.ObjectID
}

func splitTombs(all []Tombstone, timelines *table[dr.TimelineID]) []tomb {
	out := make([]tomb, len(all))
	for i := range all {
		part, id, _ := parseTombKey(all[i].Key)
		out[i] = tomb{part, id}
		if !id.Timeline.IsZero() {
			timelines.of(id.Timeline)
		}
	}
	return out
}

// Forms of a tombstone's key. Part of the format.
const (
	tombJournal = 0
	tombData    = 1
	tombPart    = 2
)

func (c *columns) tombstones(all []Tombstone, tombs []tomb, timelines *table[dr.TimelineID]) {
	c.uint(uint64(len(all)))
	for _, t := range tombs {
		switch {
		case t.part:
			c.uint(tombPart)
			c.uuid(t.id.Data)
		case !t.id.Data.IsZero():
			c.uint(tombData)
			c.uuid(t.id.Data)
		default:
			c.uint(tombJournal)
			c.uint(timelines.of(t.id.Timeline))
			c.uint(uint64(t.id.Number))
		}
	}
	column(c, all, func(t *Tombstone) uint64 { return uint64(nanos(t.Since)) })
	for i := range all {
		c.uint(uint64(all[i].Bytes))
	}
}

func (c *columns) children(all []Child) {
	c.uint(uint64(len(all)))
	for _, k := range all {
		c.uuid(k.Timeline.UUID)
		c.uint(uint64(k.Checkpoint))
		c.uint(uint64(k.Seq))
	}
}

// parseTombKey takes the key of an object that may be deleted apart: an index
// part, whose uuid is in id.Data, or a data or journal object.
func parseTombKey(key string) (part bool, id index.ObjectID, ok bool) {
	for _, p := range []string{prefixIndex, prefixData} {
		if rest, found := strings.CutPrefix(key, p); found {
			u, err := dr.ParseUUID(rest)
			return p == prefixIndex, index.ObjectID{Data: u}, err == nil && !u.IsZero() && p+u.String() == key
		}
	}
	rest, found := strings.CutPrefix(key, prefixTime)
	dir, _, _ := strings.Cut(rest, "/")
	u, err := dr.ParseUUID(dir)
	if !found || err != nil {
		return false, index.ObjectID{}, false
	}
	t := dr.TimelineID{UUID: u}
	n, ok := parseObjectKey(t, key)
	return false, index.ObjectID{Timeline: t, Number: n}, ok && !t.IsZero()
}
