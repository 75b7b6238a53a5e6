package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store/dir"
)

// call runs the command line and returns what a shell would see.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errw bytes.Buffer
	code = run(context.Background(), args, &out, &errw)
	return code, out.String(), errw.String()
}

// must runs a command that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := call(t, args...)
	if code != 0 {
		t.Fatalf("holdfast %s: exit %d\n%s", strings.Join(args, " "), code, errs)
	}
	return strings.TrimSpace(out)
}

// box is a container with one disk of two checkpoints.
type box struct {
	url, dir, key string
	vm            dr.VMConfig
	disk          dr.CheckpointDisk
}

const diskSize = 1 << 20

// content is the disk as of checkpoint n: chunk 0 changes, chunk 3 does not.
func content(n int) []byte {
	b := make([]byte, diskSize)
	copy(b, bytes.Repeat([]byte{byte(n)}, dr.ChunkSize))
	copy(b[3*dr.ChunkSize:], bytes.Repeat([]byte{0xAA}, dr.BlockSize))
	return b
}

func newBox(t *testing.T) *box {
	t.Helper()
	d := t.TempDir()
	b := &box{dir: filepath.Join(d, "store"), key: filepath.Join(d, "recovery.key")}
	b.url = "file://" + b.dir
	recipient := must(t, "key", "new", b.key)
	must(t, "domain", "create", b.url, "--quick", "--name", "erp", "--recipient", recipient)
	b.disk = dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: diskSize, Synced: true}
	b.vm = dr.VMConfig{ID: b.disk.VM, Name: "../erp 1", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios",
		Disks: []dr.VMDisk{{ID: b.disk.ID, Name: "disk0", Size: diskSize, Bus: "virtio"}}}
	b.publish(t)
	return b
}

