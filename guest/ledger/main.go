//go:build linux

package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/demo/ledger/chain"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/errs"
)

const (
	portPath   = "/dev/ttyS0"
	ledgerPath = "/ledger/ledger.db" // the host's offline check looks there too
)

func main() {
	port, err := openPort(portPath)
	if err != nil {
		fmt.Println("\n" + talk.Reply{Word: talk.Fatal, Text: err.Error()}.String())
		powerOff()
		return
	}
	if err := run(context.Background(), port); err != nil {
		say(port, talk.Reply{Word: talk.Fatal, Text: err.Error()})
	}
	powerOff()
}

// book is a ledger, whatever keeps it.
type book interface {
	Put(ctx context.Context, n, cause uint64, size int) error
	Max() uint64
	Cause() uint64
	Checkpoint(ctx context.Context) error
	Close() error
}

// open opens the ledger of the disk: in SQLite, unless there is a PostgreSQL.
func open(ctx context.Context) (book, chain.Result, error) {
	if hasPostgres() {
		return openPostgres()
	}
	return chain.Open(ctx, ledgerPath)
}

// run verifies the ledger and serves it until it is asked to end.
func run(ctx context.Context, port *os.File) error {
	l, res, err := open(ctx)
	if err != nil {
		say(port, talk.Reply{Word: talk.Verified, Bad: 1})
		return err
	}
	say(port, talk.Reply{Word: talk.Verified, N: res.Max, Bad: uint64(res.Bad), Cause: res.Cause})
	for _, p := range res.Problems {
		say(port, talk.Reply{Word: talk.Err, Text: p})
	}
	requests := make(chan string)
	go readRequests(port, requests)
	button := make(chan struct{})
	go watchButton(button)
	say(port, talk.Reply{Word: talk.Ready})
	go runAgent()
	for {
		select {
		case line := <-requests:
			reply := obey(ctx, l, line)
			say(port, reply)
			if reply.Word == talk.Bye {
				return l.Close()
			}
		case <-button:
			say(port, talk.Reply{Word: talk.Bye})
			return l.Close()
		}
	}
}

// obey does what one line asks and returns what to say about it.
func obey(ctx context.Context, l book, line string) talk.Reply {
	r, err := talk.ParseRequest(line)
	if err == nil {
		switch r.Verb {
		case talk.Put:
			if r.Bytes == talk.DefaultBytes {
				r.Bytes = chain.DefaultPayload
			}
			if err = l.Put(ctx, r.N, r.Cause, r.Bytes); err == nil {
				return talk.Reply{Word: talk.Commit, N: r.N}
			}
		case talk.Status:
			return talk.Reply{Word: talk.State, N: l.Max(), Cause: l.Cause()}
		case talk.Sync:
			if err = l.Checkpoint(ctx); err == nil {
				unix.Sync()
				return talk.Reply{Word: talk.Synced}
			}
		case talk.PowerOff:
			return talk.Reply{Word: talk.Bye}
		default:
			err = errs.New("ledger.obey", errs.Invalid, line, "no such verb")
		}
	}
	return talk.Reply{Word: talk.Err, Text: err.Error()}
}

// powerOff leaves the root file system clean and ends the machine.
func powerOff() {
	unix.Sync()
	// Files of this very program are open on it: read-only is as clean as the
	// root gets, and if it cannot be had the journal makes up for it.
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
