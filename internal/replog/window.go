package replog

import (
	"errors"
	"io"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// window reads a file forward through one large aligned buffer, so that small
// batches cost no read each. Not safe for concurrent use.
type window struct {
	buf  []byte
	file durable.File
	off  int64 // of buf[0] in file
	n    int   // bytes of buf in use
}

// bufferSize is what a window needs, in bytes.
func (l *Log) bufferSize() int { return int(min(readAhead, l.fileSize)) }

// get returns n bytes at off, valid until the next call. It may read ahead, but
// not beyond limit: what lies there may still change. n is at most the size
// of the buffer; all are whole pages.
func (w *window) get(f durable.File, off int64, n int, limit int64) ([]byte, error) {
	if w.file != f || off < w.off || off+int64(n) > w.off+int64(w.n) {
		if err := w.fill(f, off, limit); err != nil {
			return nil, err
		}
	}
	from := int(off - w.off)
	if from+n > w.n {
		return nil, errs.E("replog.read", errs.Corrupt, "", io.ErrUnexpectedEOF)
	}
	return w.buf[from : from+n], nil
}

func (w *window) fill(f durable.File, off, limit int64) error {
	w.file, w.off, w.n = nil, off, 0
	b := w.buf[:max(0, min(int64(len(w.buf)), limit-off))]
	n, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	w.file, w.n = f, n&^(pageSize-1)
	return nil
}

// forget makes the next get read again.
func (w *window) forget() { w.file, w.n = nil, 0 }
