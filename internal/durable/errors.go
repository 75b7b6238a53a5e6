package durable

import (
	"errors"
	"io/fs"
	"syscall"

	"holdfast/internal/errs"
)

// Wrap turns an operating system's error about path into an *errs.Error of the
// fitting kind; nil stays nil and io.EOF-like values without errno become
// Internal. op is "package.Func".
func Wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	kind, remedy := classify(err)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path is in Object already
	}
	e := errs.E(op, kind, path, err)
	if remedy != "" {
		e = e.WithRemedy(remedy)
	}
	return e
}

func classify(err error) (errs.Kind, string) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errs.NotFound, ""
	case errors.Is(err, fs.ErrExist):
		return errs.Exists, ""
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return errs.Full, "free space on the file system, or raise its quota"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return errs.Denied, "give the service's user read and write rights on a writable file system"
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EXDEV),
		errors.Is(err, fs.ErrClosed), errors.Is(err, syscall.EBADF):
		return errs.Invalid, ""
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		return errs.Transient, "raise the limit of open files or memory"
	case errors.Is(err, syscall.EBADMSG), errors.Is(err, syscall.EUCLEAN):
		// ext4 and XFS say so of what their own checksums refute, as after a disk
		// that gave errors: no file of ours was read.
		return errs.Unavailable, "its file system is damaged: stop what uses it, unmount it, check it in full (fsck -f), and start again; what the check takes away counts as lost"
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV),
		errors.Is(err, syscall.ESTALE):
		return errs.Unavailable, "check the device and its cabling in the kernel log, then replace it or restart"
	}
	return errs.Internal, ""
}
