//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/guest/drivers"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
)

const (
	portPath  = "/dev/ttyS0"
	agentPath = "/bin/qemu-ga"  // there when the image was built with it
	agentPort = "/dev/vport*p1" // where the host reaches it
	freezable = "/mnt"          // where a disk with a file system is mounted
	// flushEach and readEach: a worker's every so many writes are followed by a
	// flush, or by reading a block back.
	flushEach = 64
	readEach  = 8
	// reportEach is how often the counts are said.
	reportEach = 100 * time.Millisecond
	// findLimit bounds the wait for the disks to appear.
	findLimit = 60 * time.Second
)

func main() {
	port, err := setUp()
	if err != nil {
		fmt.Printf("\nFATAL %v\n", err)
		powerOff()
	}
	g := &guest{port: port, stop: make(chan struct{})}
	if err := g.run(); err != nil {
		g.say("FATAL %v", err)
	}
	powerOff()
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // if not even that works, the kernel panics next
	select {}
}

// setUp mounts what a program needs, loads the drivers and opens the port.
func setUp() (*os.File, error) {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := drivers.Load(); err != nil {
		return nil, err
	}
	return openPort()
}

// openPort opens the serial port for plain bytes.
func openPort() (*os.File, error) {
	f, err := os.OpenFile(portPath, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Iflag, t.Oflag, t.Lflag = unix.IGNBRK|unix.IGNPAR, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

// guest is all that runs here.
type guest struct {
	port    *os.File
	stop    chan struct{} // closed when the host says STOP
	workers []*worker
	slowest atomic.Int64 // microseconds of the slowest write since the last report
	mu      sync.Mutex   // held while a line goes out
}

func (g *guest) say(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fmt.Fprintf(g.port, "\n"+format+"\n", args...) // a port that is gone can be told nothing
}

func (g *guest) run() error {
	disks, err := findDisks()
	if err != nil {
		return err
	}
	written := 0
	for _, d := range disks {
		if unix.Mount(d, freezable, "ext4", 0, "") == nil {
			g.say("MOUNTED")
			continue
		}
		fd, err := unix.Open(d, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		for i := range pattern.Workers {
			g.workers = append(g.workers, newWorker(g, fd, i))
		}
		written++
	}
	if err := startAgent(); err != nil {
		return err
	}
	return g.work(written)
}

// work runs the workers until the host says STOP.
func (g *guest) work(disks int) error {
	failed := make(chan error, len(g.workers)+1)
	var all sync.WaitGroup
	for _, w := range g.workers {
		all.Go(func() {
			if err := w.run(); err != nil {
				failed <- err
			}
		})
	}
	go g.obey()
	g.say("READY disks=%d", disks)
	tick := time.NewTicker(reportEach)
	for {
		select {
		case <-tick.C:
			g.say("P %s slow=%d", g.counts(), g.slowest.Swap(0))
		case err := <-failed:
			return err
		case <-g.stop:
			all.Wait()
			select {
			case err := <-failed:
				return err
			default:
			}
			g.say("BYE %s", g.counts())
			return nil
		}
	}
}

func (g *guest) counts() string {
	var b strings.Builder
	for i, w := range g.workers {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, w.acknowledged.Load())
	}
	return b.String()
}

// obey waits for the host's word.
func (g *guest) obey() {
	lines := bufio.NewScanner(g.port)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "STOP" {
			close(g.stop)
			return
		}
	}
}

// findDisks waits until as many disks are there as the kernel's command line
// says ("disks=N") and returns their devices in order of name.
func findDisks() ([]string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	want := 1
	for _, w := range strings.Fields(string(line)) {
		if s, ok := strings.CutPrefix(w, "disks="); ok {
			if want, err = strconv.Atoi(s); err != nil {
				return nil, err
			}
		}
	}
	for start := time.Now(); time.Since(start) < findLimit; time.Sleep(5 * time.Millisecond) {
		var disks []string
		for _, glob := range []string{"/dev/vd?", "/dev/sd?", "/dev/nvme?n?"} {
			found, _ := filepath.Glob(glob)
			disks = append(disks, found...)
		}
		if len(disks) >= want {
			return disks, nil
		}
	}
	return nil, fmt.Errorf("not %d disks in %v", want, findLimit)
}

// startAgent starts the guest agent when the image has one and the host a
// channel to it.
func startAgent() error {
	ports, _ := filepath.Glob(agentPort)
	if _, err := os.Stat(agentPath); err != nil || len(ports) == 0 {
		return nil
	}
	cmd := exec.Command(agentPath, "-m", "virtio-serial", "-p", ports[0], "-t", "/run", "-f", "/run/qemu-ga.pid")
	return cmd.Start()
}

// worker writes one region of one disk.
type worker struct {
	g            *guest
	fd, number   int
	acknowledged atomic.Uint64
	last         []uint64 // by block of the region: the write it holds
	buf, want    []byte
}

func newWorker(g *guest, fd, number int) *worker {
	return &worker{g: g, fd: fd, number: number, last: make([]uint64, pattern.Region), buf: aligned(), want: make([]byte, pattern.Block)}
}

// aligned returns a block of memory that O_DIRECT takes.
func aligned() []byte {
	b := make([]byte, 2*pattern.Block)
	at := pattern.Block - int(uintptr(unsafe.Pointer(&b[0]))%pattern.Block)
	return b[at : at+pattern.Block]
}

func (w *worker) run() error {
	for n := uint64(1); ; n++ {
		select {
		case <-w.g.stop:
			return nil
		default:
		}
		if err := w.write(n); err != nil {
			return err
		}
		if n%readEach == 0 {
			if err := w.read(pattern.At(w.number, 1+n/2)); err != nil {
				return err
			}
		}
		if n%flushEach == 0 {
			if err := unix.Fdatasync(w.fd); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
		}
	}
}

func (w *worker) write(n uint64) error {
	block := pattern.At(w.number, n)
	pattern.Fill(w.buf, block, n)
	begin := time.Now()
	if err := whole(unix.Pwrite(w.fd, w.buf, int64(block)*pattern.Block)); err != nil {
		return fmt.Errorf("write %d to block %d: %w", n, block, err)
	}
	took := time.Since(begin).Microseconds()
	for old := w.g.slowest.Load(); took > old && !w.g.slowest.CompareAndSwap(old, took); old = w.g.slowest.Load() {
	}
	w.last[block%pattern.Region] = n
	w.acknowledged.Store(n)
	return nil
}

// whole makes an error of a transfer that was cut short.
func whole(n int, err error) error {
	if err == nil && n != pattern.Block {
		err = io.ErrShortWrite
	}
	return err
}

// read compares a block with what was last written to it.
func (w *worker) read(block uint64) error {
	n := w.last[block%pattern.Region]
	if n == 0 {
		return nil
	}
	if err := whole(unix.Pread(w.fd, w.buf, int64(block)*pattern.Block)); err != nil {
		return fmt.Errorf("read of block %d: %w", block, err)
	}
	pattern.Fill(w.want, block, n)
	if string(w.buf) != string(w.want) {
		return fmt.Errorf("block %d reads as write %d, want %d", block, pattern.Stamp(w.buf), n)
	}
	return nil
}
