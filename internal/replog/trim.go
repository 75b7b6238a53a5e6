package replog

import (
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// Write path, step 9: forget what is published.

// Trim declares the records up to upTo, which must be durable, not needed any
// more, and recycles the log files that hold nothing else. The trim point is
// durable on return; a lower one than before changes nothing. What a reader
// still needs must not be trimmed: its Next would fail with NotFound. Errors:
// Invalid when upTo is beyond the durable end; a failed write stops the log.
func (l *Log) Trim(upTo dr.Seq) error {
	l.mu.Lock()
	if err := l.stoppedErr("replog.Trim"); err != nil {
		l.mu.Unlock()
		return err
	}
	if upTo > l.durable.seq {
		defer l.mu.Unlock()
		return errs.New("replog.Trim", errs.Invalid, l.opts.Dir,
			fmt.Sprintf("seq %d is beyond the durable end %d", upTo, l.durable.seq))
	}
	if upTo <= l.trimmed {
		l.mu.Unlock()
		return nil
	}
	l.trimmed = upTo
	n := 0
	// A file goes when the next one is there to start the log with, and with
	// it everything that is still in force.
	for n+1 < len(l.files) && l.files[n+1].ready && l.files[n].lastSeq <= upTo {
		n++
	}
	first := l.nextFile
	if len(l.files) > 0 {
		first = l.files[n].number
	}
	if l.opts.knobs.freeBeforeState {
		l.recycle(first)
	}
	l.mu.Unlock()
	err := l.saveState(func(s *state) {
		s.trimmed = max(s.trimmed, upTo)
		s.firstFile = max(s.firstFile, first)
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failLocked(err)
		return err
	}
	l.recycle(first)
	return nil
}

// recycle frees the files below number first. Caller holds mu.
func (l *Log) recycle(first uint64) {
	n := 0
	for n < len(l.files) && l.files[n].number < first {
		l.files[n].gone = true
		l.free = append(l.free, l.files[n].slot)
		n++
	}
	l.files = slices.Delete(l.files, 0, n)
	if n > 0 {
		l.signalSpace()
		l.notifyReaders()
		l.askToGrow()
	}
}

// saveState changes the state and makes it durable in both copies, one after
// the other, so that a crash in between leaves one that is whole and durable.
// Nothing may rely on the change before both are. What was acknowledged until
// now is noted with it.
func (l *Log) saveState(change func(*state)) error {
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	l.mu.Lock()
	durableEnd := l.durable
	l.mu.Unlock()
	s := l.st
	change(&s)
	s.durableBatch, s.durableSeq = durableEnd.number, durableEnd.seq
	for _, i := range [2]int{l.suspect, 1 - l.suspect} {
		s.generation++
		s.put(l.statePage)
		if err := l.writeDurable(l.stateFile, [][]byte{l.statePage}, int64(i)*pageSize); err != nil {
			return errs.E("replog.saveState", errs.Internal, l.opts.Dir, err)
		}
	}
	l.st = s
	return nil
}

// TimelineOf tells which timeline the log in dir is of; ok is false when there is
// none. It changes nothing, and may be called while the log is in use. Errors:
// Corrupt, Invalid (a newer format), those of durable.ReadFile.
func TimelineOf(fs durable.FS, dir string) (t dr.TimelineID, ok bool, err error) {
	l := &Log{opts: Options{Dir: dir}, fs: fs}
	err = l.loadState()
	if errs.Is(err, errs.NotFound) {
		return t, false, nil
	}
	return l.st.timeline, err == nil, err
}

// loadState reads the newer whole copy of the state. Errors: NotFound when the
// log was never made, Corrupt when both copies are damaged, Invalid for a
// newer format.
func (l *Log) loadState() error {
	b, err := durable.ReadFile(l.fs, l.statePath(), 2*pageSize)
	if err != nil {
		return err
	}
	var copies [2]state
	var bad [2]error
	for i := range copies {
		p := b[min(i*pageSize, len(b)):]
		bad[i] = copies[i].parse(p)
		if errs.Is(bad[i], errs.Invalid) {
			return errs.E("replog.Open", errs.Invalid, l.statePath(), bad[i])
		}
	}
	if bad[0] != nil && bad[1] != nil {
		return errs.E("replog.Open", errs.Corrupt, l.statePath(), errors.Join(bad[:]...)).WithRemedy(remedyCorrupt)
	}
	newer := 0
	if bad[0] != nil || bad[1] == nil && copies[1].generation > copies[0].generation {
		newer = 1
	}
	// The copy written last may have been read from a cache that forgets. It,
	// or the one that is not whole, is written first; the other is durable.
	l.st, l.suspect = copies[newer], newer
	if bad[1-newer] != nil {
		l.suspect = 1 - newer
	}
	return nil
}
