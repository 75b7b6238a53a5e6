//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/guest/drivers"
)

const (
	console = "/dev/ttyS0"
	maxLine = 512
)

// cards are the two ends.
var cards = []string{"eth0", "eth1"}

func main() {
	line, err := boot()
	if err == nil {
		err = serve(line)
	}
	fmt.Println("\nFATAL " + err.Error())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // if not even that works, the kernel panics next
}

// boot brings the bridge up and returns the serial line.
func boot() (*os.File, error) {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		// The kernel may have mounted /dev already.
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := drivers.Load(); err != nil {
		return nil, err
	}
	steps := []string{"ip link add br0 type bridge", "ip link set br0 up"}
	for _, c := range cards {
		steps = append(steps, "ip link set "+c+" master br0", "ip link set "+c+" up")
	}
	for _, s := range steps {
		if err := run(strings.Fields(s)...); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(console, os.O_RDWR, 0)
}

// run runs a program of /bin to its end.
func run(args ...string) error {
	out, err := exec.Command("/bin/"+args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.ReplaceAll(string(out), "\n", " "))
	}
	return nil
}

// serve takes lines until there are no more.
func serve(line *os.File) error {
	fmt.Fprintln(line, "READY")
	in := bufio.NewScanner(line)
	in.Buffer(nil, maxLine)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if len(words) == 0 {
			continue
		}
		if err := obey(words); err != nil {
			fmt.Fprintln(line, "ERR", err)
			continue
		}
		fmt.Fprintln(line, "OK")
	}
	return fmt.Errorf("the serial line ended: %w", errors.Join(in.Err()))
}

func obey(words []string) error {
	if words[0] != "netem" && (words[0] != "clear" || len(words) > 1) {
		return fmt.Errorf("unknown word %q", words[0])
	}
	for _, c := range cards {
		args := append([]string{"tc", "qdisc", "replace", "dev", c, "root"}, words...)
		if words[0] == "clear" {
			args = append(args[:6], "pfifo_fast")
		}
		if err := run(args...); err != nil {
			return err
		}
	}
	return nil
}
