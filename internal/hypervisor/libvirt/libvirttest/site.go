package libvirttest

import (
	"bufio"
	"bytes"
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
)

// patience bounds every wait here: ample for a loaded machine.
const patience = 3 * time.Minute

// Site is one libvirt daemon and what it runs. Not safe for concurrent use.
type Site struct {
	t      *testing.T
	Dir    string // for images and sockets of the test; goes with the site
	Socket string // the daemon's
	holder *exec.Cmd
	input  io.Closer // the holder's standard input: its end is the site's
	daemon *exec.Cmd
}

// holder makes the site's file systems, says so, waits for its input to end,
// and kills whatever uses the site's network.
const holder = `set -e
for d in /etc/libvirt /var/lib/libvirt /run/libvirt /var/cache/libvirt /var/log/libvirt; do mkdir -p $d; done
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/run" /run/libvirt
mount --bind "$2" /var/cache/libvirt
ip link set lo up
echo ready
cat >/dev/null
set +e
own=$(readlink /proc/self/ns/net)
again=y
while [ $again = y ]; do
	again=n
	for p in /proc/[0-9]*; do
		pid=${p#/proc/}
		[ $pid != $$ ] && [ "$(readlink $p/ns/net)" = "$own" ] || continue
		case $(sed 's/.*) //; s/ .*//' $p/stat) in Z | X) continue ;; esac
		[ "$(sed -n 's/^PPid:\t//p' $p/status)" != $$ ] || continue
		kill -9 $pid && again=y
	done
done 2>/dev/null
`

// daemonConf and qemuConf leave out all that needs an init system.
const daemonConf = `listen_tls = 0
auth_unix_rw = "none"
unix_sock_dir = "%[1]s/run"
host_uuid = "%[2]s"
log_outputs = "2:file:%[1]s/libvirtd.log"
`

const qemuConf = `user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
remember_owner = 0
`

// cache is where daemons of this process remember what QEMU can do: finding
// that out takes seconds.
var cache = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "hflvcache-") })

// Clean removes what sites of this process share. For TestMain.
func Clean() {
	if dir, err := cache(); err == nil {
		os.RemoveAll(dir)
	}
}

// Start starts a site, which ends with the test.
func Start(t *testing.T) *Site {
	t.Helper()
	for _, tool := range []string{"/usr/sbin/libvirtd", "nsenter", "ip", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v (run 'make deps')", err)
		}
	}
	dir, err := os.MkdirTemp("", "hflv-") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{t: t, Dir: dir, Socket: filepath.Join(dir, "run", "libvirt-sock")}
	t.Cleanup(func() { s.end() })
	for _, d := range []string{"etc", "lib", "run", "log"} {
		s.must(os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	s.must(os.WriteFile(filepath.Join(dir, "etc", "libvirtd.conf"), fmt.Appendf(nil, daemonConf, dir, dr.NewUUID()), 0o600))
	s.must(os.WriteFile(filepath.Join(dir, "etc", "qemu.conf"), []byte(qemuConf), 0o600))
	s.hold()
	s.StartDaemon()
	return s
}

func (s *Site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// hold starts the process that is the site.
func (s *Site) hold() {
	shared, err := cache()
	s.must(err)
	s.holder = exec.Command("/bin/sh", "-c", holder, "site", s.Dir, shared)
	// Mounts of the site must not show outside: Unshareflags makes the mount
	// namespace private before anything is mounted.
	s.holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Setpgid: true}
	var said bytes.Buffer
	s.holder.Stderr = &said
	s.input, err = s.holder.StdinPipe()
	s.must(err)
	out, err := s.holder.StdoutPipe()
	s.must(err)
	if err := s.holder.Start(); err != nil {
		s.holder = nil
		s.t.Fatalf("a site needs root: %v", err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		s.t.Fatalf("the site did not come up: %v: %s", err, said.String())
	}
}

// inside prepares a command that runs in the site.
func (s *Site) inside(name string, args ...string) *exec.Cmd {
	args = append([]string{"-t", strconv.Itoa(s.holder.Process.Pid), "-m", "-n", "--", name}, args...)
	return exec.Command("nsenter", args...)
}

// Run runs a command in the site and returns its output.
func (s *Site) Run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *Site) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := s.inside(name, args...)
	timed := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	out, err := timed.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// Virsh runs virsh against the site's daemon.
func (s *Site) Virsh(args ...string) string {
	s.t.Helper()
	return s.Run("virsh", s.virsh(args)...)
}

// TryVirsh is Virsh for what may fail.
func (s *Site) TryVirsh(args ...string) (string, error) { return s.try("virsh", s.virsh(args)...) }

func (s *Site) virsh(args []string) []string {
	return append([]string{"-q", "-c", "qemu:///system?socket=" + s.Socket}, args...)
}

// StartDaemon starts the daemon, again after StopDaemon.
func (s *Site) StartDaemon() {
	s.t.Helper()
	s.daemon = s.inside("/usr/sbin/libvirtd", "-f", filepath.Join(s.Dir, "etc", "libvirtd.conf"), "-p", filepath.Join(s.Dir, "libvirtd.pid"))
	s.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	s.daemon.Stdout, s.daemon.Stderr = &said, &said
	s.daemon.WaitDelay = time.Second
	s.must(s.daemon.Start())
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if nc, err := net.Dial("unix", s.Socket); err == nil {
			nc.Close()
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.Dir, "libvirtd.log"))
			s.t.Fatalf("libvirtd did not come up: %s%s", said.String(), log)
		}
	}
}

// StopDaemon ends the daemon; VMs run on.
func (s *Site) StopDaemon() {
	s.t.Helper()
	s.must(s.daemon.Process.Signal(syscall.SIGTERM))
	s.daemon.Wait()
	s.daemon = nil
}

// PID returns the process of a running VM.
func (s *Site) PID(vm string) int {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "run", "qemu", vm+".pid"))
	s.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	s.must(err)
	return pid
}

// end ends the site and all in it, and checks that nothing stays.
func (s *Site) end() {
	if s.holder != nil {
		own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.holder.Process.Pid))
		s.input.Close()
		s.holder.Wait()
		if s.daemon != nil {
			s.daemon.Wait()
		}
		if left := processesOn(own); len(left) > 0 {
			s.t.Errorf("processes left in the site: %v", left)
		}
	}
	if s.t.Failed() {
		if log, err := os.ReadFile(filepath.Join(s.Dir, "libvirtd.log")); err == nil {
			var lines []string
			for _, line := range strings.Split(string(log), "\n") {
				if !strings.Contains(line, "ethtool ioctl") { // of cards the site does not have
					lines = append(lines, line)
				}
			}
			s.t.Logf("libvirtd:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		s.t.Error(err)
	}
}

// processesOn lists the processes of a network namespace; those that ended and
// wait to be reaped have none.
func processesOn(netns string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, p := range all {
		if at, err := os.Readlink(p); err == nil && at == netns && netns != "" {
			found = append(found, p)
		}
	}
	return found
}

// Define defines a VM.
func (s *Site) Define(g Guest) {
	s.t.Helper()
	path := filepath.Join(s.Dir, g.Name+".xml")
	s.must(os.WriteFile(path, []byte(g.XML()), 0o600))
	s.Virsh("define", path)
}
