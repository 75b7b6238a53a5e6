package ondemand

import (
	"context"
	"errors"
	"iter"
	"sync"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// ledger keeps a disk's map: what is held and written, and that it is recorded
// in the order that doc.go promises.
type ledger struct {
	fs   durable.FS
	path string
	head header
	seed uint32
	data durable.File // PATH
	all  func(written bool) iter.Seq2[uint32, uint16]

	mu      sync.Mutex
	file    durable.File      // guarded by mu; PATH.present; nil once the disk is finished
	end     int64             // guarded by mu; where the next record goes
	short   int64             // guarded by mu; the map's size when it was last made short
	fetched map[uint32]uint16 // guarded by mu; in PATH, recorded nowhere
	written map[uint32]uint16 // guarded by mu; recorded by kind 3 alone
	dirty   bool              // guarded by mu; PATH was written since a flush took over
	broken  error             // guarded by mu; a sync failed: nothing is durable any more

	turn     chan struct{} // holds one token: the right to flush
	rounds   sync.Mutex
	begun    uint64 // guarded by rounds; flushes begun
	finished uint64 // guarded by rounds; the last flush that succeeded
}

func newLedger(fs durable.FS, path string, head header) *ledger {
	l := &ledger{fs: fs, path: path, head: head, seed: head.seed(), turn: make(chan struct{}, 1),
		fetched: map[uint32]uint16{}, written: map[uint32]uint16{}}
	l.turn <- struct{}{}
	return l
}

// fetch notes blocks that were fetched and are in PATH.
func (l *ledger) fetch(chunk uint32, blocks uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetched[chunk] |= blocks
	l.dirty = true
}

// writing records blocks that the guest writes. Survives the process, not the
// machine.
func (l *ledger) writing(masks map[uint32]uint16) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c, m := range masks {
		l.written[c] |= m
	}
	if l.file == nil {
		return nil // finished: written is kept in memory alone
	}
	return l.appendLocked(appendMasks(nil, l.seed, kindWriting, sorted(masks)))
}

// touched notes that PATH was written: the next flush has to sync it.
func (l *ledger) touched() {
	l.mu.Lock()
	l.dirty = true
	l.mu.Unlock()
}

// appendLocked appends records. After an error the next ones take their place.
func (l *ledger) appendLocked(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := l.file.WriteAtv([][]byte{b}, l.end); err != nil {
		return errs.E("ondemand.record", errs.Internal, l.path, err)
	}
	l.end += int64(len(b))
	return nil
}

// pending is how many chunks wait to be recorded.
func (l *ledger) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.fetched) + len(l.written)
}

// flush makes durable what was written and noted before it was called: one
// flush serves all who came before it began.
func (l *ledger) flush(ctx context.Context) error {
	l.rounds.Lock()
	need := l.begun + 1
	l.rounds.Unlock()
	select {
	case <-l.turn:
	case <-ctx.Done():
		return errs.E("ondemand.flush", errs.Canceled, l.path, context.Cause(ctx))
	}
	defer func() { l.turn <- struct{}{} }()
	l.rounds.Lock()
	done := l.finished >= need
	if !done {
		l.begun++
	}
	round := l.begun
	l.rounds.Unlock()
	if done {
		return nil
	}
	if err := l.round(); err != nil {
		return err
	}
	l.rounds.Lock()
	l.finished = round
	l.rounds.Unlock()
	return nil
}

// batch is what one flush makes durable.
type batch struct {
	fetched, written map[uint32]uint16
	held, wrote      []uint16 // of all chunks, for a short map; nil: records are appended
}

