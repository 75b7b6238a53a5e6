package durabletest

import (
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// Kind names an operation.
type Kind string

// The operations. Those that change nothing on disk are numbered as well.
const (
	Open     Kind = "open"
	Create   Kind = "create"
	Read     Kind = "read"
	Write    Kind = "write"
	Sync     Kind = "sync"
	Truncate Kind = "truncate"
	Link     Kind = "link"
	Rename   Kind = "rename"
	Remove   Kind = "remove"
	Mkdir    Kind = "mkdir"
	SyncDir  Kind = "syncdir"
	ReadDir  Kind = "readdir"
	Lock     Kind = "lock"
)

// Mutates reports whether the operation can change what a crash leaves.
func (k Kind) Mutates() bool {
	return k != Open && k != Read && k != ReadDir && k != Lock
}

// Phase is the moment of an operation a hook or a crash is at.
type Phase uint8

const (
	// Before: nothing of the operation happened.
	Before Phase = iota
	// During: a write is on its way; any part may have reached the disk.
	During
	// After: the operation had its effect; the caller does not know yet.
	After
)

// Op is one moment of one operation.
type Op struct {
	N     int64 // number of the operation, from 1
	Kind  Kind
	Phase Phase
	Path  string
	Off   int64 // of Read and Write, bytes
	Len   int   // of Read and Write, bytes
}

// Hook sees every operation at each of its phases, without locks held, from
// the goroutine of the caller: it may wait, take an image, or return an error
// Before, which makes the operation fail with it. Errors in other phases are
// ignored.
type Hook func(Op) error

// Config sets up an FS. The zero value is an endless disk with direct I/O.
type Config struct {
	Capacity int64 // bytes of file content; 0 is no limit
	NoDirect bool  // refuse direct I/O as some file systems do
	Hook     Hook  // may be nil
}

// FS is a durable.FS in memory. Safe for concurrent use.
type FS struct {
	cfg Config

	mu     sync.Mutex
	root   *node
	n      int64 // operations so far
	pages  int64 // allocated
	halted bool
	haltAt int64 // operation to halt at; 0 for none
	haltIn Phase
	locks  map[string]bool
}

// New returns an empty file system.
func New(cfg Config) *FS {
	return &FS{cfg: cfg, root: newDir(0), locks: map[string]bool{}}
}

// SetHook replaces the hook. Not while operations run.
func (fs *FS) SetHook(h Hook) { fs.cfg.Hook = h }

// Ops returns the number of operations begun so far.
func (fs *FS) Ops() int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.n
}

// CrashAt stops the machine at operation n: in that phase of it, everything
// from there on fails. Take an [FS.Image] afterwards.
func (fs *FS) CrashAt(n int64, in Phase) {
	fs.mu.Lock()
	fs.haltAt, fs.haltIn = n, in
	fs.mu.Unlock()
}

// Halt stops the machine now: every operation fails from here on.
func (fs *FS) Halt() {
	fs.mu.Lock()
	fs.halted = true
	fs.mu.Unlock()
}

// Halted reports whether the machine was stopped.
func (fs *FS) Halted() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.halted
}

// begin numbers an operation and runs the Before phase.
func (fs *FS) begin(kind Kind, path string, off int64, n int) (Op, error) {
	fs.mu.Lock()
	fs.n++
	op := Op{N: fs.n, Kind: kind, Path: path, Off: off, Len: n}
	fs.mu.Unlock()
	return op, fs.at(op, Before)
}

