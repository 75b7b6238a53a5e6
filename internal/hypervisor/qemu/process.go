package qemu

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

// process is one QEMU from its start to its end.
type process struct {
	cmd  *exec.Cmd
	tail *tail
}

// newProcess prepares a QEMU with one end of a socket pair as its QMP and
// returns the other. lock, which it takes over, is held for as long as the
// child lives; it may be nil. The child gets nothing of our environment but PATH: what
// it needs is in its arguments.
func newProcess(binary string, args []string, lock *os.File, dieWithParent bool) (*process, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		closeAll(lock)
		return nil, nil, errs.E("qemu.Start", errs.Unavailable, "socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp-child")
	conn, err := net.FileConn(ours)
	ours.Close() // FileConn has a copy
	if err != nil {
		closeAll(theirs, lock)
		return nil, nil, errs.E("qemu.Start", errs.Unavailable, "socketpair", err)
	}
	p := &process{cmd: exec.Command(binary, args...), tail: new(tail)}
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	p.cmd.Stderr = p.tail
	p.cmd.ExtraFiles = []*os.File{theirs} // descriptor qmpFD
	if lock != nil {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, lock) // QEMU does not know of it
	}
	p.cmd.WaitDelay = quitLimit
	// A group of its own: a terminal's interrupt is for us, not for the guests.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if dieWithParent {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	return p, conn, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// run starts the process, reports that on started, and returns whether it ran
// and how it ended. The
// goroutine keeps its thread all the while: the kernel sends Pdeathsig when
// the thread that started a child ends, not the process.
func (p *process) run(started chan<- error) (ran bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = p.cmd.Start()
	closeAll(p.cmd.ExtraFiles...) // the child has its own; ours would hide its end
	started <- err
	if err != nil {
		return false, err
	}
	return true, p.cmd.Wait()
}

// pid returns the process's number, for logs.
func (p *process) pid() int { return p.cmd.Process.Pid }

// words returns the last the process said of itself.
func (p *process) words() string { return p.tail.String() }

// kill ends the process at once; no effect when it has ended. Only after run
// reported a good start.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errs.E("qemu.Kill", errs.Unavailable, "", err)
	}
	return nil
}

// tail keeps the last stderrTail bytes written to it. Safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-stderrTail):]...)
	if over := len(t.b) - stderrTail; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String returns what was kept, without blank ends.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(bytes.ToValidUTF8(t.b, []byte("?"))))
}
