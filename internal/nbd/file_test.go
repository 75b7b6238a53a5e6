package nbd_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

func newDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, o nbd.FileOptions) *nbd.File {
	t.Helper()
	f, err := nbd.OpenFile(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	odd := newDisk(t, 1000)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		o    nbd.FileOptions
		want errs.Kind
	}{
		"missing":    {filepath.Join(dir, "x"), nbd.FileOptions{}, errs.NotFound},
		"directory":  {dir, nbd.FileOptions{ReadOnly: true}, errs.Invalid},
		"no disk":    {"/dev/null", nbd.FileOptions{}, errs.Invalid},
		"fifo":       {fifo, nbd.FileOptions{}, errs.Invalid},
		"odd direct": {odd, nbd.FileOptions{Direct: true}, errs.Invalid},
	} {
		f, err := nbd.OpenFile(c.path, c.o)
		if !errs.Is(err, c.want) {
			t.Errorf("%s: %v, want kind %v", name, err, c.want)
		}
		if err == nil {
			f.Close()
		}
	}
	f := open(t, odd, nbd.FileOptions{})
	if f.Size() != 1000 {
		t.Errorf("size %d", f.Size())
	}
}

// TestDuplicateDisk opens a disk twice, also under another name.
func TestDuplicateDisk(t *testing.T) {
	path := newDisk(t, 1<<20)
	link := path + "-link"
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	f, err := nbd.OpenFile(path, nbd.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []nbd.FileOptions{{}, {Direct: true}, {ReadOnly: true}} {
		if _, err := nbd.OpenFile(link, o); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "in use") || errs.RemedyOf(err) == "" {
			t.Errorf("second open %+v: %v", o, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a := open(t, path, nbd.FileOptions{ReadOnly: true})
	open(t, link, nbd.FileOptions{ReadOnly: true})
	if _, err := a.WriteAt([]byte{1}, 0); !errs.Is(err, errs.Denied) {
		t.Errorf("write to a read-only disk: %v", err)
	}
}

func TestFileAccess(t *testing.T) {
	for _, direct := range []bool{false, true} {
		f := open(t, newDisk(t, 1<<20), nbd.FileOptions{Direct: direct})
		p := []byte("across a block boundary")
		if _, err := f.WriteAt(p, 4090); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(p))
		if n, err := f.ReadAt(got, 4090); n != len(p) || err != nil || !bytes.Equal(got, p) {
			t.Errorf("direct %v: read %q, %v", direct, got, err)
		}
		if n, err := f.ReadAt(got, 1<<20-5); n != 5 || err != io.EOF {
			t.Errorf("read across the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(got, 1<<20); n != 0 || err != io.EOF {
			t.Errorf("read at the end: %d, %v", n, err)
		}
		if _, err := f.WriteAt(p, 1<<20-5); !errs.Is(err, errs.Invalid) {
			t.Errorf("write across the end: %v", err)
		}
		if start, end, err := f.NextData(0); err != nil || start > 4090 || end < 4090+int64(len(p)) || end > 64<<10 {
			t.Errorf("data [%d, %d), %v", start, end, err)
		}
		if start, end, err := f.NextData(512 << 10); err != nil || start != 1<<20 || end != 1<<20 {
			t.Errorf("data after the last [%d, %d), %v", start, end, err)
		}
		if err := f.Zero(4095, 3); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(got, 4090); err != nil || string(got) != "acros\x00\x00\x00block boundary"[:5]+"\x00\x00\x00"+string(p[8:]) {
			t.Errorf("direct %v: after zeroing %q, %v", direct, got, err)
		}
		if err := f.Flush(); err != nil {
			t.Error(err)
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	ln, err := nbd.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v", st.Mode(), err)
	}
	if _, err := nbd.Listen(path); !errs.Is(err, errs.Exists) || errs.RemedyOf(err) == "" {
		t.Errorf("second listener: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close() // as if killed: the file stays
	if ln, err = nbd.Listen(path); err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	ln.Close()
	file := newDisk(t, 0)
	for name, c := range map[string]struct {
		path string
		want errs.Kind
	}{
		"a file":       {file, errs.Exists},
		"no directory": {filepath.Join(dir, "x", "s"), errs.NotFound},
		"not in proc":  {"/proc/s", errs.NotFound},
		"long":         {filepath.Join(dir, strings.Repeat("x", 120)), errs.Invalid},
	} {
		if _, err := nbd.Listen(c.path); !errs.Is(err, c.want) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v (%s), want kind %v", name, err, errs.RemedyOf(err), c.want)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a file was removed: %v", err)
	}
}

// TestListenTCP serves over TCP too.
func TestListenTCP(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		r := s.start(t)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- r.server.Serve(ctx, ln) }()
		c, err := nbd.Dial(t.Context(), "tcp", ln.Addr().String(), nbd.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := bytes.Repeat([]byte{3}, 300000)
		if _, err := c.WriteAt(t.Context(), p, 77, 0); err != nil {
			t.Error(err)
		}
		got := make([]byte, len(p))
		if _, err := c.ReadAt(t.Context(), got, 77); err != nil || !bytes.Equal(got, p) {
			t.Errorf("read back: %v", err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := c.Flush(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("flush after the end: %v", err)
		}
	})
}