// round is one flush. Its caller holds the turn.
func (l *ledger) round() error {
	b, idle, err := l.begin()
	if idle || err != nil {
		return err
	}
	if err = l.data.Sync(); err == nil {
		err = l.record(b)
	}
	if err == nil {
		return nil
	}
	err = errs.E("ondemand.flush", errs.Internal, l.path, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if errs.Is(err, errs.Full) {
		l.giveBackLocked(b) // there was no room: there may be some later
	} else {
		// The kernel may have dropped what it could not write: no later sync can
		// be believed.
		l.broken = err
	}
	return err
}

// distrust makes every later flush fail: the kernel may have dropped what it
// could not write, and need not say so again.
func (l *ledger) distrust(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = errs.E("ondemand.flush", errs.Internal, l.path, err)
	}
}

// giveBackLocked makes the next flush record what this one could not.
func (l *ledger) giveBackLocked(b batch) {
	for c, m := range b.fetched {
		l.fetched[c] |= m
	}
	for c, m := range b.written {
		l.written[c] |= m
	}
	l.dirty = true
}

// begin takes what is to be made durable; idle when there is nothing.
func (l *ledger) begin() (b batch, idle bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return b, false, l.broken
	}
	if !l.dirty && len(l.fetched) == 0 && len(l.written) == 0 {
		return b, true, nil
	}
	b.fetched, b.written = l.fetched, l.written
	l.fetched, l.written, l.dirty = map[uint32]uint16{}, map[uint32]uint16{}, false
	if l.file != nil && l.end-l.short > max(compactFrom, l.short) {
		// As of now, not of the end of the sync: what comes meanwhile is not
		// covered by it.
		b.held, b.wrote = l.masks(false, b.fetched, b.written), l.masks(true, b.written)
	}
	return b, false, nil
}

// masks is what the disk says of each chunk, and what was noted besides.
func (l *ledger) masks(written bool, more ...map[uint32]uint16) []uint16 {
	out := make([]uint16, chunks(l.head.size))
	for c, m := range l.all(written) {
		out[c] = m
	}
	for _, set := range more {
		for c, m := range set {
			out[c] |= m
		}
	}
	return out
}

// record writes down, durably, what PATH has durably.
func (l *ledger) record(b batch) error {
	if b.held != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.shortenLocked(b)
	}
	l.mu.Lock()
	file := l.file
	if file == nil || len(b.fetched) == 0 && len(b.written) == 0 {
		l.mu.Unlock()
		return nil
	}
	records := appendMasks(nil, l.seed, kindHeld, sorted(b.fetched))
	err := l.appendLocked(appendMasks(records, l.seed, kindWritten, sorted(b.written)))
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return file.Sync()
}

// shortenLocked replaces the map by one of b's masks and what was written since.
func (l *ledger) shortenLocked(b batch) error {
	out := appendMasks(l.head.encode(), l.seed, kindHeld, numbered(b.held))
	out = appendMasks(out, l.seed, kindWritten, numbered(b.wrote))
	short := int64(len(out))
	out = appendMasks(out, l.seed, kindWriting, sorted(l.written))
	if err := durable.WriteFile(l.fs, l.path, out); err != nil {
		return err
	}
	file, err := l.fs.OpenFile(l.path, durable.Write)
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // another file has its name, whole and durable
	}
	l.file, l.end, l.short = file, int64(len(out)), short
	return nil
}

// numbered yields masks by their chunks.
func numbered(masks []uint16) iter.Seq2[uint32, uint16] {
	return func(yield func(uint32, uint16) bool) {
		for c, m := range masks {
			if m != 0 && !yield(uint32(c), m) {
				return
			}
		}
	}
}

// mark appends a record without payload, durably.
func (l *ledger) mark(kind byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.appendLocked(appendRecord(nil, l.seed, kind, nil))
	if err == nil {
		err = l.file.Sync()
	}
	return err
}

// retire removes the map: PATH is a plain disk from now on.
func (l *ledger) retire() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Close(), durable.Remove(l.fs, l.path))
	if err != nil {
		return errs.E("ondemand.Finish", errs.Internal, l.path, err)
	}
	l.file = nil
	return nil
}

// close closes the map's file. Nothing is made durable.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close() // what matters was synced
		l.file = nil
	}
}
