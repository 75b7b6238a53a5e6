package sidecar

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathbits "math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// Range is N bytes from byte Off of the disk; N > 0, inside the disk.
type Range struct{ Off, N int64 }

// Sidecar is the open file of one disk. Safe for concurrent use.
type Sidecar struct {
	fs      durable.FS
	path    string
	id      Identity
	regions int

	hot []atomic.Uint64 // open, and touched since the running round began

	// wr is held over writes to the file, and taken before mu.
	wr   sync.Mutex
	file durable.File // nil: closed for good
	head head
	disk bits   // the regions as the file has them, or is about to
	page []byte // maxRun pages, aligned

	mu       sync.Mutex
	open     bits // never more than the file has; changed by holders of wr
	count    int  // of open
	warm     bits // of the round: touched in the one before
	cand     bits // of the round: may be closed
	round    Round
	pinned   int // open regions the last round found to wait for their copying
	given    bool
	hand     int    // where the last round stopped taking warm regions
	syncs    uint64 // synchronous writes to the file
	failures uint64
}

// Round names a try to close regions; a later one makes it void.
type Round uint64

// Vouch is what a sidecar says of the disk to whoever keeps its copy.
type Vouch struct {
	Runs    []uint64   // the disk's copy is complete, but for open regions, if it came from one of these
	Durable dr.HostSeq // the log must hold the stream of Runs[0] up to here
	Clean   bool       // no region is open, and the primary was not written to since it was said so
}

// Open reads the sidecar at path and takes it over: it is replaced by a copy
// that only this run knows. If there is none that can be used, a new one is
// made with every region open, that vouches for nothing. modified is the
// primary's modification time (Unix nanoseconds, 0 if it tells none): a clean
// sidecar whose primary was written to since is not used.
//
// On an error the Sidecar is usable nevertheless, and opens nothing: an older
// file may still be there, see Void.
func Open(fs durable.FS, path string, id Identity, modified int64) (*Sidecar, error) {
	n := id.regions()
	s := &Sidecar{fs: fs, path: path, id: id, regions: n, hot: make([]atomic.Uint64, (n+63)/64),
		page: durable.AlignedBytes(maxRun * pageSize), warm: newBits(n), cand: newBits(n)}
	h, open, ok := head{}, bits(nil), false
	p, err := durable.ReadFile(fs, path, maxFile)
	if err == nil {
		h, open, ok = decode(p, id)
	}
	if !ok || h.state == clean && h.modified != modified {
		h, open = head{id: id}, newBits(n)
		open.fill(n)
	}
	s.head, s.open, s.disk = h, open, slices.Clone(open)
	s.recount()
	if err != nil && !errs.Is(err, errs.NotFound) {
		clear(s.open) // the file may be sound, and a later run may be able to read it
		s.recount()
		return s, errs.E("sidecar.Open", errs.KindOf(err), path, err)
	}
	return s, s.replace()
}

// Create makes the sidecar at path of a disk that no run brought to its state,
// but a recovery: run is dr.OriginRun of the checkpoint it was rebuilt from, and
// written is where it may differ from that. An older file is replaced. From
// here on nobody may write to the disk but a host component that has the file.
// Durable on return; after an error an older file may be there: see Void.
func Create(fs durable.FS, path string, id Identity, run uint64, written []Range) error {
	const op = "sidecar.Create"
	if run == 0 || id.Size <= 0 || id.Size > dr.MaxDiskSize {
		return errs.New(op, errs.Invalid, path, "the disk has no size, or what vouches for it no name")
	}
	h := head{id: id, serial: 1, runs: []uint64{run}}
	var g [8]byte
	rand.Read(g[:]) // never fails
	h.generation = le.Uint64(g[:])
	open := newBits(id.regions())
	for _, r := range written {
		lo, hi := max(r.Off, 0), min(r.Off+min(r.N, dr.MaxDiskSize), id.Size)
		if lo >= hi {
			continue
		}
		first, last := span(Range{lo, hi - lo})
		for i := first; i <= last; i++ {
			open.set(i)
		}
	}
	if err := durable.WriteFile(fs, path, encode(&h, open)); err != nil {
		return errs.E(op, errs.KindOf(err), path, err)
	}
	return nil
}

func (s *Sidecar) recount() {
	s.count = 0
	for _, w := range s.open {
		s.count += mathbits.OnesCount64(w)
	}
}

