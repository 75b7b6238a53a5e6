package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
)

// scripted is an agent that answers each command with what reply returns; ""
// is silence. It answers the handshake itself, after garbage.
type scripted struct {
	path    string
	heard   chan string // commands, in order
	garbage string
	mute    atomic.Bool
	reply   func(command string) string
}

func script(t *testing.T, garbage string, reply func(string) string) *scripted {
	t.Helper()
	s := &scripted{path: filepath.Join(t.TempDir(), "agent"), heard: make(chan string, 64), garbage: garbage, reply: reply}
	ln, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.serve(conn) // one at a time, as a chardev does
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	return s
}

func (s *scripted) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var c struct {
			Execute   string
			Arguments struct{ ID json.Number }
		}
		if err := json.Unmarshal(bytes.TrimLeft(lines.Bytes(), "\xff"), &c); err != nil {
			continue
		}
		switch {
		case s.mute.Load():
		case c.Execute == "guest-sync-delimited":
			fmt.Fprintf(conn, "%s\xff{\"return\": %s}\n", s.garbage, c.Arguments.ID)
		default:
			s.heard <- c.Execute
			fmt.Fprint(conn, s.reply(c.Execute))
		}
	}
}

func obeying(command string) string {
	switch command {
	case "guest-fsfreeze-status":
		return `{"return": "frozen"}` + "\n"
	default:
		return `{"return": 2}` + "\n"
	}
}

func heard(t *testing.T, s *scripted, want string) {
	t.Helper()
	select {
	case got := <-s.heard:
		if got != want {
			t.Fatalf("the agent heard %s, want %s", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the agent never heard %s", want)
	}
}

func TestAgentSkipsGarbage(t *testing.T) {
	for name, garbage := range map[string]string{
		"none": "", "half an answer": `{"return": {"a`, "another's handshake": "\xff{\"return\": 12}\n",
		"delimiters": "\xff\xff\xff\n\xff", "long": strings.Repeat("x", maxAgentBytes/2),
		"not a number": "\xff{\"return\": \"z\"}\n",
	} {
		s := script(t, garbage, obeying)
		a := newAgent(s.path)
		if n, err := a.freeze(t.Context(), time.Minute); err != nil || n != 2 {
			t.Errorf("%s: freeze: %d, %v", name, n, err)
		}
		if n, err := a.thaw(t.Context()); err != nil || n != 2 {
			t.Errorf("%s: thaw: %d, %v", name, n, err)
		}
		if !a.answeredLately() {
			t.Errorf("%s: the agent is not known to be there", name)
		}
		a.close()
	}
}

func TestAgentIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		garbage, answer string
		kind            errs.Kind
		thaws           bool // the guest may be frozen: it must be thawed
	}{
		"endless garbage": {strings.Repeat("x", 2*maxAgentBytes), "", errs.Unavailable, false},
		"refuses":         {"", `{"error": {"class": "GenericError", "desc": "no"}}` + "\n", errs.Unavailable, true},
		"endless line":    {"", strings.Repeat("x", 2*maxAgentLine) + "\n", errs.Transient, true},
		"not JSON":        {"", "hello\n", errs.Transient, true},
		"of another type": {"", `{"return": "many"}` + "\n", errs.Transient, true},
		"says nothing":    {"", "{}\n", errs.Transient, true},
		"nothing frozen":  {"", `{"return": 0}` + "\n", errs.Unavailable, true},
		"silent":          {"", "", errs.Transient, true},
	} {
		s := script(t, c.garbage, func(command string) string {
			if command == "guest-fsfreeze-freeze" {
				return c.answer
			}
			return obeying(command)
		})
		a := newAgent(s.path)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if name == "silent" {
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		}
		_, err := a.freeze(ctx, time.Minute)
		cancel()
		if !errs.Is(err, c.kind) {
			t.Errorf("%s: %v (kind %v), want kind %v", name, err, errs.KindOf(err), c.kind)
		}
		if c.thaws {
			heard(t, s, "guest-fsfreeze-freeze")
			heard(t, s, "guest-fsfreeze-thaw")
		}
		a.close()
	}
}

// TestDeadMan lets the freeze's limit pass, with an agent that does not answer
// at first.
func TestDeadMan(t *testing.T) {
	s := script(t, "", obeying)
	a := newAgent(s.path)
	defer a.close()
	if _, err := a.freeze(t.Context(), 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	heard(t, s, "guest-fsfreeze-freeze")
	heard(t, s, "guest-fsfreeze-thaw")
	for limit := time.Now().Add(time.Minute); ; {
		a.mu.Lock()
		frozen := a.frozen
		a.mu.Unlock()
		if !frozen {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the freeze does not end")
		}
		time.Sleep(time.Millisecond)
	}
	if n, err := a.thaw(t.Context()); err != nil || n != 0 {
		t.Errorf("thaw after the limit: %d, %v, want none", n, err)
	}
}

// TestDeadManWithoutIt removes the rule: nothing thaws.
func TestDeadManWithoutIt(t *testing.T) {
	s := script(t, "", obeying)
	a := newAgent(s.path)
	if _, err := a.freeze(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	heard(t, s, "guest-fsfreeze-freeze")
	a.mu.Lock()
	a.deadMan.Stop()
	a.mu.Unlock()
	select {
	case c := <-s.heard:
		t.Fatalf("somebody else said %s", c)
	case <-time.After(20 * time.Millisecond):
	}
	a.close() // which thaws
	heard(t, s, "guest-fsfreeze-thaw")
}

func TestAgentOfADeadDriver(t *testing.T) {
	s := script(t, "", obeying)
	a := newAgent(s.path)
	a.rescue()
	heard(t, s, "guest-fsfreeze-status")
	heard(t, s, "guest-fsfreeze-thaw")
	a.close()
}

func TestNoAgent(t *testing.T) {
	if _, err := newAgent("").freeze(t.Context(), 0); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Errorf("without a channel: %v, want kind unavailable and a remedy", err)
	}
	s := script(t, "", obeying)
	s.mute.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a := newAgent(s.path)
	if _, err := a.freeze(ctx, 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("with nobody in the guest: %v, want kind unavailable", err)
	}
	if _, err := a.freeze(ctx, 0); errs.Is(err, errs.Conflict) {
		t.Error("a freeze that failed is taken for one under way")
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add([]byte(`{"return": 3}`))
	f.Add([]byte(`{"error": {"class": "x", "desc": "y"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var n int
		_ = decodeAnswer(line, &n)
	})
}
