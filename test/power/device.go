package power

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for a tool: they answer in milliseconds, on a
// machine that has time.
const patience = time.Minute

// Device is a disk: a file whose reads and writes go to an image through a
// server. Its methods are called by the test's goroutine.
type Device struct {
	t       testing.TB
	image   string
	device  string // the file
	server  *exec.Cmd
	mounted func() // undoes what stands on the device, unless nil
	undo    []func()
}

// NewDevice makes device, which must not exist, the disk of which image holds
// the bytes. The test's end undoes it, if Down has not.
func NewDevice(t testing.TB, image, device string) *Device {
	t.Helper()
	d := newDevice(t, image, device)
	d.serve()
	return d
}

func newDevice(t testing.TB, image, device string) *Device {
	t.Helper()
	d := &Device{t: t, image: image, device: device}
	t.Cleanup(d.Down)
	for _, tool := range []string{"nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "fusermount3"} {
		d.need(tool)
	}
	return d
}

// trigger is a file that makes the server give errors while it exists.
func (d *Device) trigger() string { return d.image + ".ill" }

// serve starts the server, with further arguments, and makes the device.
func (d *Device) serve(more ...string) {
	d.t.Helper()
	socket := d.image + ".sock"
	args := []string{"-f", "-U", socket, "--filter=error"}
	var settings []string
	for _, a := range more {
		if strings.HasPrefix(a, "--filter") {
			args = append(args, a)
		} else {
			settings = append(settings, a)
		}
	}
	args = append(append(args, "file", d.image, "error=EIO", "error-rate=100%", "error-file="+d.trigger()), settings...)
	d.server = d.spawn("nbdkit", args...)
	d.until("the disk's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	if err := os.WriteFile(d.device, nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
	below := d.inode()
	d.spawn("nbdfuse", d.device, "nbd+unix:///?socket="+socket)
	d.undo = append(d.undo, func() { _ = d.run("fusermount3", "-u", "-z", d.device) })
	d.until("the disk", func() bool { return d.inode() != below })
}

// inode tells the device from the file that it covers.
func (d *Device) inode() (id [2]uint64) {
	var st unix.Stat_t
	if unix.Stat(d.device, &st) == nil {
		id = [2]uint64{st.Dev, st.Ino}
	}
	return id
}

// Fail has every request end in an input/output error from now on.
func (d *Device) Fail() {
	d.t.Helper()
	if err := os.WriteFile(d.trigger(), nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// Heal ends Fail.
func (d *Device) Heal() {
	d.t.Helper()
	if err := os.Remove(d.trigger()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
}

// Cut ends the device's power: what was not flushed is gone, and everything that
// uses it gets errors from then on.
func (d *Device) Cut() {
	d.t.Helper()
	if err := d.server.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
}

// Down undoes everything but the image. Errors of a dead disk are expected.
func (d *Device) Down() {
	d.unmount()
	for i := len(d.undo) - 1; i >= 0; i-- {
		d.undo[i]()
	}
	d.undo = nil
	_ = os.Remove(d.image + ".sock")
}

func (d *Device) unmount() {
	if d.mounted != nil {
		d.mounted()
	}
	d.mounted = nil
}

// need finds a tool or fails.
func (d *Device) need(tool string) string {
	d.t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		d.t.Fatalf("%s is missing: run `make deps`", tool)
	}
	return path
}

// command runs a tool to its end.
func (d *Device) command(name string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(d.need(name), args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// run is command for what may fail.
func (*Device) run(name string, args ...string) error { return exec.Command(name, args...).Run() }

// spawn starts a tool that runs until it is killed, or the test has ended.
func (d *Device) spawn(name string, args ...string) *exec.Cmd {
	d.t.Helper()
	c := exec.Command(d.need(name), args...)
	c.Env = append(os.Environ(), "TMPDIR="+filepath.Dir(d.image))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.undo = append(d.undo, func() {
		_ = c.Process.Kill() // it may be gone already
		_ = c.Wait()
	})
	return c
}

// until waits for a condition that another process brings about.
func (d *Device) until(what string, ok func() bool) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}
