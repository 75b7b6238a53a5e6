package ledger_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/qemu"
)

// guestPatience bounds every wait for a real guest: forty times what a quiet
// machine needs, because emulated guests starve on a busy one.
const guestPatience = 3 * time.Minute

// image builds the guest's disk once for all tests.
var image = sync.OnceValues(func() (string, error) { return ledger.BuildImage(context.Background()) })

// disk returns a fresh copy of the guest's disk.
func disk(t *testing.T) string {
	t.Helper()
	src, err := image()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.RemedyOf(err))
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := ledger.CopyImage(t.Context(), path, src); err != nil {
		t.Fatal(err)
	}
	return path
}

func provider(t *testing.T) *qemu.Provider {
	t.Helper()
	p, err := qemu.New(qemu.Options{CacheDir: t.TempDir(), DieWithParent: true})
	if err != nil {
		t.Fatalf("%v: %s", err, errs.RemedyOf(err))
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// power starts a guest from path and lets it boot.
func power(ctx context.Context, t *testing.T, p *qemu.Provider, path string) (*qemu.VM, *ledger.Console) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	id := dr.DiskID{UUID: dr.NewUUID()}
	vm, err := p.Start(ctx, hypervisor.Spec{
		Config:       ledger.Config("ledger", dr.VMID{UUID: dr.NewUUID()}, id, fi.Size()),
		Sources:      map[dr.DiskID]hypervisor.Source{id: {Path: path}},
		StartOptions: hypervisor.StartOptions{Accelerator: hypervisor.TCG, Serial: true, Paused: true, ExitOnReset: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ledger.Attach(ctx, vm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return vm.(*qemu.VM), c
}

// boot is power and the wait until the guest is up.
func boot(ctx context.Context, t *testing.T, p *qemu.Provider, path string) (*qemu.VM, *ledger.Console, ledger.Boot) {
	t.Helper()
	begin := time.Now()
	vm, c := power(ctx, t, p, path)
	b, err := c.WaitReady(ctx)
	if err != nil {
		t.Fatalf("the guest did not come up: %v; VM %+v", err, vm.Status())
	}
	t.Logf("READY after %v: %+v", time.Since(begin).Round(10*time.Millisecond), b)
	return vm, c, b
}

func check(ctx context.Context, t *testing.T, path string) ledger.Report {
	t.Helper()
	begin := time.Now()
	rep, err := ledger.CheckImage(ctx, path)
	if err != nil {
		t.Fatalf("%v: %s", err, errs.RemedyOf(err))
	}
	t.Logf("checked in %v: %+v", time.Since(begin).Round(time.Millisecond), rep)
	return rep
}

// TestPlugPulled is the promise the whole demo rests on: what the guest said
// is committed survives a kill of the machine, and the offline check sees the
// same as the guest's own next boot.
func TestPlugPulled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guestPatience)
	defer cancel()
	path := disk(t)
	if rep := check(ctx, t, path); rep.Max != 0 || rep.Bad != 0 {
		t.Fatalf("a fresh image has %+v", rep)
	}
	p := provider(t)
	vm, c, b := boot(ctx, t, p, path)
	if b.Max != 0 || b.Bad != 0 {
		t.Fatalf("a fresh guest said %+v", b)
	}
	if err := c.Put(ctx, 2, 0, 1); !errs.Is(err, errs.Conflict) {
		t.Errorf("Put of row 2 first: %v, want a refusal", err)
	}
	const rows = 160 // more than the window of payloads, so that blocks are used again
	begin := time.Now()
	for n := uint64(1); n <= rows; n++ {
		if err := c.Put(ctx, n, n/2, talk.DefaultBytes); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%.0f rows/s", rows/time.Since(begin).Seconds())
	// One more is under way when the plug is pulled.
	go c.Put(ctx, rows+1, 0, talk.DefaultBytes)
	if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s, err := vm.Wait(ctx); err != nil || s.State != hypervisor.Crashed {
		t.Fatalf("after SIGKILL: %+v, %v", s, err)
	}
	<-c.Dead()
	acked := c.Acked()
	rep := check(ctx, t, path)
	if rep.Bad != 0 || rep.Max < acked || rep.Max > rows+1 || rep.Cause != rows/2 {
		t.Errorf("checked after the kill: %+v, want nothing bad and row %d at least", rep, acked)
	}
	vm, c, b = boot(ctx, t, p, path)
	if b.Bad != 0 || b.Max != rep.Max || b.Cause != rep.Cause {
		t.Errorf("the guest said %+v, the check %+v", b, rep)
	}
	ioErrorIsSurvived(ctx, t, vm, c, b.Max+1)
	// The clean end: ACPI power button.
	if err := vm.Stop(ctx, hypervisor.StopOptions{Limit: guestPatience}); err != nil {
		t.Fatal(err)
	}
	if rep := check(ctx, t, path); rep.Bad != 0 || rep.Max != b.Max+1 {
		t.Errorf("checked after the stop: %+v", rep)
	}
	finds(ctx, t, path)
}

// ioErrorIsSurvived puts a failing layer under the running guest's disk: the
// VM must be Paused, say which disk, and go on once the layer is gone, with
// the row the error hit.
func ioErrorIsSurvived(ctx context.Context, t *testing.T, vm *qemu.VM, c *ledger.Console, n uint64) {
	t.Helper()
	type args = map[string]any
	reopen := func(file string) {
		t.Helper()
		if err := vm.Execute(ctx, "blockdev-reopen", args{"options": []args{
			{"driver": "raw", "node-name": "disk0", "file": file, "discard": "unmap"}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := vm.Execute(ctx, "blockdev-add", args{"driver": "blkdebug", "node-name": "faulty", "image": "disk0-file",
		"inject-error": []args{{"event": "none", "iotype": "write", "errno": 5, "once": true}}}, nil); err != nil {
		t.Fatal(err)
	}
	reopen("faulty")
	done := make(chan error, 1)
	go func() { done <- c.Put(ctx, n, 0, 100) }()
	for e := range vm.Events() {
		if e.Kind == hypervisor.IOError {
			if e.Disk != ledger.DiskName {
				t.Errorf("error on disk %q, want %q", e.Disk, ledger.DiskName)
			}
		}
		if e.Kind == hypervisor.StateChanged && e.Status.State == hypervisor.Paused && strings.Contains(e.Status.Reason, ledger.DiskName) {
			break
		}
	}
	select {
	case err := <-done:
		t.Fatalf("Put ended while the VM was paused by an I/O error: %v", err)
	default:
	}
	if err := vm.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Put across an I/O error: %v", err)
	}
	reopen("disk0-file")
	if err := vm.Execute(ctx, "blockdev-del", args{"node-name": "faulty"}, nil); err != nil {
		t.Fatal(err)
	}
}

// finds breaks a sound disk in several ways and expects the check to see each.
func finds(ctx context.Context, t *testing.T, sound string) {
	t.Helper()
	want := check(ctx, t, sound)
	for name, c := range map[string]struct {
		damage func(t *testing.T, path string)
		want   string // what the check must name: found for another reason is not found
	}{
		"row changed":         {changeRow, "row 100: its hash"},
		"ledger truncated":    {ledgerBytes(func(b []byte) []byte { return b[:len(b)/2] }), "malformed"},
		"page lost":           {ledgerBytes(func(b []byte) []byte { clear(b[4096:8192]); return b }), "malformed"},
		"metadata damaged":    {overwrite(1<<20+4096, 4096), "e2fsck"},
		"superblock gone":     {overwrite(1<<20, 4096), "e2fsck"},
		"partition gone":      {overwrite(446, 64), "partition"},
		"no boot sector":      {truncate(100), "boot sector"},
		"tail of disk is cut": {truncate(40 << 20), "partition"},
	} {
		path := filepath.Join(t.TempDir(), "broken.raw")
		if err := ledger.CopyImage(ctx, path, sound); err != nil {
			t.Fatal(err)
		}
		c.damage(t, path)
		rep, err := ledger.CheckImage(ctx, path)
		if err != nil || rep.Bad == 0 || !strings.Contains(strings.Join(rep.Problems, "; "), c.want) {
			t.Errorf("%s: found %+v, %v, want a problem with %q", name, rep, err, c.want)
		}
	}
	if again := check(ctx, t, sound); again.Bad != 0 || again.Max != want.Max {
		t.Errorf("the check changed the disk: %+v, before %+v", again, want)
	}
}

// changeRow changes one number of one row, by way of the database, so that
// everything but the chain stays sound.
func changeRow(t *testing.T, path string) {
	t.Helper()
	ledgerBytes(func(b []byte) []byte {
		file := filepath.Join(t.TempDir(), "ledger.db")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(`PRAGMA journal_mode = DELETE; UPDATE entry SET cause = cause + 1 WHERE n = 100`); err != nil {
			t.Fatal(err)
		}
		if b, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		return b
	})(t, path)
}

// ledgerBytes changes the database file inside a disk.
func ledgerBytes(change func([]byte) []byte) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		dir := t.TempDir()
		disk := path + "?offset=1048576"
		debugfs(t, dir, "-R", "dump /ledger/ledger.db old", disk)
		b, err := os.ReadFile(filepath.Join(dir, "old"))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) < 1<<20 || !bytes.HasPrefix(b, []byte("SQLite format 3")) {
			t.Fatalf("the disk's ledger has %d bytes", len(b))
		}
		if err := os.WriteFile(filepath.Join(dir, "new"), change(b), 0o600); err != nil {
			t.Fatal(err)
		}
		debugfs(t, dir, "-w", "-R", "rm /ledger/ledger.db", disk)
		debugfs(t, dir, "-w", "-R", "write new /ledger/ledger.db", disk)
	}
}

// debugfs runs e2fsprogs' editor in dir.
func debugfs(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", `PATH=$PATH:/usr/sbin:/sbin; exec debugfs "$@"`, "debugfs"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s (run 'make deps')", err, out)
	}
}

func overwrite(off int64, n int) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(bytes.Repeat([]byte{0x5a}, n), off)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(size int64) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLockStep runs the driver over two real guests, kills both one after the
// other while it writes, and judges the pair; then the pair with the follower
// of a later instant, which must be refused.
func TestLockStep(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guestPatience)
	defer cancel()
	p := provider(t)
	paths := []string{disk(t), disk(t)}
	var vms [2]*qemu.VM
	var consoles [2]*ledger.Console
	for i, path := range paths {
		vms[i], consoles[i] = power(ctx, t, p, path)
	}
	d := ledger.NewDriver(consoles[0], consoles[1], talk.DefaultBytes)
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(run) }()
	await(ctx, t, func() bool { a, b := d.Acked(); return a >= 20 && b >= 20 && a >= b })
	early := filepath.Join(t.TempDir(), "early.raw")
	// The VMs are halted together, so their disks are one instant.
	freeze := func() {
		for _, vm := range vms {
			if err := vm.Pause(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	freeze()
	a, b := d.Acked()
	leader, follower := check(ctx, t, paths[0]), check(ctx, t, paths[1])
	if err := ledger.CheckPair(leader, follower); err != nil {
		t.Error(err)
	}
	if leader.Max < a || follower.Max < b {
		t.Errorf("acknowledged %d and %d, found %d and %d", a, b, leader.Max, follower.Max)
	}
	if err := ledger.CopyImage(ctx, early, paths[0]); err != nil {
		t.Fatal(err)
	}
	for _, vm := range vms {
		if err := vm.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	await(ctx, t, func() bool { _, now := d.Acked(); return now >= b+5 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ledger.CheckPair(check(ctx, t, early), check(ctx, t, paths[1])); !errs.Is(err, errs.Corrupt) {
		t.Errorf("an early leader with a late follower: %v, want kind corrupt", err)
	}
}

// await polls until is, which real guests on real time make true.
func await(ctx context.Context, t *testing.T, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(fmt.Errorf("it did not come: %w", context.Cause(ctx)))
		}
	}
}
