package live

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/iofilter"
)

// holderRole makes the test program a watchdog that only holds sockets.
const holderRole = "HOLDFAST_LIVE_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(holderRole) == "" {
		os.Exit(m.Run())
	}
	s, err := HoldSockets(os.NewFile(3, "host component"))
	if err != nil {
		panic(err)
	}
	<-s.over
}

// startHolder starts such a process.
func startHolder(other *os.File) (*os.Process, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderRole+"=1")
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{other}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Process, nil
}

// shortDir is a directory whose name leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// listenAt makes a socket that nobody accepts on.
func listenAt(t *testing.T, path string) iofilter.Socket {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false) // as a process leaves it that is killed
	t.Cleanup(func() { ln.Close() })
	return iofilter.Socket{Path: path, Listener: ln}
}

// refused reports whether a client is.
func refused(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestGuard: a watchdog that is killed, or hangs, is followed by another one,
// which is lent the sockets as well: a client finds them though the host
// component has closed its own.
func TestGuard(t *testing.T) {
	sockets := make(chan []iofilter.Socket, 1)
	dir := shortDir(t)
	first, second := listenAt(t, filepath.Join(dir, "1")), listenAt(t, filepath.Join(dir, "2"))
	sockets <- []iofilter.Socket{first}
	told := make(chan iofilter.WatchdogStatus, 16)
	g := &Guard{Start: startHolder, Tell: func(s iofilter.WatchdogStatus) { told <- s }, patience: 4,
		Sockets: func() []iofilter.Socket {
			s := <-sockets
			sockets <- s
			return s
		}}
	if err := g.Begin(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); g.Run(ctx) }()
	now := <-told
	if now.PID == 0 || now.Starts != 1 || now.Error != "" {
		t.Fatalf("first: %+v", now)
	}
	for want, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "did not answer": syscall.SIGSTOP} {
		pid := now.PID
		if err := syscall.Kill(pid, signal); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if now = <-told; now.PID != 0 || !strings.Contains(now.Error, want) {
			t.Errorf("after %v: %+v", signal, now)
		}
		if now = <-told; now.PID == 0 || now.PID == pid || !strings.Contains(now.Error, want) {
			t.Errorf("after %v: %+v", signal, now)
		}
		t.Logf("another one %v after %v", time.Since(began), signal)
	}
	if now.Starts != 3 {
		t.Errorf("%+v", now)
	}
	<-sockets
	sockets <- []iofilter.Socket{first, second}
	awaitHeld(t, now.PID, 2)
	for _, s := range []iofilter.Socket{first, second} {
		if s.Listener.Close(); refused(s.Path) {
			t.Errorf("a client is refused at %s", s.Path)
		}
	}
	<-sockets
	sockets <- []iofilter.Socket{first}
	eventually(t, "a socket is let go of", func() bool { return refused(second.Path) })
	if refused(first.Path) {
		t.Error("the other one is not held any more")
	}
	cancel()
	<-ended
	if err := syscall.Kill(now.PID, 0); err != nil {
		t.Errorf("the watchdog ended with its guard: %v", err)
	}
	eventually(t, "no socket is held after an end in good order", func() bool { return refused(first.Path) })
	g.child.conn.Close() // as the end of this process does
	<-g.child.over
}

// awaitHeld waits until a process holds so many sockets that it was lent.
func awaitHeld(t *testing.T, pid, n int) {
	t.Helper()
	eventually(t, "the watchdog holds the sockets", func() bool {
		fds, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		have := -1 // the connection
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
				have++
			}
		}
		return have == n
	})
}
