package instant

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/rocva/ondemand"
	"holdfast/internal/store/dir"
)

// patience bounds the whole test: boots under emulation on a loaded machine.
const patience = 9 * time.Minute

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.RemedyOf(err))
	}
}

// TestInstant: a real guest boots from a store that answers late, before its
// disk is there; it commits while the disk fills up, goes on without noticing on
// the plain file, and nothing it said is lost. The next boot fetches ahead what
// this one read.
func TestInstant(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	image, err := ledger.BuildImage(ctx)
	check(t, err)
	image = ballasted(t, image)
	cfg, err := Guest("ledger", image)
	check(t, err)
	root := t.TempDir()
	check(t, os.Mkdir(filepath.Join(root, "store"), 0o755))
	st, err := dir.Open(filepath.Join(root, "store"))
	check(t, err)
	check(t, Publish(ctx, st, []dr.VMConfig{cfg}, []string{image}))
	p, err := qemu.New(qemu.Options{CacheDir: t.TempDir(), DieWithParent: true})
	check(t, err)
	defer p.Close()
	late := Late{st, 20 * time.Millisecond}
	id := cfg.Disks[0].ID

	site := must[*Site](t)(Open(ctx, late, short(t), ondemand.Options{}))
	began := time.Now()
	vm, console, boot, err := Boot(ctx, p, cfg, site.Source(id))
	check(t, err)
	defer console.Close()
	at := site.Set.Progress()
	t.Logf("up after %v with %d of %d bytes here: VERIFY max=%d bad=%d", time.Since(began).Round(time.Millisecond), at.Disks[0].Present, at.Disks[0].Content, boot.Max, boot.Bad)
	if boot.Bad != 0 || at.Whole {
		t.Fatalf("boot %+v, whole %v", boot, at.Whole)
	}
	n := boot.Max
	commit := func(rows int) {
		t.Helper()
		for range rows {
			n++
			check(t, console.Put(ctx, n, 0, 0))
		}
	}
	commit(5)
	run := make(chan error, 1)
	go func() { run <- site.Set.Run(ctx) }()
	commit(20)
	check(t, <-run)
	trace := site.Set.Trace(func(dr.DiskID) bool { return true })
	check(t, site.Container.PutTrace(ctx, site.Image.Timeline, cfg.ID, site.Image.Checkpoint.Seq, trace.Encode()))
	if len(site.Set.Written(id)) == 0 {
		t.Error("a guest that committed wrote nothing")
	}
	check(t, site.Set.Finish(ctx))
	sw, err := vm.SwitchDisk(ctx, id)
	check(t, err)
	t.Logf("switched: %+v", sw)
	check(t, site.Close()) // nobody needs the exports any more
	commit(20)
	check(t, console.PowerOff(ctx))
	if _, err := vm.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	rep, err := ledger.CheckImage(ctx, site.Path(id))
	check(t, err)
	if rep.Bad != 0 || rep.Max != n || len(rep.Problems) != 0 {
		t.Fatalf("acknowledged %d, the disk has %+v", n, rep)
	}
	again(ctx, t, p, cfg, late)
}

// ballasted is a copy of an image with content behind it that no guest reads, so
// that a boot alone does not fetch all there is.
func ballasted(t *testing.T, image string) string {
	t.Helper()
	b, err := os.ReadFile(image)
	check(t, err)
	more := make([]byte, 48<<20)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := 0; i < len(more); i += 8 {
		binary.LittleEndian.PutUint64(more[i:], rng.Uint64())
	}
	path := filepath.Join(t.TempDir(), "ballasted.raw")
	check(t, os.WriteFile(path, append(b, more...), 0o600))
	return path
}

// again boots from the store once more, with the trace of the first time.
func again(ctx context.Context, t *testing.T, p *qemu.Provider, cfg dr.VMConfig, late Late) {
	t.Helper()
	probe := must[*Site](t)(Open(ctx, late, short(t), ondemand.Options{}))
	stored := must[[]byte](t)(probe.Container.Trace(ctx, cfg.ID))
	check(t, probe.Discard())
	trace, err := boottrace.Decode(stored)
	check(t, err)
	site := must[*Site](t)(Open(ctx, late, short(t), ondemand.Options{Prefetch: []ondemand.Trace{trace}}))
	running, stop := context.WithCancel(ctx)
	run := make(chan error, 1)
	go func() { run <- site.Set.Run(running) }()
	began := time.Now()
	vm, console, boot, err := Boot(ctx, p, cfg, site.Source(cfg.Disks[0].ID))
	check(t, err)
	defer console.Close()
	t.Logf("with a trace of %d chunks up after %v", len(trace.Chunks), time.Since(began).Round(time.Millisecond))
	if boot.Bad != 0 {
		t.Errorf("boot %+v", boot)
	}
	check(t, vm.Kill(ctx))
	stop()
	<-run
	check(t, site.Discard())
	if left, err := filepath.Glob(site.dir + "/*"); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// short is a directory whose sockets' paths are short enough.
func short(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "hfi")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}
