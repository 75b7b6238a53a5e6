//go:build linux

package durable

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

// OS is the real file system. The zero value is ready to use.
type OS struct{}

// OpenFile implements FS. An interrupted call is repeated.
func (OS) OpenFile(path string, mode Mode) (File, error) {
	flags := os.O_RDONLY
	if mode&Write != 0 {
		flags = os.O_RDWR
	}
	for m, f := range map[Mode]int{Create: os.O_CREATE, Exclusive: os.O_EXCL, Direct: unix.O_DIRECT, DSync: unix.O_DSYNC} {
		if mode&m != 0 {
			flags |= f
		}
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil && mode&Direct != 0 && errors.Is(err, unix.EINVAL) {
		err = errors.Join(ErrNoDirect, err)
	}
	if err != nil {
		return nil, Wrap("durable.OpenFile", path, err)
	}
	return &osFile{f: f, fd: f.Fd()}, nil
}

// Link implements FS with link(2).
func (OS) Link(oldPath, newPath string) error {
	return Wrap("durable.Link", newPath, unix.Link(oldPath, newPath))
}

// Rename implements FS with rename(2).
func (OS) Rename(oldPath, newPath string) error {
	return Wrap("durable.Rename", newPath, unix.Rename(oldPath, newPath))
}

// Remove implements FS.
func (OS) Remove(path string) error { return Wrap("durable.Remove", path, os.Remove(path)) }

// Mkdir implements FS.
func (OS) Mkdir(path string) error { return Wrap("durable.Mkdir", path, os.Mkdir(path, 0o700)) }

// SyncDir implements FS with fsync(2) on the directory.
func (OS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return Wrap("durable.SyncDir", path, err)
	}
	err = d.Sync()
	d.Close() // read-only: nothing to lose
	return Wrap("durable.SyncDir", path, err)
}

// ReadDir implements FS.
func (OS) ReadDir(path string) ([]Entry, error) {
	list, err := os.ReadDir(path)
	if err != nil {
		return nil, Wrap("durable.ReadDir", path, err)
	}
	out := make([]Entry, 0, len(list))
	for _, de := range list {
		fi, err := de.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // removed since the listing began
		}
		if err != nil {
			return nil, Wrap("durable.ReadDir", path, err)
		}
		out = append(out, entryOf(fi))
	}
	return out, nil
}

// Stat implements FS.
func (OS) Stat(path string) (Entry, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Entry{}, Wrap("durable.Stat", path, err)
	}
	return entryOf(fi), nil
}

func entryOf(fi os.FileInfo) Entry {
	e := Entry{Name: fi.Name(), Dir: fi.IsDir(), ModTime: fi.ModTime()}
	if !e.Dir {
		e.Size = fi.Size()
	}
	return e
}

// Lock implements FS with flock(2). The file holds the holder's process id as
// a courtesy to whoever finds the lock taken.
func (OS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, Wrap("durable.Lock", path, err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := readHolder(f)
		f.Close()
		return nil, lockHeld(path, holder)
	}
	if err != nil {
		f.Close()
		return nil, Wrap("durable.Lock", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		_ = err // only a note; a full disk must not stop a lock
	}
	return f, nil
}

func readHolder(f *os.File) string {
	var b [lockNoteMax]byte
	n, _ := f.ReadAt(b[:], 0) // a missing note only makes the message shorter
	s := strings.TrimSpace(string(b[:n]))
	if _, err := strconv.Atoi(s); err != nil {
		return ""
	}
	return "process " + s
}

// lockHeld is the error of a lock that somebody else holds.
func lockHeld(path, holder string) error {
	if holder == "" {
		holder = "another process"
	}
	return errs.New("durable.Lock", errs.Conflict, path, "in use by "+holder).
		WithRemedy("stop " + holder + ", or use another directory")
}

// osFile is a File on the real file system.
type osFile struct {
	f  *os.File
	fd uintptr // of f; the file stays in blocking mode

	// iovs recycles vectors between writes. One entry per concurrent writer.
	mu   sync.Mutex
	iovs [][]unix.Iovec // guarded by mu
}

// ReadAt implements File.
func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = Wrap("durable.ReadAt", f.f.Name(), err)
	}
	return n, err
}

