package replog

import (
	"context"
	"fmt"
	"sort"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Reader reads durable records in order. It is used by one goroutine; Close
// may be called from any. One path serves the steady state, an outage's drain
// and the restart: it always reads the disk, in large pieces when there is
// much to read.
type Reader struct {
	l      *Log
	notify chan struct{} // something changed; written by the log under mu, never closed

	// Owned by the reading goroutine.
	from dr.Seq // records below are left out
	win  window
	file *logFile // being read; nil before the first record
	off  int64    // of the next batch in file
	at   batchPlace
	inc  uint32 // incarnation of the last batch read
	recs []record.Record

	closed bool // guarded by l.mu
}

// NewReader returns a reader that starts with the record of seq from, or with
// the first held if from is 0. from may be one beyond the durable end: then
// the reader waits for it. Errors: NotFound when from was trimmed, Invalid when
// it is further ahead, Full when too many readers are open. Close it.
func (l *Log) NewReader(from dr.Seq) (*Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errs.New("replog.NewReader", errs.Canceled, l.opts.Dir, "log is closed")
	}
	if len(l.readers) >= maxReaders {
		return nil, errs.New("replog.NewReader", errs.Full, l.opts.Dir, fmt.Sprintf("%d readers are open", maxReaders))
	}
	if from > l.durable.seq+1 && l.durable.number > 0 {
		return nil, errs.New("replog.NewReader", errs.Invalid, l.opts.Dir,
			fmt.Sprintf("seq %d is beyond the durable end %d", from, l.durable.seq))
	}
	r := &Reader{l: l, notify: make(chan struct{}, 1), from: from}
	if len(l.files) > 0 && from != 0 && from < l.files[0].firstSeq {
		return nil, trimmedErr("replog.NewReader", l.opts.Dir, from)
	}
	r.seek()
	r.win.buf = durable.AlignedBytes(l.bufferSize())
	l.readers[r] = struct{}{}
	return r, nil
}

func trimmedErr(op, object string, seq dr.Seq) error {
	return errs.New(op, errs.NotFound, object, fmt.Sprintf("seq %d was trimmed", seq))
}

// seek finds the nearest known place at or before r.from. Caller holds l.mu.
func (r *Reader) seek() {
	files := r.l.files
	n := sort.Search(len(files), func(i int) bool { return files[i].firstSeq > r.from })
	if n == 0 {
		return // from the first file, as soon as there is one
	}
	f := files[n-1]
	m := sort.Search(len(f.marks), func(i int) bool { return f.marks[i].seq > r.from })
	r.enter(f)
	if m > 0 {
		r.off, r.at = f.marks[m-1].off, f.marks[m-1].place
	} else {
		r.file = nil // nothing durable there yet: find it again by number
		r.at = batchPlace{number: f.firstBatch - 1}
	}
}

// enter goes to the start of f. Caller holds l.mu.
func (r *Reader) enter(f *logFile) {
	r.file, r.off = f, f.start
	r.win.forget() // the same slot may have been another file before
}

// Close gives up the reader; a Next that waits returns Canceled.
func (r *Reader) Close() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.closed = true
	delete(r.l.readers, r)
	select {
	case r.notify <- struct{}{}:
	default:
	}
}

// Next returns the records of the next durable batch, those at or after the
// reader's start, and waits until there are some. They and their payloads are
// valid until the following call. All checksums were verified. Errors:
// Canceled when ctx ends or the reader or the log was closed, NotFound when
// the batch was trimmed, Corrupt when it is damaged, the log's failure once
// all that is durable was read.
func (r *Reader) Next(ctx context.Context) ([]record.Record, error) {
	for {
		recs, err := r.TryNext()
		if err != nil || len(recs) > 0 {
			return recs, err
		}
		select {
		case <-ctx.Done():
			return nil, errs.E("replog.Next", errs.Canceled, r.l.opts.Dir, context.Cause(ctx))
		case <-r.notify:
		}
	}
}

