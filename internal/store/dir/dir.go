package dir

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store"
)

const (
	// tempAge is when a temporary file has surely lost its writer: no Create
	// takes a day.
	tempAge = 24 * time.Hour
	// maxKnown bounds the remembered directories; a container has a handful per
	// timeline and one per VM.
	maxKnown = 4096
	// maxOffset is beyond the end of every file, and far enough below the
	// largest offset that adding a length to it does not overflow.
	maxOffset = 1 << 62
)

// Store is a container in a directory. Safe for concurrent use, also by
// several processes.
type Store struct {
	fs    durable.FS
	root  string
	names func(dir string) ([]name, error) // what lies in a directory

	mu    sync.Mutex
	known map[string]bool // directories that are there, durably, with their parents; guarded by mu
}

var _ store.Store = (*Store)(nil)

// Open opens the container in directory path, which must exist: making it is
// the operator's decision, and a missing one is more often a disk that is not
// mounted. Kinds: NotFound, Invalid (not a directory), Denied, Unavailable.
func Open(path string) (*Store, error) {
	s, err := OpenFS(durable.OS{}, path)
	if err != nil {
		return nil, err
	}
	s.names = osNames
	return s, nil
}

// OpenFS is Open on another file system than the real one.
func OpenFS(fs durable.FS, path string) (*Store, error) {
	const op = "dir.Open"
	path = filepath.Clean(path)
	e, err := fs.Stat(path)
	switch {
	case errs.Is(err, errs.NotFound):
		return nil, errs.E(op, errs.NotFound, path, err).
			WithRemedy("mount the file system it is on, or make it: mkdir -p -m 0700 " + path)
	case err != nil:
		return nil, errs.E(op, errs.Internal, path, err)
	case !e.Dir:
		return nil, errs.New(op, errs.Invalid, path, "is not a directory").
			WithRemedy("name the directory that holds the container, or a new one to hold it")
	}
	if _, err := fs.ReadDir(path); err != nil {
		return nil, errs.E(op, errs.Internal, path, err)
	}
	return &Store{fs: fs, root: path, names: fsNames(fs), known: map[string]bool{}}, nil
}

func (s *Store) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

// Create implements store.Store. It is durable on return: content, name and
// every directory above it up to the container's.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	const op = "dir.Create"
	if err := store.CheckCreate(op, key, body); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	err := s.create(key, body)
	if errs.Is(err, errs.NotFound) && s.forget(key) {
		err = s.create(key, body) // the directory was removed behind our back
	}
	switch {
	case err == nil:
		return nil
	case errs.Is(err, errs.NotFound):
		return s.gone(op, key, err)
	case errs.Is(err, errs.Exists) && s.isDir(key):
		return nested(op, key, err)
	}
	return s.explain(op, key, err)
}

func (s *Store) create(key string, body []byte) error {
	if err := s.ensure(filepath.Dir(filepath.FromSlash(key))); err != nil {
		return err
	}
	return durable.CreateOnce(s.fs, s.path(key), body)
}

// ensure makes the directory rel below the container, durably. A directory
// that is found is synced as if it had just been made, once: whoever made it
// may have died before doing so.
func (s *Store) ensure(rel string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ensureLocked(rel)
}

