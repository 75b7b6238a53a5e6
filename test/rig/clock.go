package rig

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// clock is the wall clock of one process, which can be set without setting the
// machine's. The process asks the kernel's vDSO, a page of code in its own
// memory, what time it is; that page is given another answer for it alone,
// before its first instruction. The product's binary is not changed, and knows
// of nothing. Only the wall clock moves: the monotonic one is the machine's, as
// it is when a real clock is set.
type clock struct {
	mem    *os.File // the process's memory
	offset int64    // where in it the seconds are that are added
}

// clockCode answers clock_gettime(edi, rsi) by a system call, and adds the
// quadword behind it to the seconds of the wall clock. amd64.
var clockCode = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov  eax, 228 (clock_gettime)
	0x0f, 0x05, //                   syscall
	0x85, 0xff, //                   test edi, edi (CLOCK_REALTIME is 0)
	0x75, 0x0a, //                   jne  out
	0x48, 0x8b, 0x0d, 0x06, 0x00, 0x00, 0x00, // mov rcx, [rip+6]
	0x48, 0x01, 0x0e, //             add  [rsi], rcx (tv_sec)
	0xc3,       //                   out: ret
	0x00, 0x00, // so that what is added is aligned, and is read as it is written
}

const (
	clockSymbol = "__vdso_clock_gettime"
	vdsoMost    = 64 << 10 // it has two to four pages
)

// startTraced starts cmd, stopped before its first instruction, has prepare
// look at it, and lets it go.
func startTraced(cmd *exec.Cmd, prepare func(pid int) error) error {
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	var status unix.WaitStatus
	_, err := unix.Wait4(pid, &status, 0, nil)
	if err == nil {
		err = prepare(pid)
	}
	if err = errors.Join(err, unix.PtraceDetach(pid)); err != nil {
		_ = cmd.Process.Kill() // what counts is why
		return errors.Join(err, cmd.Wait())
	}
	return nil
}

// takeClock replaces the clock of a process that has not run yet.
func takeClock(pid int) (*clock, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("clocks of processes cannot be set on %s", runtime.GOARCH)
	}
	start, size, err := findVDSO(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	image := make([]byte, size)
	_, err = mem.ReadAt(image, start)
	var at int64
	if err == nil {
		at, err = symbolIn(image)
	}
	if err == nil {
		_, err = mem.WriteAt(append(bytes.Clone(clockCode), make([]byte, 8)...), start+at)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the clock of process %d: %w", pid, err), mem.Close())
	}
	return &clock{mem: mem, offset: start + at + int64(len(clockCode))}, nil
}

// findVDSO says where the page of code is.
func findVDSO(pid int) (start, size int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(maps) {
		if !bytes.Contains(line, []byte("[vdso]")) {
			continue
		}
		var end int64
		if _, err := fmt.Sscanf(string(line), "%x-%x", &start, &end); err != nil {
			return 0, 0, err
		}
		if end-start > vdsoMost {
			return 0, 0, fmt.Errorf("a vDSO of %d bytes", end-start)
		}
		return start, end - start, nil
	}
	return 0, 0, errors.New("there is no vDSO")
}

// symbolIn finds the function in the vDSO's image.
func symbolIn(image []byte) (int64, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == clockSymbol {
			if s.Size < uint64(len(clockCode)+8) {
				return 0, fmt.Errorf("%s has but %d bytes", clockSymbol, s.Size)
			}
			return int64(s.Value), nil
		}
	}
	return 0, errors.New("the vDSO has no " + clockSymbol)
}

// set puts the clock so far ahead of the machine's, or, negative, behind it, in
// whole seconds.
func (c *clock) set(ahead time.Duration) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(int64(ahead/time.Second)))
	_, err := c.mem.WriteAt(b[:], c.offset)
	return err
}