// replace makes a new file of what is in memory. Caller holds wr, or is the
// only one.
func (s *Sidecar) replace() error {
	const op = "sidecar.replace"
	var g [8]byte
	rand.Read(g[:]) // never fails
	s.head.generation, s.head.serial = le.Uint64(g[:]), s.head.serial+1
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	if err := durable.WriteFile(s.fs, s.path, encode(&s.head, s.disk)); err != nil {
		return errs.E(op, errs.KindOf(err), s.path, err)
	}
	f, err := s.fs.OpenFile(s.path, durable.Write|durable.Direct|durable.DSync)
	if errors.Is(err, durable.ErrNoDirect) {
		f, err = s.fs.OpenFile(s.path, durable.Write|durable.DSync)
	}
	if err != nil {
		return errs.E(op, errs.KindOf(err), s.path, err)
	}
	s.file = f
	return nil
}

// span is the regions of a range: first to last, both included.
func span(r Range) (first, last int) {
	return int(r.Off >> regionShift), int((r.Off + r.N - 1) >> regionShift)
}

// Hot reports whether a write to the range may be submitted at once. It takes
// no lock; false says only that Touch has to be asked.
func (s *Sidecar) Hot(off, n int64) bool {
	first, last := off>>regionShift, (off+n-1)>>regionShift
	for r := first; r <= last; r++ {
		if s.hot[r>>6].Load()>>(r&63)&1 == 0 {
			return false
		}
	}
	return true
}

// Touch is Hot for a range of which a part was not touched since the running
// round began: if all of it is open, it stays so in this round.
func (s *Sidecar) Touch(off, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given {
		return true
	}
	first, last := span(Range{off, n})
	for r := first; r <= last; r++ {
		if !s.open.has(r) {
			return false
		}
	}
	s.heat(first, last)
	return true
}

// heat marks open regions as touched. Caller holds mu.
func (s *Sidecar) heat(first, last int) {
	for r := first; r <= last; r++ {
		s.hot[r/64].Or(1 << (r % 64))
	}
}

