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

	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/internal/hypervisor/hypervisortest/writerguest"
	"holdfast/internal/nbd"
)

const (
	// guestDir is where `make guest` leaves the writer.
	guestDir = "../../../build/guest"
	// exportRole makes the test program play an NBD server; see serveExport.
	exportRole = "HOLDFAST_QEMU_TEST_EXPORT"
	liveSize   = pattern.DiskBytes
)

// serveExport is the test program as an NBD server in a process of its own,
// so that it can be killed: what is one word and a place.
func serveExport(words string) int {
	w := strings.SplitN(words, "|", 4)
	what, socket, at, name := w[0], w[1], w[2], w[3]
	e := nbd.Export{Name: "vm"}
	var err error
	switch what {
	case "file":
		e.File, err = nbd.OpenFile(at, nbd.FileOptions{})
	case "remote":
		e.Disk, err = nbd.NewRemote(nbd.RemoteOptions{Network: "unix", Address: at, Export: name, Size: liveSize, WriteThrough: true})
	}
	if err == nil {
		var s *nbd.Server
		if s, err = nbd.NewServer(nbd.Options{Exports: []nbd.Export{e}}); err == nil {
			var ln net.Listener
			if ln, err = nbd.Listen(socket); err == nil {
				fmt.Println("listening")
				err = s.Serve(context.Background(), ln)
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// export starts such a server; it ends with the test.
func export(t *testing.T, what, at, name string) hypervisortest.Export {
	t.Helper()
	return exportOn(t, filepath.Join(t.TempDir(), "s"), what, at, name)
}

func exportOn(t *testing.T, socket, what, at, name string) hypervisortest.Export {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), exportRole+"="+strings.Join([]string{what, socket, at, name}, "|"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(kill)
	if _, err := io.ReadFull(out, make([]byte, len("listening"))); err != nil {
		t.Fatalf("export %s did not start: %v", what, err)
	}
	return hypervisortest.Export{Attachment: hypervisor.Attachment{Socket: socket, Export: "vm"}, Kill: kill}
}

// exportOf serves what Prepare named.
func exportOf(t *testing.T, src hypervisor.Source, c hypervisor.Capture) hypervisortest.Export {
	t.Helper()
	switch {
	case c == hypervisor.Mirror: // only takes the writes down
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(log, liveSize); err != nil {
			t.Fatal(err)
		}
		return export(t, "file", log, "")
	case src.Path != "":
		return export(t, "file", src.Path, "")
	}
	return export(t, "remote", src.Socket, src.Export)
}

// liveGuest is a QEMU that somebody else started, with the writer in it.
type liveGuest struct {
	// cut: its image was open in a process that was killed. qcow2 may then have
	// clusters in use that nothing refers to; anything worse is damage.
	cut bool

	*writerguest.Guest
	t      *testing.T
	dir    string
	qmp    string
	agent  string
	cmd    *exec.Cmd
	disks  int
	images []string // of the disks the guest writes to
	format string
}

// image makes a disk image.
func image(t *testing.T, dir, name, format string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", format, path, strconv.Itoa(liveSize)).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s (run 'make deps')", err, out)
	}
	return path
}

// startGuest boots a guest with disks as args say; PATHn in them stands for
// the nth image.
func startGuest(t *testing.T, format string, images int, args ...string) *liveGuest {
	t.Helper()
	kernel, initrd := writerguest.Files(guestDir)
	for _, f := range []string{kernel, initrd} {
		if _, err := os.Stat(f); err != nil {
			t.Fatalf("%v (run 'make guest')", err)
		}
	}
	g := &liveGuest{t: t, dir: t.TempDir(), format: format, disks: images}
	for i := range images {
		g.images = append(g.images, image(t, g.dir, fmt.Sprintf("disk%d", i), format))
	}
	g.boot(args...)
	return g
}

func (g *liveGuest) boot(args ...string) {
	t := g.t
	t.Helper()
	g.qmp = filepath.Join(g.dir, "qmp")
	serial := filepath.Join(g.dir, "serial")
	all := append(writerguest.Args(guestDir, serial, g.disks),
		"-name", "guest=web", "-uuid", "6c656467-6572-4000-8000-00000000000a",
		"-qmp", "unix:"+g.qmp+",server=on,wait=off",
		"-qmp", "unix:"+g.side()+",server=on,wait=off",
	)
	for _, a := range args {
		for i, path := range g.images {
			a = strings.ReplaceAll(a, fmt.Sprintf("PATH%d", i), path)
		}
		all = append(all, strings.ReplaceAll(a, "DIR", g.dir))
	}
	g.cmd = exec.Command("qemu-system-x86_64", all...)
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); g.cmd.Wait() }()
	t.Cleanup(func() { g.cmd.Process.Kill(); <-ended })
	port := dialSoon(t, serial)
	t.Cleanup(func() { port.Close() })
	g.Guest = writerguest.Follow(port)
	g.say(`cont`)
	g.wait(g.Ready(), "READY")
}

