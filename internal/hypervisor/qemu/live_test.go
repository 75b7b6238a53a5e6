package qemu_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/nbd"
)

func openLive(t *testing.T, g *liveGuest) (*qemu.Platform, error) {
	return qemu.NewPlatform(t.Context(), qemu.LiveOptions{
		VMs: []qemu.Monitor{{QMP: g.qmp, Agent: g.agent}}, Dir: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
}

// rigOf is the suite's rig around a guest.
func rigOf(t *testing.T, g *liveGuest, disk string, captures ...hypervisor.Capture) hypervisortest.LiveRig {
	return hypervisortest.LiveRig{
		Platform: g.platform(t),
		Reopen:   g.platform,
		VM:       "web", Disk: disk, Captures: captures,
		Export:   exportOf,
		Provoke:  provoke(g),
		Load:     &hypervisortest.Load{Written: g.Written, Verify: g.verify},
		Follow:   follower(g.images[0]),
		PowerOff: g.waitEnd,
	}
}

// follower starts an export of image again, each time it is asked, which measures
// the image anew.
func follower(image string) func(*testing.T, hypervisortest.Export) {
	at := map[string]func(){} // what ends the server of a socket
	return func(t *testing.T, e hypervisortest.Export) {
		t.Helper()
		if at[e.Socket] == nil {
			at[e.Socket] = e.Kill
		}
		at[e.Socket]()
		at[e.Socket] = exportOn(t, e.Socket, "file", image, "").Kill
	}
}

// provoke makes the changes QEMU itself can make.
func provoke(g *liveGuest) map[hypervisor.ChangeKind]func(*testing.T) {
	return map[hypervisor.ChangeKind]func(*testing.T){
		hypervisor.ChangedState: func(*testing.T) { g.say("stop"); g.say("cont") },
	}
}

var bothWays = []hypervisor.Capture{hypervisor.InPath, hypervisor.Mirror}

// TestPlatform runs the suite on each way a disk can be given to a VM.
func TestPlatform(t *testing.T) {
	for name, c := range map[string]struct {
		format, disk string
		args         []string
	}{
		"named raw node": {"raw", "disk0", []string{
			"-blockdev", "driver=raw,node-name=fmt,file.driver=file,file.filename=PATH0",
			"-device", "virtio-blk-pci,drive=fmt,werror=stop,rerror=stop"}},
		"drive without ids": {"raw", "disk0", []string{
			"-drive", "file=PATH0,format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,werror=stop,rerror=stop"}},
		"protocol node on scsi": {"raw", "mydisk", []string{
			"-blockdev", "driver=file,node-name=f,filename=PATH0", "-device", "virtio-scsi-pci",
			"-device", "scsi-hd,drive=f,id=mydisk,werror=stop,rerror=stop"}},
		"qcow2": {"qcow2", "disk0", []string{
			"-blockdev", "driver=qcow2,node-name=fmt,file.driver=file,file.filename=PATH0",
			"-device", "virtio-blk-pci,drive=fmt,werror=stop,rerror=stop"}},
		"qcow2 drive": {"qcow2", "disk0", []string{
			"-drive", "file=PATH0,format=qcow2,if=none,id=d", "-device", "virtio-blk-pci,drive=d,werror=stop,rerror=stop"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGuest(t, c.format, 1, c.args...)
			hypervisortest.RunPlatform(t, rigOf(t, g, c.disk, bothWays...))
		})
	}
}

// rounds is how often a test of many switch-overs does its work.
func rounds(t *testing.T, normal int) int {
	words := os.Getenv("HOLDFAST_ATTACH_N")
	if words == "" {
		return normal
	}
	n, err := strconv.Atoi(words)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stops is a disk whose errors stop the VM, on a named raw node.
var stops = []string{
	"-blockdev", "driver=raw,node-name=fmt,file.driver=file,file.filename=PATH0",
	"-device", "virtio-blk-pci,drive=fmt,id=d0,werror=stop,rerror=stop",
}

// liveVM opens a driver and returns the guest's VM in it.
func liveVM(ctx context.Context, t *testing.T, g *liveGuest) (hypervisor.Platform, hypervisor.LiveVM) {
	t.Helper()
	p := g.platform(t)
	t.Cleanup(func() { p.Close() })
	vm, err := p.VM(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	return p, vm
}

// goesOn waits until the guest was acknowledged more writes.
func (g *liveGuest) goesOn(ctx context.Context, t *testing.T) {
	t.Helper()
	from := g.Written()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for g.Written() < from+50 {
		select {
		case <-tick.C:
		case <-g.Over():
			t.Fatalf("the guest ended: %s", g.Fatal())
		case <-ctx.Done():
			t.Fatal("the guest's writes do not go on")
		}
	}
}

// attach prepares, serves and attaches; on names the socket, "" any.
func attach(ctx context.Context, t *testing.T, vm hypervisor.LiveVM, disk string, c hypervisor.Capture) (hypervisortest.Export, hypervisor.Switch) {
	t.Helper()
	src, err := vm.Prepare(ctx, disk, c)
	if err != nil {
		t.Fatal(err)
	}
	e := exportOf(t, src, c)
	e.Capture = c
	sw, err := vm.Attach(ctx, disk, e.Attachment)
	if err != nil {
		t.Fatal(err)
	}
	return e, sw
}

// figures logs the spread of some times.
func figures(t *testing.T, what string, all []time.Duration) {
	t.Helper()
	slices.Sort(all)
	if n := len(all); n > 0 {
		t.Logf("%s: n=%d min %v median %v p99 %v max %v", what, n, all[0], all[n/2], all[(n*99+99)/100-1], all[n-1])
	}
}

// TestAttachAndDetachUnderLoad switches over and over while the guest writes:
// HOLDFAST_ATTACH_N=100 for the long run. No write may be lost or torn.
func TestAttachAndDetachUnderLoad(t *testing.T) {
	for name, c := range map[string]struct {
		format  string
		capture hypervisor.Capture
	}{"in-path": {"raw", hypervisor.InPath}, "mirror": {"raw", hypervisor.Mirror}, "qcow2": {"qcow2", hypervisor.InPath}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
			defer cancel()
			args := slices.Clone(stops)
			args[1] = strings.Replace(args[1], "driver=raw", "driver="+c.format, 1)
			g := startGuest(t, c.format, 1, args...)
			_, vm := liveVM(ctx, t, g)
			var in, out []time.Duration
			for range rounds(t, 4) {
				e, sw := attach(ctx, t, vm, "d0", c.capture)
				in = append(in, sw.Pause)
				g.goesOn(ctx, t)
				sw, err := vm.Detach(ctx, "d0")
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, sw.Pause)
				e.Kill()
				g.goesOn(ctx, t)
			}
			figures(t, "attach", in)
			figures(t, "detach", out)
			t.Logf("slowest guest write: %v", g.Slowest())
			g.verify(t)
		})
	}
}

// TestResizeLetsNoWritePass has the export keep what is written to it elsewhere,
// so that what the guest writes to its own image while the disk grows has passed
// the export by, and what it reads there is old. The twin lets the guest run in
// the middle, and is caught.
func TestResizeLetsNoWritePass(t *testing.T) {
	for name, meddle := range map[string]bool{"standing still": false, "running": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			g := startGuest(t, "raw", 1, stops...)
			_, vm := liveVM(ctx, t, g)
			e := serveWith(t, "--filter=cow", "file", g.images[0])
			if _, err := vm.Attach(ctx, "d0", e.Attachment); err != nil {
				t.Fatal(err)
			}
			before := ownContent(t, g)
			passed := func() bool { // the guest has noticed, or will
				select {
				case <-g.Over():
					return true
				default:
					return ownContent(t, g) != before
				}
			}
			for n := range int64(3) {
				g.goesOn(ctx, t)
				sw, err := vm.Resize(ctx, "d0", liveSize+(n+1)<<20, e.Attachment, func(ctx context.Context) error {
					if meddle {
						g.say("cont")
						await(ctx, t, passed)
					}
					return nil
				})
				if meddle { // seen to have passed; a guest that noticed has ended, and Resize with it
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("pause %v", sw.Pause)
			}
			g.goesOn(ctx, t)
			if passed() {
				t.Errorf("writes passed the export by, or old content was read: %s", g.Fatal())
			}
		})
	}
}