// at runs one phase of op: the hook, then the crash that was asked for.
func (fs *FS) at(op Op, phase Phase) error {
	op.Phase = phase
	if fs.cfg.Hook != nil {
		if err := fs.cfg.Hook(op); err != nil && phase == Before {
			return err
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.haltAt == op.N && fs.haltIn == phase {
		fs.halted = true
	}
	if fs.halted {
		return syscall.ENODEV
	}
	return nil
}

// mutate runs a change of names as one operation.
func (fs *FS) mutate(kind Kind, path string, change func() error) error {
	op, err := fs.begin(kind, path, 0, 0)
	if err == nil {
		fs.mu.Lock()
		err = change()
		fs.mu.Unlock()
	}
	if err == nil {
		err = fs.at(op, After)
	}
	return durable.Wrap("durabletest."+string(kind), path, err)
}

// dirAndName finds the directory that holds path. Caller holds mu.
func (fs *FS) dirAndName(path string) (*node, string, error) {
	dir, err := fs.find(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	if dir.names == nil {
		return nil, "", syscall.ENOTDIR
	}
	return dir, filepath.Base(path), nil
}

// find resolves path. Caller holds mu.
func (fs *FS) find(path string) (*node, error) {
	at := fs.root
	for part := range strings.SplitSeq(filepath.Clean(path), "/") {
		if part == "" || part == "." {
			continue
		}
		if at.names == nil {
			return nil, syscall.ENOTDIR
		}
		next := at.names[part]
		if next == nil {
			return nil, syscall.ENOENT
		}
		at = next
	}
	return at, nil
}

// OpenFile implements durable.FS.
func (fs *FS) OpenFile(path string, mode durable.Mode) (durable.File, error) {
	kind := Open
	if mode&durable.Create != 0 {
		kind = Create
	}
	op, err := fs.begin(kind, path, 0, 0)
	var n *node
	if err == nil {
		n, err = fs.open(path, mode)
	}
	if err == nil {
		err = fs.at(op, After)
	}
	if err != nil {
		return nil, durable.Wrap("durabletest.OpenFile", path, err)
	}
	return &file{fs: fs, node: n, path: path, mode: mode}, nil
}

func (fs *FS) open(path string, mode durable.Mode) (*node, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if mode&durable.Direct != 0 && fs.cfg.NoDirect {
		return nil, durable.ErrNoDirect
	}
	dir, name, err := fs.dirAndName(path)
	if err != nil {
		return nil, err
	}
	n := dir.names[name]
	switch {
	case n == nil && mode&durable.Create == 0:
		return nil, syscall.ENOENT
	case n == nil:
		n = newFile(fs.n)
		dir.apply(nameChange{name: n})
	case mode&durable.Exclusive != 0:
		return nil, syscall.EEXIST
	case n.names != nil:
		return nil, syscall.EISDIR
	}
	return n, nil
}

// Link implements durable.FS.
func (fs *FS) Link(oldPath, newPath string) error {
	return fs.mutate(Link, newPath, func() error {
		n, err := fs.find(oldPath)
		if err != nil {
			return err
		}
		dir, name, err := fs.dirAndName(newPath)
		if err != nil {
			return err
		}
		if dir.names[name] != nil {
			return syscall.EEXIST
		}
		n.links++
		dir.apply(nameChange{name: n})
		return nil
	})
}

// Rename implements durable.FS.
func (fs *FS) Rename(oldPath, newPath string) error {
	return fs.mutate(Rename, newPath, func() error {
		dir, oldName, err := fs.dirAndName(oldPath)
		if err != nil {
			return err
		}
		to, newName, err := fs.dirAndName(newPath)
		if err != nil {
			return err
		}
		n := dir.names[oldName]
		if n == nil {
			return syscall.ENOENT
		}
		if to != dir {
			return syscall.EXDEV
		}
		if old := dir.names[newName]; old != nil {
			fs.unlinked(old)
		}
		dir.apply(nameChange{oldName: nil, newName: n})
		return nil
	})
}

// Remove implements durable.FS.
func (fs *FS) Remove(path string) error {
	return fs.mutate(Remove, path, func() error {
		dir, name, err := fs.dirAndName(path)
		if err != nil {
			return err
		}
		n := dir.names[name]
		if n == nil {
			return syscall.ENOENT
		}
		if len(n.names) > 0 {
			return syscall.ENOTEMPTY
		}
		fs.unlinked(n)
		dir.apply(nameChange{name: nil})
		return nil
	})
}

// unlinked gives back the space of a file that lost its last name.
func (fs *FS) unlinked(n *node) {
	n.links--
	if n.links == 0 {
		fs.pages -= int64(len(n.view))
	}
}

// Mkdir implements durable.FS.
func (fs *FS) Mkdir(path string) error {
	return fs.mutate(Mkdir, path, func() error {
		dir, name, err := fs.dirAndName(path)
		if err != nil {
			return err
		}
		if dir.names[name] != nil {
			return syscall.EEXIST
		}
		dir.apply(nameChange{name: newDir(fs.n)})
		return nil
	})
}

// SyncDir implements durable.FS.
func (fs *FS) SyncDir(path string) error {
	return fs.mutate(SyncDir, path, func() error {
		dir, err := fs.find(path)
		if err != nil {
			return err
		}
		for _, c := range dir.changes {
			c.on(dir.stableNames)
		}
		dir.changes = nil
		return nil
	})
}

// ReadDir implements durable.FS.
func (fs *FS) ReadDir(path string) ([]durable.Entry, error) {
	var out []durable.Entry
	err := fs.mutate(ReadDir, path, func() error {
		dir, err := fs.find(path)
		if err != nil {
			return err
		}
		if dir.names == nil {
			return syscall.ENOTDIR
		}
		for name, n := range dir.names {
			out = append(out, n.entry(name))
		}
		slices.SortFunc(out, func(a, b durable.Entry) int { return strings.Compare(a.Name, b.Name) })
		return nil
	})
	return out, err
}

// Stat implements durable.FS.
func (fs *FS) Stat(path string) (durable.Entry, error) {
	var out durable.Entry
	err := fs.mutate(Open, path, func() error {
		n, err := fs.find(path)
		if err != nil {
			return err
		}
		out = n.entry(filepath.Base(path))
		return nil
	})
	return out, err
}

func (n *node) entry(name string) durable.Entry {
	return durable.Entry{Name: name, Dir: n.names != nil, Size: n.viewSize, ModTime: time.Unix(n.changed, 0)}
}

// Lock implements durable.FS. Images start with all locks free.
func (fs *FS) Lock(path string) (io.Closer, error) {
	f, err := fs.OpenFile(path, durable.Write|durable.Create)
	if err != nil {
		return nil, err
	}
	f.Close() // only made to exist
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.locks[path] {
		return nil, errs.New("durabletest.Lock", errs.Conflict, path, "in use").WithRemedy("stop the other one")
	}
	fs.locks[path] = true
	return unlock{fs, path}, nil
}

type unlock struct {
	fs   *FS
	path string
}

func (u unlock) Close() error {
	u.fs.mu.Lock()
	delete(u.fs.locks, u.path)
	u.fs.mu.Unlock()
	return nil
}
