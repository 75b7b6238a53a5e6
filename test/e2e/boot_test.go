package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/internal/demo"
	"holdfast/internal/demo/ledger/talk"
)

// bootLimit bounds one step of booting by hand.
const bootLimit = 2 * time.Minute

// bootByHand recovers with the commands a person would type, restore and rocva
// boot, and asks the guests what they find. Then Ctrl-C ends all of it.
func bootByHand(ctx context.Context, t *testing.T, binary string, l *demo.Loss) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	out := filepath.Join(l.Dir, "byhand")
	defer os.RemoveAll(out)
	restore := exec.CommandContext(ctx, binary, "restore", l.URL, "--key", l.Key, "--at", "latest", "--out", out)
	if b, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, b)
	}
	boot := exec.CommandContext(ctx, binary, "rocva", "boot", out, "--accel", "tcg")
	var problems strings.Builder
	boot.Stderr = &problems
	say, err := boot.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := boot.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	serials := regexp.MustCompile(`guest[12] running, serial port (\S+)\n`)
	var said strings.Builder
	buf := make([]byte, 4096)
	for len(serials.FindAllString(said.String(), -1)) < 2 {
		n, err := say.Read(buf)
		said.Write(buf[:n])
		if err != nil {
			t.Fatalf("rocva boot: %v\n%s%s", err, said.String(), problems.String())
		}
	}
	go func() { ended <- boot.Wait() }()
	for _, m := range serials.FindAllStringSubmatch(said.String(), -1) {
		if state := ask(ctx, t, m[1]); state.N == 0 {
			t.Errorf("a guest came up with an empty ledger: %v", state)
		}
	}
	if err := boot.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		t.Fatal("rocva boot does not end on Ctrl-C")
	}
	if left := processesIn(t, out); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	for _, m := range serials.FindAllStringSubmatch(said.String(), -1) {
		if _, err := os.Stat(filepath.Dir(m[1])); err == nil {
			t.Errorf("%s is left behind", filepath.Dir(m[1]))
		}
	}
}

// ask asks the guest behind a serial port for its state until it answers: it
// hears nothing before it is up.
func ask(ctx context.Context, t *testing.T, serial string) talk.Reply {
	t.Helper()
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", serial)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	end, _ := ctx.Deadline()
	if err := nc.SetDeadline(end); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		again := time.NewTicker(time.Second)
		defer again.Stop()
		for {
			select {
			case <-stop:
				return
			case <-again.C:
				if _, err := nc.Write([]byte(talk.Request{Verb: talk.Status}.String() + "\n")); err != nil {
					return
				}
			}
		}
	}()
	lines := talk.NewLines(nc)
	for {
		line, err := lines.Next()
		if err != nil {
			t.Fatalf("%s: %v", serial, err)
		}
		if r, ok := talk.ParseReply(line); ok && r.Word == talk.State {
			return r
		}
	}
}
