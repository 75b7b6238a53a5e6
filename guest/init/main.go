//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/guest/drivers"
	"holdfast/internal/demo/ledger/talk"
)

const (
	newRoot   = "/newroot"
	program   = "/sbin/ledger" // on the root file system
	rootLabel = "ledgerroot"   // what the image's build names its file system
	// findLimit bounds the wait for the root disk, and findPause is how often
	// it is looked for: a probe takes milliseconds, seconds on a starved host.
	findLimit = 60 * time.Second
	findPause = 5 * time.Millisecond
)

func main() {
	err := boot()
	fmt.Println("\n" + talk.Reply{Word: talk.Fatal, Text: "init: " + err.Error()}.String())
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // if not even that works, the kernel panics next
}

// boot returns only when it failed.
func boot() error {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		// The kernel may have mounted /dev already.
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := drivers.Load(); err != nil {
		return err
	}
	dev, err := findRoot()
	if err != nil {
		return err
	}
	if err := unix.Mount(dev, newRoot, "ext4", unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	return become()
}

// findRoot waits for the partition that carries rootLabel.
func findRoot() (string, error) {
	for start := time.Now(); time.Since(start) < findLimit; time.Sleep(findPause) {
		parts, _ := filepath.Glob("/sys/class/block/*/partition")
		for _, p := range parts {
			dev := "/dev/" + filepath.Base(filepath.Dir(p))
			if label, err := ext4Label(dev); err == nil && label == rootLabel {
				return dev, nil
			}
		}
	}
	return "", fmt.Errorf("no partition labelled %s: %w", rootLabel, fs.ErrNotExist)
}

// ext4Label reads a file system's name out of its superblock.
func ext4Label(dev string) (string, error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var sb [1024]byte // lies 1024 bytes in
	if _, err := io.ReadFull(io.NewSectionReader(f, 1024, 1024), sb[:]); err != nil {
		return "", err
	}
	if sb[0x38] != 0x53 || sb[0x39] != 0xef {
		return "", errors.New("not ext4")
	}
	label := sb[0x78:0x88]
	if i := slices.Index(label, 0); i >= 0 {
		label = label[:i]
	}
	return string(label), nil
}

// become moves the mounts over, makes newRoot the root and runs program in
// place of this one.
func become() error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", program, unix.Exec(program, []string{program}, []string{"PATH=/sbin", "GOGC=200"}))
}
