package qemu_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/qemu"
)

// patience bounds every wait here: ample for a loaded machine.
const patience = 3 * time.Minute

// roleVar makes the test program play a parent that dies; see TestDieWithParent.
const orphanRole = "HOLDFAST_QEMU_TEST_ORPHAN" // and the parent of one that is kept

const roleVar = "HOLDFAST_QEMU_TEST_PARENT"

func TestMain(m *testing.M) {
	if words := os.Getenv(exportRole); words != "" {
		os.Exit(serveExport(words))
	}
	if words := os.Getenv(ownerRole); words != "" {
		os.Exit(own(words))
	}
	if words := os.Getenv(orphanRole); words != "" {
		p, err := qemu.New(qemu.Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(hypervisortest.Parent(p, words))
	}
	if disk := os.Getenv(roleVar); disk != "" {
		os.Exit(parent(disk))
	}
	os.Exit(m.Run())
}

// open returns a provider, or ends the test saying what is missing.
func open(t *testing.T) *qemu.Provider {
	t.Helper()
	p, err := qemu.New(qemu.Options{CacheDir: t.TempDir(), DieWithParent: true})
	if err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func polite(t *testing.T) hypervisor.Spec {
	return hypervisortest.Spec(t, hypervisortest.Polite, "virtio")
}

func deaf(t *testing.T) hypervisor.Spec { return hypervisortest.Spec(t, hypervisortest.Deaf, "ide") }

func missing(t *testing.T) hypervisor.Spec {
	s := polite(t)
	id := s.Config.Disks[0].ID
	s.Sources[id] = hypervisor.Source{Path: s.Sources[id].Path + ".missing"}
	return s
}

func TestSuite(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Rig {
		return hypervisortest.Rig{
			Provider: open(t),
			Obeying:  polite,
			Deaf:     deaf,
			Failing:  missing,
			Repair: func(t *testing.T, s *hypervisor.Spec) {
				s.Sources = map[dr.DiskID]hypervisor.Source{
					s.Config.Disks[0].ID: {Path: hypervisortest.Disk(t, hypervisortest.Polite)},
				}
			},
			Crash: func(t *testing.T, vm hypervisor.VM) {
				if err := syscall.Kill(vm.(*qemu.VM).PID(), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			Working: working,
			Serve:   serve,
			Orphan:  func(t *testing.T, s hypervisor.Spec) { hypervisortest.Orphan(t, orphanRole, s) },
			Again:   func(t *testing.T) hypervisor.Provider { return open(t) },
		}
	})
}

func working(t *testing.T) (hypervisor.Spec, string) {
	s := hypervisortest.Spec(t, hypervisortest.Worker, "virtio")
	return s, s.Sources[s.Config.Disks[0].ID].Path
}

// serve exports an image, and nobody locks it.
func serve(t *testing.T, image string) hypervisortest.Export { return serveWith(t, "file", image) }

// serveWith exports what nbdkit is told to.
func serveWith(t *testing.T, what ...string) hypervisortest.Export {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfnbd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := hypervisor.Attachment{Socket: filepath.Join(dir, "nbd"), Export: "vm/system"}
	server := exec.Command("nbdkit", append([]string{"-f", "-U", e.Socket, "-e", e.Export}, what...)...)
	if err := server.Start(); err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	var once sync.Once
	kill := func() {
		once.Do(func() {
			server.Process.Kill()
			server.Wait()
		})
	}
	t.Cleanup(kill)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if conn, err := net.Dial("unix", e.Socket); err == nil {
			conn.Close()
			return hypervisortest.Export{Attachment: e, Kill: kill}
		}
		if time.Now().After(deadline) {
			t.Fatal("nbdkit does not listen")
		}
	}
}

// started starts spec and returns the VM.
func started(ctx context.Context, t *testing.T, p *qemu.Provider, spec hypervisor.Spec) *qemu.VM {
	t.Helper()
	vm, err := p.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return vm.(*qemu.VM)
}

// hear connects to the serial port of a Paused VM, lets it run, and waits
// until the guest says it is up.
func hear(ctx context.Context, t *testing.T, vm hypervisor.VM) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("unix", vm.Serial())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if d, ok := ctx.Deadline(); ok {
		conn.SetDeadline(d)
	}
	if err := vm.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	until(t, r, hypervisortest.Banner)
	return conn, r
}

// until reads up to and including words.
func until(t *testing.T, r *bufio.Reader, words string) {
	t.Helper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), words) {
		b, err := r.ReadByte()
		if err != nil {
			t.Fatalf("waiting for %q: %v after %q", words, err, got.String())
		}
		got.WriteByte(b)
	}
}

