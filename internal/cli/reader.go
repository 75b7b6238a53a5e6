package cli

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

const (
	// readSpan is how long a reader's pin holds without being renewed: what a
	// reader that died keeps from being deleted is back after so long.
	readSpan = 2 * time.Hour
	// releaseLimit is how long giving a pin back may take at the end.
	releaseLimit = 10 * time.Second
)

// holdForReading pins a checkpoint for as long as it is read, and renews the
// pin meanwhile. Where the store lets us only read, or takes no pin for another
// reason, it says so and reading goes on: what the newest manifest needs stays
// for the grace. release must be called.
func holdForReading(cmd *cobra.Command, c *journal.Container, t dr.TimelineID, id dr.CheckpointID) (release func(), err error) {
	r, err := c.PinReader(cmd.Context(), t, id, readSpan, "")
	switch errs.KindOf(err) {
	case errs.NotFound, errs.Corrupt, errs.Canceled:
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "the checkpoint could not be pinned (%v); it is kept while reading takes no longer than the retention grace\n", err)
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	var wg sync.WaitGroup
	wg.Go(func() { renew(ctx, r, cmd.ErrOrStderr()) })
	return func() {
		cancel()
		wg.Wait()
		giveBack(context.WithoutCancel(cmd.Context()), r, cmd.ErrOrStderr())
	}, nil
}

// renew keeps a pin in force until ctx ends.
func renew(ctx context.Context, r *journal.Reader, out io.Writer) {
	tick := time.NewTicker(readSpan / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.Renew(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintf(out, "the checkpoint's pin could not be renewed: %v\n", err)
		}
	}
}

func giveBack(ctx context.Context, r *journal.Reader, out io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	if err := r.Release(ctx); err != nil {
		fmt.Fprintf(out, "the checkpoint's pin was not released, it expires by itself: %v\n", err)
	}
}
