//go:build linux

package main

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"sync"
)

const (
	inputEventSize = 24  // struct input_event: two 8-byte times, type, code, value
	typeKey        = 1   // EV_KEY
	keyPower       = 116 // KEY_POWER
)

// watchButton closes pressed when the machine's power button is pushed. A
// guest without one runs on: POWEROFF is there too.
func watchButton(pressed chan<- struct{}) {
	var once sync.Once
	inputs, _ := filepath.Glob("/dev/input/event*")
	for _, path := range inputs {
		go func() {
			f, err := os.Open(path)
			if err != nil {
				return
			}
			defer f.Close()
			if awaitPower(f) {
				once.Do(func() { close(pressed) })
			}
		}()
	}
}

// awaitPower reads input events until one says the power key went down.
func awaitPower(r io.Reader) bool {
	var ev [inputEventSize]byte
	for {
		if _, err := io.ReadFull(r, ev[:]); err != nil {
			return false
		}
		kind, code := binary.LittleEndian.Uint16(ev[16:]), binary.LittleEndian.Uint16(ev[18:])
		if value := binary.LittleEndian.Uint32(ev[20:]); kind == typeKey && code == keyPower && value == 1 {
			return true
		}
	}
}
