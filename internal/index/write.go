package index

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Key is a place in a run's order.
type Key struct {
	Disk  dr.DiskID
	Chunk uint32
}

// Part is one finished part of a run.
type Part struct {
	Bytes     []byte // at most MaxPart; the receiver's own
	Entries   int
	First     Key    // of the first entry
	Last      Key    // the last chunk any entry touches, on the last disk
	Low, High dr.Seq // the lowest and highest seq of its entries
}

// WriterOptions tune a Writer. The zero value is fine.
type WriterOptions struct {
	// Entries is after how many entries a part ends; 0 and everything above
	// stand for MaxPartEntries.
	Entries int
}

// Writer makes the parts of one run from entries that come in its order. It
// holds one part: 20 MiB of entries and as much as that takes coded. One
// goroutine uses a Writer at a time.
type Writer struct {
	cat  *Catalog
	emit func(Part) error
	most int

	entries []Entry
	objects []object // of the part, as first met
	place   []uint32 // by object of the catalog: 1 + its place in objects
	pack    packer
	vals    [columns][]uint64
	body    []byte // blocks, reused
	total   uint64
	err     error
}

// object is one object of a part.
type object struct {
	number uint32 // in the catalog
	base   dr.Seq // the lowest seq of its entries in the part
}

// NewWriter returns a Writer that hands each part to emit, in order. Entries
// are numbered by cat.
func NewWriter(cat *Catalog, emit func(Part) error, opts WriterOptions) *Writer {
	w := &Writer{cat: cat, emit: emit, most: MaxPartEntries}
	if opts.Entries > 0 {
		w.most = min(w.most, opts.Entries)
	}
	for i := range w.vals {
		w.vals[i] = make([]uint64, BlockEntries)
	}
	return w
}

// Entries is the number of entries added.
func (w *Writer) Entries() uint64 { return w.total }

// Add appends an entry, which is copied. Kind Invalid for an entry that is
// none or that lies before the one before; and whatever emit returns, which
// every later call then returns too.
func (w *Writer) Add(e *Entry) error {
	if w.err != nil {
		return w.err
	}
	if err := w.check(e); err != nil {
		w.err = errs.E("index.Add", errs.Invalid, "", err)
		return w.err
	}
	if len(w.entries) >= w.most || len(w.objects) == MaxPartObjects {
		if w.err = w.flush(); w.err != nil {
			return w.err
		}
	}
	if !e.Zero {
		w.refer(e)
	}
	if n := len(w.entries); n == cap(w.entries) { // doubled: append's smaller steps would copy a part five times over
		w.entries = append(make([]Entry, 0, min(max(2*n, BlockEntries), w.most)), w.entries...)
	}
	w.entries = append(w.entries, *e)
	w.total++
	return nil
}

// Finish closes the last part. A run without entries has no part.
func (w *Writer) Finish() error {
	if w.err == nil && len(w.entries) > 0 {
		w.err = w.flush()
	}
	return w.err
}

func (w *Writer) check(e *Entry) error {
	if int(e.Disk) >= len(w.cat.disks) || !e.Zero && int(e.Object) >= len(w.cat.objects) {
		return fmt.Errorf("version of chunk %d is of a disk or object the catalog lacks", e.Chunk)
	}
	if err := e.check(); err != nil {
		return err
	}
	n := len(w.entries)
	if n == 0 {
		return nil // the first: a part is closed when the next entry is there
	}
	last := &w.entries[n-1]
	if last.Disk == e.Disk {
		if e.before(last) {
			return fmt.Errorf("version %d of chunk %d comes behind version %d of chunk %d", e.Seq, e.Chunk, last.Seq, last.Chunk)
		}
		return nil
	}
	if compareDisks(w.cat.disks[last.Disk], w.cat.disks[e.Disk]) >= 0 {
		return fmt.Errorf("disk %v comes behind disk %v", w.cat.disks[e.Disk], w.cat.disks[last.Disk])
	}
	return nil
}

