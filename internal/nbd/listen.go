package nbd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/errs"
)

// System errors that connections end with when a client just goes.
const (
	errReset = syscall.ECONNRESET
	errPipe  = syscall.EPIPE
)

// shortOfDescriptors reports whether an accept failed for want of something
// that comes back.
func shortOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// maxSocketPath is the kernel's limit for a unix socket's path (sun_path).
const maxSocketPath = 107

// Listen opens a unix socket at path, mode 0660. A socket file that nobody
// listens on any more, left by a killed process, is replaced; one that
// somebody listens on is not touched.
//
// Errors: Exists (in use, or the path is something else), NotFound (the
// directory), Denied, Invalid (path too long).
func Listen(path string) (net.Listener, error) {
	const op = "nbd.Listen"
	if len(path) > maxSocketPath {
		return nil, errs.New(op, errs.Invalid, path, "the path of a unix socket may have 107 bytes").
			WithRemedy("choose a shorter directory for sockets")
	}
	if err := removeStale(op, path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, socketError(op, path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		ln.Close()
		return nil, socketError(op, path, err)
	}
	return ln, nil
}

// removeStale clears path if it is a socket without a listener.
func removeStale(op, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return socketError(op, path, err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return errs.New(op, errs.Exists, path, "the path exists and is not a socket").
			WithRemedy("choose another socket path, or remove the file")
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		nc.Close()
		return inUse(op, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return socketError(op, path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return socketError(op, path, err)
	}
	return nil
}

func inUse(op, path string) error {
	return errs.New(op, errs.Exists, path, "another process is listening on this socket").
		WithRemedy("stop the other server, or choose another socket path")
}

func socketError(op, path string, err error) error {
	e := errs.E(op, kindOfSystem(err), path, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return inUse(op, path)
	case e.Kind == errs.NotFound:
		return e.WithRemedy("create the directory " + filepath.Dir(path))
	case e.Kind == errs.Denied:
		return e.WithRemedy("run as a user who may write to " + filepath.Dir(path))
	}
	return e
}

// Lease is a listener that outlives the server it is lent to: Close only ends
// Accept, and clients that come meanwhile wait in its queue. Safe for concurrent
// use.
type Lease struct {
	*net.UnixListener
	mu   sync.Mutex
	over bool // guarded by mu
}

// Lend lends a listener to one server; it must have no deadline from before.
func Lend(ln *net.UnixListener) *Lease { return &Lease{UnixListener: ln} }

// Close ends Accept. After End it does nothing.
func (l *Lease) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	return l.SetDeadline(time.Unix(1, 0))
}

// End is said when the server has returned: a late Close must not hurt whoever
// the listener is lent to by then.
func (l *Lease) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}