// WriteAtv implements File with pwritev(2). It does not allocate once warm.
func (f *osFile) WriteAtv(bufs [][]byte, off int64) error {
	if len(bufs) > MaxVectors {
		return Wrap("durable.WriteAtv", f.f.Name(), unix.EINVAL)
	}
	iov := f.takeVectors()
	for _, b := range bufs {
		if len(b) > 0 {
			v := unix.Iovec{Base: unsafe.SliceData(b)}
			v.SetLen(len(b))
			iov = append(iov, v)
		}
	}
	err := f.writeAll(iov, off)
	clear(iov) // do not keep the caller's memory alive
	f.giveVectors(iov)
	return Wrap("durable.WriteAtv", f.f.Name(), err)
}

// writeAll repeats short writes until all of iov is written.
func (f *osFile) writeAll(iov []unix.Iovec, off int64) error {
	for len(iov) > 0 {
		// The kernel joins both halves of the offset; on 64-bit machines the
		// low one carries it all.
		n, _, errno := unix.Syscall6(unix.SYS_PWRITEV, f.fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(off), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		off += int64(n)
		iov = advance(iov, int(n))
	}
	return nil
}

// advance drops the first n bytes of iov.
func advance(iov []unix.Iovec, n int) []unix.Iovec {
	for len(iov) > 0 && uint64(n) >= iov[0].Len {
		n -= int(iov[0].Len)
		iov = iov[1:]
	}
	if n > 0 {
		iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
		iov[0].SetLen(int(iov[0].Len) - n)
	}
	return iov
}

func (f *osFile) takeVectors() []unix.Iovec {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.iovs); n > 0 {
		v := f.iovs[n-1]
		f.iovs = f.iovs[:n-1]
		return v
	}
	return make([]unix.Iovec, 0, MaxVectors)
}

func (f *osFile) giveVectors(v []unix.Iovec) {
	f.mu.Lock()
	f.iovs = append(f.iovs, v[:0])
	f.mu.Unlock()
}

// Sync implements File with fdatasync(2).
func (f *osFile) Sync() error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fdatasync(int(f.fd))
	}
	return Wrap("durable.Sync", f.f.Name(), err)
}

// Truncate implements File.
func (f *osFile) Truncate(size int64) error {
	return Wrap("durable.Truncate", f.f.Name(), f.f.Truncate(size))
}

// ReadCached implements CachedReader with preadv2(2). x/sys has the call too, but
// its vector form costs an allocation.
func (f *osFile) ReadCached(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	n, _, errno := unix.Syscall6(unix.SYS_PREADV2, f.fd, uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS:
		return 0, nil // it would wait, or cannot tell
	}
	return 0, Wrap("durable.ReadCached", f.f.Name(), errno)
}

// Start implements Starter with sync_file_range(2).
func (f *osFile) Start(off, n int64) error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.SyncFileRange(int(f.fd), off, n, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ESPIPE) {
		return nil
	}
	return Wrap("durable.Start", f.f.Name(), err)
}

// Allocate implements Allocator with fallocate(2).
func (f *osFile) Allocate(off, n int64) error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.fd), 0, off, n)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return Wrap("durable.Allocate", f.f.Name(), err)
}

// Zero implements Zeroer with fallocate(2).
func (f *osFile) Zero(off, n int64) error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = ErrNoZero
	}
	return Wrap("durable.Zero", f.f.Name(), err)
}

// Size implements File.
func (f *osFile) Size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, Wrap("durable.Size", f.f.Name(), err)
	}
	return fi.Size(), nil
}

// Close implements File.
func (f *osFile) Close() error { return Wrap("durable.Close", f.f.Name(), f.f.Close()) }
