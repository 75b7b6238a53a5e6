package rocva

import (
	"errors"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/store/mem"
)

// directFS counts what is written past the page cache, or refuses to.
type directFS struct {
	durable.OS
	refuse bool
	direct atomic.Int64 // bytes
}

func (f *directFS) OpenFile(path string, m durable.Mode) (durable.File, error) {
	if m&durable.Direct == 0 {
		return f.OS.OpenFile(path, m)
	}
	if f.refuse {
		return nil, durable.Wrap("test", path, errors.Join(durable.ErrNoDirect, unix.EINVAL))
	}
	file, err := f.OS.OpenFile(path, m)
	if err != nil {
		return nil, err
	}
	return &directFile{file, f}, nil
}

type directFile struct {
	durable.File
	fs *directFS
}

func (f *directFile) WriteAtv(bs [][]byte, off int64) error {
	for _, b := range bs {
		if !durable.Aligned(b) || off%durable.PageSize != 0 {
			return durable.Wrap("test", "", unix.EINVAL)
		}
		f.fs.direct.Add(int64(len(b)))
	}
	return f.File.WriteAtv(bs, off)
}

// TestLargeRunsGoPastThePageCache builds a disk that is written from end to
// end and ends inside a block, with direct I/O and on a file system without.
func TestLargeRunsGoPastThePageCache(t *testing.T) {
	const size = gatherSize + 2*directFrom + 512
	w := newFullWorld(t, mem.New(), seeded(t), 2, size)
	for _, refuse := range []bool{false, true} {
		fs := &directFS{refuse: refuse}
		targets := w.targets(t.TempDir())
		res, err := Full(t.Context(), w.c, w.img, targets, Options{FS: fs})
		check(t, err)
		w.compare(t, targets)
		if res.Written != size {
			t.Fatalf("%d bytes written of %d", res.Written, int64(size))
		}
		want := int64(size - 512)
		if refuse {
			want = 0
		}
		if got := fs.direct.Load(); got != want {
			t.Fatalf("refused %v: %d bytes were written past the page cache, not %d", refuse, got, want)
		}
	}
}

// TestFullDiskIsAllocatedFirst: the room of a disk full of content is taken at
// once, that of one with holes is not.
func TestFullDiskIsAllocatedFirst(t *testing.T) {
	w := newFullWorld(t, mem.New(), seeded(t), 1, 1<<20)
	for _, full := range []bool{true, false} {
		if !full {
			w.img.Disks[0].Bytes /= 2
		}
		targets, err := pickTargets(durable.OS{}, w.img, w.targets(t.TempDir()))
		check(t, err)
		check(t, targets[0].openFile(true))
		if targets[0].direct == nil {
			targets[0].direct = targets[0].file // as if this file system had direct I/O
		}
		check(t, targets[0].allocate())
		var st unix.Stat_t
		check(t, unix.Stat(targets[0].partial(), &st))
		targets[0].close()
		if allocated := st.Blocks*512 >= 1<<20; allocated != full || st.Size != 1<<20 {
			t.Fatalf("full %v: %d bytes allocated of %d", full, st.Blocks*512, st.Size)
		}
	}
}