// await waits for a condition.
func await(ctx context.Context, t *testing.T, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

// TestResizeCutShort takes a driver's connection away while it holds the VM, as
// its end does; the next one has the VM go on, on its own image.
func TestResizeCutShort(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	g := startGuest(t, "raw", 1, stops...)
	p, vm := liveVM(ctx, t, g)
	e, _ := attach(ctx, t, vm, "d0", hypervisor.InPath)
	var next hypervisor.Platform
	_, err := vm.Resize(ctx, "d0", liveSize+1<<20, e.Attachment, func(context.Context) error {
		go p.Close() // hangs up at once, and waits for Resize
		next = g.platform(t)
		g.goesOn(ctx, t)
		return nil
	})
	if err == nil {
		t.Fatal("Resize by a driver that was closed succeeded")
	}
	t.Cleanup(func() { next.Close() })
	if vm, err = next.VM(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil || info.Disks[0].Attached || info.Disks[0].Size != liveSize+1<<20 {
		t.Fatalf("after a resize that was cut short: %+v, %v", info.Disks, err)
	}
	g.verify(t)
}

// ownContent sums up what the guest's own image holds, in its first size.
func ownContent(t *testing.T, g *liveGuest) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(g.images[0])
	if err != nil || len(b) < liveSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return sha256.Sum256(b[:liveSize])
}

// TestFailOpen kills the export in the middle of the load, with errors that
// stop the VM and with errors that would reach the guest.
func TestFailOpen(t *testing.T) {
	for name, c := range map[string]struct{ format, policy string }{
		"stop": {"raw", "stop"}, "report": {"raw", "report"}, "qcow2": {"qcow2", "stop"}, "qcow2 report": {"qcow2", "report"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
			defer cancel()
			args := slices.Clone(stops)
			args[1] = strings.Replace(args[1], "driver=raw", "driver="+c.format, 1)
			args[3] = strings.ReplaceAll(args[3], "stop", c.policy)
			g := startGuest(t, c.format, 1, args...)
			_, vm := liveVM(ctx, t, g)
			var took []time.Duration
			for range rounds(t, 3) {
				e, _ := attach(ctx, t, vm, "d0", hypervisor.InPath)
				g.goesOn(ctx, t)
				e.Kill()
				begin := time.Now()
				if _, err := vm.FailOpen(ctx, "d0"); err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(begin))
				g.goesOn(ctx, t)
			}
			figures(t, "fail-open", took)
			g.verify(t)
		})
	}
}