func (s *Store) ensureLocked(rel string) error {
	if s.known[rel] {
		return nil
	}
	path := filepath.Join(s.root, rel)
	if rel != "." {
		if err := s.ensureLocked(filepath.Dir(rel)); err != nil {
			return err
		}
		if err := s.fs.Mkdir(path); err != nil && !errs.Is(err, errs.Exists) {
			return err
		}
		if e, err := s.fs.Stat(path); err != nil || !e.Dir {
			return errors.Join(err, syscall.ENOTDIR)
		}
		if err := s.fs.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	// Leftovers cost space, not truth: when they cannot be removed now, the
	// next writer tries.
	_ = durable.SweepTemps(s.fs, path, time.Now().Add(-tempAge))
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[rel] = true
	return nil
}

// forget drops key's directory and those above from the known ones; false
// when it was not known, so that trying again is pointless.
func (s *Store) forget(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rel := filepath.Dir(filepath.FromSlash(key))
	was := s.known[rel]
	clear(s.known)
	return was
}

func (s *Store) isDir(key string) bool {
	e, err := s.fs.Stat(s.path(key))
	return err == nil && e.Dir
}

// ReadRange implements store.Store.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "dir.ReadRange"
	if err := store.CheckRead(op, key, off); err != nil {
		return 0, err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return 0, err
	}
	f, err := s.fs.OpenFile(s.path(key), 0)
	if err != nil {
		return 0, s.missing(op, key, err)
	}
	defer f.Close() // only read
	n, err := f.ReadAt(p, min(off, maxOffset))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && n == 0 && s.isDir(key) {
		err = syscall.EISDIR // reading nothing of a directory is no error to the kernel
	}
	if err != nil {
		return 0, s.missing(op, key, err)
	}
	return n, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	const op = "dir.Stat"
	if err := store.CheckKey(op, key); err != nil {
		return store.Info{}, err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return store.Info{}, err
	}
	e, err := s.fs.Stat(s.path(key))
	if err == nil && e.Dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return store.Info{}, s.missing(op, key, err)
	}
	return store.Info{Key: key, Size: e.Size, Modified: e.ModTime.UTC()}, nil
}

// Delete implements store.Store. Directories that become empty stay.
func (s *Store) Delete(ctx context.Context, key string) error {
	const op = "dir.Delete"
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	e, err := s.fs.Stat(s.path(key))
	if err == nil && e.Dir {
		return nil // no object: remove(2) would take an empty directory
	}
	if err == nil {
		err = durable.Remove(s.fs, s.path(key))
	}
	if err == nil {
		return nil
	}
	if err = s.missing(op, key, err); errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// Capabilities implements store.Store.
func (s *Store) Capabilities() store.Capabilities {
	return store.Capabilities{Name: "dir", CreateOnce: true, Delete: true}
}

// missing names the failure of a call that needs key to exist.
func (s *Store) missing(op, key string, err error) error {
	if errs.Is(err, errs.NotFound) || notDir(err) || errors.Is(err, syscall.EISDIR) {
		return s.gone(op, key, err)
	}
	return s.explain(op, key, err)
}

// gone tells a missing object from a missing container.
func (s *Store) gone(op, key string, err error) error {
	if e, statErr := s.fs.Stat(s.root); statErr == nil && e.Dir {
		return errs.E(op, errs.NotFound, key, err)
	}
	return errs.E(op, errs.Unavailable, s.root, errors.New("the container's directory is gone")).
		WithRemedy("mount the file system it is on")
}

// linkRefused reports whether the file system has no hard links, which is how
// Linux says it: EPERM from link(2), although the file could be written.
func linkRefused(err error) bool {
	for e := (*errs.Error)(nil); errors.As(err, &e); err = e.Err {
		if strings.HasSuffix(strings.ToLower(e.Op), ".link") {
			return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
		}
	}
	return false
}

func notDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

func nested(op, key string, err error) error {
	return errs.E(op, errs.Invalid, key, errors.Join(errors.New("one key would be a directory of another"), err))
}

// explain adds what the user can do to failures of the file system.
func (s *Store) explain(op, key string, err error) error {
	switch {
	case notDir(err):
		return nested(op, key, err)
	case linkRefused(err):
		return errs.E(op, errs.Denied, key, err).
			WithRemedy("put the container on a file system that has hard links, such as ext4, xfs or NFS: " + s.root + " refuses them")
	case errs.Is(err, errs.Full):
		return errs.E(op, errs.Full, key, err).
			WithRemedy("free space on the file system of " + s.root + ", or shorten the history kept there")
	case errs.Is(err, errs.Denied):
		return errs.E(op, errs.Denied, key, err).
			WithRemedy("give the user that runs this program read and write rights on " + s.root + ", and make sure it is mounted writable")
	}
	return errs.E(op, errs.Internal, key, err)
}
