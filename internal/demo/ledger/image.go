package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// DiskName is the name of the guest's only disk in its configuration.
const DiskName = "system"

// Config returns the configuration of a guest that boots a disk of size bytes.
func Config(name string, vm dr.VMID, disk dr.DiskID, size int64) dr.VMConfig {
	return dr.VMConfig{
		ID: vm, Name: name, CPUs: 1, MemoryMiB: guestMemoryMiB, Machine: "pc", Firmware: "bios",
		Disks: []dr.VMDisk{{ID: disk, Name: DiskName, Size: size, Bus: "virtio"}},
	}
}

// BuildImage builds the guest's disk image in the source tree the program runs
// in, unless it is there and up to date, and returns its path. For tests and
// for a demo out of the source tree. Kinds: NotFound (no source tree),
// Unavailable (the build failed; its last words are in the error).
func BuildImage(ctx context.Context) (string, error) {
	const op = "ledger.BuildImage"
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	out := filepath.Join(root, "build", "guest")
	var words lastWords
	cmd := exec.CommandContext(ctx, filepath.Join(root, "guest", "build.sh"), out)
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		return "", errs.E(op, errs.Unavailable, "", fmt.Errorf("guest/build.sh: %w: %s", err, &words)).
			WithRemedy("run 'make deps', then 'make guest' to see the whole output")
	}
	return filepath.Join(out, "ledger.raw"), nil
}

// moduleRoot returns the nearest directory upwards that holds this module.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", errs.E("ledger.BuildImage", errs.Unavailable, "", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module holdfast\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errs.New("ledger.BuildImage", errs.NotFound, "go.mod", "not inside the source tree").
				WithRemedy("run inside a clone of the repository, or name an image")
		}
		dir = up
	}
}

// CopyImage copies the raw image src to the new file dst, sharing blocks where
// the file system can and leaving holes where src has them. Nothing is synced.
func CopyImage(ctx context.Context, dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return errs.E("ledger.CopyImage", errs.NotFound, src, err)
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return errs.E("ledger.CopyImage", errs.Unavailable, src, err)
	}
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errs.E("ledger.CopyImage", errs.Unavailable, dst, err)
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		err = copyRange(ctx, out, in, 0, fi.Size())
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errs.E("ledger.CopyImage", errs.Unavailable, dst, err)
	}
	return nil
}

// copyRange copies the bytes of in from off to end to the start of the empty
// file out, data only.
func copyRange(ctx context.Context, out, in *os.File, off, end int64) error {
	if err := out.Truncate(end - off); err != nil {
		return err
	}
	for at := off; at < end && ctx.Err() == nil; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if data, hole = min(data, end), min(hole, end); data < hole {
			w := io.NewOffsetWriter(out, data-off)
			if _, err := io.Copy(w, io.NewSectionReader(in, data, hole-data)); err != nil {
				return err
			}
		}
		at = hole
	}
	return context.Cause(ctx)
}

// lastWords keeps the end of a tool's output.
type lastWords struct{ b []byte }

func (w *lastWords) Write(p []byte) (int, error) {
	w.b = append(w.b, p[max(0, len(p)-maxOutput):]...)
	if over := len(w.b) - maxOutput; over > 0 {
		w.b = append(w.b[:0], w.b[over:]...)
	}
	return len(p), nil
}

// String returns what was kept, on one line.
func (w *lastWords) String() string {
	return strings.Join(strings.Fields(string(bytes.ToValidUTF8(w.b, []byte("?")))), " ")
}
