package rocva

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
)

// Target says where one disk goes: a file that does not exist yet, or a block
// device.
type Target struct {
	Disk dr.DiskID
	Path string
}

// target is a Target under way.
type target struct {
	Target
	fs     durable.FS
	disk   journal.ImageDisk
	index  int // in Image.Disks
	device bool
	file   durable.File
	direct durable.File // the same file past the page cache; nil where that is refused
	lock   io.Closer
	// written counts what was put there by this run, in bytes.
	written atomic.Int64
	final   bool  // the file has its own name already: an earlier run was killed there
	stays   bool  // the target has content, which stays where nothing is written
	mark    *mark // of an update
	failed  error // of a sync: nothing written since the one before is to be trusted
}

func (t *target) partial() string { return t.Path + partialSuffix }
func (t *target) cursor() string  { return t.Path + cursorSuffix }

// name is where the disk is being written.
func (t *target) name() string {
	if t.device {
		return t.Path
	}
	return t.partial()
}

// pickTargets matches targets with the image's disks and looks at what is
// there.
func pickTargets(fs durable.FS, img *journal.Image, want []Target) ([]*target, error) {
	const op = "rocva.Full"
	if len(want) == 0 {
		return nil, errs.New(op, errs.Invalid, "", "no disk was asked for")
	}
	var out []*target
	paths := make(map[string]bool)
	disks := make(map[dr.DiskID]bool)
	for _, w := range want {
		path, err := filepath.Abs(w.Path)
		if err != nil || w.Path == "" {
			return nil, errs.New(op, errs.Invalid, w.Path, "the target has no usable path")
		}
		if paths[path] || disks[w.Disk] {
			return nil, errs.New(op, errs.Invalid, w.Path, "a disk or a path is given twice")
		}
		paths[path], disks[w.Disk] = true, true
		t := &target{Target: Target{w.Disk, path}, fs: fs, index: -1}
		for i, d := range img.Disks {
			if d.ID == w.Disk {
				t.index, t.disk = i, d
			}
		}
		if t.index < 0 {
			return nil, errs.New(op, errs.NotFound, w.Disk.String(), fmt.Sprintf("checkpoint #%d has no such disk", img.Checkpoint.ID)).
				WithRemedy("inspect the container to see its disks")
		}
		if t.device, err = isDevice(path); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func isDevice(path string) (bool, error) {
	st, err := os.Stat(path)
	if os.IsNotExist(err) {
		return false, nil
	} else if err != nil {
		return false, durable.Wrap("rocva.Full", path, err)
	}
	mode := st.Mode()
	if mode.IsRegular() || mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0 {
		return !mode.IsRegular(), nil
	}
	return false, errs.New("rocva.Full", errs.Invalid, path, "the target is neither a file nor a block device")
}

// exists reports whether path is there.
func exists(fs durable.FS, path string) (bool, error) {
	_, err := fs.Stat(path)
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// take locks the target against another run; a device against all who use it
// by themselves, a mounted file system too.
func (t *target) take() error {
	const op = "rocva.Full"
	if t.device {
		f, err := os.OpenFile(t.Path, os.O_RDWR|unix.O_EXCL, 0)
		if errors.Is(err, unix.EBUSY) {
			return errs.E(op, errs.Conflict, t.Path, err).WithRemedy("unmount the device, or choose another")
		} else if err != nil {
			return durable.Wrap(op, t.Path, err)
		}
		t.lock = f
		return nil
	}
	lock, err := t.fs.Lock(t.Path + lockSuffix)
	if err != nil {
		return errs.E(op, errs.Internal, t.Path, err)
	}
	t.lock = lock
	return nil
}

// openFile opens the partial file; fresh drops what an earlier run wrote.
func (t *target) openFile(fresh bool) (err error) {
	const op = "rocva.Full"
	if t.file, err = t.fs.OpenFile(t.partial(), durable.Write|durable.Create); err != nil {
		return errs.E(op, errs.Internal, t.partial(), err)
	}
	if fresh {
		if err := t.file.Truncate(0); err != nil {
			return errs.E(op, errs.Internal, t.partial(), err)
		}
	}
	if err := t.openDirect(); err != nil {
		return err
	}
	err = t.file.Truncate(t.disk.Size)
	if err == nil {
		err = t.allocate()
	}
	if err == nil && !t.stays {
		err = t.fs.SyncDir(filepath.Dir(t.Path)) // before any cursor speaks of it
	}
	if err != nil {
		return errs.E(op, errs.Internal, t.partial(), err)
	}
	return nil
}

// allocate takes the room of a disk that is nearly full of content before it
// is written, where the file system can: direct writes into room that is
// there go on side by side, into holes one after the other. It took a tenth
// off the time of a rehydration of 1 GiB. A disk with large holes keeps them.
func (t *target) allocate() error {
	a, ok := t.file.(durable.Allocator)
	if !ok || t.direct == nil || t.disk.Bytes < t.disk.Size-t.disk.Size/allocateFrom {
		return nil
	}
	for off := int64(0); off < t.disk.Size; off += allocatePiece {
		if err := a.Allocate(off, min(allocatePiece, t.disk.Size-off)); err != nil {
			return err
		}
	}
	return nil
}

// openDirect opens what t.file is a second time, for large writes.
func (t *target) openDirect() (err error) {
	t.direct, err = t.fs.OpenFile(t.name(), durable.Write|durable.Direct)
	if errors.Is(err, durable.ErrNoDirect) {
		t.direct, err = nil, nil
	}
	if err != nil {
		return errs.E("rocva.Full", errs.Internal, t.name(), err)
	}
	return nil
}

// openDevice opens and zeroes a block device: what it holds is not known, and
// what the image does not give must read as zeroes.
func (t *target) openDevice(ctx context.Context, size int64) (err error) {
	const op = "rocva.Full"
	if size < t.disk.Size {
		return errs.New(op, errs.Full, t.Path, fmt.Sprintf("the device has %d bytes, the disk %d", size, t.disk.Size)).
			WithRemedy("give a device at least as large as the disk")
	}
	if t.file, err = t.fs.OpenFile(t.Path, durable.Write); err != nil {
		return errs.E(op, errs.Internal, t.Path, err)
	}
	if err := t.openDirect(); err != nil {
		return err
	}
	zero := durable.AlignedBytes(zeroPiece)
	for off := int64(0); off < t.disk.Size; off += zeroPiece {
		if ctx.Err() != nil {
			return errs.E(op, errs.Canceled, t.Path, context.Cause(ctx))
		}
		if err := t.put(zero, off); err != nil {
			return err
		}
	}
	t.written.Store(0) // zeroes are not content
	return nil
}

func deviceSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, durable.Wrap("rocva.Full", path, err)
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, durable.Wrap("rocva.Full", path, err)
	}
	return n, nil
}

// checkRoom refuses early what cannot fit.
func (t *target) checkRoom() error {
	if t.device {
		return nil
	}
	return checkRoom(t.partial(), t.Path, t.disk.Bytes)
}

// CheckRoom refuses a disk whose content, in bytes, cannot fit where path is.
// What the file there has counts as free. A file system that cannot say
// passes: the write will. Kind Full.
func CheckRoom(path string, content int64) error { return checkRoom(path, path, content) }

// CheckRooms is CheckRoom of several disks, by their paths, whose directories need
// not be there yet: those of one file system have its room together.
func CheckRooms(content map[string]int64) error {
	type room struct {
		path       string // of the first disk there
		free, need int64
	}
	all := map[unix.Fsid]*room{}
	for _, path := range slices.Sorted(maps.Keys(content)) {
		var st unix.Statfs_t
		dir := filepath.Dir(path)
		err := unix.Statfs(dir, &st)
		for ; errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir); err = unix.Statfs(dir, &st) {
			dir = filepath.Dir(dir)
		}
		if err != nil {
			continue
		}
		r := all[st.Fsid]
		if r == nil {
			r = &room{path: path, free: int64(min(st.Bavail, 1<<50)) * st.Bsize}
			all[st.Fsid] = r
		}
		for _, file := range []string{path, path + partialSuffix} {
			var have unix.Stat_t
			if unix.Stat(file, &have) == nil {
				r.free += have.Blocks * 512
			}
		}
		r.need += content[path]
	}
	for _, r := range all {
		if r.free < r.need {
			return noRoom(r.path, r.free, r.need)
		}
	}
	return nil
}