// refer notes the entry's object.
func (w *Writer) refer(e *Entry) {
	if int(e.Object) >= len(w.place) {
		w.place = append(w.place, make([]uint32, max(len(w.cat.objects), int(e.Object)+1)-len(w.place))...)
	}
	if at := w.place[e.Object]; at != 0 {
		o := &w.objects[at-1]
		o.base = min(o.base, e.Seq)
		return
	}
	w.objects = append(w.objects, object{e.Object, e.Seq})
	w.place[e.Object] = uint32(len(w.objects))
}

// flush codes what is held as a part and hands it over.
func (w *Writer) flush() error {
	w.pack.enc = encoders.Get().(*zstd.Encoder)
	defer encoders.Put(w.pack.enc)
	p := w.part()
	w.entries = w.entries[:0]
	for _, o := range w.objects {
		w.place[o.number] = 0
	}
	w.objects = w.objects[:0]
	return w.emit(p)
}

// fence is what a reader knows of a block without decoding it.
type fence struct {
	disk    uint16 // place in the part's table
	first   uint32 // chunk of the first entry
	reach   uint32 // the chunk behind all entries
	entries int
	size    int // bytes
}

func (w *Writer) part() Part {
	es := w.entries
	p := Part{Entries: len(es), Low: es[0].Seq, High: es[0].Seq}
	for i := range es {
		p.Low, p.High = min(p.Low, es[i].Seq), max(p.High, es[i].Seq)
	}
	w.sortObjects()
	body := w.body[:0]
	var fences []fence
	var disks []dr.DiskID
	for len(es) > 0 {
		n := 1
		for n < min(len(es), BlockEntries) && es[n].Disk == es[0].Disk {
			n++
		}
		if id := w.cat.disks[es[0].Disk]; len(disks) == 0 || disks[len(disks)-1] != id {
			disks = append(disks, id)
		}
		f := fence{disk: uint16(len(disks) - 1), first: es[0].Chunk, entries: n}
		for i := range es[:n] {
			f.reach = max(f.reach, es[i].end())
		}
		at := len(body)
		body = w.block(body, es[:n], p.Low)
		f.size = len(body) - at
		fences = append(fences, f)
		es = es[n:]
	}
	w.body = body
	p.First = Key{disks[0], fences[0].first}
	p.Last = lastKey(disks, fences)
	p.Bytes = w.assemble(&p, disks, fences, body)
	return p
}

// lastKey is the last chunk touched on the last disk.
func lastKey(disks []dr.DiskID, fences []fence) Key {
	k := Key{Disk: disks[len(disks)-1]}
	for _, f := range fences {
		if int(f.disk) == len(disks)-1 {
			k.Chunk = max(k.Chunk, f.reach-1)
		}
	}
	return k
}

// sortObjects brings the part's objects into the order of their lowest seq, so
// that objects near in time have near places, and notes these.
func (w *Writer) sortObjects() {
	slices.SortFunc(w.objects, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.base, b.base), w.cat.objects[a.number].Compare(w.cat.objects[b.number]))
	})
	for i, o := range w.objects {
		w.place[o.number] = uint32(i) + 1
	}
}

// Columns of a block, in their order. Part of the format.
const (
	colChunk  = iota // chunk, less the chunk before; the first, less the fence's
	colMask          // blocks
	colObject        // zigzag: place in the part's table, from 1, or 0 when zero; less the one before
	colSeq           // seq, less the object's base; of zeroes, less the part's lowest
	colFrame         // zigzag: counter, less one above the one before when that is of the same object; of zeroes: chunks - 1
	colSaved         // blocks and tag, less stored bytes; of zeroes 0
	columns
)

