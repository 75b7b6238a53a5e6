package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// asServer in the environment of a child makes this test binary `bench`.
const asServer = "HOLDFAST_BENCH_MAIN"

// TestMain lets the bench run itself as the server it compares with.
func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// quickFigures are measured by TestQuick: each kind of target and of figure
// once.
const quickFigures = "^(passthrough_vs_nbdkit_qd1|passthrough_direct_vs_qemunbd_qd1|protected_vs_passthrough_qd1|" +
	"mirror_p50_over_qemu_direct|shipped_over_changed|rehydrate_vs_nbdcopy|allocs_per_request|attach_ms|failopen_ms|" +
	"hydrated_read_vs_local)$"

// TestQuick runs the bench once, small and short, with real processes: the
// figures mean nothing, but all of them are there, and every protected run was
// proven by its replay.
func TestQuick(t *testing.T) {
	for _, tool := range []string{"qemu-nbd", "nbdkit", "qemu-storage-daemon", "nbdcopy", "fio"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; make deps installs it", err)
		}
	}
	t.Setenv(asServer, "1")
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir := t.TempDir()
	out := filepath.Join(dir, "bench.json")
	if err := measure(ctx, []string{"-out", out, "-quick", "-size", "128MiB", "-guest", "../../build/guest", "-only", quickFigures}); err != nil {
		t.Fatal(err)
	}
	checkResults(t, out)
	left, err := filepath.Glob(filepath.Join(dir, "bench.tmp*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// checkResults reads the results as another program would.
func checkResults(t *testing.T, out string) {
	t.Helper()
	var figures []struct {
		Name    *string
		Value   *float64
		Unit    *string
		Against *string
	}
	readJSON(t, out, &figures)
	seen := map[string]bool{}
	for _, f := range figures {
		if f.Name == nil || f.Value == nil || f.Unit == nil || f.Against == nil {
			t.Fatalf("incomplete figure %+v", f)
		}
		seen[*f.Name] = true
		if *f.Value <= 0 && *f.Name != "allocs_per_request" {
			t.Errorf("%s is %g", *f.Name, *f.Value)
		}
	}
	const want = 10
	if len(seen) != want {
		t.Errorf("%d figures, want %d: %v", len(seen), want, seen)
	}
	var r raw
	readJSON(t, filepath.Join(filepath.Dir(out), "bench-raw.json"), &r)
	replayed := 0
	for _, row := range r.Rows {
		if row.IOs == 0 || row.CPUPerIO <= 0 || row.Write.P99 < row.Write.P50 {
			t.Errorf("row %+v", row)
		}
		if row.CPUToPublished > 0 {
			replayed++
		}
	}
	if replayed == 0 {
		t.Error("no protected run")
	}
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestMismatchEndsTheBench: a primary that holds a write nobody captured is
// found by the verification that follows a protected run.
func TestMismatchEndsTheBench(t *testing.T) {
	b := &bench{options: options{size: 64 * mib}, dir: t.TempDir(), sp: newSpawner(t.TempDir())}
	var err error
	if b.sockets, err = os.MkdirTemp("", "holdfast-bench-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(b.sockets) })
	s, err := b.newSystem(t.Context(), systemSpec{name: "mismatch", ack: "async", size: b.size, quota: gib})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("behind the host component's back"), 33*mib); err != nil {
		t.Fatal(err)
	}
	srv, err := s.target(protected).start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.after(context.WithoutCancel(t.Context()), &row{load: load{IOs: 1}}); err == nil {
		t.Fatal("a write that was never captured went unnoticed")
	} else if !errors.Is(err, errDiffer) {
		t.Fatalf("got %v, want %v", err, errDiffer)
	}
}
