// Command serve exports one disk over NBD on a unix socket until it is
// interrupted: the server under the benchmarks against other NBD servers, and
// nothing else.
//
//	go run ./internal/nbd/nbdtest/serve [-direct] [-noring] SOCKET DISK
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"holdfast/internal/nbd"
)

func main() {
	direct := flag.Bool("direct", false, "bypass the page cache")
	noRing := flag.Bool("noring", false, "serve a direct disk by worker threads")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := serve(flag.Arg(0), flag.Arg(1), *direct, *noRing, log); err != nil {
		log.Error("serve", "err", err)
		os.Exit(1)
	}
}

func serve(socket, disk string, direct, noRing bool, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f, err := nbd.OpenFile(disk, nbd.FileOptions{Direct: direct})
	if err != nil {
		return err
	}
	s, err := nbd.NewServer(nbd.Options{Exports: []nbd.Export{{File: f}}, Logger: log, NoRing: noRing})
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(socket)
	if err != nil {
		return err
	}
	if err := s.Serve(ctx, ln); err != nil {
		return err // operations may still use the disk
	}
	return f.Close()
}
