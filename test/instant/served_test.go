package instant

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/rocva/ondemand"
	"holdfast/internal/store/mem"
)

// TestServed: other people's clients read a disk that is not there yet, write to
// it while it fills up, and read back what they wrote; the file that is left is
// the same.
func TestServed(t *testing.T) {
	const size = 24<<20 + 512
	image := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < size; at += dr.ChunkSize {
		if rng.IntN(4) > 0 {
			for i := at; i < min(at+dr.ChunkSize, size); i += 16 {
				image[i] = byte(rng.Uint32())
			}
		}
	}
	path := filepath.Join(t.TempDir(), "image")
	check(t, os.WriteFile(path, image, 0o600))
	cfg, err := Guest("served", path)
	check(t, err)
	st := mem.New()
	check(t, Publish(t.Context(), st, []dr.VMConfig{cfg}, []string{path}))
	site := must[*Site](t)(Open(t.Context(), st, short(t), ondemand.Options{Rate: 24 << 20}))
	id := cfg.Disks[0].ID
	uri := "nbd+unix:///" + id.String() + "?socket=" + site.Socket()
	same := func(what string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "nbdcopy", uri, "-")
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, image) {
			t.Fatalf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	run := make(chan error, 1)
	go func() { run <- site.Set.Run(context.WithoutCancel(t.Context())) }()
	same("read while it fills up")
	patch := bytes.Repeat([]byte{0xab}, 3<<20+1000)
	check(t, os.WriteFile(path, patch, 0o600))
	qio := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", uri, "-c", "write -s "+path+" 5000000 3146728", "-c", "write -z 1000 70000", "-c", "flush")
	if out, err := qio.CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	copy(image[5_000_000:], patch)
	clear(image[1000:71000])
	same("read after writing")
	check(t, <-run)
	check(t, site.Set.Finish(t.Context()))
	same("read when it is finished")
	check(t, site.Close())
	f, err := os.Open(site.Path(id))
	check(t, err)
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, image) {
		t.Fatalf("the file differs: %d bytes, %v", len(got), err)
	}
}
