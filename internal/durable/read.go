package durable

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"holdfast/internal/errs"
)

// ReadFile returns the whole content of path. A file larger than limit bytes
// is refused with kind Invalid before anything is allocated for it.
func ReadFile(fs FS, path string, limit int64) ([]byte, error) {
	f, err := fs.OpenFile(path, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, errs.New("durable.ReadFile", errs.Invalid, path, fmt.Sprintf("file has %d bytes, at most %d are expected", size, limit))
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// ReadRange fills p from path at byte offset off and returns how much there
// was: less than len(p) only at the end of the file.
func ReadRange(fs FS, path string, p []byte, off int64) (int, error) {
	f, err := fs.OpenFile(path, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close() // only read
	n, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadDir lists dir by name without temporary files.
func ReadDir(fs FS, dir string) ([]Entry, error) {
	list, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(e Entry) bool { return IsTemp(e.Name) }), nil
}

// LockName is the file that LockDir locks.
const LockName = "LOCK"

// LockDir takes dir for this caller alone; kind Conflict, with a remedy that
// names the holder where known, if it is taken. Close the result to release
// it; the end of the process does too.
func LockDir(fs FS, dir string) (io.Closer, error) {
	return fs.Lock(filepath.Join(dir, LockName))
}