// TestAttachAgain restarts an export whose death stopped the VM: the guest goes
// on through the new one without a write that passed it by.
func TestAttachAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	g := startGuest(t, "raw", 1, stops...)
	p, vm := liveVM(ctx, t, g)
	e, _ := attach(ctx, t, vm, "d0", hypervisor.InPath)
	for range rounds(t, 3) {
		g.goesOn(ctx, t)
		e.Kill()
		stalled(ctx, t, p)
		e = exportOn(t, e.Socket, "file", g.images[0], "")
		if _, err := vm.Attach(ctx, "d0", e.Attachment); err != nil {
			t.Fatal(err)
		}
	}
	g.goesOn(ctx, t)
	if _, err := vm.Detach(ctx, "d0"); err != nil {
		t.Fatal(err)
	}
	g.goesOn(ctx, t)
	g.verify(t)
}

// stalled reads changes until one says that a disk stalled.
func stalled(ctx context.Context, t *testing.T, p hypervisor.Platform) {
	t.Helper()
	for {
		select {
		case c := <-p.Changes():
			if c.Kind == hypervisor.DiskStalled {
				if c.Disk != "d0" {
					t.Errorf("disk %q stalled", c.Disk)
				}
				return
			}
		case <-ctx.Done():
			t.Fatal("nobody told that the disk stalled")
		}
	}
}

// TestMirrorHasEveryWrite compares what the export took down with the disk, on
// a format that no filter could stand in front of.
func TestMirrorHasEveryWrite(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	args := slices.Clone(stops)
	args[1] = strings.Replace(args[1], "driver=raw", "driver=qcow2", 1)
	g := startGuest(t, "qcow2", 1, args...)
	_, vm := liveVM(ctx, t, g)
	src, err := vm.Prepare(ctx, "d0", hypervisor.Mirror)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, make([]byte, liveSize), 0o600); err != nil {
		t.Fatal(err)
	}
	e := export(t, "file", log, "")
	e.Capture = hypervisor.Mirror
	if _, err := vm.Attach(ctx, "d0", e.Attachment); err != nil {
		t.Fatal(err)
	}
	// From here on every write is taken down: until the guest says its counts
	// the next time, it may have done more than it says.
	g.goesOn(ctx, t)
	after := g.Counts()
	g.goesOn(ctx, t)
	readable(t, src)
	g.verify(t)
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", g.images[0], raw).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert: %v: %s", err, out)
	}
	sameSince(t, raw, log, after)
}

