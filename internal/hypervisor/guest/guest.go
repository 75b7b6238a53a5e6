package guest

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// ask is one question with its own bound.
func ask(ctx context.Context, g hypervisor.Guest, command string, args, result any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return g.AskGuest(ctx, command, args, result)
}

// Ping reports why the guest's agent does not answer; nil: it does. Kinds: those of
// hypervisor.Guest.
func Ping(ctx context.Context, g hypervisor.Guest) error {
	return ask(ctx, g, "guest-ping", nil, nil)
}

// Command is a program to be run in a guest.
type Command struct {
	Args []string // Args[0] is the program's path in the guest
	Env  []string // KEY=VALUE; nothing else is in its environment
}

// Run runs a program in a guest to its end and returns its exit status; what it printed,
// as far as the agent keeps it, goes to out, standard output first. A program whose ctx ends
// is killed, as far as the guest can. Kinds besides those of hypervisor.Guest: Invalid (it
// cannot be started, or was ended by a signal), Canceled.
func Run(ctx context.Context, g hypervisor.Guest, c Command, out io.Writer) (status int, err error) {
	const op = "guest.Run"
	if len(c.Args) == 0 {
		return 0, errs.New(op, errs.Invalid, "", "no program is named")
	}
	var started struct {
		PID int64 `json:"pid"`
	}
	err = ask(ctx, g, "guest-exec", map[string]any{
		"path": c.Args[0], "arg": c.Args[1:], "env": append([]string{}, c.Env...), "capture-output": true,
	}, &started)
	if err != nil {
		return 0, err
	}
	end, err := await(ctx, g, started.PID)
	if err != nil {
		if ctx.Err() != nil {
			kill(ctx, g, started.PID)
			return 0, errs.E(op, errs.Canceled, c.Args[0], context.Cause(ctx))
		}
		return 0, err
	}
	for _, b := range [][]byte{end.Out, end.Err} {
		if _, err := out.Write(b); err != nil {
			return 0, errs.E(op, errs.Internal, c.Args[0], err)
		}
	}
	if end.Signal != 0 {
		return 0, errs.New(op, errs.Invalid, c.Args[0], fmt.Sprintf("it was ended by signal %d", end.Signal))
	}
	return end.Code, nil
}

// ending is how the agent says that a program is.
type ending struct {
	Exited bool   `json:"exited"`
	Code   int    `json:"exitcode"`
	Signal int    `json:"signal"`
	Out    []byte `json:"out-data"`
	Err    []byte `json:"err-data"`
}

// await asks for a program until it has ended.
func await(ctx context.Context, g hypervisor.Guest, pid int64) (*ending, error) {
	pause, silent := pollFirst, 0
	for {
		var e ending
		err := ask(ctx, g, "guest-exec-status", map[string]any{"pid": pid}, &e)
		switch {
		case err == nil && e.Exited:
			return &e, nil
		case err == nil:
			silent = 0
		case ctx.Err() != nil || errs.Is(err, errs.Invalid) || errs.Is(err, errs.Conflict):
			return nil, err
		default:
			if silent++; silent >= patience { // it may just be busy, or starting again
				return nil, err
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, errs.E("guest.Run", errs.Canceled, "", context.Cause(ctx))
		}
		pause = min(2*pause, pollLast)
	}
}

// kill ends a program of a guest that is a Unix; nobody is there to hear that it failed.
func kill(ctx context.Context, g hypervisor.Guest, pid int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	_ = g.AskGuest(ctx, "guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", "kill -9 " + strconv.FormatInt(pid, 10)}}, nil)
}

// Interface is a network card as the guest sees it.
type Interface struct {
	Name      string         // as eth0
	MAC       string         // lower case
	Addresses []netip.Prefix // of the guest's configuration, link-local ones too
}

// Interfaces lists the guest's network cards, but its loopback. Kinds: those of
// hypervisor.Guest.
func Interfaces(ctx context.Context, g hypervisor.Guest) ([]Interface, error) {
	var said []struct {
		Name      string `json:"name"`
		MAC       string `json:"hardware-address"`
		Addresses []struct {
			Address string `json:"ip-address"`
			Bits    int    `json:"prefix"`
		} `json:"ip-addresses"`
	}
	if err := ask(ctx, g, "guest-network-get-interfaces", nil, &said); err != nil {
		return nil, err
	}
	var out []Interface
	for _, s := range said[:min(len(said), hypervisor.MaxNICs)] {
		i := Interface{Name: s.Name, MAC: strings.ToLower(s.MAC)}
		for _, a := range s.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && !addr.IsLoopback() {
				if p, err := addr.WithZone("").Prefix(a.Bits); err == nil {
					i.Addresses = append(i.Addresses, netip.PrefixFrom(addr.WithZone(""), p.Bits()))
				}
			}
		}
		if i.Name != "lo" {
			out = append(out, i)
		}
	}
	return out, nil
}

// Boot names the boot that a guest which is a Linux is in: another one after each restart;
// "": the guest does not tell. Kinds: those of hypervisor.Guest but Invalid.
func Boot(ctx context.Context, g hypervisor.Guest) (string, error) {
	text, err := read(ctx, g, "/proc/sys/kernel/random/boot_id")
	if errs.Is(err, errs.Invalid) {
		return "", nil
	}
	text = strings.TrimSpace(text)
	return text[:min(len(text), maxBoot)], err
}

// Listens reports whether something listens on a TCP port in a guest that is a Linux.
// Kinds: those of hypervisor.Guest; Invalid also: the guest does not tell.
func Listens(ctx context.Context, g hypervisor.Guest, port int) (bool, error) {
	table, err := read(ctx, g, "/proc/net/tcp")
	if err != nil || listens(table, port) {
		return err == nil, err
	}
	table, err = read(ctx, g, "/proc/net/tcp6")
	if errs.Is(err, errs.Invalid) {
		return false, nil // a guest without IPv6 has no such table
	}
	return err == nil && listens(table, port), err
}

// listens looks for a port in a table as /proc/net/tcp has it.
func listens(table string, port int) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "0A" {
			continue
		}
		if i := strings.LastIndexByte(f[1], ':'); i >= 0 {
			if n, err := strconv.ParseUint(f[1][i+1:], 16, 16); err == nil && int(n) == port {
				return true
			}
		}
	}
	return false
}

// read reads a file of the guest, up to a bound.
func read(ctx context.Context, g hypervisor.Guest, path string) (string, error) {
	var handle int64
	if err := ask(ctx, g, "guest-file-open", map[string]any{"path": path, "mode": "r"}, &handle); err != nil {
		return "", err
	}
	defer func() {
		_ = ask(context.WithoutCancel(ctx), g, "guest-file-close", map[string]any{"handle": handle}, nil) // the agent ends with it at the latest
	}()
	var b strings.Builder
	for b.Len() < maxTable {
		var part struct {
			Data []byte `json:"buf-b64"`
			EOF  bool   `json:"eof"`
		}
		if err := ask(ctx, g, "guest-file-read", map[string]any{"handle": handle, "count": maxRead}, &part); err != nil {
			return "", err
		}
		b.Write(part.Data)
		if part.EOF || len(part.Data) == 0 {
			break
		}
	}
	return b.String(), nil
}
