package durable

import (
	"errors"
	"io"
	"time"
)

// Mode says how [FS.OpenFile] opens a file. The zero value opens an existing
// file for reading.
type Mode uint8

const (
	// Write opens for reading and writing.
	Write Mode = 1 << iota
	// Create makes the file if it is missing. Its name is durable only after
	// SyncDir of its directory.
	Create
	// Exclusive, with Create, fails with kind Exists if the name is taken.
	Exclusive
	// Direct moves data between the device and the caller's memory without the
	// page cache. Offsets, lengths and addresses must be multiples of
	// PageSize. A file system that cannot do it refuses with ErrNoDirect.
	Direct
	// DSync makes each write durable before it returns.
	DSync
)

// ErrNoDirect is in the chain of the error of an OpenFile with Direct on a
// file system that has no direct I/O (some memory and network file systems).
var ErrNoDirect = errors.New("file system refuses direct I/O")

// Entry describes one name in a directory.
type Entry struct {
	Name    string // last element of the path
	Dir     bool
	Size    int64     // bytes; 0 for directories
	ModTime time.Time // of the file system's clock
}

// FS is what the product needs of a file system. Implementations are safe for
// concurrent use. Errors are *errs.Error: NotFound, Exists, Full (no space, no
// quota), Denied, Invalid, Transient (no file handles), Unavailable (the
// device failed), Conflict (Lock).
type FS interface {
	// OpenFile opens path as mode says. The caller closes the File.
	OpenFile(path string, mode Mode) (File, error)
	// Link gives oldPath's file a second name; Exists if newPath is taken.
	// Atomic; durable after SyncDir.
	Link(oldPath, newPath string) error
	// Rename moves oldPath over newPath in the same directory. Atomic; durable
	// after SyncDir.
	Rename(oldPath, newPath string) error
	// Remove removes a file or an empty directory. Durable after SyncDir.
	Remove(path string) error
	// Mkdir makes one directory; durable after SyncDir of its parent.
	Mkdir(path string) error
	// SyncDir makes all changes of names in the directory durable.
	SyncDir(path string) error
	// ReadDir lists a directory by name, temporary files included. A name that
	// vanishes while listing is left out.
	ReadDir(path string) ([]Entry, error)
	// Stat describes path.
	Stat(path string) (Entry, error)
	// Lock takes path, made if missing, as an exclusive lock against other
	// processes and other callers of this one; Conflict if it is held. Closing
	// it, or the end of the process, releases it.
	Lock(path string) (io.Closer, error)
}

// File is an open file. Safe for concurrent use, except Close.
type File interface {
	// ReadAt reads as io.ReaderAt does.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAtv writes the slices one after the other at off, all of them or an
	// error; after an error any part may be written. With DSync they are
	// durable on return. At most MaxVectors slices.
	WriteAtv(bufs [][]byte, off int64) error
	// Sync makes all finished writes durable, and what is needed to read them
	// back. After an error the file must be closed and not trusted: see the
	// package comment.
	Sync() error
	// Truncate sets the size in bytes; durable after Sync.
	Truncate(size int64) error
	// Size returns the size in bytes.
	Size() (int64, error)
	// Close releases the file. It makes nothing durable.
	Close() error
}

// CachedReader is a File that can tell whether a read would wait for the device.
type CachedReader interface {
	// ReadCached reads as ReadAt does, and only what memory holds: it gives fewer
	// bytes than len(p), with no error, rather than wait. It allocates nothing.
	// Where the file system cannot tell, it gives none.
	ReadCached(p []byte, off int64) (int, error)
}

// Starter is a File whose written bytes can be sent to the device before a Sync
// asks for them.
type Starter interface {
	// Start begins to write the n bytes at off out, and waits until what was
	// begun of them before is out. Nothing is durable by it: a Sync later finds
	// less to do. Where the file system cannot do it nothing happens. An error is
	// as one of Sync, which may not hear of it any more: the file must be closed
	// and not trusted.
	Start(off, n int64) error
}

// Allocator is a File that can take room before it is written.
type Allocator interface {
	// Allocate makes sure that the n bytes at off have room on the device and
	// that the file is long enough for them; content stays, and what was a
	// hole still reads as zeroes. Durable after Sync. Where the file system
	// cannot do it nothing happens, and that is no error. Kind Full when there
	// is no room.
	Allocate(off, n int64) error
}

// Zeroer is a File that can zero a range without being sent zeroes.
type Zeroer interface {
	// Zero makes the n bytes at off read as zeroes and gives their room back.
	// Durable after Sync. A file system that cannot do it refuses with
	// ErrNoZero and changes nothing.
	Zero(off, n int64) error
}

// ErrNoZero is in the chain of the error of a Zero on a file system that
// cannot.
var ErrNoZero = errors.New("file system cannot zero a range by itself")
