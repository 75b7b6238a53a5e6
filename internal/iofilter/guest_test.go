package iofilter_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

const (
	// writerDir is where `make guest` leaves the writer.
	writerDir = "../../build/guest"
	// patience ends what hangs; an emulated guest on a busy machine is slow.
	patience = 4 * time.Minute
)

// writer is a QEMU with the writer in it, whose disk is protected.
type writer struct {
	t       *testing.T
	dir     string
	format  string
	image   string
	cmd     *exec.Cmd
	ended   chan struct{}
	port    net.Conn
	ready   chan struct{}
	over    chan struct{} // closed at BYE or the end of the port
	last    string        // the counts of BYE; set before over is closed
	written atomic.Uint64
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not in %v", what, patience)
		}
	}
}

func startWriter(t *testing.T, format string) *writer {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") // short: unix socket paths have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &writer{t: t, dir: dir, format: format, image: filepath.Join(dir, "disk"), ended: make(chan struct{}), ready: make(chan struct{}), over: make(chan struct{})}
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", format, g.image, strconv.Itoa(pattern.DiskBytes)).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s (run 'make deps')", err, out)
	}
	serial := filepath.Join(dir, "serial")
	g.cmd = exec.Command("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "192", "-M", "pc", "-nodefaults", "-nographic", "-no-reboot",
		"-name", "guest=web", "-uuid", "6c656467-6572-4000-8000-00000000000a",
		"-kernel", filepath.Join(writerDir, "vmlinuz"), "-initrd", filepath.Join(writerDir, "writer.img"),
		"-append", "console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable no_timer_check cryptomgr.notests disks=1",
		"-chardev", "socket,id=serial,server=on,wait=on,path="+serial, "-serial", "chardev:serial",
		"-qmp", "unix:"+g.qmp()+",server=on,wait=off",
		"-qmp", "unix:"+g.side()+",server=on,wait=off",
		"-blockdev", "driver="+format+",node-name=fmt,discard=unmap,file.driver=file,file.filename="+g.image,
		"-device", "virtio-blk-pci,drive=fmt,id=d0,werror=stop,rerror=stop")
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	go func() { defer close(g.ended); g.cmd.Wait() }()
	t.Cleanup(func() { g.cmd.Process.Kill(); <-g.ended })
	eventually(t, "the serial port", func() (ok bool) { g.port, err = net.Dial("unix", serial); return err == nil })
	t.Cleanup(func() { g.port.Close() })
	go g.read()
	select {
	case <-g.ready:
	case <-g.over:
		t.Fatal("the guest ended before it was ready (run 'make guest')")
	case <-time.After(patience):
		t.Fatal("the guest does not boot")
	}
	return g
}

// qmp is the driver's socket, side one for the test.
func (g *writer) qmp() string  { return filepath.Join(g.dir, "qmp") }
func (g *writer) side() string { return filepath.Join(g.dir, "side") }

// read follows what the guest says.
func (g *writer) read() {
	defer close(g.over)
	lines := bufio.NewScanner(g.port)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 0:
		case words[0] == "READY":
			close(g.ready)
		case words[0] == "P" && len(words) > 1:
			sum := uint64(0)
			for _, n := range counts(words[1]) {
				sum += n
			}
			g.written.Store(sum)
		case words[0] == "BYE" && len(words) > 1:
			g.last = words[1]
			return
		}
	}
}

func counts(list string) (out []uint64) {
	for s := range strings.SplitSeq(list, ",") {
		n, _ := strconv.ParseUint(s, 10, 64) // one cut off counts as nothing written
		out = append(out, n)
	}
	return out
}

// goesOn waits until the guest was acknowledged more writes.
func (g *writer) goesOn() {
	g.t.Helper()
	from := g.written.Load()
	eventually(g.t, "the guest writes on", func() bool { return g.written.Load() >= from+50 })
}

// finish stops the guest, whose disk is left as its last write left it.
func (g *writer) finish() {
	g.t.Helper()
	fmt.Fprintln(g.port, "\nSTOP")
	select {
	case <-g.ended:
	case <-time.After(patience):
		g.t.Fatal("the guest does not stop")
	}
	<-g.over
	if g.last == "" {
		g.t.Fatal("the guest did not say what it wrote")
	}
}

// content is the guest's disk as qemu-img reads it; every acknowledged write
// is checked to be there.
func (g *writer) content() []byte {
	g.t.Helper()
	raw := filepath.Join(g.dir, "raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", g.format, "-O", "raw", g.image, raw).CombinedOutput(); err != nil {
		g.t.Fatalf("qemu-img convert: %v: %s", err, out)
	}
	b, err := os.ReadFile(raw)
	if err != nil {
		g.t.Fatal(err)
	}
	total := uint64(0)
	for w, n := range counts(g.last) {
		total += n
		if p := pattern.Check(bytes.NewReader(b), w, n); len(p) > 0 {
			g.t.Errorf("worker %d after %d writes: %d problems, the first: %s", w, n, len(p), p[0])
		}
	}
	g.t.Logf("%d acknowledged writes are on the disk", total)
	return b
}

// protected is the host component beside the guest.
type protected struct {
	*live.Manager
	t        *testing.T
	filter   *iofilter.Filter
	platform *qemu.Platform
	drva     *iofilter.FakeDRVA
	stop     func()
}