// TestBuses boots from every kind of disk on both machines, and has the guest
// answer over the serial port, reset itself and obey the power button.
func TestBuses(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := open(t)
	for _, machine := range []string{"pc", "q35"} {
		for _, bus := range []string{"virtio", "scsi", "nvme", "ide"} {
			t.Run(machine+"/"+bus, func(t *testing.T) {
				spec := hypervisortest.Spec(t, hypervisortest.Polite, bus)
				spec.Config.Machine, spec.Serial, spec.Paused = machine, true, true
				spec.WorkDir = t.TempDir()
				spec.Networks["production"] = hypervisor.Network{Kind: hypervisor.User}
				vm := started(ctx, t, p, spec)
				private(t, spec.WorkDir)
				conn, r := hear(ctx, t, vm)
				io.WriteString(conn, "echo")
				until(t, r, "echo")
				io.WriteString(conn, "R")
				until(t, r, hypervisortest.Banner)
				if err := vm.Stop(ctx, hypervisor.StopOptions{Limit: patience}); err != nil {
					t.Fatal(err)
				}
				resets := 0
				for e := range vm.Events() {
					if e.Kind == hypervisor.GuestReset {
						resets++
					}
				}
				if resets == 0 { // the BIOS may add some of its own
					t.Error("no reset was told of")
				}
				if left, err := os.ReadDir(spec.WorkDir); err != nil || len(left) != 0 {
					t.Errorf("the run left %v, %v", left, err)
				}
			})
		}
	}
}

// private checks that a running VM's directory is for its owner alone.
func private(t *testing.T, workDir string) {
	t.Helper()
	dirs, err := os.ReadDir(workDir)
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%v, %v in the work directory, want one entry", dirs, err)
	}
	fi, err := dirs[0].Info()
	if err != nil || fi.Mode() != os.ModeDir|0o700 {
		t.Errorf("the run's directory has mode %v, %v", fi.Mode(), err)
	}
}

func TestExitOnReset(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	spec := polite(t)
	spec.Serial, spec.Paused, spec.ExitOnReset = true, true, true
	vm := started(ctx, t, open(t), spec)
	conn, _ := hear(ctx, t, vm)
	io.WriteString(conn, "R")
	if s, err := vm.Wait(ctx); err != nil || s.State != hypervisor.Stopped || s.Reason != "guest-reset" {
		t.Errorf("after a reset: %+v, %v, want Stopped by guest-reset", s, err)
	}
}

// TestNBD boots from an export of a server on a unix socket.
func TestNBD(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	spec := polite(t)
	id := spec.Config.Disks[0].ID
	sock := filepath.Join(t.TempDir(), "nbd")
	pidFile := sock + ".pid"
	server := exec.CommandContext(ctx, "qemu-nbd", "--fork", "--pid-file", pidFile, "--persistent", "--format", "raw",
		"--socket", sock, "--export-name", "vm/system", spec.Sources[id].Path)
	if out, err := server.CombinedOutput(); err != nil {
		t.Fatalf("qemu-nbd: %v: %s (run 'make deps')", err, out)
	}
	t.Cleanup(func() { killPIDFile(t, pidFile) })
	spec.Sources[id] = hypervisor.Source{Socket: sock, Export: "vm/system"}
	spec.Serial, spec.Paused = true, true
	vm := started(ctx, t, open(t), spec)
	hear(ctx, t, vm)
	if err := vm.Stop(ctx, hypervisor.StopOptions{Limit: patience}); err != nil {
		t.Fatal(err)
	}
	// An export that is not there: QEMU says so and ends.
	spec.Sources[id] = hypervisor.Source{Socket: sock, Export: "vm/other"}
	_, err := open(t).Start(ctx, spec)
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "vm/other") {
		t.Errorf("Start from a missing export: %v, want QEMU's own words", err)
	}
}

