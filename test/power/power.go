package power

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a mounted file system on a disk of its own. Its methods are called by
// the test's goroutine.
type Disk struct {
	*Device
	dir string
}

// Up makes a disk of so many MiB with an empty file system, which it mounts.
// What is written to it is in the disk's cache until it is flushed. The test's
// end undoes everything.
func Up(t testing.TB, mebibytes int) *Disk {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(mebibytes)<<20); err != nil {
		t.Fatal(err)
	}
	d := &Disk{dir: dir, Device: newDevice(t, image, filepath.Join(dir, "disk"))}
	d.command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	d.serve("--filter=cache", "cache=writeback")
	d.mount(d.device, d.Path())
	return d
}

// Path is where the file system is mounted until the power is cut.
func (d *Disk) Path() string { return filepath.Join(d.dir, "mnt") }

// Restore brings the power back, mounts what the disk held and returns where.
// Whoever used the disk must have ended.
func (d *Disk) Restore() string {
	d.t.Helper()
	d.Down()
	at := filepath.Join(d.dir, "after"+strconv.FormatInt(time.Now().UnixNano(), 36))
	d.mount(d.image, at)
	return at
}

// Repair does what an operator does with a file system whose disk had errors:
// unmount, check, mount. Whoever used it must have ended. The check is a full one:
// a disk that gave errors did not take the word that there were any either, and
// the file system calls itself clean.
func (d *Disk) Repair() {
	d.t.Helper()
	d.unmount()
	d.command("sh", "-c", `e2fsck -f -y "$0" || [ $? = 1 ]`, d.device) // 1: there was something to repair
	d.mount(d.device, d.Path())
}

// mount attaches a disk file to a loop device and mounts it.
func (d *Disk) mount(disk, at string) {
	d.t.Helper()
	loop := d.command("losetup", "--find", "--show", disk)
	if err := os.MkdirAll(at, 0o700); err != nil {
		d.t.Fatal(err)
	}
	d.mounted = func() {
		_ = unix.Unmount(at, unix.MNT_DETACH)
		_ = d.run("losetup", "--detach", loop)
	}
	if err := unix.Mount(loop, at, "ext4", 0, ""); err != nil {
		d.t.Fatalf("mount %s: %v", loop, err)
	}
}

// filler is what Fill fills the file system with.
func (d *Disk) filler() string { return filepath.Join(d.Path(), "filler") }

// Fill leaves no room in the file system.
func (d *Disk) Fill() {
	d.t.Helper()
	f, err := os.Create(d.filler())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	at := int64(0)
	for piece := int64(1 << 30); piece >= 1<<10; {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, piece); {
		case err == nil:
			at += piece
		case errors.Is(err, unix.ENOSPC):
			piece /= 2
		case !errors.Is(err, unix.EINTR):
			d.t.Fatal(err)
		}
	}
}

// Free ends Fill.
func (d *Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}