func protect(t *testing.T, g *writer) *protected {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	h := &protected{t: t, drva: iofilter.NewFakeDRVA()}
	f, err := iofilter.New(iofilter.Config{Domain: dr.DomainID{UUID: dr.NewUUID()}, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "h"},
		iofilter.Options{Dial: h.drva.Dial, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	h.filter = f
	record, err := live.OpenRecord(durable.OS{}, filepath.Join(g.dir, "live.json"))
	if err != nil {
		t.Fatal(err)
	}
	h.platform, err = qemu.NewPlatform(t.Context(), qemu.LiveOptions{VMs: []qemu.Monitor{{QMP: g.qmp()}}, Dir: g.dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	h.Manager = live.New(live.Config{Platform: h.platform, Host: f, Record: record, Sockets: g.dir, Logger: log})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served, followed := make(chan error, 1), make(chan error, 1)
	go func() { served <- f.Run(ctx) }()
	<-f.Running()
	go func() { followed <- h.Run(ctx, func() bool { return true }) }()
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-followed; err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := h.platform.Close(); err != nil {
			t.Error(err)
		}
		if err := h.drva.Problems(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(h.stop)
	return h
}

// begin protects the guest's disk and waits for the first copy.
func (h *protected) begin(capture hypervisor.Capture) {
	h.t.Helper()
	r, err := h.Protect(h.t.Context(), "web", live.Options{Capture: capture.String()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Logf("protected by %s, pause %v", r.Disks[0].Route, r.Disks[0].Pause)
	h.copied()
}

// copied waits until the DRVA has, or is about to get, all of the disk.
func (h *protected) copied() {
	h.t.Helper()
	eventually(h.t, "copied", func() bool {
		s := h.filter.Status()
		return len(s.Disks) == 1 && s.Disks[0].State == iofilter.Streaming
	})
}

// TestGuestInEachFormat protects a running guest, lets it go, protects it again
// while it writes all the time: no write is lost, and in the end the log holds
// what the disk does.
func TestGuestInEachFormat(t *testing.T) {
	for name, c := range map[string]struct {
		format  string
		capture hypervisor.Capture
		harm    func(*writer, *protected)
	}{
		"qcow2 in path":            {"qcow2", hypervisor.InPath, nil},
		"qcow2 in path, cut short": {"qcow2", hypervisor.InPath, killDaemon},
		"raw mirror":               {"raw", hypervisor.Mirror, nil},
		"qcow2 mirror":             {"qcow2", hypervisor.Mirror, nil},
		"raw mirror, cut short":    {"raw", hypervisor.Mirror, yank},
	} {
		t.Run(name, func(t *testing.T) {
			g := startWriter(t, c.format)
			h := protect(t, g)
			h.begin(c.capture)
			g.goesOn()
			r, err := h.Unprotect(t.Context(), "web", iofilter.UnprotectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("detached by %s, pause %v", r.Disks[0].Route, r.Disks[0].Pause)
			g.goesOn()
			h.begin(c.capture)
			g.goesOn()
			if c.harm != nil {
				before := h.filter.Status().Stream.Tracked
				c.harm(g, h)
				g.goesOn()
				eventually(t, "the disk is attached anew, and all of it to be compared", func() bool {
					return h.filter.Status().Stream.Tracked >= before+pattern.DiskBytes
				})
				h.copied()
			}
			g.goesOn()
			g.finish()
			eventually(t, "the log has everything", func() bool {
				s := h.filter.Status()
				return s.Stream.Durable+1 == s.Stream.Next && s.Disks[0].DirtyBytes == 0
			})
			h.stop()
			want := g.content()
			if got := h.drva.Image(1, int64(len(want))); !bytes.Equal(got, want) {
				for at := 0; at < len(want); at += pattern.Block {
					if !bytes.Equal(got[at:at+pattern.Block], want[at:at+pattern.Block]) {
						t.Errorf("block %d: the disk has write %d, the log %d", at/pattern.Block, pattern.Stamp(want[at:]), pattern.Stamp(got[at:]))
					}
				}
			}
		})
	}
}

// killDaemon kills the process that has the image open, in the middle of the
// load.
func killDaemon(g *writer, h *protected) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		g.t.Fatal(err)
	}
	killed := 0
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		pid, rest, _ := strings.Cut(string(b), " (qemu-storage-d")
		var parent int
		if _, tail, ok := strings.Cut(rest, ")"); ok {
			var state string
			fmt.Sscanf(tail, " %s %d", &state, &parent)
		}
		if n, err := strconv.Atoi(pid); err == nil && parent == os.Getpid() {
			syscall.Kill(n, syscall.SIGKILL)
			killed++
		}
	}
	if killed != 1 {
		g.t.Fatalf("%d storage daemons", killed)
	}
}

// yank breaks the mirror's connection to the export: the job fails with the
// next write, and the guest must not notice.
func yank(g *writer, _ *protected) {
	conn, err := net.Dial("unix", g.side())
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	in := json.NewDecoder(conn)
	say := func(command string, args, to any) {
		g.t.Helper()
		if err := json.NewEncoder(conn).Encode(map[string]any{"execute": command, "arguments": args}); err != nil {
			g.t.Fatal(err)
		}
		for {
			var answer struct{ Return, Error json.RawMessage }
			if err := in.Decode(&answer); err != nil || answer.Error != nil {
				g.t.Fatalf("%s: %v, %s", command, err, answer.Error)
			}
			if answer.Return == nil {
				continue // an event
			}
			if err := json.Unmarshal(answer.Return, to); err != nil {
				g.t.Fatal(err)
			}
			return
		}
	}
	var none any
	if err := in.Decode(&none); err != nil { // the greeting
		g.t.Fatal(err)
	}
	say("qmp_capabilities", struct{}{}, &none)
	var all []map[string]string
	say("query-yank", struct{}{}, &all)
	var nodes []map[string]string
	for _, y := range all {
		if y["type"] == "block-node" {
			nodes = append(nodes, y)
		}
	}
	if len(nodes) != 1 {
		g.t.Fatalf("connections of QEMU: %v", all)
	}
	say("yank", map[string]any{"instances": nodes}, &none)
}