// OpenRegions opens the regions of all ranges, and of what a sequential stream
// will want next. They are open on the disk when it returns; one write serves
// all that lie in one page. After an error the file is not to be trusted: see
// Void.
func (s *Sidecar) OpenRegions(ranges []Range) error {
	s.wr.Lock()
	defer s.wr.Unlock()
	fresh := s.missing(ranges)
	if len(fresh) > 0 {
		if err := s.soil(); err != nil {
			return err
		}
		for _, r := range fresh {
			s.disk.set(r)
		}
		if err := s.writePages(fresh); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range fresh {
		s.open.set(r)
	}
	s.count += len(fresh)
	for _, r := range ranges {
		s.heat(span(r))
	}
	return nil
}

// missing lists the closed regions that ranges need or will need, rising.
func (s *Sidecar) missing(ranges []Range) (fresh []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range ranges {
		first, last := span(x)
		before := len(fresh)
		for r := first; r <= last; r++ {
			if !s.open.has(r) {
				fresh = append(fresh, r)
			}
		}
		if len(fresh) == before || first == 0 || !s.open.has(first-1) {
			continue
		}
		for r := last + 1; r <= min(last+openAhead, s.regions-1) && !s.open.has(r); r++ {
			fresh = append(fresh, r)
		}
	}
	slices.Sort(fresh)
	return slices.Compact(fresh)
}

// soil takes back that the disk is clean, before anything is written to it.
func (s *Sidecar) soil() error {
	if s.head.state != clean {
		return nil
	}
	h := s.head
	h.state, h.modified = inUse, 0
	return s.writeHead(h)
}

// writeHead puts a new head over the older copy. Caller holds wr.
func (s *Sidecar) writeHead(h head) error {
	h.serial++
	h.put(s.page[:pageSize])
	if err := s.write(s.page[:pageSize], int64(h.serial%headPages)*pageSize); err != nil {
		return err
	}
	s.head = h
	return nil
}

// writePages writes the pages of changed regions, which rise. Caller holds wr.
func (s *Sidecar) writePages(changed []int) error {
	const perPage = sectorRegions * sectorsPerPage
	for i := 0; i < len(changed); {
		first := changed[i] / perPage
		last := first
		for ; i < len(changed) && changed[i]/perPage <= last+1 && changed[i]/perPage < first+maxRun; i++ {
			last = changed[i] / perPage
		}
		p := s.page[:(last-first+1)*pageSize]
		for n := range len(p) / sectorSize {
			putSector(p[n*sectorSize:], first*sectorsPerPage+n, s.head.generation, s.disk)
		}
		if err := s.write(p, int64(headPages+first)*pageSize); err != nil {
			return err
		}
	}
	return nil
}

// write is one synchronous write. After an error there are no more.
func (s *Sidecar) write(p []byte, off int64) error {
	if s.file == nil {
		return errs.New("sidecar.write", errs.Unavailable, s.path, "the sidecar was given up")
	}
	s.mu.Lock()
	s.syncs++
	s.mu.Unlock()
	if err := s.file.WriteAtv([][]byte{p}, off); err != nil {
		return errs.E("sidecar.write", errs.KindOf(err), s.path, err)
	}
	return nil
}

// Begin begins a round: from here on every touch is noticed. dirty tells
// whether any of a region waits to be copied. It reports how many regions the
// round may close; with none there is no use in going on.
//
// The caller then waits for the writes that were in flight, notes the end of
// its stream, flushes the primary, waits until the log has the stream to that
// end, and calls Close.
func (s *Sidecar) Begin(dirty func(region int) bool) (Round, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.round++
	if s.given {
		return s.round, 0
	}
	for w := range s.hot {
		s.warm[w] = s.hot[w].Swap(0)
	}
	s.pinned = 0
	n := 0
	for w := range s.cand {
		s.cand[w] = 0
		for left := s.open[w]; left != 0; left &= left - 1 {
			r := w*64 + mathbits.TrailingZeros64(left)
			if dirty(r) {
				s.pinned++
				continue
			}
			s.cand.set(r)
			if !s.warm.has(r) {
				n++
			}
		}
	}
	return s.round, n + max(0, s.count-s.pinned-MaxOpen)
}

// Close ends a round: regions that were not touched since the one before it
// began are closed, and of the others, if there are more than MaxOpen, so many
// that a quarter is free again. all closes whatever may be. durable is how far
// the log had come in the stream of run, for which the sidecar must be settled.
// An error is as in OpenRegions; Close of a round that is over does nothing.
func (s *Sidecar) Close(round Round, run uint64, durable dr.HostSeq, all bool) (closed int, err error) {
	s.wr.Lock()
	defer s.wr.Unlock()
	if !s.settledFor(run) {
		return 0, nil
	}
	victims := s.victims(round, all)
	if len(victims) == 0 {
		return 0, nil
	}
	if h := s.head; durable > h.durable {
		h.durable = durable
		if err := s.writeHead(h); err != nil {
			return 0, err
		}
	}
	for _, r := range victims {
		s.disk.clear(r)
	}
	return len(victims), s.writePages(victims)
}

// victims takes what is to be closed out of open: from here on a write to it
// has to open it again, which waits for wr.
func (s *Sidecar) victims(round Round, all bool) (out []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if round != s.round || s.given {
		return nil
	}
	s.round++ // a round closes once
	excess := 0
	if over := s.count - s.pinned; over > MaxOpen {
		excess = over - MaxOpen*3/4
	}
	take := func(r int) {
		s.open.clear(r)
		s.cand.clear(r)
		out = append(out, r)
	}
	s.each(0, func(r int) {
		if all || !s.warm.has(r) {
			take(r)
		}
	})
	if hand := s.hand; len(out) < excess {
		warm := func(r int) {
			if len(out) < excess {
				take(r)
				s.hand = r
			}
		}
		s.each(hand, warm)
		s.each(0, warm) // what was below the hand
	}
	s.count -= len(out)
	slices.Sort(out)
	return out
}

// each calls do for the candidates from a region on that nobody touched.
// Caller holds mu.
func (s *Sidecar) each(from int, do func(r int)) {
	for w := from / 64; w < len(s.cand); w++ {
		left := s.cand[w] &^ s.hot[w].Load()
		for ; left != 0; left &= left - 1 {
			do(w*64 + mathbits.TrailingZeros64(left))
		}
	}
}

// Crowded reports whether more than MaxOpen regions are open that do not wait
// to be copied.
func (s *Sidecar) Crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count-s.pinned > MaxOpen
}

