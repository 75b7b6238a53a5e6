package wan

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/test/rig"
)

const bootLimit = 3 * time.Minute // an emulated guest on a busy machine

// drivers of the guest, in the order of loading.
var drivers = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci_modern_dev",
	"drivers/virtio/virtio_pci", "net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net",
	"net/llc/llc", "net/802/stp", "net/bridge/bridge", "net/sched/sch_netem",
}

// link is the guest that joins two networks.
type link struct {
	t    *testing.T
	line net.Conn
	in   *bufio.Scanner
}

// newLink boots the guest between two namespaces, in which its ends are called
// "wan".
func newLink(t *testing.T, a, b *rig.Namespace) *link {
	t.Helper()
	dir, err := os.MkdirTemp("", "wan-") // short: unix socket paths have at most 107 bytes
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	kernel, initrd := build(t, dir)
	serial := filepath.Join(dir, "serial")
	taps := [2]string{fmt.Sprintf("hwa%d", os.Getpid()), fmt.Sprintf("hwb%d", os.Getpid())}
	accel := accelerator(t)
	args := []string{"-no-user-config", "-nodefaults", "-nographic", "-M", "pc", "-accel", accel, "-cpu", "max", "-m", "192",
		"-no-reboot", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable no_timer_check 8250.nr_uarts=1 cryptomgr.notests rdinit=/init",
		"-chardev", "socket,id=serial0,server=on,wait=on,path=" + serial, "-serial", "chardev:serial0"}
	for i, tap := range taps {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=n%d,ifname=%s,script=no,downscript=no,vnet_hdr=off", i, tap),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,romfile=,mac=52:54:00:00:77:%02x", i, i+1))
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	l := &link{t: t, line: dial(t, serial, &words)}
	t.Cleanup(func() { l.line.Close() })
	l.in = bufio.NewScanner(l.line)
	for i, n := range []*rig.Namespace{a, b} {
		for deadline := time.Now().Add(bootLimit); ; time.Sleep(20 * time.Millisecond) { // between two looks
			if _, err := net.InterfaceByName(taps[i]); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("QEMU makes no device %s: %v: %s", taps[i], err, &words)
			}
		}
		rig.Tool(t, "ip", "link", "set", taps[i], "netns", n.Name, "name", "wan")
	}
	l.expect("READY", bootLimit)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// accelerator finds out how guests run here.
func accelerator(t *testing.T) string {
	t.Helper()
	p, err := qemu.New(qemu.Options{DieWithParent: true})
	must(t, err)
	defer p.Close()
	a, _, err := p.Accelerator(t.Context())
	must(t, err)
	return string(a)
}

// dial waits for the serial line's socket.
func dial(t *testing.T, socket string, words *bytes.Buffer) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(bootLimit); ; {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("QEMU does not come up: %v: %s", err, words)
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// expect reads lines until one begins with a word.
func (l *link) expect(word string, limit time.Duration) {
	l.t.Helper()
	must(l.t, l.line.SetReadDeadline(time.Now().Add(limit)))
	var said []string
	for l.in.Scan() {
		said = append(said, l.in.Text())
		switch text := strings.TrimSpace(l.in.Text()); {
		case strings.HasSuffix(text, word): // the firmware ends no line
			return
		case strings.HasPrefix(text, "ERR"), strings.HasPrefix(text, "FATAL"):
			l.t.Fatalf("the link's guest says %q", text)
		}
	}
	l.t.Fatalf("the link's guest does not say %s: %v; it said %q", word, l.in.Err(), said)
}

// set makes the link one of a kind: tc-netem arguments; empty: a wire.
func (l *link) set(netem string) {
	l.t.Helper()
	text := "clear"
	if netem != "" {
		text = "netem " + netem
	}
	_, err := fmt.Fprintln(l.line, text)
	must(l.t, err)
	l.expect("OK", time.Minute)
}

// build makes the guest's initial RAM file system, and finds its kernel.
func build(t *testing.T, dir string) (kernel, initrd string) {
	t.Helper()
	image, err := ledger.BuildImage(t.Context()) // brings the kernel
	must(t, err)
	tree := filepath.Join(filepath.Dir(image), "kernel", "tree")
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "modules", "dev", "proc", "sys", "lib64"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	rig.Tool(t, "go", "build", "-trimpath", "-o", filepath.Join(root, "init"), "holdfast/guest/wan")
	for i, d := range drivers {
		one(t, filepath.Join(tree, "lib/modules/*/kernel", d+".ko"), filepath.Join(root, "modules", fmt.Sprintf("%02d-%s.ko", i, filepath.Base(d))))
	}
	library := regexp.MustCompile(`(/\S+) \(0x`)
	for _, tool := range []string{"ip", "tc"} {
		path, err := exec.LookPath(tool)
		must(t, err)
		one(t, path, filepath.Join(root, "bin", tool))
		for _, m := range library.FindAllStringSubmatch(rig.Tool(t, "ldd", path), -1) {
			to := filepath.Join(root, m[1])
			must(t, os.MkdirAll(filepath.Dir(to), 0o755))
			one(t, m[1], to)
		}
	}
	initrd = filepath.Join(dir, "initrd")
	pack := exec.Command("sh", "-c", "find . | cpio --quiet -o -H newc >'"+initrd+"'")
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		t.Fatalf("no kernel in %s", tree)
	}
	return kernels[0], initrd
}

// one copies the one file that a pattern names.
func one(t *testing.T, pattern, to string) {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s", pattern)
	}
	b, err := os.ReadFile(found[0])
	must(t, err)
	must(t, os.WriteFile(to, b, 0o755))
}
