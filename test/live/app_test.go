package live

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/test/rig"
)

// writer is a guest with a real guest agent, a file system that it can freeze,
// and a disk to which it writes all the time.
func writer(t *testing.T, dir string) map[string]any {
	t.Helper()
	const build = "../../build/guest"
	raw, fs := filepath.Join(dir, "raw"), filepath.Join(dir, "fs")
	for _, f := range []string{raw, fs} {
		must(t, os.WriteFile(f, nil, 0o600))
		must(t, os.Truncate(f, pattern.DiskBytes))
	}
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-t", "ext4", fs).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s (run 'make deps')", err, out)
	}
	qmp, agent, serial := filepath.Join(dir, "qmp"), filepath.Join(dir, "agent"), filepath.Join(dir, "serial")
	cmd := exec.Command("qemu-system-x86_64",
		"-accel", "tcg", "-cpu", "max", "-m", "192", "-M", "pc", "-nodefaults", "-nographic", "-no-reboot",
		"-name", "guest="+vmName, "-uuid", vmID,
		"-kernel", filepath.Join(build, "vmlinuz"), "-initrd", filepath.Join(build, "writer.img"),
		"-append", "console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable no_timer_check cryptomgr.notests disks=1",
		"-blockdev", "driver=raw,node-name=n0,file.driver=file,file.filename="+raw,
		"-device", "virtio-blk-pci,drive=n0,id=d0,werror=stop,rerror=stop",
		"-blockdev", "driver=raw,node-name=n1,file.driver=file,file.filename="+fs,
		"-device", "virtio-blk-pci,drive=n1,id=d1,werror=stop,rerror=stop",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path="+agent,
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-chardev", "socket,id=serial,server=on,path="+serial, "-serial", "chardev:serial", // it waits for us
		"-qmp", "unix:"+qmp+",server=on,wait=off")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // gone already is as good
	conn := dialSoon(t, serial)
	t.Cleanup(func() { conn.Close() })
	said := make(chan string, 1024)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			select {
			case said <- lines.Text():
			default: // nobody listens any more
			}
		}
	}()
	heard := map[string]bool{}
	for line := range said {
		word, _, _ := strings.Cut(line, " ")
		if word == "FATAL" {
			t.Fatal(line)
		}
		heard[word] = true
		if heard["READY"] && heard["MOUNTED"] && heard["P"] {
			return map[string]any{"qmp": []any{map[string]any{"socket": qmp, "agent": agent}}}
		}
	}
	t.Fatalf("the guest ended after %v", heard)
	return nil
}

// TestApplicationConsistent: a checkpoint at which a real agent has frozen the
// guest is one of kind app, and is restored.
func TestApplicationConsistent(t *testing.T) {
	s := newSite(t)
	platform := writer(t, s.Dir)
	s.startDRVA()
	s.useHost(platform)
	s.protect(vmName)
	s.whole(2)
	var cp struct {
		dr.Checkpoint
		Faults []order.FreezeFault `json:"faults"`
	}
	must(t, rig.Command(t.Context(), &cp, "checkpoint", s.drvaSock(), "--app", "--tag", "nightly", "-o", "json"))
	if cp.Kind != dr.AppConsistent || len(cp.Faults) > 0 {
		t.Fatalf("the checkpoint is of kind %v: %+v", cp.Kind, cp.Faults)
	}
	s.point(2) // behind it
	s.restore("tag:nightly", func(r *restored) {
		if r.Checkpoint.ID != cp.ID || r.Checkpoint.Kind != dr.AppConsistent || len(r.Disks) != 2 {
			t.Errorf("restored: %+v", r.Checkpoint)
		}
		for _, d := range r.Disks {
			if out, err := exec.Command("/sbin/dumpe2fs", "-h", d.Path).CombinedOutput(); err == nil {
				// A file system that was frozen has nothing in its journal to be replayed.
				if strings.Contains(string(out), "needs_recovery") {
					t.Errorf("the file system was not frozen:\n%s", out)
				}
				fmt.Fprintln(t.Output(), "the frozen file system needs no recovery")
			}
		}
	})
	s.unprotect(vmName)
}