// Count is the number of open regions.
func (s *Sidecar) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Regions calls do for every open region, rising.
func (s *Sidecar) Regions(do func(region int)) {
	s.mu.Lock()
	open := slices.Clone(s.open)
	s.mu.Unlock()
	for w, left := range open {
		for ; left != 0; left &= left - 1 {
			do(w*64 + mathbits.TrailingZeros64(left))
		}
	}
}

// Vouch is what the sidecar says now. No runs: it vouches for nothing.
func (s *Sidecar) Vouch() Vouch {
	s.wr.Lock()
	defer s.wr.Unlock()
	if s.file == nil {
		return Vouch{}
	}
	return Vouch{Runs: slices.Clone(s.head.runs), Durable: s.head.durable, Clean: s.head.state == clean}
}

// Continue notes that a run is about to announce itself as the one that goes
// on. Durable on return. Kind Full when too many did.
func (s *Sidecar) Continue(run uint64) error {
	s.wr.Lock()
	defer s.wr.Unlock()
	h := s.head
	if slices.Contains(h.runs, run) {
		return nil
	}
	if len(h.runs) == MaxRuns {
		return errs.New("sidecar.Continue", errs.Full, s.path, fmt.Sprintf("%d runs announced themselves and none went on", MaxRuns))
	}
	h.runs = append(slices.Clone(h.runs), run)
	return s.writeHead(h)
}

// Settle notes that run has been taken as the one that goes on: regions may be
// closed for it. Durable on return.
func (s *Sidecar) Settle(run uint64) error {
	s.wr.Lock()
	defer s.wr.Unlock()
	if s.settledFor(run) {
		return nil
	}
	h := s.head
	h.runs, h.durable = []uint64{run}, 0
	return s.writeHead(h)
}

// settledFor reports whether run alone is named. Caller holds wr.
func (s *Sidecar) settledFor(run uint64) bool { return len(s.head.runs) == 1 && s.head.runs[0] == run }

// Restart opens every region for a run that begins anew. Durable on return;
// it ends GiveUp. Until it returns nothing is open that was not.
func (s *Sidecar) Restart(run uint64) error {
	s.wr.Lock()
	defer s.wr.Unlock()
	whole := s.Count() == s.regions && s.file != nil
	if !whole || !s.settledFor(run) {
		s.head = head{id: s.id, serial: s.head.serial, runs: []uint64{run}}
		s.disk.fill(s.regions)
		if err := s.replace(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.round++ // a round under way closes nothing any more
	for w := range s.hot {
		s.hot[w].Store(0)
	}
	s.open.fill(s.regions)
	s.count, s.given = s.regions, false
	return nil
}

// Clean says that nothing differs: all is in the log and flushed, and nobody
// will write any more. It reports whether that is so. modified as in Open.
func (s *Sidecar) Clean(modified int64) (bool, error) {
	s.wr.Lock()
	defer s.wr.Unlock()
	if s.Count() > 0 || len(s.head.runs) != 1 {
		return false, nil
	}
	h := s.head
	h.state, h.modified = clean, modified
	return true, s.writeHead(h)
}

// Void makes the file worthless, by whatever still works: a head that says so,
// or its removal. An error means that a later run may find a file that looks
// sound. The open regions stay known in memory.
func (s *Sidecar) Void() error {
	s.wr.Lock()
	defer s.wr.Unlock()
	h := s.head
	h.state = void
	err := s.writeHead(h)
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	if err == nil {
		return nil
	}
	if gone := durable.Remove(s.fs, s.path); gone != nil {
		return errors.Join(err, gone)
	}
	return nil
}

// GiveUp lets every write pass from here on; the sidecar must have been voided
// as far as that is possible. Restart ends it.
func (s *Sidecar) GiveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given = true
	s.failures++
	for w := range s.hot {
		s.hot[w].Store(^uint64(0))
	}
}

// Stats are counters since Open.
type Stats struct {
	Syncs    uint64 // synchronous writes in place
	Failures uint64 // how often it was given up
	Open     int    // regions
	Given    bool   // it is given up now
}

// Stats returns the counters.
func (s *Sidecar) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Syncs: s.syncs, Failures: s.failures, Open: s.count, Given: s.given}
}

// End closes the file, and changes nothing of it.
func (s *Sidecar) End() error {
	s.wr.Lock()
	defer s.wr.Unlock()
	f := s.file
	s.file = nil
	if f == nil {
		return nil
	}
	return f.Close()
}
