package durabletest

import (
	"errors"
	"io"
	"math/rand/v2"
	"syscall"

	"holdfast/internal/durable"
)

// file is an open file of an FS.
type file struct {
	fs     *FS
	node   *node
	path   string
	mode   durable.Mode
	closed bool // guarded by fs.mu
}

// ReadAt implements durable.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	op, err := f.fs.begin(Read, f.path, off, len(p))
	if err == nil && f.mode&durable.Direct != 0 && (!durable.Aligned(p) || off%durable.PageSize != 0) {
		err = syscall.EINVAL
	}
	n := 0
	if err == nil {
		f.fs.mu.Lock()
		n, err = f.read(p, off)
		f.fs.mu.Unlock()
	}
	if errors.Is(err, io.EOF) {
		return n, err
	}
	if err == nil {
		err = f.fs.at(op, After)
	}
	return n, durable.Wrap("durabletest.ReadAt", f.path, err)
}

func (f *file) read(p []byte, off int64) (int, error) {
	if f.closed {
		return 0, syscall.EBADF
	}
	if off >= f.node.viewSize {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.node.viewSize-off))
	f.node.view.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAtv implements durable.File.
func (f *file) WriteAtv(bufs [][]byte, off int64) error {
	return durable.Wrap("durabletest.WriteAtv", f.path, f.writeAtv(bufs, off))
}

func (f *file) writeAtv(bufs [][]byte, off int64) error {
	var data []byte
	for _, b := range bufs {
		if f.mode&durable.Direct != 0 && (!durable.Aligned(b) || off%durable.PageSize != 0) {
			return syscall.EINVAL
		}
		data = append(data, b...)
	}
	if len(bufs) > durable.MaxVectors || f.mode&durable.Write == 0 {
		return syscall.EINVAL
	}
	op, err := f.fs.begin(Write, f.path, off, len(data))
	if err != nil {
		// A failed write leaves any part of itself, and no Sync covers it.
		if w, startErr := f.start(data[:tornLen(op.N, len(data))], off); startErr == nil {
			f.fs.mu.Lock()
			w.flying, w.doomed = false, true
			f.fs.mu.Unlock()
		}
		return err
	}
	w, err := f.start(data, off)
	if err != nil {
		return err
	}
	if err := f.fs.at(op, During); err != nil {
		return err
	}
	f.finish(w)
	return f.fs.at(op, After)
}

// Zero implements durable.Zeroer: as a write of zeroes, in whose middle the
// machine may stop.
func (f *file) Zero(off, n int64) error {
	return durable.Wrap("durabletest.Zero", f.path, f.writeAtv([][]byte{make([]byte, n)}, off))
}

// tornLen picks how much of a failed write happened, fixed by its number.
func tornLen(n int64, length int) int {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	return r.IntN(length+1) &^ 511
}

// start puts a write on its way: visible, not yet durable.
func (f *file) start(data []byte, off int64) (*write, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return nil, syscall.EBADF
	}
	if f.fs.halted {
		return nil, syscall.ENODEV
	}
	fresh := f.node.view.missing(off, int64(len(data)))
	if c := f.fs.cfg.Capacity; c > 0 && (f.fs.pages+fresh)*pageSize > c {
		return nil, syscall.ENOSPC
	}
	f.fs.pages += fresh
	w := &write{off: off, data: data, flying: true, before: make([]byte, len(data))}
	f.node.view.read(w.before, off)
	f.node.view.write(data, off)
	f.node.viewSize = max(f.node.viewSize, off+int64(len(data)))
	f.node.changed = f.fs.n
	f.node.pending = append(f.node.pending, w)
	return w, nil
}

func (f *file) finish(w *write) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	w.flying, w.before = false, nil
	if f.mode&durable.DSync != 0 {
		f.node.settle(func(p *write) bool { return p == w })
	}
}

// Sync implements durable.File.
func (f *file) Sync() error {
	op, err := f.fs.begin(Sync, f.path, 0, 0)
	f.fs.mu.Lock()
	switch {
	case f.closed:
		err = syscall.EBADF
	case err != nil && f.fs.halted: // the machine stopped: no sync was tried
	case err != nil:
		for _, p := range f.node.pending {
			p.doomed = true
		}
	default:
		f.node.settle(func(p *write) bool { return !p.flying && !p.doomed })
	}
	f.fs.mu.Unlock()
	if err == nil {
		err = f.fs.at(op, After)
	}
	return durable.Wrap("durabletest.Sync", f.path, err)
}

// Truncate implements durable.File.
func (f *file) Truncate(size int64) error {
	op, err := f.fs.begin(Truncate, f.path, size, 0)
	if err == nil {
		f.fs.mu.Lock()
		before := len(f.node.view)
		f.node.view.truncate(size)
		f.fs.pages += int64(len(f.node.view) - before)
		f.node.viewSize = size
		f.node.pending = append(f.node.pending, &write{off: size, truncate: true})
		f.fs.mu.Unlock()
		err = f.fs.at(op, After)
	}
	return durable.Wrap("durabletest.Truncate", f.path, err)
}

// Size implements durable.File.
func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.node.viewSize, nil
}

// Close implements durable.File.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return durable.Wrap("durabletest.Close", f.path, syscall.EBADF)
	}
	f.closed = true
	return nil
}
