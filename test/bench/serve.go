package main

import (
	"context"
	"flag"
	"log/slog"
	"os"

	"holdfast/internal/nbd"
)

// serve is `bench serve`: our NBD server over a file with nothing in between,
// in a process of its own. It ends with ctx.
func serve(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	file := fs.String("file", "", "disk to serve")
	socket := fs.String("socket", "", "unix socket to listen on")
	direct := fs.Bool("direct", false, "bypass the page cache")
	if err := fs.Parse(args); err != nil {
		return err
	}
	disk, err := nbd.OpenFile(*file, nbd.FileOptions{Direct: *direct})
	if err != nil {
		return err
	}
	srv, err := nbd.NewServer(nbd.Options{
		Exports: []nbd.Export{{File: disk}},
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(*socket)
	if err != nil {
		return err
	}
	if err := srv.Serve(ctx, ln); err != nil {
		return err
	}
	return disk.Close()
}
