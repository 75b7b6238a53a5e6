package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"holdfast/internal/nbd"
)

// stallFigures are what a guest feels of a DRVA that dies.
var stallFigures = []string{"guest_stall_on_drva_kill_ms"}

const (
	stallKills    = 50
	stallDiskSize = 256 * mib
	// A DRVA runs for so long before it is killed again, and is away for so
	// long: less and more than the host's stream has room for.
	stallUp   = 500 * time.Millisecond
	stallAway = 3 * time.Second
)

// prober is a guest that writes one block after the other and remembers the
// longest that one took.
type prober struct {
	worst atomic.Int64 // nanoseconds
	count atomic.Int64
}

// run writes until ctx ends; an error is one the guest would have seen.
func (p *prober) run(ctx context.Context, c *nbd.Client) error {
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, blockSize)
	for ctx.Err() == nil {
		for i := 0; i < len(buf); i += 512 {
			buf[i] = byte(rng.Uint32())
		}
		began := time.Now()
		_, err := c.WriteAt(ctx, buf, rng.Int64N(stallDiskSize/blockSize)*blockSize, 0)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the guest got an error: %w", err)
		}
		p.worst.Store(max(p.worst.Load(), int64(time.Since(began))))
		p.count.Add(1)
	}
	return nil
}

// stallStage kills the DRVA again and again under a guest that writes, and then
// proves that nothing was lost by it.
func (b *bench) stallStage(ctx context.Context, _ *stage) (err error) {
	if !b.wants(stallFigures...) {
		return nil
	}
	s, err := b.newSystem(ctx, systemSpec{name: "stall", ack: "async", size: stallDiskSize, quota: gib})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	c, err := nbd.Dial(ctx, "unix", s.socket, nbd.DialOptions{Export: "disk0"})
	if err != nil {
		return err
	}
	defer c.Close()
	kills := stallKills
	if b.quick {
		kills = 2
	}
	var p prober
	writing, stop := context.WithCancel(ctx)
	defer stop()
	wrote := make(chan error, 1)
	go func() { wrote <- p.run(writing, c) }()
	worsts := make([]float64, 0, kills)
	rng := rand.New(rand.NewPCG(3, 4))
	for range kills {
		p.worst.Store(0)
		if err := s.killDRVA(ctx, b, time.Duration(rng.Int64N(int64(stallAway)))); err != nil {
			return err
		}
		worsts = append(worsts, float64(p.worst.Load())/1e6)
		select {
		case err := <-wrote:
			return err
		default:
		}
	}
	stop()
	if err := <-wrote; err != nil {
		return err
	}
	f := spread(stallFigures[0], "ms", fmt.Sprintf("the longest of %d writes, one at a time, over %d kills of the DRVA", p.count.Load(), kills),
		bound{"<=", 2000}, worsts)
	b.notes = append(b.notes, fmt.Sprintf("%s: median of a kill %.0f ms", f.Name, f.Value))
	f.Value = f.max // what nobody waits longer than
	b.figures = append(b.figures, f)
	return s.verify(ctx)
}

// killDRVA kills the DRVA after a moment, and starts it again, at the same
// address, when it has been away for some time.
func (s *system) killDRVA(ctx context.Context, b *bench, away time.Duration) error {
	if err := pause(ctx, stallUp); err != nil {
		return err
	}
	s.drva.kill()
	if err := pause(ctx, away); err != nil {
		return err
	}
	return s.startDRVA(ctx, b)
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
