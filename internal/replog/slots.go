package replog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// stateName is the file that holds the two copies of the state page.
const stateName = "STATE"

// slotPath is where the slot of that id lies.
func slotPath(dir string, id int) string {
	return filepath.Join(dir, fmt.Sprintf("slot-%06d.log", id))
}

// slotID is the inverse of slotPath's last element; ok is false for any other
// name.
func slotID(name string) (id int, ok bool) {
	s, found := strings.CutPrefix(name, "slot-")
	s, cut := strings.CutSuffix(s, ".log")
	id, err := strconv.Atoi(s)
	return id, found && cut && err == nil && id >= 0 && filepath.Base(slotPath("", id)) == name
}

// openFile opens a file of the log for reading and durable writing: directly
// if the file system can, else through the page cache with a sync after each
// write. The first answer holds for the whole log.
func (l *Log) openFile(path string) (durable.File, error) {
	if !l.direct {
		return l.fs.OpenFile(path, durable.Write)
	}
	f, err := l.fs.OpenFile(path, durable.Write|durable.Direct|durable.DSync)
	if errors.Is(err, durable.ErrNoDirect) {
		l.log.Warn("log written through the page cache: the file system has no direct i/o", "object", l.opts.Dir)
		l.direct = false
		return l.fs.OpenFile(path, durable.Write)
	}
	return f, err
}

// addSlot pre-writes a new slot and opens it. On failure nothing is left.
func (l *Log) addSlot(ctx context.Context, id int) (*slot, error) {
	path := slotPath(l.opts.Dir, id)
	if err := durable.Prewrite(ctx, l.fs, path, l.fileSize); err != nil {
		return nil, err
	}
	f, err := l.openFile(path)
	if err != nil {
		return nil, errors.Join(err, durable.Remove(l.fs, path))
	}
	return &slot{id: id, path: path, f: f, size: l.fileSize}, nil
}

// keepSpares pre-writes files ahead of need, so that appends do not wait for
// zeroes, and removes those that a lowered quota leaves over. Only it adds and
// removes slots once Run began.
func (l *Log) keepSpares(ctx context.Context) {
	for ctx.Err() == nil {
		l.shrink()
		id, want := l.wantSlot()
		if want && l.addSpare(ctx, id) {
			continue
		}
		// After a failure only time helps: a trim recycles, it frees no space.
		// It frees the need for space, though, and that needs nobody here.
		var again <-chan time.Time
		wake := l.grow
		if want {
			again, wake = time.After(growRetry), nil
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-again:
		}
	}
}

// shrink removes free slots beyond the quota, from the highest id down, so
// that a hole among the ids always means a missing file. What cannot be removed
// now stays until the next try.
func (l *Log) shrink() {
	for {
		s := l.takeSurplus()
		if s == nil {
			return
		}
		if err := errors.Join(s.f.Close(), durable.Remove(l.fs, s.path)); err != nil {
			l.log.Warn("cannot remove a log file beyond the quota", "object", s.path, "err", err)
			return
		}
	}
}

// takeSurplus takes the slot that shrink may remove, if there is one.
func (l *Log) takeSurplus() *slot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files)+len(l.free) <= l.maxFiles {
		return nil
	}
	i := slices.IndexFunc(l.free, func(s *slot) bool { return s.id == l.slots-1 })
	if i < 0 {
		return nil
	}
	s := l.free[i]
	l.free = slices.Delete(l.free, i, i+1)
	l.slots--
	return s
}

// wantSlot reports whether another slot is needed and may be made.
func (l *Log) wantSlot() (id int, want bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slots, len(l.free) < spareFiles && len(l.files)+len(l.free) < l.maxFiles
}

// addSpare makes one more slot, or notes why it could not. A refused Append is
// woken in both cases: it then learns the cause.
func (l *Log) addSpare(ctx context.Context, id int) bool {
	s, err := l.addSlot(ctx, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if l.growErr == nil && !errs.Is(err, errs.Canceled) {
			l.log.Warn("cannot pre-write a log file", "object", slotPath(l.opts.Dir, id), "err", err)
		}
		l.growErr = err
		l.signalSpace()
		return false
	}
	l.growErr = nil
	l.slots++
	l.free = append(l.free, s)
	l.signalSpace()
	return true
}
