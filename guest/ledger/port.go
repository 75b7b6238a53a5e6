//go:build linux

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/demo/ledger/talk"
)

// openPort opens a serial port for plain bytes: no echo, no translation, no
// signals, 8 bits.
func openPort(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: read settings: %w", path, err)
	}
	t.Iflag, t.Oflag, t.Lflag = unix.IGNBRK|unix.IGNPAR, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: change settings: %w", path, err)
	}
	return f, nil
}

// say writes one reply, on a line of its own whatever the port carried before.
func say(port *os.File, r talk.Reply) {
	// Nobody could be told that the port is gone; the host sees silence.
	fmt.Fprintf(port, "\n%s\n", r)
}

// readRequests hands on every line that arrives. It ends with the port, which
// is never.
func readRequests(port *os.File, to chan<- string) {
	lines := talk.NewLines(port)
	for {
		line, err := lines.Next()
		if err != nil {
			return
		}
		to <- line
	}
}
