package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

func TestContractOverMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		fs := durabletest.New(durabletest.Config{})
		if err := durable.MkdirAll(fs, "/c"); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFS(fs, "/c")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		kind   errs.Kind
		remedy string
	}{
		{filepath.Join(base, "missing"), errs.NotFound, "mkdir -p"},
		{file, errs.Invalid, "name the directory"},
		{filepath.Join(file, "below"), errs.Invalid, ""},
	} {
		_, err := Open(c.path)
		if !errs.Is(err, c.kind) || !strings.Contains(errs.RemedyOf(err), c.remedy) {
			t.Errorf("%s: got %v (remedy %q), want kind %v, remedy with %q", c.path, err, errs.RemedyOf(err), c.kind, c.remedy)
		}
	}
}

func TestModes(t *testing.T) {
	root := t.TempDir()
	if err := open(t, root).Create(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"a": 0o700, "a/b": 0o600} {
		fi, err := os.Stat(filepath.Join(root, path))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, fi.Mode().Perm(), err, want)
		}
	}
}

// withErrno opens a store whose file system fails operations of one kind
// below t/ with errno.
func withErrno(t *testing.T, kind durabletest.Kind, errno error) *Store {
	t.Helper()
	fs := durabletest.New(durabletest.Config{})
	if err := durable.MkdirAll(fs, "/c/t"); err != nil {
		t.Fatal(err)
	}
	s, err := OpenFS(fs, "/c")
	if err != nil {
		t.Fatal(err)
	}
	fs.SetHook(func(op durabletest.Op) error {
		if op.Kind == kind && strings.HasPrefix(op.Path, "/c/t/") {
			return errno
		}
		return nil
	})
	return s
}

func TestFileSystemFailuresAreExplained(t *testing.T) {
	for _, c := range []struct {
		what   string
		kind   durabletest.Kind
		errno  error
		want   errs.Kind
		remedy string
	}{
		{"full disk", durabletest.Write, syscall.ENOSPC, errs.Full, "free space"},
		{"quota", durabletest.Create, syscall.EDQUOT, errs.Full, "free space"},
		{"read-only", durabletest.Create, syscall.EROFS, errs.Denied, "mounted writable"},
		{"not ours", durabletest.Create, syscall.EACCES, errs.Denied, "rights"},
		{"no hard links", durabletest.Link, syscall.EPERM, errs.Denied, "hard links"},
		{"no hard links on a share", durabletest.Link, syscall.EOPNOTSUPP, errs.Denied, "hard links"},
		{"dead disk", durabletest.Sync, syscall.EIO, errs.Unavailable, "device"},
		{"out of handles", durabletest.Create, syscall.EMFILE, errs.Transient, "limit"},
	} {
		err := withErrno(t, c.kind, c.errno).Create(t.Context(), "t/x", []byte("content"))
		if !errs.Is(err, c.want) || !strings.Contains(errs.RemedyOf(err), c.remedy) {
			t.Errorf("%s: got %v (remedy %q), want kind %v, remedy with %q", c.what, err, errs.RemedyOf(err), c.want, c.remedy)
		}
	}
}

func TestFullFileSystem(t *testing.T) {
	fs := durabletest.New(durabletest.Config{Capacity: 1 << 20})
	if err := durable.MkdirAll(fs, "/c"); err != nil {
		t.Fatal(err)
	}
	s, err := OpenFS(fs, "/c")
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 300<<10)
	n := 0
	for ; err == nil; n++ {
		err = s.Create(t.Context(), fmt.Sprintf("k/%d", n), body)
	}
	if !errs.Is(err, errs.Full) || n != 4 {
		t.Fatalf("object %d: %v", n, err)
	}
	if err := s.Delete(t.Context(), "k/0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "k/9", body); err != nil {
		t.Fatalf("room again, but: %v", err)
	}
}

// TestContainerGoes is the unmounted disk: nothing is missing, the store is.
func TestContainerGoes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "c")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, root)
	if err := s.Create(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.RemedyOf(err), "mount") {
			t.Errorf("%s: got %v (remedy %q)", what, err, errs.RemedyOf(err))
		}
	}
	check("create", s.Create(t.Context(), "a/c", nil))
	check("create elsewhere", s.Create(t.Context(), "x/y", nil))
	_, err := s.Stat(t.Context(), "a/b")
	check("stat", err)
	_, err = s.ReadRange(t.Context(), "a/b", make([]byte, 1), 0)
	check("read", err)
	_, err = s.List(t.Context(), "", "", 10)
	check("list", err)
	_, err = s.List(t.Context(), "a/", "", 10)
	check("list below", err)
	check("delete", s.Delete(t.Context(), "a/b"))
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("the container's directory was made again: %v", err)
	}
}

func TestDirectoryRemovedBehindOurBack(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	if err := s.Create(t.Context(), "a/b/c", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a/b/d", nil); err != nil {
		t.Fatal(err)
	}
}

// TestForeignFiles: what is not an object is neither listed nor touched, and
// only old leftovers of our own are removed.
func TestForeignFiles(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "t"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-25 * time.Hour)
	for _, name := range []string{"t/.tmp-00aa", "t/.tmp-young", "t/.other", "t/README", "t/UPPER~", "LOCK"} {
		path := filepath.Join(root, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(name, "young") {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(root, "Lost+Found"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, root)
	page, err := s.List(t.Context(), "", "", 100)
	if err != nil || len(page) != 0 {
		t.Fatalf("listed %+v, %v", page, err)
	}
	if _, err := os.Stat(filepath.Join(root, "t/.tmp-00aa")); err != nil {
		t.Fatalf("a reader removed a file: %v", err)
	}
	if err := s.Create(t.Context(), "t/object", nil); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{
		"t/.tmp-00aa": false, "t/.tmp-young": true, "t/.other": true, "t/README": true, "t/UPPER~": true, "LOCK": true, "t/object": true,
	} {
		_, err := os.Stat(filepath.Join(root, name))
		if (err == nil) != stays {
			t.Errorf("%s: stays %v, want %v", name, err == nil, stays)
		}
	}
}

func TestTwoProcessesShareAContainer(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	if err := a.Create(t.Context(), "t/1", []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "t/1", []byte("b")); !errs.Is(err, errs.Exists) {
		t.Fatalf("got %v", err)
	}
	if err := b.Create(t.Context(), "t/2", nil); err != nil {
		t.Fatal(err)
	}
	page, err := a.List(t.Context(), "t/", "", 10)
	if err != nil || len(page) != 2 {
		t.Fatalf("listed %+v, %v", page, err)
	}
}