// readable reads the disk's content as Prepare named it.
func readable(t *testing.T, src hypervisor.Source) {
	t.Helper()
	c, err := nbd.Dial(t.Context(), "unix", src.Socket, nbd.DialOptions{Export: src.Export})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !c.Info().ReadOnly || c.Size() != liveSize {
		t.Errorf("the source of a mirror: %+v of %d bytes, want it read-only", c.Info(), c.Size())
	}
	p := make([]byte, pattern.Block)
	stamped := 0
	for b := int64(0); b < liveSize; b += pattern.Block {
		if _, err := c.ReadAt(t.Context(), p, b); err != nil {
			t.Fatal(err)
		}
		if pattern.Stamp(p) > 0 {
			stamped++
		}
	}
	if stamped == 0 {
		t.Error("the source of a mirror holds nothing the guest wrote")
	}
}

// sameSince checks that every block whose last write came after counts is in
// the log as on the disk.
func sameSince(t *testing.T, disk, log string, counts []uint64) {
	t.Helper()
	a, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for i := range pattern.Workers * pattern.Region {
		x, y := a[i*pattern.Block:(i+1)*pattern.Block], b[i*pattern.Block:(i+1)*pattern.Block]
		if pattern.Stamp(x) <= counts[i/pattern.Region] {
			continue
		}
		compared++
		if string(x) != string(y) {
			t.Errorf("block %d: write %d is on the disk, the export had %d", i, pattern.Stamp(x), pattern.Stamp(y))
		}
	}
	if compared == 0 {
		t.Error("nothing was compared")
	}
	t.Logf("%d blocks compared", compared)
}

// TestImageServerKilled kills the storage daemon that has a qcow2 image open
// with SIGKILL in the middle of the load, again and again: no acknowledged
// write is lost, and the image is whole.
func TestImageServerKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	args := slices.Clone(stops)
	args[1] = strings.Replace(args[1], "driver=raw", "driver=qcow2", 1)
	g := startGuest(t, "qcow2", 1, args...)
	_, vm := liveVM(ctx, t, g)
	for range rounds(t, 3) {
		e, _ := attach(ctx, t, vm, "d0", hypervisor.InPath)
		g.goesOn(ctx, t)
		for _, pid := range daemons(t) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		e.Kill()
		if _, err := vm.FailOpen(ctx, "d0"); err != nil {
			t.Fatal(err)
		}
		g.goesOn(ctx, t)
	}
	g.cut = true
	g.verify(t)
}

// daemons returns the storage daemons that are children of this process.
func daemons(t *testing.T) (pids []int) {
	t.Helper()
	return childDaemons(t, os.Getpid())
}

func childDaemons(t *testing.T, of int) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		var pid, parent int
		var state string
		name := string(b[:strings.LastIndexByte(string(b), ')')+1])
		fmt.Sscanf(name, "%d", &pid)
		fmt.Sscanf(string(b[len(name):]), " %s %d", &state, &parent)
		if parent == of && strings.Contains(name, "(qemu-storage-d") && state != "Z" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestFreeze runs the suite against a real agent in the guest, which has a file
// system to freeze on its second disk.
func TestFreeze(t *testing.T) {
	dir := t.TempDir()
	fs := filepath.Join(dir, "fs")
	if err := os.WriteFile(fs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(fs, 16<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-t", "ext4", fs).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	g := startGuest(t, "raw", 1, append(slices.Clone(stops), "-drive", "file="+fs+",format=raw,if=virtio",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=DIR/agent",
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")...)
	g.wait(g.Mounted(), "MOUNTED")
	g.agent = filepath.Join(g.dir, "agent")
	rig := rigOf(t, g, "d0", hypervisor.InPath)
	rig.Agent = &hypervisortest.Agent{Filesystems: 1, Frozen: func(t *testing.T) bool { return agentStatus(t, g.agent) == "frozen" }}
	hypervisortest.RunPlatform(t, rig)
}

// agentStatus asks the agent itself.
func agentStatus(t *testing.T, path string) string {
	t.Helper()
	conn := dialSoon(t, path)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "\xff"+`{"execute":"guest-sync-delimited","arguments":{"id":7}}`+"\n"+`{"execute":"guest-fsfreeze-status"}`+"\n")
	var got strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("agent: %v after %q", err, got.String())
		}
		got.Write(b)
		for _, word := range []string{"frozen", "thawed"} {
			if strings.Contains(got.String(), `"`+word+`"`) {
				return word
			}
		}
	}
}

