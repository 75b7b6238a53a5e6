package live

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
)

// vmName and vmID are the guest's.
const (
	vmName = "erp1"
	vmID   = "6c656467-6572-4000-8000-00000000000b"
)

// guest is a ledger guest that somebody started with QEMU alone.
type guest struct {
	load
	dir    string
	disk   string // its own
	format string // of disk
	policy string // of its errors: "stop" the VM, or "report" them to the guest
	cmd    *exec.Cmd
	done   chan struct{} // closed when QEMU is gone
}

// newGuest makes the guest's raw disk and boots it.
func newGuest(t *testing.T, dir string) *guest {
	t.Helper()
	return newGuestOf(t, dir, "raw", "stop")
}

// newGuestOf makes the guest's disk in a format and boots it.
func newGuestOf(t *testing.T, dir, format, policy string) *guest {
	t.Helper()
	image, err := ledger.BuildImage(t.Context())
	must(t, err)
	g := &guest{load: load{t: t}, dir: dir, disk: filepath.Join(dir, "guest."+format), format: format, policy: policy}
	if format == "raw" {
		must(t, ledger.CopyImage(t.Context(), g.disk, image))
	} else {
		convert(t, "raw", image, format, g.disk)
	}
	g.boot()
	return g
}

// convert copies a disk image into another format.
func convert(t *testing.T, from, image, to, path string) {
	t.Helper()
	out, err := exec.Command("qemu-img", "convert", "-f", from, "-O", to, image, path).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img convert: %v: %s", err, out)
	}
}

func (g *guest) qmp() string { return filepath.Join(g.dir, "qmp") }

// side is a second monitor: the first is the host component's alone.
func (g *guest) side() string { return filepath.Join(g.dir, "side") }

// second is a disk that may be added.
func (g *guest) second() string { return filepath.Join(g.dir, "second.raw") }

// platform is the host component's configuration for this guest.
func (g *guest) platform() map[string]any {
	return map[string]any{"qmp": []any{map[string]any{"socket": g.qmp()}}}
}

// boot starts QEMU with the disk and whatever a user would add, and the load.
func (g *guest) boot() {
	t := g.t
	t.Helper()
	serial := filepath.Join(g.dir, "serial")
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-m", "256", "-M", "pc", "-nodefaults", "-nographic", "-no-reboot", "-S",
		"-name", "guest=" + vmName, "-uuid", vmID,
		"-blockdev", "driver=" + g.format + ",node-name=fmt,file.driver=file,file.filename=" + g.disk,
		"-device", "virtio-blk-pci,drive=fmt,id=d0,werror=" + g.policy + ",rerror=" + g.policy,
		"-chardev", "socket,id=serial,server=on,wait=off,path=" + serial, "-serial", "chardev:serial",
		"-qmp", "unix:" + g.qmp() + ",server=on,wait=off", "-qmp", "unix:" + g.side() + ",server=on,wait=off",
	}
	if _, err := os.Stat(g.second()); err == nil {
		args = append(args, "-blockdev", "driver=raw,node-name=fmt2,file.driver=file,file.filename="+g.second(),
			"-device", "virtio-blk-pci,drive=fmt2,id=d1,werror=stop,rerror=stop")
	}
	g.cmd = exec.Command("qemu-system-x86_64", args...)
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, g.cmd.Start())
	cmd, done := g.cmd, make(chan struct{})
	g.done = done
	go func() { defer close(done); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done }) // gone already is as good
	g.attach(serial, func() { g.command("cont", "") })
	g.start()
}

// off powers the guest off, waits until QEMU is gone, and judges its disk.
func (g *guest) off() {
	g.t.Helper()
	g.powerOff()
	select {
	case <-g.done:
	case <-time.After(patience):
		g.t.Fatal("QEMU does not end")
	}
	disk := g.disk
	if g.format != "raw" {
		disk = filepath.Join(g.dir, "end.raw")
		convert(g.t, g.format, g.disk, "raw", disk)
	}
	must(g.t, checkDisk(g.t.Context(), disk, g.rows()))
}

// command runs one command on the second monitor.
func (g *guest) command(name, arguments string) {
	g.t.Helper()
	conn := dialSoon(g.t, g.side())
	defer conn.Close()
	must(g.t, conn.SetDeadline(time.Now().Add(patience)))
	r := bufio.NewReader(conn)
	_, err := r.ReadString('\n') // the greeting
	must(g.t, err)
	if arguments == "" {
		arguments = "{}"
	}
	for _, line := range []string{`{"execute":"qmp_capabilities"}`, fmt.Sprintf(`{"execute":%q,"arguments":%s}`, name, arguments)} {
		fmt.Fprintln(conn, line)
		for answer := ""; !strings.Contains(answer, `"return"`); {
			answer, err = r.ReadString('\n')
			must(g.t, err)
			if strings.Contains(answer, `"error"`) {
				g.t.Fatalf("%s: %s", line, answer)
			}
		}
	}
}

// picture is a copy of the guest's disk.
func picture(t *testing.T, disk string) []byte {
	t.Helper()
	b, err := os.ReadFile(disk)
	must(t, err)
	return b
}

// differing is how many bytes, in blocks, are not as in the picture.
func differing(t *testing.T, was []byte, disk string) (n int64) {
	t.Helper()
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	buf := make([]byte, dr.BlockSize)
	for at := 0; ; at += dr.BlockSize {
		_, err := io.ReadFull(f, buf)
		if err == io.EOF {
			return n
		}
		must(t, err)
		if at+dr.BlockSize > len(was) || !bytes.Equal(buf, was[at:at+dr.BlockSize]) {
			n += dr.BlockSize
		}
	}
}
