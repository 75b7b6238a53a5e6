package index

import (
	"errors"
	"fmt"
	"io"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Run is the Source of a run stored in parts. It holds one part at a time,
// fetched when its turn comes.
type Run struct {
	cat   *Catalog
	parts int
	fetch func(i int) ([]byte, error)
	next  int
	part  *Reader
	seek  bool
	disk  dr.DiskID
	chunk uint32
}

// NewRun returns the Source of a run of the given number of parts. fetch
// returns the bytes of part i, which must not change as long as they are in
// use; parts are fetched once each, in order.
func NewRun(cat *Catalog, parts int, fetch func(i int) ([]byte, error)) *Run {
	return &Run{cat: cat, parts: parts, fetch: fetch}
}

// Seek makes the run begin with the first entry that touches chunk of the disk
// or lies behind it. It is for use before the first Next; the caller leaves out
// parts whose Last key lies before that place.
func (r *Run) Seek(disk dr.DiskID, chunk uint32) { r.seek, r.disk, r.chunk = true, disk, chunk }

// Next implements Source. Errors are fetch's and those of Reader.
func (r *Run) Next() ([]Entry, error) {
	for {
		if r.part == nil {
			if r.next == r.parts {
				return nil, io.EOF
			}
			if err := r.open(); err != nil {
				return nil, errs.E("index.Run", errs.Internal, fmt.Sprintf("part %d of %d", r.next+1, r.parts), err)
			}
			r.next++
		}
		es, err := r.part.Next()
		if errors.Is(err, io.EOF) {
			r.part = nil
			continue
		}
		if err != nil {
			return nil, errs.E("index.Run", errs.Internal, fmt.Sprintf("part %d of %d", r.next, r.parts), err)
		}
		return es, nil
	}
}

func (r *Run) open() error {
	b, err := r.fetch(r.next)
	if err != nil {
		return err
	}
	if r.part, err = NewReader(r.cat, b); err != nil {
		return err
	}
	if r.seek {
		r.part.Seek(r.cat, r.disk, r.chunk)
	}
	return nil
}