// idleGuest is a QEMU that executes nothing: enough for what is decided on the
// host alone.
func idleGuest(t *testing.T, format string, args ...string) *liveGuest {
	t.Helper()
	g := &liveGuest{t: t, dir: t.TempDir(), format: format}
	g.images = []string{image(t, g.dir, "disk0", format)}
	g.qmp = filepath.Join(g.dir, "qmp")
	all := []string{"-accel", "tcg", "-M", "pc", "-m", "16", "-nodefaults", "-nographic", "-S", "-name", "web",
		"-qmp", "unix:" + g.qmp + ",server=on,wait=off", "-qmp", "unix:" + g.side() + ",server=on,wait=off"}
	for _, a := range args {
		all = append(all, strings.ReplaceAll(a, "PATH0", g.images[0]))
	}
	g.cmd = exec.Command("qemu-system-x86_64", all...)
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	t.Cleanup(func() { g.cmd.Process.Kill(); g.cmd.Wait() })
	dialSoon(t, g.side()).Close()
	return g
}

// TestImageHandOver takes a qcow2 image away from QEMU and gives it back. Each
// time the other one could not have it: its lock says so.
func TestImageHandOver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := slices.Clone(stops)
	args[1] = strings.Replace(args[1], "driver=raw", "driver=qcow2", 1)
	g := idleGuest(t, "qcow2", args...)
	_, vm := liveVM(ctx, t, g)
	for i := range 3 {
		e, sw := attach(ctx, t, vm, "d0", hypervisor.InPath)
		t.Logf("attach: %v", sw.Pause)
		c, err := nbd.Dial(ctx, "unix", e.Socket, nbd.DialOptions{Export: e.Export})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, pattern.Block)
		pattern.Fill(p, 5, uint64(i+1))
		if _, err := c.WriteAt(ctx, p, 5*pattern.Block, 0); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if n := len(daemons(t)); n != 1 {
			t.Errorf("%d storage daemons while attached, want 1", n)
		}
		if sw, err = vm.Detach(ctx, "d0"); err != nil {
			t.Fatal(err)
		}
		t.Logf("detach: %v", sw.Pause)
		e.Kill()
		if n := len(daemons(t)); n != 0 {
			t.Errorf("%d storage daemons after the detach", n)
		}
		if got := qemuRead(t, g, vm); pattern.Stamp(got) != uint64(i+1) {
			t.Errorf("QEMU reads write %d, want %d", pattern.Stamp(got), i+1)
		}
	}
}

// qemuRead reads block 5 of the disk as QEMU sees it.
func qemuRead(t *testing.T, g *liveGuest, vm hypervisor.LiveVM) []byte {
	t.Helper()
	src, err := vm.Prepare(t.Context(), "d0", hypervisor.Mirror)
	if err != nil {
		t.Fatal(err)
	}
	c, err := nbd.Dial(t.Context(), "unix", src.Socket, nbd.DialOptions{Export: src.Export})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, pattern.Block)
	if _, err := c.ReadAt(t.Context(), p, 5*pattern.Block); err != nil {
		t.Fatal(err)
	}
	return p
}

// qcow2Idle is an idle guest with one qcow2 disk.
func qcow2Idle(t *testing.T) *liveGuest {
	t.Helper()
	args := slices.Clone(stops)
	args[1] = strings.Replace(args[1], "driver=raw", "driver=qcow2", 1)
	return idleGuest(t, "qcow2", args...)
}

// ownerRole makes the test program a driver that attaches an image and is then
// killed; see TestOwnerKilled.
const ownerRole = "HOLDFAST_QEMU_TEST_OWNER"

