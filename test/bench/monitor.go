package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// monitor is a connection to a QMP monitor. Not safe for concurrent use.
type monitor struct {
	c   net.Conn
	enc *json.Encoder
	dec *json.Decoder
}

// qmpMessage is what a monitor says.
type qmpMessage struct {
	Event  string
	Return json.RawMessage
	Error  *struct{ Desc string }
}

// dialMonitor connects to a monitor and gets it to take commands.
func dialMonitor(ctx context.Context, path string) (*monitor, error) {
	d := net.Dialer{Timeout: readyWithin}
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	m := &monitor{c: c, enc: json.NewEncoder(c), dec: json.NewDecoder(c)}
	if err := m.execute("qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return m, nil
}

// next waits for what the monitor says next.
func (m *monitor) next() (qmpMessage, error) {
	var msg qmpMessage
	if err := m.c.SetReadDeadline(time.Now().Add(monitorWithin)); err != nil {
		return msg, err
	}
	err := m.dec.Decode(&msg)
	if err == nil && msg.Error != nil {
		err = errors.New(msg.Error.Desc)
	}
	return msg, err
}

// send gives a command; its answer is among what next returns.
func (m *monitor) send(command string, args any) error {
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	return m.enc.Encode(msg)
}

// execute gives a command and waits for its answer, which goes into result, a
// pointer or nil. Events meanwhile are dropped.
func (m *monitor) execute(command string, args, result any) error {
	if err := m.send(command, args); err != nil {
		return err
	}
	for {
		msg, err := m.next()
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		if msg.Return == nil {
			continue
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(msg.Return, result)
	}
}

// acknowledged returns how many writes a device has acknowledged to its guest.
func (m *monitor) acknowledged(device string) (uint64, error) {
	var all []struct {
		QDev  string
		Stats struct {
			Writes uint64 `json:"wr_operations"`
		}
	}
	if err := m.execute("query-blockstats", nil, &all); err != nil {
		return 0, err
	}
	for _, d := range all {
		if strings.Contains(d.QDev+"/", "/"+device+"/") {
			return d.Stats.Writes, nil
		}
	}
	return 0, fmt.Errorf("query-blockstats: no device %s", device)
}
