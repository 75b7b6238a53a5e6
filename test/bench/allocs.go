package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"

	"holdfast/internal/nbd"
)

const (
	allocWarmup = 400  // rounds before counting: pools fill, tables grow
	allocRounds = 2500 // rounds counted
	allocDepth  = 16   // requests of a round
)

// countAllocs returns the heap allocations per write of the server at socket,
// which runs in this process.
//
// Tickers and the collector allocate too, in proportion to time and not to
// requests; with 40,000 requests that is far below one in a hundred, and what
// is below that is rounded away.
func countAllocs(ctx context.Context, socket string) (float64, error) {
	c, err := dialRaw(socket, allocDepth)
	if err != nil {
		return 0, err
	}
	rounds := func(n int) error {
		for range n {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := c.round(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := rounds(allocWarmup); err != nil {
		return 0, errors.Join(err, c.close())
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = rounds(allocRounds)
	runtime.ReadMemStats(&after)
	per := float64(after.Mallocs-before.Mallocs) / (allocRounds * allocDepth)
	return math.Round(per*100) / 100, errors.Join(err, c.close())
}

// allocsPassthrough counts the server's allocations with nothing in between.
func (b *bench) allocsPassthrough(ctx context.Context, disk string) (n float64, err error) {
	f, err := nbd.OpenFile(disk, nbd.FileOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	socket := filepath.Join(b.sockets, "allocs")
	stop, err := serveHere(ctx, socket, nbd.Export{File: f})
	if err != nil {
		return 0, err
	}
	n, err = countAllocs(ctx, socket)
	return n, errors.Join(err, stop())
}

// serveHere serves an export from this process until stop is called.
func serveHere(ctx context.Context, socket string, e nbd.Export) (stop func() error, err error) {
	srv, err := nbd.NewServer(nbd.Options{Exports: []nbd.Export{e}})
	if err != nil {
		return nil, err
	}
	ln, err := nbd.Listen(socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- srv.Serve(ctx, ln) }()
	return func() error {
		cancel()
		if err := <-over; err != nil {
			return fmt.Errorf("our server: %w", err)
		}
		return nil
	}, nil
}
