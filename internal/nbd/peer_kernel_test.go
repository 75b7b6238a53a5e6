package nbd_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPeerKernel puts a file system of this machine's kernel on an export, by
// way of nbdfuse and a loop device: mkfs, mount, write, fsync, unmount, check,
// and once more to see that what was written is there.
func TestPeerKernel(t *testing.T) {
	peerLoops(t, 128<<20, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		want := bytes.Repeat([]byte("durable\n"), 1<<17)
		t.Run("write", func(t *testing.T) {
			dev := loopDevice(t, dir, r)
			command(t, "mkfs.ext4", "-q", "-b", "4096", dev)
			m := mount(t, dir, dev)
			f, err := os.Create(filepath.Join(m, "file"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		})
		command(t, "e2fsck", "-fn", r.disk)
		t.Run("read", func(t *testing.T) {
			m := mount(t, dir, loopDevice(t, dir, r))
			if got, err := os.ReadFile(filepath.Join(m, "file")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read back %d bytes, %v", len(got), err)
			}
		})
	})
}

// loopDevice makes the export a block device of this machine until the test
// ends, however it ends.
func loopDevice(t *testing.T, dir string, r *rig) string {
	t.Helper()
	at := filepath.Join(dir, "fuse")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	fuse := exec.Command(tool(t, "nbdfuse"), at, "--unix", r.socket)
	fuse.Stdout, fuse.Stderr = &log, &log
	if err := fuse.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- fuse.Wait() }()
	t.Cleanup(func() {
		cleanUp(t, tool(t, "fusermount3"), "-u", at)
		select {
		case <-exited:
		case <-time.After(time.Minute):
			fuse.Process.Kill()
			<-exited
			t.Errorf("nbdfuse did not end: %s", &log)
		}
	})
	image := filepath.Join(at, "nbd")
	await(t, "nbdfuse to mount", func() bool {
		_, err := os.Stat(image)
		return err == nil
	})
	dev := strings.TrimSpace(command(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { cleanUp(t, tool(t, "losetup"), "-d", dev) })
	return dev
}

func mount(t *testing.T, dir, dev string) string {
	t.Helper()
	at := filepath.Join(dir, "mnt")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(dev, at, "ext4", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", dev, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return at
}

// cleanUp runs a command when the test's context is over already. A device
// that is still busy for a moment gets a few chances.
func cleanUp(t *testing.T, name string, args ...string) {
	t.Helper()
	var out []byte
	err := error(nil)
	await(t, name+" "+strings.Join(args, " "), func() bool {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err == nil
	})
	if err != nil {
		t.Errorf("%s: %s", name, out)
	}
}

// TestPeerQEMU gives a virtual machine its disk over NBD. The guest is a boot
// sector that writes 64 sectors through the BIOS, reads each back, and says
// so on the serial port: QEMU's own client, its reconnecting block layer and
// its write cache, with no guest system to install.
func TestPeerQEMU(t *testing.T) {
	peerLoops(t, 8<<20, func(t *testing.T, r *rig) {
		boot, err := os.ReadFile("testdata/boot.bin") // from boot.S beside it
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.file.WriteAt(boot, 0); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 40*time.Second)
		defer stop()
		cmd := exec.CommandContext(ctx, tool(t, "qemu-system-x86_64"), "-accel", "tcg", "-m", "64", "-M", "pc", "-nodefaults", "-display", "none",
			"-no-reboot", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
			"-blockdev", "driver=nbd,node-name=d,server.type=unix,server.path="+r.socket, "-device", "ide-hd,drive=d")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(out)
		_ = cmd.Wait() // the guest ends QEMU with a status of its own
		if string(said) != "OK" {
			t.Fatalf("the guest said %q; %s", said, &log)
		}
		got := make([]byte, 64*512)
		if _, err := r.file.ReadAt(got, 1<<20); err != nil {
			t.Fatal(err)
		}
		for i := range 64 {
			if !bytes.Equal(got[i*512:(i+1)*512], bytes.Repeat([]byte{byte(i + 1)}, 512)) {
				t.Errorf("sector %d holds %x", i, got[i*512:i*512+4])
			}
		}
	})
}
