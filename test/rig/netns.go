package rig

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a network of its own on this machine, made by the test and
// removed with it.
type Namespace struct{ Name string }

// NewNamespace makes one with a loopback device. Needs root.
func NewNamespace(t testing.TB, name string) *Namespace {
	t.Helper()
	n := &Namespace{Name: fmt.Sprintf("%s%d", name, os.Getpid())}
	Tool(t, "ip", "netns", "add", n.Name)
	t.Cleanup(func() { Tool(t, "ip", "netns", "delete", n.Name) })
	n.IP(t, "link", "set", "lo", "up")
	return n
}

// IP runs ip(8) there.
func (n *Namespace) IP(t testing.TB, args ...string) {
	t.Helper()
	Tool(t, "ip", append([]string{"-n", n.Name}, args...)...)
}

// Do runs do on a thread that is in the namespace: sockets it makes and
// processes it starts belong there, for good.
func (n *Namespace) Do(do func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + n.Name)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = back // the thread stays locked, and ends with its goroutine
			return
		}
		runtime.UnlockOSThread()
	}()
	return do()
}

// Tool runs a program to its end and returns what it printed.
func Tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: run `make deps`", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
