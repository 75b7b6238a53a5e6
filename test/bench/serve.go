package main

import (
	"context"
	"flag"
	"log/slog"
	"os"

	"holdfast/internal/nbd"
)

// serve is `bench serve`: our NBD server over a file, or over another server's
// export, with nothing in between, in a process of its own. It ends with ctx.
func serve(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	file := fs.String("file", "", "disk to serve")
	remote := fs.String("remote", "", "unix socket of an NBD server to serve instead, which writes through")
	export := fs.String("export", "", "the name of its export")
	size := fs.Int64("size", 0, "its size, bytes")
	socket := fs.String("socket", "", "unix socket to listen on")
	direct := fs.Bool("direct", false, "bypass the page cache")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var e nbd.Export
	var err error
	if *remote != "" {
		e.Disk, err = nbd.NewRemote(nbd.RemoteOptions{Network: "unix", Address: *remote, Export: *export, Size: *size, WriteThrough: true})
	} else {
		e.File, err = nbd.OpenFile(*file, nbd.FileOptions{Direct: *direct})
	}
	if err != nil {
		return err
	}
	srv, err := nbd.NewServer(nbd.Options{
		Exports: []nbd.Export{e},
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(*socket)
	if err != nil {
		return err
	}
	if err := srv.Serve(ctx, ln); err != nil || e.File == nil {
		return err
	}
	return e.File.Close()
}