func (b *box) open(t *testing.T) *journal.Container {
	t.Helper()
	id, err := journal.ParseIdentityFile(b.key)
	if err != nil {
		t.Fatal(err)
	}
	st, err := dir.Open(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := journal.Open(t.Context(), st, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *box) publish(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	c := b.open(t)
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{Host: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.PutMeta(ctx, b.vm.ID, 1, b.vm); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		img, seq := content(n), dr.Seq(10*n)
		s := c.NewBuilder(segment.BuilderOptions{})
		frames := map[uint32]uint16{0: 0xFFFF}
		if n == 1 {
			frames[3] = 1
		}
		for _, chunk := range []uint32{0, 3} {
			mask, ok := frames[chunk]
			if !ok {
				continue
			}
			from := int(chunk) * dr.ChunkSize
			to := from + dr.ChunkSize
			if mask == 1 {
				to = from + dr.BlockSize
			}
			if err := s.AddFrame(b.disk.ID, chunk, mask, seq-1, img[from:to]); err != nil {
				t.Fatal(err)
			}
		}
		s.SetSeqs(seq-5, seq)
		s.SetCheckpoint(dr.Checkpoint{ID: dr.CheckpointID(n), Seq: seq, Time: time.Unix(int64(1700000000+n), 0).UTC(),
			Scope: dr.Group, Disks: []dr.CheckpointDisk{b.disk}})
		q, err := p.Publish(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// objects returns the paths of the journal objects that hold content.
func (b *box) objects(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(b.dir, "t", "*", "j", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Fatalf("a FENCE and two objects with content expected, found %v", all)
	}
	return all[1:]
}

func TestRestoreEveryPoint(t *testing.T) {
	b := newBox(t)
	for n, at := range map[int]string{2: "latest", 1: "1"} {
		out := filepath.Join(t.TempDir(), "out")
		var r restored
		if err := json.Unmarshal([]byte(must(t, "restore", b.url, "--key", b.key, "--at", at, "--out", out, "-o", "json")), &r); err != nil {
			t.Fatal(err)
		}
		if r.Checkpoint.ID != dr.CheckpointID(n) || len(r.Disks) != 1 || len(r.VMs) != 1 || r.VMs[0].Config.Name != b.vm.Name {
			t.Fatalf("restore says %+v", r)
		}
		got, err := os.ReadFile(filepath.Join(out, r.Disks[0].Path))
		if err != nil || !bytes.Equal(got, content(n)) {
			t.Errorf("checkpoint %d: disk differs (%v)", n, err)
		}
		back, err := readRecovery(out)
		if err != nil || back.Checkpoint.ID != r.Checkpoint.ID {
			t.Errorf("recovery.json: %+v, %v", back, err)
		}
	}
}

// TestVMNamesStayInside: a VM's name is chosen by whoever made the VM.
func TestVMNamesStayInside(t *testing.T) {
	id := dr.NewUUID()
	for _, name := range []string{"../../etc", "/abs", "a\x00b", strings.Repeat("x", 300), "", ".."} {
		got := fileName(name, id)
		if !filepath.IsLocal(got) || strings.ContainsAny(got, "/\x00") || len(got) > 80 {
			t.Errorf("%q becomes %q", name, got)
		}
	}
}

func TestListings(t *testing.T) {
	b := newBox(t)
	if out := must(t, "checkpoints", b.url, "--key", b.key); !strings.Contains(out, "group") || strings.Count(out, "\n") != 2 {
		t.Errorf("checkpoints:\n%s", out)
	}
	var points []journal.CheckpointInfo
	if err := json.Unmarshal([]byte(must(t, "checkpoints", b.url, "--key", b.key, "-o", "json")), &points); err != nil || len(points) != 2 || points[0].ID != 2 || !points[0].Recoverable {
		t.Errorf("checkpoints as JSON: %+v, %v", points, err)
	}
	for _, args := range [][]string{
		{"inspect", b.url}, {"inspect", b.url, "--key", b.key}, {"inspect", b.url, "--key", b.key, "-o", "json"},
		{"fsck", b.url, "--key", b.key}, {"fsck", b.url, "--key", b.key, "--deep"},
	} {
		if out := must(t, args...); !strings.Contains(out, "erp") && args[0] == "inspect" {
			t.Errorf("%v:\n%s", args, out)
		}
	}
}

// TestBadInput: each case a clear error that names the object and says what to
// do, its exit code, and nothing lost.
func TestBadInput(t *testing.T) {
	stranger := filepath.Join(t.TempDir(), "stranger.key")
	must(t, "key", "new", stranger)
	open := filepath.Join(t.TempDir(), "open.key")
	must(t, "key", "new", open)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "domain"), []byte("something else altogether"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBox(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"wrong key":        {[]string{"checkpoints", b.url, "--key", stranger}, exitDenied, "age1"},
		"key of all":       {[]string{"checkpoints", b.url, "--key", open}, exitDenied, "chmod"},
		"no key":           {[]string{"checkpoints", b.url}, exitUsage, "--key"},
		"missing key":      {[]string{"checkpoints", b.url, "--key", "/nowhere"}, exitNotFound, "/nowhere"},
		"no container":     {[]string{"checkpoints", "file://" + t.TempDir(), "--key", b.key}, exitNotFound, "container"},
		"foreign":          {[]string{"inspect", "file://" + foreign}, exitUsage, "domain"},
		"missing dir":      {[]string{"inspect", "file:///nowhere/at/all"}, exitNotFound, "mkdir"},
		"not a URL":        {[]string{"inspect", "/srv/dr"}, exitUsage, "file:///srv/dr"},
		"unknown scheme":   {[]string{"inspect", "gopher://x/y"}, exitUsage, "file"},
		"taken":            {[]string{"domain", "create", b.url, "--name", "x", "--recipient", "age1qqqq"}, exitUsage, "age1"},
		"no checkpoint":    {[]string{"restore", b.url, "--key", b.key, "--at", "99", "--out", t.TempDir()}, exitNotFound, "99"},
		"bad time":         {[]string{"restore", b.url, "--key", b.key, "--at", "yesterday", "--out", t.TempDir()}, exitUsage, "yesterday"},
		"too early":        {[]string{"restore", b.url, "--key", b.key, "--at", "1999-01-01T00:00:00Z", "--out", t.TempDir()}, exitNotFound, "1"},
		"no such VM":       {[]string{"restore", b.url, "--key", b.key, "--vm", "nobody", "--out", t.TempDir()}, exitNotFound, "nobody"},
		"out is a file":    {[]string{"restore", b.url, "--key", b.key, "--out", filepath.Join(file, "x")}, exitUsage, file},
		"no out":           {[]string{"restore", b.url, "--key", b.key}, exitUsage, "--out"},
		"unknown flag":     {[]string{"fsck", b.url, "--depe"}, exitUsage, "depe"},
		"unknown output":   {[]string{"inspect", b.url, "-o", "xml"}, exitUsage, "xml"},
		"no config":        {[]string{"drva"}, exitUsage, "--config"},
		"missing config":   {[]string{"iofilter", "--config", "/nowhere.json"}, exitNotFound, "/nowhere.json"},
		"nobody answers":   {[]string{"status", "/nowhere.sock"}, exitUnavailable, "/nowhere.sock"},
		"boot of nothing":  {[]string{"rocva", "boot", t.TempDir()}, exitNotFound, "holdfast restore"},
		"key exists":       {[]string{"key", "new", b.key}, exitConflict, "never overwritten"},
		"bad role":         {[]string{"cert", "issue", t.TempDir(), "--role", "king", "--name", "x"}, exitUsage, "king"},
		"authority absent": {[]string{"cert", "issue", t.TempDir(), "--ca", "/nowhere", "--role", "host", "--name", "x"}, exitNotFound, "cert init"},
		"too many args":    {[]string{"checkpoint", "a", "b"}, exitUsage, "SOCKET"},
	} {
		code, out, errs := call(t, c.args...)
		if code != c.code || !strings.Contains(errs, c.says) || out != "" {
			t.Errorf("%s: exit %d (want %d), should say %q\nstdout: %s\nstderr: %s", name, code, c.code, c.says, out, errs)
		}
	}
	must(t, "restore", b.url, "--key", b.key, "--out", filepath.Join(t.TempDir(), "o")) // nothing was lost
}

// TestDamage flips or cuts what is in the store: found, named, never used.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"flipped content": func(b []byte) []byte { b[segment.HeaderSize+10] ^= 1; return b },
		"flipped header":  func(b []byte) []byte { b[20] ^= 1; return b },
		"flipped footer":  func(b []byte) []byte { b[len(b)-segment.TailSize-3] ^= 1; return b },
		"flipped tail":    func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
		"truncated":       func(b []byte) []byte { return b[:len(b)/2] },
		"emptied":         func([]byte) []byte { return nil },
	} {
		b := newBox(t)
		victim := b.objects(t)[0]
		body, err := os.ReadFile(victim)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(victim, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(victim, damage(body), 0o600); err != nil {
			t.Fatal(err)
		}
		object := filepath.Base(victim)
		out := filepath.Join(t.TempDir(), "o")
		code, _, errs := call(t, "restore", b.url, "--key", b.key, "--at", "1", "--out", out)
		if code == 0 || !strings.Contains(errs, object) {
			t.Errorf("%s: restore exits %d and says %s", name, code, errs)
		}
		if found, err := filepath.Glob(filepath.Join(out, "*", "*.raw")); err != nil || len(found) > 0 {
			t.Errorf("%s: a disk with its final name was left: %v", name, found)
		}
		code, stdout, _ := call(t, "fsck", b.url, "--key", b.key, "--deep")
		if code != exitCorrupt || !strings.Contains(stdout, object) {
			t.Errorf("%s: fsck exits %d and says %s", name, code, stdout)
		}
	}
}

func TestNothingIsReplaced(t *testing.T) {
	b := newBox(t)
	out := filepath.Join(t.TempDir(), "out")
	must(t, "restore", b.url, "--key", b.key, "--out", out)
	if code, _, errs := call(t, "restore", b.url, "--key", b.key, "--out", out); code != exitConflict || !strings.Contains(errs, "disk0") {
		t.Errorf("second restore: exit %d, %s", code, errs)
	}
	must(t, "restore", b.url, "--key", b.key, "--out", out, "--force")
}

func TestHelpIsWorthReading(t *testing.T) {
	root := newRoot()
	for _, c := range root.Commands() {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.Name())
		}
		for _, sub := range append(c.Commands(), c) {
			if sub.Runnable() && sub.Name() != "completion" && c.Name() != "completion" && sub.Name() != "help" && sub.Example == "" && sub.Long == "" {
				t.Errorf("%s has neither an example nor a description", sub.CommandPath())
			}
		}
	}
}
