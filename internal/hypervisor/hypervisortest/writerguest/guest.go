package writerguest

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Files returns the kernel and the initial RAM file system that `make guest`
// leaves in dir.
func Files(dir string) (kernel, initrd string) {
	return filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "writer.img")
}

// Args are QEMU's arguments for a guest, emulated and not yet running, that
// writes to disks disks. Its serial port is a server on the unix socket serial;
// dir is where `make guest` leaves it. Disks and monitors are the caller's.
func Args(dir, serial string, disks int) []string {
	kernel, initrd := Files(dir)
	return []string{
		"-accel", "tcg", "-cpu", "max", "-m", "192", "-M", "pc", "-nodefaults", "-nographic", "-no-reboot", "-S",
		"-kernel", kernel, "-initrd", initrd,
		"-append", Append(disks),
		"-chardev", "socket,id=serial,server=on,wait=off,path=" + serial, "-serial", "chardev:serial",
	}
}

// Append is the kernel's command line of a guest that writes to disks disks.
func Append(disks int) string {
	return fmt.Sprintf("console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable no_timer_check cryptomgr.notests disks=%d", disks)
}

// Guest follows one guest's serial port. Safe for concurrent use.
type Guest struct {
	port io.ReadWriter

	ready   chan struct{} // closed at READY
	mounted chan struct{} // closed at MOUNTED
	over    chan struct{} // closed at BYE, FATAL or the end of the port
	fatal   string        // set before over is closed
	last    []uint64      // the counts of BYE; set before over is closed

	latest  atomic.Pointer[[]uint64] // the counts said last
	slowest atomic.Int64             // microseconds
}

// Follow begins to read what a guest says on port, which its caller closes.
func Follow(port io.ReadWriter) *Guest {
	g := &Guest{port: port, ready: make(chan struct{}), mounted: make(chan struct{}), over: make(chan struct{})}
	g.latest.Store(&[]uint64{})
	go g.read()
	return g
}

// Ready is closed when all workers have begun.
func (g *Guest) Ready() <-chan struct{} { return g.ready }

// Mounted is closed when the guest has mounted a file system.
func (g *Guest) Mounted() <-chan struct{} { return g.mounted }

// Over is closed when the guest has said its last word.
func (g *Guest) Over() <-chan struct{} { return g.over }

// Fatal says, once Over is closed, what went wrong; "" after a STOP obeyed.
func (g *Guest) Fatal() string { return g.fatal }

// Last returns, once Over is closed, the final counts of acknowledged writes,
// worker by worker and disk by disk; nil when Fatal says something.
func (g *Guest) Last() []uint64 { return g.last }

// Counts returns the counts said last; empty before the first. The guest may
// have done more since.
func (g *Guest) Counts() []uint64 { return slices.Clone(*g.latest.Load()) }

// Written returns the sum of Counts.
func (g *Guest) Written() (sum uint64) {
	for _, n := range *g.latest.Load() {
		sum += n
	}
	return sum
}

// Slowest returns how long the slowest write took by the guest's own clock,
// which stands still while the VM is stopped.
func (g *Guest) Slowest() time.Duration { return time.Duration(g.slowest.Load()) * time.Microsecond }

// Stop tells the guest to finish what is in flight, to say its last counts and
// to power off.
func (g *Guest) Stop() error {
	_, err := io.WriteString(g.port, "\nSTOP\n")
	return err
}

func (g *Guest) read() {
	defer close(g.over)
	lines := bufio.NewScanner(g.port)
	for lines.Scan() {
		if g.hear(strings.Fields(lines.Text())) {
			return
		}
	}
	g.fatal = "the serial port ended"
}

// hear takes one line in and reports whether it was the last. The firmware and
// the kernel talk on the port too, and QEMU's end may cut a line off.
func (g *Guest) hear(words []string) (last bool) {
	switch {
	case len(words) == 0:
	case words[0] == "READY":
		closeOnce(g.ready)
	case words[0] == "MOUNTED":
		closeOnce(g.mounted)
	case words[0] == "FATAL":
		g.fatal = strings.Join(words, " ")
		return true
	case words[0] == "P" && len(words) >= 3:
		counts := numbers(words[1])
		g.latest.Store(&counts)
		var slow int64
		if _, err := fmt.Sscanf(words[2], "slow=%d", &slow); err == nil {
			g.slowest.Store(max(slow, g.slowest.Load()))
		}
	case words[0] == "BYE" && len(words) >= 2:
		g.last = numbers(words[1])
		return true
	}
	return false
}

// closeOnce closes a channel that only its caller's goroutine closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func numbers(list string) (out []uint64) {
	for s := range strings.SplitSeq(list, ",") {
		n, _ := strconv.ParseUint(s, 10, 64) // what is no number counts nothing, and fails the check
		out = append(out, n)
	}
	return out
}
