package nbd

import (
	"errors"
	"io/fs"
	"syscall"

	"holdfast/internal/errs"
)

// Errors on the wire. The protocol fixes these values whatever the machine.
const (
	errnoPerm     = 1
	errnoIO       = 5
	errnoNoMem    = 12
	errnoInvalid  = 22
	errnoNoSpace  = 28
	errnoOverflow = 75
	errnoNotSup   = 95
	errnoShutdown = 108
)

// ErrNotSupported completes an operation the device cannot do as asked: above
// all a WriteZeroes with FastZero that would be slow.
var ErrNotSupported error = syscall.EOPNOTSUPP

// wireErrno maps the outcome of an operation to the protocol's numbers: first
// by a system errno in the chain, then by the kind of an errs.Error. What
// fits nothing is an I/O error.
func wireErrno(err error) uint32 {
	if err == nil {
		return 0
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return systemErrno(no)
	}
	switch errs.KindOf(err) {
	case errs.Invalid:
		return errnoInvalid
	case errs.Denied, errs.Fenced:
		return errnoPerm
	case errs.Full:
		return errnoNoSpace
	case errs.Canceled:
		return errnoShutdown
	case errs.Internal, errs.NotFound, errs.Exists, errs.Conflict, errs.Transient, errs.Unavailable, errs.Corrupt:
		return errnoIO
	}
	return errnoIO
}

func systemErrno(no syscall.Errno) uint32 {
	switch no {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return errnoPerm
	case syscall.ENOMEM:
		return errnoNoMem
	case syscall.EINVAL:
		return errnoInvalid
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return errnoNoSpace
	case syscall.EOVERFLOW:
		return errnoOverflow
	case syscall.EOPNOTSUPP:
		return errnoNotSup
	case syscall.ESHUTDOWN:
		return errnoShutdown
	}
	return errnoIO
}

// fromWire turns an error number received from a server into an error whose
// chain has both a kind and the system's errno.
func fromWire(op string, n uint32) error {
	kind, no := errs.Unavailable, syscall.EIO
	switch n {
	case 0:
		return nil
	case errnoPerm:
		kind, no = errs.Denied, syscall.EPERM
	case errnoNoMem:
		kind, no = errs.Transient, syscall.ENOMEM
	case errnoInvalid:
		kind, no = errs.Invalid, syscall.EINVAL
	case errnoNoSpace:
		kind, no = errs.Full, syscall.ENOSPC
	case errnoOverflow:
		kind, no = errs.Invalid, syscall.EOVERFLOW
	case errnoNotSup:
		kind, no = errs.Invalid, syscall.EOPNOTSUPP
	case errnoShutdown:
		kind, no = errs.Unavailable, syscall.ESHUTDOWN
	}
	return errs.E(op, kind, "server", no)
}

// kindOfSystem classes a system call's failure.
func kindOfSystem(err error) errs.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errs.NotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return errs.Denied
	case errors.Is(err, fs.ErrExist):
		return errs.Exists
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errs.Full
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return errs.Invalid
	}
	return errs.Unavailable
}
