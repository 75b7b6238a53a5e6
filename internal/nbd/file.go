package nbd

import (
	"errors"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

// FileOptions say how a disk is opened.
type FileOptions struct {
	// Direct bypasses the host's page cache (O_DIRECT), as a hypervisor's
	// cache=none does.
	Direct bool
	// ReadOnly refuses writes and shares the disk with other readers.
	ReadOnly bool
}

// File is a raw disk: a regular file or a block device. It is the primary
// [Device] of an export and its [Primary].
//
// A File holds the disk's lock from OpenFile to Close. All methods are safe
// for concurrent use, Close excepted: it is called once, when no export uses
// the file any more. Writes are durable after Flush, or with FUA.
//
// The descriptor is a plain number, not an os.File: nothing closes it behind
// the back of a system call when the garbage collector sees no more use.
type File struct {
	path     string
	fd       int
	size     int64
	align    int // O_DIRECT: offsets, lengths and memory; 1 when buffered
	device   bool
	direct   bool
	readOnly bool

	syncErr atomic.Pointer[error] // buffered: the first failed flush, for good
	noWait  atomic.Bool           // RWF_NOWAIT works here

	work  workers
	syncs syncer
	locks rangeLock
	pool  *bufferPool // bounce buffers of unaligned direct requests
}

// OpenFile opens the disk at path and locks it against a second opening by a
// holdfast process (also of the same process): two filters over one disk
// would each miss the other's writes. Hypervisors' own image locks are of a
// different sort and do not collide.
//
// Errors: NotFound, Denied, Invalid (a directory, an O_DIRECT size that is
// not a multiple of the block size), Conflict (in use), Unavailable.
func OpenFile(path string, o FileOptions) (*File, error) {
	const op = "nbd.OpenFile"
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if o.ReadOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC
	}
	if o.Direct {
		flags |= unix.O_DIRECT
	}
	fd, err := openRetry(path, flags)
	if err != nil {
		e := errs.E(op, kindOfSystem(err), path, err)
		if o.Direct && errors.Is(err, unix.EINVAL) {
			return nil, e.WithRemedy("this file system has no direct I/O: open the disk buffered")
		}
		return nil, e
	}
	f := &File{path: path, fd: fd, align: 1, direct: o.Direct, readOnly: o.ReadOnly, pool: newBufferPool()}
	if err := f.setUp(op); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f.noWait.Store(!f.direct)
	limit := fileWorkers
	if f.direct {
		limit = directWorkers
	}
	f.work.init(limit, f.execute)
	f.syncs.init(f.datasync)
	return f, nil
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// setUp locks the descriptor and learns the disk's size and alignment.
func (f *File) setUp(op string) error {
	size, err := f.measure(op)
	if err != nil {
		return err
	}
	f.size = size
	if err := f.lock(op); err != nil {
		return err
	}
	if f.direct {
		f.align = directAlign(f.fd, f.device)
		if f.size%int64(f.align) != 0 {
			return errs.New(op, errs.Invalid, f.path, "the size is not a multiple of the direct I/O block size").
				WithRemedy("open the disk buffered, or grow it to a whole block")
		}
	}
	return nil
}

// measure returns the disk's size and notes which sort it is of.
func (f *File) measure(op string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, errs.E(op, kindOfSystem(err), f.path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return st.Size, nil
	case unix.S_IFBLK:
		f.device = true
		n, err := unix.Seek(f.fd, 0, io.SeekEnd)
		if err != nil {
			return 0, errs.E(op, kindOfSystem(err), f.path, err)
		}
		return n, nil
	}
	return 0, errs.New(op, errs.Invalid, f.path, "neither a regular file nor a block device").
		WithRemedy("name a raw disk image or a block device")
}

// lock takes the disk's advisory lock (flock): exclusive for writers, shared
// for readers.
func (f *File) lock(op string) error {
	how := unix.LOCK_EX
	if f.readOnly {
		how = unix.LOCK_SH
	}
	err := unix.Flock(f.fd, how|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errs.New(op, errs.Conflict, f.path, "duplicate disk: it is in use by another export or process").
			WithRemedy("stop the other holdfast process, or remove the disk from the other protected VM")
	}
	return errs.E(op, kindOfSystem(err), f.path, err)
}

// directAlign asks the kernel for the O_DIRECT grain: statx since 6.1, the
// device's logical block size before, 4096 when nobody knows.
func directAlign(fd int, device bool) int {
	var sx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx); err == nil && sx.Mask&unix.STATX_DIOALIGN != 0 {
		a := max(int(sx.Dio_offset_align), int(sx.Dio_mem_align))
		if a >= 512 && a <= pageAlign && bits.OnesCount(uint(a)) == 1 {
			return a
		}
	}
	if device {
		if n, err := unix.IoctlGetInt(fd, unix.BLKSSZGET); err == nil && n >= 512 && n <= pageAlign {
			return n
		}
	}
	return pageAlign
}