func noRoom(path string, free, need int64) error {
	return errs.New("rocva.CheckRoom", errs.Full, path, fmt.Sprintf(
		"the file system has room for %d bytes; %d are needed for content", free, need)).
		WithRemedy("free space, or choose another directory")
}

func checkRoom(file, path string, content int64) error {
	var st unix.Statfs_t
	if unix.Statfs(filepath.Dir(path), &st) != nil {
		return nil
	}
	free := int64(min(st.Bavail, 1<<50)) * st.Bsize
	var have unix.Stat_t
	if unix.Stat(file, &have) == nil {
		free += have.Blocks * 512
	}
	if free < content {
		return noRoom(path, free, content)
	}
	return nil
}

// put writes b, which begins on a page and at a block of the disk, to byte at.
// What lies beyond the disk's end is left out.
func (t *target) put(b []byte, at int64) error {
	b = b[:max(0, min(int64(len(b)), t.disk.Size-at))] // the last block may end beyond the disk
	if len(b) == 0 {
		return nil
	}
	t.written.Add(int64(len(b)))
	whole := 0
	if t.direct != nil && len(b) >= directFrom {
		whole = len(b) &^ (durable.PageSize - 1)
		if err := t.direct.WriteAtv([][]byte{b[:whole]}, at); err != nil {
			return errs.E("rocva.Full", errs.Internal, t.name(), err)
		}
	}
	if whole == len(b) {
		return nil
	}
	if err := t.file.WriteAtv([][]byte{b[whole:]}, at+int64(whole)); err != nil {
		return errs.E("rocva.Full", errs.Internal, t.name(), err)
	}
	return nil
}

