package hypervisor

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

// Claims are the work directories one provider uses for VMs that are kept, so
// that no two adopt the same VM. The zero value holds none. Safe for concurrent
// use; what is held ends with the process. For drivers.
type Claims struct {
	mu       sync.Mutex
	held     map[string]*os.File // guarded by mu, by path
	released bool                // guarded by mu
}

// Claim takes a work directory; no effect on one that is held already. Kinds:
// NotFound, Unavailable, Conflict (another provider has it), Canceled (after
// Release).
func (c *Claims) Claim(dir string) error {
	dir = filepath.Clean(dir)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return errs.New("hypervisor.Claim", errs.Canceled, dir, "the provider was closed")
	}
	if c.held[dir] != nil {
		return nil
	}
	f, held, err := LockDir(dir)
	if err != nil {
		return err
	}
	if held {
		return errs.New("hypervisor.Claim", errs.Conflict, dir, "another process looks after the VMs of this directory").
			WithRemedy("end it first, or use another directory")
	}
	if c.held == nil {
		c.held = map[string]*os.File{}
	}
	c.held[dir] = f
	return nil
}

// Release gives everything back, for good.
func (c *Claims) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.held {
		f.Close() // and with it the lock
	}
	c.held, c.released = nil, true
}

// LockDir locks a directory without a trace in it: the lock is on the returned
// file and ends with the last copy of it, in this process or another. held is
// true, and there is no file, when somebody else has it. Kinds: NotFound,
// Unavailable.
func LockDir(dir string) (f *os.File, held bool, err error) {
	const op = "hypervisor.LockDir"
	f, err = os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, errs.E(op, errs.NotFound, dir, err)
	}
	if err == nil {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
	}
	switch {
	case err == nil:
		return f, false, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, true, nil
	case f != nil:
		f.Close()
	}
	return nil, false, errs.E(op, errs.Unavailable, dir, err)
}
