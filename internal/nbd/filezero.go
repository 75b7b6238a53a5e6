package nbd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// unsupported reports whether a disk refused a kind of request altogether.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENODEV)
}

// trim gives space back. It is advice: a disk that cannot is no error.
func (f *File) trim(off, n int64) error {
	lo, hi := f.inner(off, n)
	if lo >= hi {
		return nil
	}
	err := fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, lo, hi-lo)
	if unsupported(err) {
		return nil
	}
	return err
}

// zero makes a range read as zeroes: by deallocation if allowed, else by the
// file system's own zeroing, else by writing, which FastZero forbids.
func (f *File) zero(off, n int64, flags Flags) error {
	lo, hi := f.inner(off, n)
	if lo >= hi {
		if flags&FastZero != 0 {
			return ErrNotSupported
		}
		return f.writeZeroes(off, n)
	}
	modes := []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}
	if flags&NoHole != 0 {
		modes = modes[1:]
	}
	for _, mode := range modes {
		err := fallocate(f.fd, mode, lo, hi-lo)
		if unsupported(err) {
			continue
		}
		if err != nil {
			return err
		}
		return errors.Join(f.writeZeroes(off, lo-off), f.writeZeroes(hi, off+n-hi))
	}
	if flags&FastZero != 0 {
		return ErrNotSupported
	}
	return f.writeZeroes(off, n)
}

// inner is the part of a range that the disk can be asked to zero or drop:
// whole blocks of a device, any bytes of a file.
func (f *File) inner(off, n int64) (lo, hi int64) {
	if !f.device {
		return off, off + n
	}
	a := int64(pageAlign)
	return (off + a - 1) &^ (a - 1), (off + n) &^ (a - 1)
}

func (f *File) writeZeroes(off, n int64) error {
	if n == 0 {
		return nil
	}
	b := f.pool.get(int(min(n, zeroStep)), nil)
	defer b.release()
	clear(b.b)
	for n > 0 {
		step := min(n, int64(len(b.b))-off%pageAlign) // later steps are aligned
		if err := f.writeDirect(b.b[:step], off); err != nil {
			return err
		}
		off, n = off+step, n-step
	}
	return nil
}