var zeroBlock [dr.BlockSize]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:]) }

// sync makes what was written durable, past the page cache or not: it is one
// file, and the device's own cache is emptied with it. After an error it fails for ever: the
// kernel may have dropped what it could not write.
func (t *target) sync() error {
	if t.file == nil || t.failed != nil {
		return t.failed
	}
	if err := t.file.Sync(); err != nil {
		t.failed = errs.E("rocva.Full", errs.Internal, t.name(), err)
	}
	return t.failed
}

// ended reports whether the file has its own name and no partial one.
func (t *target) ended() bool {
	there, err := exists(t.fs, t.Path)
	if err != nil || !there {
		return false
	}
	partial, err := exists(t.fs, t.partial())
	return err == nil && !partial
}

// untouched reports whether the finished file is as an earlier run left it:
// its cursor was written after the last byte of it.
func (t *target) untouched() bool {
	file, err := t.fs.Stat(t.Path)
	if err != nil {
		return false
	}
	cursor, err := t.fs.Stat(t.cursor())
	if errs.Is(err, errs.NotFound) {
		return true // removed after all files had their names
	}
	return err == nil && !file.ModTime.After(cursor.ModTime)
}

// tidy removes what a finished run no longer needs. The lock goes last, and
// only here: as long as a partial file is there, so is what guards it.
func (t *target) tidy() error {
	if t.device {
		return nil
	}
	if err := t.forgetCursor(); err != nil {
		return err
	}
	if err := t.fs.Remove(t.Path + lockSuffix); err != nil && !errs.Is(err, errs.NotFound) {
		return errs.E("rocva.Full", errs.Internal, t.Path+lockSuffix, err)
	}
	return nil
}

func (t *target) forgetCursor() error {
	if t.device {
		return nil
	}
	if there, err := exists(t.fs, t.cursor()); err == nil && !there {
		return nil // as beside a standby's disk: nothing to sync
	}
	if err := durable.Remove(t.fs, t.cursor()); err != nil {
		return errs.E("rocva.Full", errs.Internal, t.cursor(), err)
	}
	return nil
}

// openInPlace opens a device whose content stays where nothing is written.
func (t *target) openInPlace(size int64) (err error) {
	const op = "rocva.Update"
	if size < t.disk.Size {
		return errs.New(op, errs.Full, t.Path, fmt.Sprintf("the device has %d bytes, the disk %d", size, t.disk.Size)).
			WithRemedy("give a device at least as large as the disk")
	}
	if t.file, err = t.fs.OpenFile(t.Path, durable.Write); err != nil {
		return errs.E(op, errs.Internal, t.Path, err)
	}
	return t.openDirect()
}

// clear makes r read as zeroes: a hole where the file system can, which takes
// no time however long it is.
func (t *target) clear(r extent.Range) error {
	r = r.Intersect(extent.Range{Len: t.disk.Size})
	if z, ok := t.file.(durable.Zeroer); ok && !t.device && !r.Empty() {
		if err := z.Zero(r.Off, r.Len); err == nil {
			return nil
		} else if !errors.Is(err, durable.ErrNoZero) {
			return errs.E("rocva.Update", errs.Internal, t.name(), err)
		}
	}
	zero := durable.AlignedBytes(int(min(r.Len, zeroPiece)))
	for off := r.Off; off < r.End(); off += zeroPiece {
		if err := t.put(zero[:min(zeroPiece, r.End()-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// rename gives a whole and durable file its own name.
func (t *target) rename() error {
	if t.device || t.final {
		return nil
	}
	err := t.fs.Rename(t.partial(), t.Path)
	if err == nil {
		err = t.fs.SyncDir(filepath.Dir(t.Path))
	}
	if err != nil {
		return errs.E("rocva.Full", errs.Internal, t.Path, err)
	}
	return nil
}

func (t *target) close() {
	if t.direct != nil {
		_ = t.direct.Close() // as below
		t.direct = nil
	}
	if t.file != nil {
		// All that matters was synced; there is nothing left that close could lose.
		_ = t.file.Close()
		t.file = nil
	}
	if t.lock != nil {
		_ = t.lock.Close()
		t.lock = nil
	}
}