// block appends the columns of one disk's entries.
func (w *Writer) block(dst []byte, es []Entry, low dr.Seq) []byte {
	n := len(es)
	v := &w.vals
	chunk, place, next := es[0].Chunk, uint32(0), uint32(0)
	for i := range es {
		e := &es[i]
		v[colChunk][i] = uint64(e.Chunk - chunk)
		v[colMask][i] = uint64(e.Mask)
		chunk = e.Chunk
		if e.Zero {
			v[colObject][i] = zig(-int64(place))
			v[colSeq][i] = uint64(e.Seq - low)
			v[colFrame][i] = zig(int64(e.Chunks - 1))
			v[colSaved][i] = 0
			place = 0
			continue
		}
		at := w.place[e.Object]
		if at != place {
			next = 0
		}
		v[colObject][i] = zig(int64(at) - int64(place))
		v[colSeq][i] = uint64(e.Seq - w.objects[at-1].base)
		v[colFrame][i] = zig(int64(e.Frame) - int64(next))
		v[colSaved][i] = uint64(frameSize(e.Mask) - e.Stored)
		place, next = at, e.Frame+1
	}
	for i := range v {
		dst = w.pack.column(dst, v[i][:n])
	}
	return dst
}

// Offsets in a part's header. Part of the format.
const (
	offMagic     = 0
	offFormat    = 8
	offNeeds     = 10
	offDisks     = 12
	offTimelines = 14
	offLow       = 16
	offHigh      = 24
	offEntries   = 32
	offBlocks    = 36
	offObjects   = 40
	offTables    = 44 // bytes of the tables
	offUnused    = 48
	headerSize   = 64
)

// Magic opens every part.
const Magic = "\x89HFIDX\r\n"

// assemble puts header, tables and blocks together.
func (w *Writer) assemble(p *Part, disks []dr.DiskID, fences []fence, body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body)+len(body)/8)
	for _, d := range disks {
		b = append(b, d.UUID[:]...)
	}
	b, timelines := w.objectTable(b, p.Low)
	b = w.fenceTable(b, fences)
	copy(b[offMagic:], Magic)
	le := binary.LittleEndian
	le.PutUint16(b[offFormat:], FormatVersion)
	le.PutUint16(b[offNeeds:], FormatVersion)
	le.PutUint16(b[offDisks:], uint16(len(disks)))
	le.PutUint16(b[offTimelines:], uint16(timelines))
	le.PutUint64(b[offLow:], uint64(p.Low))
	le.PutUint64(b[offHigh:], uint64(p.High))
	le.PutUint32(b[offEntries:], uint32(p.Entries))
	le.PutUint32(b[offBlocks:], uint32(len(fences)))
	le.PutUint32(b[offObjects:], uint32(len(w.objects)))
	le.PutUint32(b[offTables:], uint32(len(b)-headerSize))
	return append(b, body...)
}

// objectTable appends the uuids of timelines, then of the part's objects their
// timeline (its place, from 1; 0 for a data object), number, base seq; then the
// uuids of data objects.
func (w *Writer) objectTable(b []byte, low dr.Seq) ([]byte, int) {
	n := len(w.objects)
	vals := make([]uint64, 3*n)
	timeline, number, base := vals[:n], vals[n:2*n], vals[2*n:]
	places := make(map[dr.TimelineID]uint64)
	var data []byte
	var last ObjectID
	for i, o := range w.objects {
		id := w.cat.objects[o.number]
		base[i], low = uint64(o.base-low), o.base
		if !id.Data.IsZero() {
			data = append(data, id.Data[:]...)
			continue
		}
		if places[id.Timeline] == 0 {
			places[id.Timeline] = uint64(len(places)) + 1
			b = append(b, id.Timeline.UUID[:]...)
		}
		timeline[i], number[i] = places[id.Timeline], zig(int64(id.Number-last.Number))
		last = id
	}
	b = w.pack.column(b, timeline)
	b = w.pack.column(b, number)
	b = w.pack.column(b, base)
	return append(b, data...), len(places)
}

// fenceTable appends of each block its disk, first chunk, reach, entries and
// bytes.
func (w *Writer) fenceTable(b []byte, fences []fence) []byte {
	vals := make([]uint64, len(fences))
	for _, f := range []func(f fence) uint64{
		func(f fence) uint64 { return uint64(f.disk) },
		func(f fence) uint64 { return uint64(f.first) },
		func(f fence) uint64 { return uint64(f.reach - f.first) },
		func(f fence) uint64 { return uint64(f.entries) },
		func(f fence) uint64 { return uint64(f.size) },
	} {
		for i := range fences {
			vals[i] = f(fences[i])
		}
		b = w.pack.column(b, vals)
	}
	return b
}
