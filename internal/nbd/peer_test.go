package nbd_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/nbd"
)

// The tests in this file and peer_kernel_test.go put other people's NBD
// clients to the server: what they believe of the protocol counts.

// peerLoops are the loops that matter to peers.
func peerLoops(t *testing.T, size int64, run func(t *testing.T, r *rig)) {
	for _, name := range []string{"buffered", "ring"} {
		t.Run(name, func(t *testing.T) {
			s := loops[name]
			s.size = size
			run(t, s.start(t))
		})
	}
}

// tool finds a peer's program. A missing one is a failure: these tests are
// the proof that the server works, and proof cannot be optional.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: run `make deps`", name)
	}
	return path
}

// command runs a peer and returns what it printed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, name), args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

func (r *rig) uri() string { return "nbd+unix:///?socket=" + r.socket }

func TestPeerNbdinfo(t *testing.T) {
	peerLoops(t, 16<<20, func(t *testing.T, r *rig) {
		var info struct {
			Protocol   string
			Structured bool
			Exports    []struct {
				Contexts     []string
				ReadOnly     bool  `json:"is_read_only"`
				CanCache     bool  `json:"can_cache"`
				CanDF        bool  `json:"can_df"`
				CanFastZero  bool  `json:"can_fast_zero"`
				CanFlush     bool  `json:"can_flush"`
				CanFUA       bool  `json:"can_fua"`
				CanMultiConn bool  `json:"can_multi_conn"`
				CanTrim      bool  `json:"can_trim"`
				CanZero      bool  `json:"can_zero"`
				Maximum      int64 `json:"block_size_maximum"`
				Size         int64 `json:"export-size"`
			}
		}
		if err := json.Unmarshal([]byte(command(t, "nbdinfo", "--json", r.uri())), &info); err != nil {
			t.Fatal(err)
		}
		if info.Protocol != "newstyle-fixed" || !info.Structured || len(info.Exports) != 1 {
			t.Fatalf("nbdinfo saw %+v", info)
		}
		e := info.Exports[0]
		if len(e.Contexts) != 1 || e.Contexts[0] != "base:allocation" || e.ReadOnly || !e.CanCache || !e.CanDF || !e.CanFastZero ||
			!e.CanFlush || !e.CanFUA || !e.CanMultiConn || !e.CanTrim || !e.CanZero || e.Maximum != 32<<20 || e.Size != 16<<20 {
			t.Errorf("nbdinfo saw %+v", e)
		}
		if out := command(t, "nbdinfo", "--list", "nbd+unix:///?socket="+r.socket); !strings.Contains(out, `export="":`) {
			t.Errorf("nbdinfo --list printed %s", out)
		}
		if out := command(t, "nbdinfo", "--map", r.uri()); !strings.Contains(out, "hole,zero") {
			t.Errorf("nbdinfo --map printed %s", out)
		}
	})
}

func TestPeerQemuIO(t *testing.T) {
	peerLoops(t, 64<<20, func(t *testing.T, r *rig) {
		out := command(t, "qemu-io", "-f", "raw",
			"-c", "write -P 0x5a 0 1M", "-c", "read -P 0x5a 0 1M", "-c", "write -f -P 0x17 4k 512", "-c", "read -P 0x17 4k 512",
			"-c", "flush", "-c", "write -z 64k 64k", "-c", "read -P 0 64k 64k", "-c", "write -z -u 256k 64k", "-c", "read -P 0 256k 64k",
			"-c", "discard 512k 128k", "-c", "write -P 0x33 33M 20M", "-c", "read -P 0x33 33M 20M", "-c", "aio_write -P 1 2M 64k",
			"-c", "aio_write -P 2 3M 64k", "-c", "aio_flush", "-c", "read -P 2 3M 64k", "-c", "write -P 9 1000 3000", "-c", "read -P 9 1000 3000",
			r.uri())
		if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
			t.Errorf("qemu-io:\n%s", out)
		}
		got := make([]byte, 512)
		if _, err := r.file.ReadAt(got, 4096); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0x17}, 512)) {
			t.Errorf("the disk holds %x, %v", got[:4], err)
		}
	})
}

