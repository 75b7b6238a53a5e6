package cli

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// serving runs a command that serves until it is interrupted, and returns what
// it printed before and how to end it.
func serving(t *testing.T, args ...string) (out string, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	var stdout bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, args, &stdout, w)
		w.Close()
	}()
	end = func() int {
		cancel()
		_, _ = io.Copy(io.Discard, r) // until it has ended
		return <-code
	}
	var said strings.Builder
	for s := bufio.NewScanner(r); s.Scan(); {
		said.WriteString(s.Text() + "\n")
		if strings.HasPrefix(s.Text(), "serving") {
			return stdout.String(), end
		}
	}
	cancel()
	t.Fatalf("holdfast %s: exit %d\n%s", strings.Join(args, " "), <-code, said.String())
	return "", nil
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// TestMount: other people's NBD clients read a checkpoint's disk, and what they
// read is what restore gives.
func TestMount(t *testing.T) {
	b := newBox(t)
	before := b.objects(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	must(t, "restore", b.url, "--key", b.key, "--at", "1", "--out", filepath.Join(dir, "out"))
	files, err := filepath.Glob(filepath.Join(dir, "out", "*", "*.raw"))
	if err != nil || len(files) != 1 {
		t.Fatalf("restored %v, %v", files, err)
	}
	want, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	out, end := serving(t, "mount", b.url, "--key", b.key, "--at", "1", "--socket", socket)
	uri := ""
	for _, w := range strings.Fields(out) {
		if strings.HasPrefix(w, "nbd+unix:") {
			uri = w
		}
	}
	has(t, "nbdinfo", tool(t, "nbdinfo", uri), "is_read_only: true", "checkpoint #1")
	has(t, "nbdinfo --list", tool(t, "nbdinfo", "--list", "nbd+unix:///?socket="+socket), b.vm.Name+"/")
	tool(t, "nbdcopy", uri, filepath.Join(dir, "copy"))
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd:unix:"+socket, filepath.Join(dir, "convert"))
	for _, name := range []string{"copy", "convert"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from what restore gives (%d bytes, %v)", name, len(got), err)
		}
	}
	if code := end(); code != exitOK {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	after := strings.Join(b.objects(t), "\n")
	for _, o := range before {
		if !strings.Contains(after, o) {
			t.Errorf("%s is gone", o)
		}
	}
	for _, args := range [][]string{{"--vm", "nobody"}, {"--disk", "none"}} {
		if code, _, _ := call(t, append([]string{"mount", b.url, "--key", b.key, "--socket", socket}, args...)...); code != exitNotFound {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	if code, _, _ := call(t, "mount", b.url, "--key", b.key); code != exitUsage {
		t.Errorf("no socket: exit %d", code)
	}
}
