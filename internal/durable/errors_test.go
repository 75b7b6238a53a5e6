package durable

import (
	"io/fs"
	"syscall"
	"testing"

	"holdfast/internal/errs"
)

// TestDamagedFileSystem: what an operator has to do about it is said, whatever
// the file system calls it.
func TestDamagedFileSystem(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EBADMSG, syscall.EUCLEAN} {
		err := Wrap("durable.OpenFile", "/log/STATE", &fs.PathError{Op: "open", Path: "/log/STATE", Err: errno})
		if !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
			t.Errorf("%v: %v, remedy %q", errno, err, errs.RemedyOf(err))
		}
	}
}