// TestPeerFio lets fio check its own checksums. Its nbd engine ends well even
// if it did nothing: count what it did.
func TestPeerFio(t *testing.T) {
	peerLoops(t, 64<<20, func(t *testing.T, r *rig) {
		out := command(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+r.uri(), "--rw=randrw", "--bsrange=512-64k", "--blockalign=512",
			"--iodepth=32", "--size=64M", "--io_size=64M", "--verify=crc32c", "--verify_fatal=1", "--fsync=50", "--randrepeat=0", "--verify_state_save=0", "--output-format=json")
		var result struct {
			Jobs []struct {
				Error       int
				TotalErr    int `json:"total_err"`
				Read, Write struct {
					Total int64 `json:"total_ios"`
					Bytes int64 `json:"io_bytes"`
				}
			}
		}
		if i := strings.IndexByte(out, '{'); i < 0 {
			t.Fatalf("fio printed %s", out)
		} else if err := json.Unmarshal([]byte(out[i:]), &result); err != nil {
			t.Fatal(err)
		}
		j := result.Jobs[0]
		if j.Error != 0 || j.TotalErr != 0 || j.Write.Total < 500 || j.Read.Bytes < j.Write.Bytes {
			t.Errorf("fio did %+v", j)
		}
	})
}

// TestPeerNbdcopy copies a disk in and out again, over several connections.
func TestPeerNbdcopy(t *testing.T) {
	peerLoops(t, 64<<20, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		writeImage(t, in, 64<<20, rand.New(rand.NewPCG(seed, 0)))
		command(t, "nbdcopy", "--connections=4", "--flush", in, r.uri())
		command(t, "nbdcopy", "--connections=4", r.uri(), out)
		sameFile(t, in, out)
		command(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, r.uri())
		command(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", r.uri(), filepath.Join(dir, "q"))
		command(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", filepath.Join(dir, "q"), in)
		writeImage(t, in, 64<<20, rand.New(rand.NewPCG(seed, 1)))
		command(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, r.uri())
		sameFile(t, in, r.disk)
	})
}

// writeImage makes a disk with data, zeroes and holes.
func writeImage(t *testing.T, path string, size int64, r *rand.Rand) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100<<10)
	for range 60 {
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		if r.IntN(4) == 0 {
			clear(p)
		}
		if _, err := f.WriteAt(p[:r.IntN(len(p))], r.Int64N(size-int64(len(p)))); err != nil {
			t.Fatal(err)
		}
	}
}

func sameFile(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", filepath.Base(a), filepath.Base(b))
	}
}

// TestPeerLibnbd runs testdata/libnbd_peer.py, which asserts what libnbd sees.
func TestPeerLibnbd(t *testing.T) {
	const python = "/usr/bin/python3" // the one the distribution's libnbd belongs to
	if out, err := exec.Command(python, "-c", "import nbd").CombinedOutput(); err != nil {
		t.Fatalf("python3-libnbd is not installed: run `make deps` (%s)", out)
	}
	peerLoops(t, 16<<20, func(t *testing.T, r *rig) {
		if out := command(t, python, "testdata/libnbd_peer.py", r.uri()); !strings.Contains(out, "all good") {
			t.Errorf("script printed %s", out)
		}
	})
}

// TestPeerTLS has libnbd's tools trust our certificate.
func TestPeerTLS(t *testing.T) {
	server, dir := peerCertificates(t)
	s := setup{size: 1 << 20, server: func(o *nbd.Options) { o.TLS = server }}
	r := s.start(t)
	uri := "nbds+unix://nbd.example/?socket=" + r.socket + "&tls-certificates=" + dir
	if out := command(t, "nbdinfo", "--size", uri); strings.TrimSpace(out) != "1048576" {
		t.Errorf("nbdinfo over TLS printed %q", out)
	}
	if out, err := exec.Command(tool(t, "nbdinfo"), r.uri()).CombinedOutput(); err == nil {
		t.Errorf("nbdinfo without TLS succeeded:\n%s", out)
	}
}