// own attaches the disk of the VM behind a socket, writes through the export,
// says that it is done, and waits to be killed.
func own(words string) int {
	qmp, dir, _ := strings.Cut(words, "|")
	err := func() error {
		ctx := context.Background()
		p, err := qemu.NewPlatform(ctx, qemu.LiveOptions{VMs: []qemu.Monitor{{QMP: qmp}}, Dir: dir})
		if err != nil {
			return err
		}
		vm, err := p.VM(ctx, "web")
		if err != nil {
			return err
		}
		src, err := vm.Prepare(ctx, "d0", hypervisor.InPath)
		if err != nil {
			return err
		}
		socket := filepath.Join(dir, "own")
		go serveExport(strings.Join([]string{"remote", socket, src.Socket, src.Export}, "|"))
		for _, err = os.Stat(socket); err != nil; _, err = os.Stat(socket) {
			time.Sleep(time.Millisecond)
		}
		if _, err := vm.Attach(ctx, "d0", hypervisor.Attachment{Socket: socket, Export: "vm"}); err != nil {
			return err
		}
		c, err := nbd.Dial(ctx, "unix", socket, nbd.DialOptions{Export: "vm"})
		if err != nil {
			return err
		}
		b := make([]byte, pattern.Block)
		pattern.Fill(b, 5, 77)
		_, err = c.WriteAt(ctx, b, 5*pattern.Block, 0)
		return err
	}()
	fmt.Println("attached", err)
	select {}
}

// TestOwnerKilled kills the process that holds driver, export and, by the
// kernel's word, the storage daemon. The daemon closes the image in good order,
// and the next driver gives it back to QEMU, with everything that was
// acknowledged.
func TestOwnerKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g, dir := qcow2Idle(t), t.TempDir()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), ownerRole+"="+g.qmp+"|"+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "attached") {
	}
	if lines.Text() != "attached <nil>" {
		t.Fatalf("the owner said %q", lines.Text())
	}
	servants := childDaemons(t, cmd.Process.Pid)
	if len(servants) != 1 {
		t.Fatalf("%d storage daemons, want 1", len(servants))
	}
	cmd.Process.Kill()
	cmd.Wait()
	for alive(servants[0]) {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the storage daemon outlived its owner")
		}
	}
	p, err := qemu.NewPlatform(ctx, qemu.LiveOptions{VMs: []qemu.Monitor{{QMP: g.qmp}}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	vm, err := p.VM(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil || !info.Disks[0].Attached || info.Disks[0].Format != "qcow2" || info.Disks[0].Path != g.images[0] {
		t.Fatalf("the next driver sees %+v, %v", info.Disks, err)
	}
	if _, err := vm.FailOpen(ctx, "d0"); err != nil {
		t.Fatal(err)
	}
	if n := pattern.Stamp(qemuRead(t, g, vm)); n != 77 {
		t.Errorf("QEMU reads write %d, want 77", n)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "holdfast-live-*")); len(left) > 1 { // one is the read source's
		t.Errorf("left behind: %v", left)
	}
}

// TestImageServerKilledEarly kills the storage daemon before the attach: the
// attach refuses, and the guest keeps its disk.
func TestImageServerKilledEarly(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g := qcow2Idle(t)
	_, vm := liveVM(ctx, t, g)
	src, err := vm.Prepare(ctx, "d0", hypervisor.InPath)
	if err != nil {
		t.Fatal(err)
	}
	e := exportOf(t, src, hypervisor.InPath)
	for _, pid := range daemons(t) {
		syscall.Kill(pid, syscall.SIGKILL)
		for alive(pid) {
			time.Sleep(time.Millisecond)
		}
	}
	if _, err := vm.Attach(ctx, "d0", e.Attachment); err == nil {
		t.Fatal("an image was handed to a dead storage daemon")
	}
	info, err := vm.Info(ctx)
	if err != nil || info.Disks[0].Attached || info.Disks[0].Path != g.images[0] {
		t.Fatalf("after the refusal: %+v, %v", info.Disks, err)
	}
	attach(ctx, t, vm, "d0", hypervisor.InPath) // a new one is started
}

// TestQEMUKilled kills QEMU while a storage daemon has its image open: the
// driver ends the daemon, and the image is whole.
func TestQEMUKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g := qcow2Idle(t)
	p, vm := liveVM(ctx, t, g)
	attach(ctx, t, vm, "d0", hypervisor.InPath)
	g.cmd.Process.Kill()
	for c := range p.Changes() {
		if c.Kind == hypervisor.ChangedState && c.Detail == "QEMU ended" {
			break
		}
	}
	for len(daemons(t)) > 0 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the storage daemon outlived QEMU")
		}
	}
	if out, err := exec.Command("qemu-img", "check", g.images[0]).CombinedOutput(); err != nil {
		t.Errorf("qemu-img check: %v: %s", err, out)
	}
}

