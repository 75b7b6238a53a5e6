package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/rocva/unshipped"
	"holdfast/internal/rocva/warm"
)

// contentAfter is the disk after more has published checkpoint n.
func contentAfter(n int) []byte {
	b := content(2)
	copy(b[5*dr.ChunkSize:], content(n)[:dr.BlockSize])
	return b
}

// sameDisk compares the one disk a recovery left in dir.
func sameDisk(t *testing.T, dir string, want []byte) {
	t.Helper()
	r, err := readRecovery(dir)
	if err != nil || len(r.Disks) != 1 || len(r.VMs) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, r.Disks[0].Path))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the disk differs (%v)", err)
	}
}

func TestWarm(t *testing.T) {
	b := newBox(t)
	out := shortDir(t)
	args := []string{"rocva", "warm", b.url, "--key", b.key, "--out", out, "--poll", "10ms"}
	stands := func(want int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("checkpoint %d", want), func() bool {
			var s warm.Status
			err := control.CallLocal(t.Context(), warmSocket(out), "/status", nil, &s)
			if err != nil && !errs.Is(err, errs.Unavailable) {
				t.Fatal(err)
			}
			return int(s.Checkpoint) == want && s.Applying == nil
		})
	}
	stop := background(t, args...)
	stands(2)
	b.more(t, 3, 5, nil)
	stands(5)
	has(t, "standby", must(t, "rocva", "standby", out), "following", "#5", "behind", "0.0 s")
	stop()
	b.more(t, 6, 6, nil)
	if code, _, errw := call(t, "rocva", "failover", out); code == 0 {
		t.Error("a failover to the latest without a process and the store succeeded")
	} else {
		has(t, "failover", errw, "rocva warm", "as-is")
	}
	stop = background(t, args...)
	stands(6)
	h := jsonOf[warm.Handover](t, "rocva", "failover", out, "--at", "4", "-o", "json")
	if h.Checkpoint.ID != 4 || len(h.Disks) != 1 || len(h.VMs) != 1 {
		t.Fatalf("%+v", h)
	}
	if code := stop(); code != 0 {
		t.Errorf("exit %d after the handover", code)
	}
	sameDisk(t, out, contentAfter(4))
	again := background(t, append(args, "--again")...)
	stands(6)
	again()
	has(t, "as it is", must(t, "rocva", "failover", out, "--at", "as-is"), "#6")
	sameDisk(t, out, contentAfter(6))
}

func TestUpdateAndUnshipped(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 6, nil)
	path := filepath.Join(t.TempDir(), "old.raw")
	old := contentAfter(3)
	old[700_000] = 9 // never shipped
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	disk := b.disk.ID.String() + "=" + path
	keep := []string{"rocva", "unshipped", "keep", b.url, "--key", b.key, "--site", "a", "--base", "3", "--disk", disk}
	kept := jsonOf[unshipped.Result](t, append(keep, "-o", "json")...)
	if kept.Timeline.IsZero() || kept.Bytes != dr.BlockSize {
		t.Fatalf("%+v", kept)
	}
	has(t, "keep", must(t, keep...), kept.Timeline.String(), "4.0 KiB from byte 696320")
	has(t, "list", must(t, "rocva", "unshipped", "list", b.url, "--key", b.key), kept.Timeline.String(), "a ", "#3")
	u := jsonOf[updated](t, "rocva", "update", b.url, "--key", b.key, "--at", "latest", "--disk", disk, "-o", "json")
	if u.Changed != 2*dr.BlockSize || u.Compared != diskSize {
		t.Errorf("%+v", u)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, contentAfter(6)) {
		t.Fatalf("the disk differs (%v)", err)
	}
	must(t, "rocva", "update", b.url, "--key", b.key, "--timeline", kept.Timeline.String(), "--at", "latest", "--disk", disk)
	if got, err = os.ReadFile(path); err != nil || !bytes.Equal(got, old) {
		t.Fatalf("what was kept differs (%v)", err)
	}
	has(t, "nothing beyond", must(t, "rocva", "unshipped", "keep", b.url, "--key", b.key, "--site", "b", "--base", "6", "--disk",
		b.disk.ID.String()+"="+b.fresh(t)), "nothing beyond")
	for _, args := range [][]string{
		{"rocva", "update", b.url, "--key", b.key},
		{"rocva", "update", b.url, "--key", b.key, "--disk", "x=y"},
		{"rocva", "unshipped", "keep", b.url, "--key", b.key, "--disk", disk},
		{"rocva", "warm", b.url, "--key", b.key},
	} {
		if code, _, _ := call(t, args...); code != 2 {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// fresh is a file with the disk as it is published.
func (b *box) fresh(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "now.raw")
	if err := os.WriteFile(path, contentAfter(6), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