// dialSoon connects to a socket that is about to be there.
func dialSoon(t *testing.T, path string) net.Conn {
	t.Helper()
	for limit := time.Now().Add(patience); ; {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// side is a second QMP socket: the first is the driver's alone.
func (g *liveGuest) side() string { return filepath.Join(g.dir, "side") }

// say runs one QMP command on a connection that is closed again.
func (g *liveGuest) say(command string) {
	g.t.Helper()
	g.command(fmt.Sprintf(`{"execute":%q}`, command))
}

func (g *liveGuest) command(json string) {
	g.t.Helper()
	conn := dialSoon(g.t, g.side())
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	r.ReadString('\n') // the greeting
	for _, line := range []string{`{"execute":"qmp_capabilities"}`, json} {
		fmt.Fprintln(conn, line)
		for {
			answer, err := r.ReadString('\n')
			if err != nil {
				g.t.Fatalf("%s: %v", line, err)
			}
			if strings.Contains(answer, `"error"`) {
				g.t.Fatalf("%s: %s", line, answer)
			}
			if strings.Contains(answer, `"return"`) {
				break
			}
		}
	}
}

func (g *liveGuest) wait(c <-chan struct{}, what string) {
	g.t.Helper()
	select {
	case <-c:
	case <-g.Over():
		g.t.Fatalf("waiting for %s, the guest ended: %s", what, g.Fatal())
	case <-time.After(2 * patience):
		g.t.Fatalf("no %s from the guest", what)
	}
}

// verify stops the guest and checks every block of every disk it wrote to.
func (g *liveGuest) verify(t *testing.T) {
	t.Helper()
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.Over():
	case <-time.After(2 * patience):
		t.Fatal("the guest does not stop")
	}
	if g.Fatal() != "" {
		t.Fatalf("the guest: %s", g.Fatal())
	}
	g.waitEnd(t)
	counts := g.Last()
	total := uint64(0)
	for _, path := range g.images {
		if len(counts) < pattern.Workers {
			break // a disk with a file system
		}
		if g.cut {
			if out, err := exec.Command("qemu-img", "check", "-f", g.format, "-r", "leaks", path).CombinedOutput(); err != nil {
				t.Errorf("qemu-img check -r leaks: %v: %s", err, out)
			}
		}
		checkDisk(t, path, g.format, counts[:pattern.Workers])
		for _, n := range counts[:pattern.Workers] {
			total += n
		}
		counts = counts[pattern.Workers:]
	}
	t.Logf("%d acknowledged writes verified", total)
}

// waitEnd waits until QEMU is gone.
func (g *liveGuest) waitEnd(t *testing.T) {
	t.Helper()
	for limit := time.Now().Add(patience); alive(g.cmd.Process.Pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("QEMU does not end")
		}
	}
}

// checkDisk reads an image from outside and checks what the workers wrote.
func checkDisk(t *testing.T, path, format string, counts []uint64) {
	t.Helper()
	problems, err := writerguest.CheckImage(path, format, t.TempDir(), counts)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// platform opens a driver for the guest.
func (g *liveGuest) platform(t *testing.T) hypervisor.Platform {
	t.Helper()
	p, err := openLive(t, g)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