func killPIDFile(t *testing.T, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 2 {
		t.Errorf("pid file holds %q", b)
		return
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

func TestStartErrors(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := open(t)
	running := polite(t)
	started(ctx, t, p, running)
	for name, c := range map[string]struct {
		spoil func(*hypervisor.Spec, dr.DiskID)
		kind  errs.Kind
		want  string
	}{
		"disk in use": {func(s *hypervisor.Spec, id dr.DiskID) {
			s.Sources[id] = running.Sources[running.Config.Disks[0].ID]
		}, errs.Conflict, "lock"},
		"disk missing": {func(s *hypervisor.Spec, id dr.DiskID) {
			s.Sources[id] = hypervisor.Source{Path: "/nowhere/disk.raw"}
		}, errs.NotFound, "/nowhere/disk.raw"},
		"disk of another size": {func(s *hypervisor.Spec, _ dr.DiskID) {
			s.Config.Disks[0].Size *= 2
		}, errs.Invalid, "should have"},
		"socket is a file": {func(s *hypervisor.Spec, id dr.DiskID) {
			s.Sources[id] = hypervisor.Source{Socket: s.Sources[id].Path}
		}, errs.Invalid, "not a unix socket"},
		"no work directory": {func(s *hypervisor.Spec, _ dr.DiskID) {
			s.WorkDir = "/nowhere"
		}, errs.Unavailable, "/nowhere"},
		"machine of no version": {func(s *hypervisor.Spec, _ dr.DiskID) {
			s.Config.Machine = "pc-q35-0.1"
		}, errs.Unavailable, "unsupported machine type"},
	} {
		spec := polite(t)
		c.spoil(&spec, spec.Config.Disks[0].ID)
		_, err := p.Start(ctx, spec)
		if !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v (kind %v), want kind %v and %q", name, err, errs.KindOf(err), c.kind, c.want)
		}
	}
	if _, err := qemu.New(qemu.Options{Binary: "/nowhere/qemu"}); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Errorf("New without QEMU: %v, want kind unavailable and a remedy", err)
	}
}

// TestEnvironmentIsEmpty checks that QEMU inherits nothing but PATH.
func TestEnvironmentIsEmpty(t *testing.T) {
	t.Setenv("HOLDFAST_SECRET", "s3cret")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	vm := started(ctx, t, open(t), polite(t))
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", vm.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(env), "\x00"); n != 1 || !strings.HasPrefix(string(env), "PATH=") {
		t.Errorf("QEMU's environment: %q", env)
	}
}

// TestDieWithParent runs a second copy of this program that starts a VM, says
// its pid and ends without cleaning up.
func TestDieWithParent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+hypervisortest.Disk(t, hypervisortest.Deaf), "TMPDIR="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("parent: %v: %s", err, out)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || pid < 2 {
		t.Fatalf("parent said %q", out)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for alive(pid) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("QEMU outlived its parent")
		}
	}
}

// alive reports whether pid is a process that runs; one that ended and that
// nobody has waited for yet does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// parent starts a VM, prints its pid and returns at once.
func parent(disk string) int {
	p, err := qemu.New(qemu.Options{CacheDir: os.TempDir(), DieWithParent: true})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	id := dr.DiskID{UUID: dr.NewUUID()}
	vm, err := p.Start(context.Background(), hypervisor.Spec{
		Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "orphan", CPUs: 1, MemoryMiB: 16, Machine: "pc",
			Firmware: "bios", Disks: []dr.VMDisk{{ID: id, Name: "d", Size: hypervisortest.DiskSize, Bus: "ide"}}},
		Sources:      map[dr.DiskID]hypervisor.Source{id: {Path: disk}},
		StartOptions: hypervisor.StartOptions{Accelerator: hypervisor.TCG},
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(vm.(*qemu.VM).PID())
	return 0
}