// TryNext is Next without waiting: it returns no records and no error when
// nothing more is durable yet.
func (r *Reader) TryNext() ([]record.Record, error) {
	for {
		limit, err := r.limit()
		if err != nil || limit == 0 {
			return nil, err
		}
		recs, err := r.read(limit)
		if err != nil {
			return nil, r.explain(err)
		}
		if recs = after(recs, r.from); len(recs) > 0 {
			// The file may have been recycled while it was read; then the
			// checks passed by luck of an old batch.
			return recs, r.stillThere()
		}
	}
}

// after drops the records below from.
func after(recs []record.Record, from dr.Seq) []record.Record {
	if len(recs) == 0 || recs[0].Seq >= from {
		return recs
	}
	return recs[min(uint64(from-recs[0].Seq), uint64(len(recs))):]
}

// limit returns the durable end of the file the next batch is in, moving on to
// the next file when this one is read; 0 when there is nothing to read yet.
func (r *Reader) limit() (int64, error) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.closed || l.closed {
		return 0, errs.New("replog.Next", errs.Canceled, l.opts.Dir, "reader is closed")
	}
	if r.file != nil && r.file.gone && r.off < r.file.durableEnd {
		return 0, trimmedErr("replog.Next", l.opts.Dir, r.at.seq+1)
	}
	if r.file == nil || r.off >= r.file.durableEnd {
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	if r.file != nil && r.off < r.file.durableEnd {
		return r.file.durableEnd, nil
	}
	if l.err != nil {
		return 0, errs.E("replog.Next", errs.Internal, l.opts.Dir, l.err)
	}
	return 0, nil
}

// advance goes to the file that starts with the next batch, if that is durable.
// Caller holds l.mu.
func (r *Reader) advance() error {
	files := r.l.files
	if len(files) == 0 {
		return nil
	}
	i := 0 // numbers of files are dense
	if r.file != nil {
		i = int(int64(r.file.number) + 1 - int64(files[0].number))
	} else if r.at.number > 0 {
		i = sort.Search(len(files), func(i int) bool { return files[i].firstBatch > r.at.number })
	}
	if i < 0 || i == 0 && r.at.number > 0 && files[0].firstBatch > r.at.number+1 {
		return trimmedErr("replog.Next", r.l.opts.Dir, max(r.at.seq+1, r.from))
	}
	if i < len(files) && files[i].durableEnd > files[i].start {
		f := files[i]
		r.at = batchPlace{f.firstBatch - 1, f.firstSeq - 1, f.marks[0].place.crc}
		r.enter(f)
	}
	return nil
}

// read reads the batch at the reader's place.
func (r *Reader) read(limit int64) ([]record.Record, error) {
	page, err := r.win.get(r.file.f, r.off, pageSize, limit)
	if err != nil {
		return nil, err
	}
	var h batchHead
	if !h.parse(page) || h.uuid != r.l.id.uuid || h.number != r.at.number+1 || h.firstSeq != r.at.seq+1 ||
		h.prevCRC != r.at.crc || h.incarnation < r.inc || r.off+h.size() > limit {
		return nil, corrupt("batch head is damaged")
	}
	b, err := r.win.get(r.file.f, r.off, int(h.size()), limit)
	if err != nil {
		return nil, err
	}
	if r.recs, err = h.records(b, r.recs[:0]); err != nil {
		return nil, err
	}
	r.off += h.size()
	r.at, r.inc = batchPlace{h.number, h.last(), h.crc}, h.incarnation
	return r.recs, nil
}

// stillThere fails if the file was trimmed.
func (r *Reader) stillThere() error {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if r.file.gone {
		return trimmedErr("replog.Next", r.l.opts.Dir, r.at.seq)
	}
	return nil
}

// explain adds the place to a failed read, or says that trimming was the cause.
func (r *Reader) explain(err error) error {
	r.win.forget()
	if gone := r.stillThere(); gone != nil {
		return gone
	}
	if errs.Is(err, errs.Invalid) { // the file was closed under the read
		if _, closed := r.limit(); closed != nil {
			return closed
		}
	}
	e := errs.E("replog.Next", errs.Internal, fmt.Sprintf("%s at byte %d, seq %d", r.file.path, r.off, r.at.seq+1), err)
	if errs.Is(err, errs.Corrupt) {
		return e.WithRemedy(remedyCorrupt)
	}
	return e
}