// Close lets the workers end and gives up the lock. No operation may be in
// flight. Nothing is flushed: what no Flush covered has the durability the
// guest asked for.
func (f *File) Close() error {
	f.work.close()
	f.syncs.close()
	if err := unix.Close(f.fd); err != nil {
		return errs.E("nbd.File.Close", kindOfSystem(err), f.path, err)
	}
	return nil
}

// Refresh learns the disk's size anew, after somebody has grown or shrunk it.
// Called only while no export uses the file and nobody reads it. allow may
// refuse a size. On error the size is as it was. Errors: Invalid (not a whole
// number of direct I/O blocks), Unavailable, those of allow.
func (f *File) Refresh(allow func(size int64) error) error {
	const op = "nbd.File.Refresh"
	size, err := f.measure(op)
	if err != nil {
		return err
	}
	if size%int64(f.align) != 0 {
		return errs.New(op, errs.Invalid, f.path, "the size is not a multiple of the direct I/O block size").
			WithRemedy("grow the disk to a whole block")
	}
	if err := allow(size); err != nil {
		return err
	}
	f.size = size
	return nil
}

// Path returns the name the disk was opened by.
func (f *File) Path() string { return f.path }

// Size returns the disk's size in bytes when it was opened.
func (f *File) Size() int64 { return f.size }

// Direct reports whether the page cache is bypassed.
func (f *File) Direct() bool { return f.direct }

// ReadOnly reports whether the disk was opened for reading only.
func (f *File) ReadOnly() bool { return f.readOnly }

// ReadAt fills p from the disk; any alignment. As io.ReaderAt: io.EOF when p
// reaches beyond the end.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errs.New("nbd.File.ReadAt", errs.Invalid, f.path, "negative offset")
	}
	if off >= f.size {
		return 0, io.EOF
	}
	want := p
	if int64(len(p)) > f.size-off {
		want = p[:f.size-off]
	}
	if err := f.read(want, off); err != nil {
		return 0, errs.E("nbd.File.ReadAt", kindOfSystem(err), f.path, err)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(p), nil
}

// WriteAt writes p to the disk; any alignment, safe beside overlapping writes
// of any sort. Durable after Flush.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > f.size || int64(len(p)) > f.size-off {
		return 0, errs.New("nbd.File.WriteAt", errs.Invalid, f.path, "outside the disk")
	}
	if err := f.wait(Write, 0, p, off, int64(len(p))); err != nil {
		return 0, errs.E("nbd.File.WriteAt", kindOfSystem(err), f.path, err)
	}
	return len(p), nil
}

// Zero makes a range read as zeroes, deallocating where the disk can.
func (f *File) Zero(off, n int64) error {
	if off < 0 || n < 0 || off > f.size || n > f.size-off {
		return errs.New("nbd.File.Zero", errs.Invalid, f.path, "outside the disk")
	}
	if err := f.wait(WriteZeroes, 0, nil, off, n); err != nil {
		return errs.E("nbd.File.Zero", kindOfSystem(err), f.path, err)
	}
	return nil
}

// Flush makes every write completed before the call durable.
func (f *File) Flush() error {
	if err := f.wait(Flush, 0, nil, 0, 0); err != nil {
		return errs.E("nbd.File.Flush", kindOfSystem(err), f.path, err)
	}
	return nil
}

// wait runs one operation through Submit, so that the synchronous calls obey
// the same locks as the guest's.
func (f *File) wait(kind Kind, flags Flags, data []byte, off, n int64) error {
	if n == 0 && kind != Flush {
		return nil
	}
	var (
		wg  sync.WaitGroup
		out error
	)
	wg.Add(1)
	op := NewOp(func(_ *Op, err error) { out = err; wg.Done() })
	op.Kind, op.Flags, op.Offset, op.Length, op.Data = kind, flags, off, n, data
	f.Submit(op)
	wg.Wait()
	return out
}

// NextData tells where the next extent with data lies, from the file system's
// map. A disk without one says that everything is data.
func (f *File) NextData(off int64) (start, end int64, err error) {
	if off >= f.size {
		return f.size, f.size, nil
	}
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return f.size, f.size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return off, f.size, nil
	case err != nil:
		return 0, 0, errs.E("nbd.File.NextData", kindOfSystem(err), f.path, err)
	}
	end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err != nil {
		if errors.Is(err, unix.ENXIO) { // truncated or punched between the two calls
			return f.size, f.size, nil
		}
		return 0, 0, errs.E("nbd.File.NextData", kindOfSystem(err), f.path, err)
	}
	return min(start, f.size), min(end, f.size), nil
}
