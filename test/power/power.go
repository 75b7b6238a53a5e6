// Package power is a disk that can lose its power, of real parts: an ext4 file
// system on a loop device on an NBD disk whose server holds a volatile
// write-back cache. When the server is killed, what was flushed is in its
// image, the rest is gone. For tests of what must survive that; needs root and
// the tools that "make deps" installs.
package power

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for a tool: they answer in milliseconds.
const patience = 15 * time.Second

// Disk is a mounted file system on such a disk. Its methods are called by the
// test's goroutine.
type Disk struct {
	t      testing.TB
	dir    string
	image  string
	server *exec.Cmd
	undo   []func()
}

// Up makes a disk of so many MiB with an empty file system and mounts it. The
// test's end undoes everything.
func Up(t testing.TB, mebibytes int) *Disk {
	t.Helper()
	d := &Disk{t: t, dir: t.TempDir()}
	t.Cleanup(d.tearDown)
	for _, tool := range []string{"nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "fusermount3"} {
		d.need(tool)
	}
	d.image = filepath.Join(d.dir, "disk.img")
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, int64(mebibytes)<<20); err != nil {
		t.Fatal(err)
	}
	d.command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image)
	socket, fuse := filepath.Join(d.dir, "sock"), filepath.Join(d.dir, "fuse")
	d.server = d.spawn("nbdkit", "-f", "-U", socket, "--filter=cache", "file", d.image, "cache=writeback")
	d.until("the disk's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	if err := os.Mkdir(fuse, 0o700); err != nil {
		t.Fatal(err)
	}
	d.spawn("nbdfuse", filepath.Join(fuse, "disk"), "nbd+unix:///?socket="+socket)
	d.undo = append(d.undo, func() { _ = exec.Command("fusermount3", "-u", "-z", fuse).Run() })
	d.until("the disk's file", func() bool { _, err := os.Stat(filepath.Join(fuse, "disk")); return err == nil })
	d.mount(filepath.Join(fuse, "disk"), d.Path())
	return d
}

// Path is where the file system is mounted until the power is cut.
func (d *Disk) Path() string { return filepath.Join(d.dir, "mnt") }

// Cut ends the disk's power: what was not flushed is gone, and everything that
// uses it gets errors from then on.
func (d *Disk) Cut() {
	d.t.Helper()
	if err := d.server.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
}

// Restore brings the power back, mounts what the disk held and returns where.
// Whoever used the disk must have ended.
func (d *Disk) Restore() string {
	d.t.Helper()
	d.tearDown()
	at := filepath.Join(d.dir, "after"+strconv.FormatInt(time.Now().UnixNano(), 36))
	d.mount(d.image, at)
	return at
}

// need finds a tool or fails.
func (d *Disk) need(tool string) string {
	d.t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		d.t.Fatalf("%s is missing: run `make deps`", tool)
	}
	return path
}

// command runs a tool to its end.
func (d *Disk) command(name string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(d.need(name), args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// spawn starts a tool that runs until it is killed.
func (d *Disk) spawn(name string, args ...string) *exec.Cmd {
	d.t.Helper()
	c := exec.Command(d.need(name), args...)
	c.Env = append(os.Environ(), "TMPDIR="+d.dir)
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
func (d *Disk) until(what string, ok func() bool) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}

// mount attaches a disk file to a loop device and mounts it.
func (d *Disk) mount(disk, at string) {
	d.t.Helper()
	loop := d.command("losetup", "--find", "--show", disk)
	d.undo = append(d.undo, func() { _ = exec.Command("losetup", "--detach", loop).Run() })
	if err := os.MkdirAll(at, 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := unix.Mount(loop, at, "ext4", 0, ""); err != nil {
		d.t.Fatalf("mount %s: %v", loop, err)
	}
	d.undo = append(d.undo, func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// tearDown undoes everything, last first. Errors of a dead disk are expected.
func (d *Disk) tearDown() {
	for i := len(d.undo) - 1; i >= 0; i-- {
		d.undo[i]()
	}
	d.undo = nil
}