// TestChangesFoundByLooking makes changes QEMU has no event for.
func TestChangesFoundByLooking(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g := idleGuest(t, "raw", stops...)
	p, _ := liveVM(ctx, t, g)
	for _, c := range []struct {
		command string
		kind    hypervisor.ChangeKind
	}{
		{`{"execute":"block_resize","arguments":{"node-name":"fmt","size":33554432}}`, hypervisor.ChangedDisks},
		{`{"execute":"blockdev-snapshot-sync","arguments":{"node-name":"fmt","snapshot-file":"` + g.dir +
			`/overlay","format":"qcow2","snapshot-node-name":"snap"}}`, hypervisor.ChangedChain},
	} {
		g.command(c.command)
		for found := false; !found; {
			select {
			case got := <-p.Changes():
				found = got.Kind == c.kind
			case <-ctx.Done():
				t.Fatalf("nobody told of %s", c.command)
			}
		}
	}
}

// TestUnsuitedDisks asks for what cannot be captured.
func TestUnsuitedDisks(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name, args := range map[string][]string{
		"shared":    {stops[0], stops[1], stops[2], stops[3] + ",share-rw=on"},
		"read-only": {stops[0], stops[1] + ",read-only=on", stops[2], stops[3]},
		"in memory": {"-blockdev", "driver=null-co,node-name=fmt,size=16777216", stops[2], stops[3]},
	} {
		g := idleGuest(t, "raw", args...)
		_, vm := liveVM(ctx, t, g)
		for _, c := range bothWays {
			if _, err := vm.Prepare(ctx, "d0", c); !errs.Is(err, errs.Invalid) {
				t.Errorf("%s, %v: %v, want kind invalid", name, c, err)
			}
		}
	}
	g := idleGuest(t, "raw", stops...)
	_, vm := liveVM(ctx, t, g)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	e := export(t, "file", small, "")
	if _, err := vm.Attach(ctx, "d0", e.Attachment); !errs.Is(err, errs.Invalid) {
		t.Errorf("an export of another size: %v, want kind invalid", err)
	}
}

// TestFailOpenWithPatience kills the export of a disk whose requests QEMU would
// hold for long: letting go of the dead connection takes none of that time.
func TestFailOpenWithPatience(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, format := range []string{"raw", "qcow2"} {
		args := slices.Clone(stops)
		args[1] = strings.Replace(args[1], "driver=raw", "driver="+format, 1)
		args[3] = strings.ReplaceAll(args[3], "stop", "report")
		g := idleGuest(t, format, args...)
		_, vm := liveVM(ctx, t, g)
		e, _ := attach(ctx, t, vm, "d0", hypervisor.InPath)
		e.Kill()
		begin := time.Now()
		sw, err := vm.FailOpen(ctx, "d0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Info(ctx); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		t.Logf("%s: %s took %v", format, sw.Route, took)
		if took > 10*time.Second { // half of what QEMU waits for a connection
			t.Errorf("%s: fail-open took %v", format, took)
		}
	}
}

// TestPlatformIdle runs the suite on VMs that write nothing, which takes a
// second where TestPlatform takes a minute.
func TestPlatformIdle(t *testing.T) {
	for name, c := range map[string]struct {
		format string
		args   []string
	}{
		"raw": {"raw", stops},
		"qcow2 drive": {"qcow2", []string{
			"-drive", "file=PATH0,format=qcow2,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=d0,werror=stop,rerror=stop"}},
		"iothread": {"raw", []string{"-object", "iothread,id=io", stops[0], stops[1], stops[2], stops[3] + ",iothread=io"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := idleGuest(t, c.format, c.args...)
			rig := rigOf(t, g, "d0", bothWays...)
			rig.Load, rig.PowerOff = nil, func(*testing.T) { g.cmd.Process.Kill() }
			hypervisortest.RunPlatform(t, rig)
		})
	}
}
