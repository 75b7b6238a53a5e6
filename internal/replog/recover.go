package replog

import (
	"bytes"
	"errors"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// recovery reads what a log holds and decides where it ends. It changes
// nothing on disk before it knows that nothing acknowledged is missing.
type recovery struct {
	l        *Log
	win      window
	byNumber map[uint64]*foundFile
	unknown  []*slot // slots without a sound header
	carried  *inForce
	torn     bool
	seen     uint32 // highest incarnation seen
	lastInc  uint32 // incarnation of the last accepted batch
	fresh    bool   // there is no log yet
	tail     [maxInFlight]tailPart
	tailN    int      // batches of the last file accepted; the newest are in tail
	pages    [][]byte // header and carry area of the last file
	recs     []record.Record
}

type foundFile struct {
	slot   *slot
	header fileHeader
}

// tailPart is an accepted batch that may not be durable although it was read.
type tailPart struct {
	off  int64
	data []byte
}

// run finds the files and accepts batches up to the log's end.
func (v *recovery) run() error {
	v.byNumber = map[uint64]*foundFile{}
	v.carried = newInForce()
	v.seen = v.l.st.incarnation
	v.win.buf = durable.AlignedBytes(v.l.bufferSize())
	if err := v.findSlots(); err != nil {
		return err
	}
	if v.fresh {
		return v.refuseOrphans()
	}
	if err := v.acceptFiles(); err != nil {
		return err
	}
	l := v.l
	l.issued, l.durable, l.delivered, l.trimmed = l.accepted, l.accepted, l.accepted.number, l.st.trimmed
	if l.durable.number < l.st.durableBatch {
		return v.corrupt(l.opts.Dir, 0, l.durable.seq+1, fmt.Sprintf("log ends at seq %d, but was durable to seq %d", l.durable.seq, l.st.durableSeq))
	}
	return nil
}

// corrupt is the error of damage at a place, from which on records may be lost.
func (v *recovery) corrupt(path string, off int64, seq dr.Seq, words string) error {
	return errs.New("replog.Open", errs.Corrupt, path,
		fmt.Sprintf("at byte %d, seq %d: %s", off, seq, words)).WithRemedy(remedyCorrupt)
}

// findSlots opens all slots and sorts them: in use, free, unknown.
func (v *recovery) findSlots() error {
	l := v.l
	list, err := durable.ReadDir(l.fs, l.opts.Dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		id, ok := slotID(e.Name)
		if !ok {
			continue
		}
		if id != l.slots {
			return v.corrupt(slotPath(l.opts.Dir, l.slots), 0, 0, "log file is missing")
		}
		s := &slot{id: id, path: slotPath(l.opts.Dir, id)}
		if s.f, err = l.openFile(s.path); err != nil {
			return err
		}
		l.slots++
		l.free = append(l.free, s) // closed with the log in any case
		s.size = e.Size
		if e.Size != l.fileSize && !v.fresh {
			return v.corrupt(s.path, 0, 0, fmt.Sprintf("log file has %d bytes, not %d", e.Size, l.fileSize))
		}
	}
	all := l.free
	l.free = nil
	for i, s := range all {
		if err := v.classify(s); err != nil {
			l.free = append(l.free, all[i+1:]...)
			return err
		}
	}
	return nil
}

// classify reads a slot's header and files the slot away.
func (v *recovery) classify(s *slot) error {
	l := v.l
	l.free = append(l.free, s) // until acceptFiles takes it
	page, err := v.win.get(s.f, 0, pageSize, pageSize)
	if err != nil {
		return err
	}
	if bytes.Count(page, []byte{0}) == pageSize {
		return nil // pre-written, never used
	}
	var h fileHeader
	if err := h.parse(page); err != nil {
		if errs.Is(err, errs.Invalid) {
			return errs.E("replog.Open", errs.Invalid, s.path, err)
		}
		v.unknown = append(v.unknown, s)
		return nil
	}
	if v.fresh {
		return v.corrupt(l.statePath(), 0, h.firstSeq, "file is missing, but "+s.path+" belongs to a log")
	}
	if h.uuid != l.st.uuid {
		return errs.New("replog.Open", errs.Invalid, s.path, "file belongs to another log").
			WithRemedy("move the file back to where it came from")
	}
	v.seen = max(v.seen, h.incarnation)
	if h.number < l.st.firstFile {
		return nil
	}
	if v.byNumber[h.number] != nil {
		return v.corrupt(s.path, 0, h.firstSeq, fmt.Sprintf("log file %d is there twice, also as %s", h.number, v.byNumber[h.number].slot.path))
	}
	if h.size != l.fileSize {
		return v.corrupt(s.path, 0, h.firstSeq, "header tells another file size")
	}
	v.byNumber[h.number] = &foundFile{s, h}
	return nil
}

// refuseOrphans makes sure that a log without state never held a batch: its
// making was cut short, and its slots are made anew. Anything else is a log
// that lost its state.
func (v *recovery) refuseOrphans() error {
	for _, s := range v.unknown {
		h, off, err := v.findHead(s, 0, func(*batchHead) bool { return true })
		if err != nil {
			return err
		}
		if off >= 0 {
			return v.corrupt(v.l.statePath(), 0, h.firstSeq, "file is missing, but "+s.path+" holds records of a log")
		}
	}
	l := v.l
	for n := len(l.free); n > 0; n-- {
		s := l.free[n-1]
		l.free = l.free[:n-1]
		if err := errors.Join(s.f.Close(), durable.Remove(l.fs, s.path)); err != nil {
			return err
		}
	}
	l.slots = 0
	return nil
}

// acceptFiles walks the files in order of number.
func (v *recovery) acceptFiles() error {
	l := v.l
	first := v.byNumber[l.st.firstFile]
	if first == nil && (l.st.durableBatch > 0 || len(v.byNumber) > 0) {
		return v.corrupt(l.opts.Dir, 0, l.st.trimmed+1, fmt.Sprintf("log file %d, the first, is missing or its header is damaged", l.st.firstFile))
	}
	l.nextFile = l.st.firstFile
	if first != nil && (first.header.number == 1) != (first.header.firstBatch == 1) ||
		first != nil && l.st.trimmed > 0 && first.header.firstSeq > l.st.trimmed+1 {
		return v.corrupt(first.slot.path, 0, l.st.trimmed+1, fmt.Sprintf("first file starts at seq %d, batch %d", first.header.firstSeq, first.header.firstBatch))
	}
	if first != nil {
		l.accepted = batchPlace{first.header.firstBatch - 1, first.header.firstSeq - 1, first.header.prevCRC}
	}
	for range len(v.byNumber) {
		f := v.byNumber[l.nextFile]
		if f == nil {
			return v.corrupt(l.opts.Dir, 0, l.accepted.seq+1, fmt.Sprintf("log file %d is missing or its header is damaged", l.nextFile))
		}
		if err := v.acceptFile(f); err != nil {
			return err
		}
	}
	return v.checkEnd()
}

// acceptFile checks that f continues the log and accepts its batches.
func (v *recovery) acceptFile(found *foundFile) error {
	l, h, s := v.l, &found.header, found.slot
	// A header is written when all before it is durable: whatever is missing
	// there was acknowledged.
	if h.firstBatch != l.accepted.number+1 || h.firstSeq != l.accepted.seq+1 ||
		h.prevCRC != l.accepted.crc && !l.opts.knobs.noChain {
		prev := l.files[len(l.files)-1]
		return v.corrupt(prev.path, prev.durableEnd, l.accepted.seq+1,
			fmt.Sprintf("batch %d is damaged, and log file %d begins with batch %d", l.accepted.number+1, h.number, h.firstBatch))
	}
	carried, err := v.acceptCarry(found)
	if err != nil {
		return err
	}
	if len(l.files) == 0 {
		v.carried, l.state = carried.copy(), carried
	}
	f := &logFile{slot: s, number: h.number, firstSeq: h.firstSeq, firstBatch: h.firstBatch, start: h.start(),
		opening: true, ready: true, durableEnd: h.start(), lastSeq: h.firstSeq - 1,
		marks: make([]mark, 0, l.fileSize/markSpacing+1)}
	l.files = append(l.files, f)
	l.nextFile = h.number + 1
	l.removeFree(s)
	v.tailN = 0
	for {
		more, err := v.acceptBatch(f)
		if err != nil || !more {
			l.plan.hasFile, l.plan.off = true, f.durableEnd
			return err
		}
	}
}

// removeFree takes s from the free slots.
func (l *Log) removeFree(s *slot) {
	for i := range l.free {
		if l.free[i] == s {
			l.free = append(l.free[:i], l.free[i+1:]...)
			return
		}
	}
}

// acceptCarry reads and checks the carry area of a file.
func (v *recovery) acceptCarry(found *foundFile) (*inForce, error) {
	h := &found.header
	area := durable.AlignedBytes(int(h.carryBytes))
	for at := 0; at < len(area); {
		n := min(len(area)-at, len(v.win.buf))
		b, err := v.win.get(found.slot.f, pageSize+int64(at), n, h.start())
		if err != nil {
			return nil, err
		}
		at += copy(area[at:], b)
	}
	if record.Checksum(area) != h.carryCRC {
		return nil, v.corrupt(found.slot.path, pageSize, h.firstSeq, "carry area does not match its checksum")
	}
	carried, err := parseCarry(area)
	if err != nil {
		return nil, v.corrupt(found.slot.path, pageSize, h.firstSeq, err.Error())
	}
	head, err := v.win.get(found.slot.f, 0, pageSize, pageSize)
	if err != nil {
		return nil, err
	}
	v.pages = [][]byte{append(durable.AlignedBytes(pageSize)[:0], head...), area}
	return carried, nil
}

// acceptBatch accepts the next batch of f, if there is a sound one.
func (v *recovery) acceptBatch(f *logFile) (more bool, err error) {
	l := v.l
	off := f.durableEnd
	if off+pageSize > l.fileSize {
		return false, nil
	}
	page, err := v.win.get(f.f, off, pageSize, l.fileSize)
	if err != nil {
		return false, err
	}
	var h batchHead
	if !h.parse(page) || !v.follows(&h) || off+h.size() > l.fileSize {
		return false, nil
	}
	b, err := v.win.get(f.f, off, int(h.size()), l.fileSize)
	if err != nil {
		return false, err
	}
	if v.recs, err = h.records(b, v.recs[:0]); err != nil {
		return false, nil // checkEnd tells torn from damaged
	}
	f.addMark(off, h.firstSeq, l.accepted)
	for i := range v.recs {
		l.state.apply(&v.recs[i])
	}
	l.accepted = batchPlace{h.number, h.last(), h.crc}
	v.lastInc, v.seen = h.incarnation, max(v.seen, h.incarnation)
	f.durableEnd, f.lastSeq = off+h.size(), h.last()
	v.remember(off, b)
	return true, nil
}

// follows reports whether h is the head of the batch that comes next.
func (v *recovery) follows(h *batchHead) bool {
	a := v.l.accepted
	if h.uuid != v.l.st.uuid || h.number != a.number+1 || h.firstSeq != a.seq+1 {
		return false
	}
	return v.l.opts.knobs.noChain || h.prevCRC == a.crc && h.incarnation >= v.lastInc
}

// remember keeps the last batches that may have been in flight.
func (v *recovery) remember(off int64, b []byte) {
	t := &v.tail[v.tailN%maxInFlight]
	v.tailN++
	if t.data == nil {
		t.data = durable.AlignedBytes(v.l.bufferSize())
	}
	t.off, t.data = off, t.data[:len(b)]
	copy(t.data, b)
}

// checkEnd makes sure that nothing acknowledged lies behind the last accepted
// batch. With batch k bad, k+1 may have been on its way at the same time: both
// are dropped. A batch from k+2 on was begun after k was durable.
func (v *recovery) checkEnd() error {
	l := v.l
	k := l.accepted.number + 1
	if n := len(l.files); n > 0 {
		f := l.files[n-1]
		proof := func(h *batchHead) bool {
			if h.number == k || h.number == k+1 {
				v.torn = true
			}
			return h.number >= k+maxInFlight
		}
		h, off, err := v.findHead(f.slot, f.durableEnd, proof)
		if err != nil {
			return err
		}
		if off >= 0 && !l.opts.knobs.noEvidence {
			return v.corrupt(f.path, f.durableEnd, l.accepted.seq+1,
				fmt.Sprintf("batch %d is damaged, and batch %d follows at byte %d", k, h.number, off))
		}
	}
	// A header is durable before the first batch of its file is begun. So a
	// bad header over a batch that continues the log is damage.
	for _, s := range v.unknown {
		h, off, err := v.findHead(s, 0, func(h *batchHead) bool {
			return h.number == k && h.prevCRC == l.accepted.crc || h.number >= k+maxInFlight
		})
		if err != nil {
			return err
		}
		if off >= 0 && !l.opts.knobs.noEvidence {
			return v.corrupt(s.path, 0, h.firstSeq, fmt.Sprintf("file header is damaged, and batch %d is at byte %d", h.number, off))
		}
	}
	return nil
}

// findHead looks for a batch head of this log (of any, while there is no log)
// that is wanted, page by page from off on, skipping the payload of whole
// batches. It returns its offset, or -1.
func (v *recovery) findHead(s *slot, off int64, want func(*batchHead) bool) (batchHead, int64, error) {
	l := v.l
	var h batchHead
	for off+pageSize <= s.size {
		page, err := v.win.get(s.f, off, pageSize, s.size)
		if err != nil {
			return h, -1, err
		}
		if !h.parse(page) || !v.fresh && h.uuid != l.st.uuid {
			off += pageSize
			continue
		}
		v.seen = max(v.seen, h.incarnation)
		if want(&h) {
			return h, off, nil
		}
		whole := off+h.size() <= s.size
		if whole {
			b, err := v.win.get(s.f, off, int(h.size()), s.size)
			if err != nil {
				return h, -1, err
			}
			v.recs, err = h.records(b, v.recs[:0])
			whole = err == nil
		}
		if whole {
			off += h.size()
		} else {
			off += pageSize
		}
	}
	return h, -1, nil
}

// settle makes durable what was accepted: the last batches, and the header of
// the last file, may have been read from a cache that forgets. They are
// written again where they lie. Then the new incarnation is made durable.
func (v *recovery) settle() error {
	l := v.l
	if n := len(l.files); n > 0 && !l.opts.knobs.noSettle {
		f := l.files[n-1]
		if err := l.writeDurable(f.f, v.pages, 0); err != nil {
			return err
		}
		for i := max(0, v.tailN-maxInFlight); i < v.tailN; i++ {
			t := &v.tail[i%maxInFlight]
			if err := l.writeDurable(f.f, [][]byte{t.data}, t.off); err != nil {
				return err
			}
		}
	}
	return l.saveState(func(s *state) {
		if !l.opts.knobs.sameIncarnation {
			s.incarnation = v.seen + 1
		}
	})
}

// result is what the caller of Open gets to know.
func (v *recovery) result() Recovery {
	l := v.l
	r := Recovery{
		Trimmed: l.trimmed, TornTail: v.torn,
		Carried: v.carried.list(), InForce: l.state.list(), LastHostSeq: l.state.hostSeqs(),
	}
	if len(l.files) > 0 {
		r.First, r.Last = l.files[0].firstSeq, l.accepted.seq
	}
	return r
}
