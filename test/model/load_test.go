package model

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// Shape of the load: enough writers that every part of the pipeline is busy at
// once, slow enough that two cores keep up.
const (
	chains       = 4
	chainPause   = 2 * time.Millisecond  // at most, between steps
	regionPause  = 60 * time.Millisecond // at most, between operations
	brawlPause   = 80 * time.Millisecond
	brawlers     = 2 // per disk
	maxOp        = 1 << 20
	opLimit      = time.Minute // an operation that takes longer hangs
	redial       = 10 * time.Millisecond
	excuseWithin = 5 * time.Second // an error is excused by a kill noted by then
)

// newChain lays a chain over the disks: two rounds of slots, each round over
// all disks in a random order that changes host at every hop.
func newChain(rng *rand.Rand, id int) *chain {
	c := &chain{id: id}
	for round := range int64(2) {
		on := [hosts][]int{rng.Perm(disksPerHost), rng.Perm(disksPerHost)}
		for i := range disks {
			host := (i + id) % hosts
			d := host*disksPerHost + on[host][i/hosts]
			// Two chains share a block.
			off := round*32<<10 + int64(id/2)*dr.BlockSize + int64(id%2)*2000 + 41
			c.slots = append(c.slots, place{d, off, 1501})
		}
	}
	return c
}

// newTruth lays out chains and regions.
func newTruth(rng *rand.Rand) *truth {
	t := &truth{}
	for id := range chains {
		t.chains = append(t.chains, newChain(rng, id))
	}
	for d := range disks {
		for i := range int64(regions) {
			t.regions = append(t.regions, &region{id: len(t.regions), place: place{d, chainArea + 100 + i*regionSize, regionSize}})
		}
	}
	return t
}

// brawlPlace is the part of a disk where writers write over each other.
func brawlPlace(d int) place {
	off := int64(chainArea + 100 + regions*regionSize)
	return place{d, off, sizeOf(d) - off}
}

// randomOp returns an operation within n bytes.
func randomOp(rng *rand.Rand, n int64) op {
	o := op{seed: rng.Uint64()}
	switch i := rng.IntN(10); {
	case i < 5:
		o.n = dr.BlockSize * (1 + rng.Int64N(8))
		o.off = rng.Int64N(max(1, (n-o.n)/dr.BlockSize+1)) * dr.BlockSize
	case i < 9:
		o.n = 1 + rng.Int64N(64<<10)
		o.off = rng.Int64N(max(1, n-o.n+1))
	default:
		o.n = 1 + rng.Int64N(maxOp)
		o.off = rng.Int64N(max(1, n-o.n+1))
	}
	o.n = min(o.n, n-o.off)
	switch rng.IntN(8) {
	case 0:
		o.kind = opZero
	case 1:
		o.kind = opTrim
	}
	return o
}

// guest is one connection of the load to a disk, made again whenever the
// host's component dies. Safe for concurrent use.
type guest struct {
	l    *load
	disk int

	mu    sync.Mutex
	c     *nbd.Client
	kills int // of the host, before c was dialled
}

// load is everything that writes.
type load struct {
	s       *site
	truth   *truth
	ctx     context.Context // ends only when the test gives up
	stop    atomic.Bool
	wg      sync.WaitGroup
	guests  [disks][]*guest
	witness *witness

	mu        sync.Mutex
	latencies []latency // guarded by mu: the slow ones
	slowest   time.Duration
	ops       int
	broken    int // operations that were repeated on a new connection
}

// latency is an operation that took long.
type latency struct {
	what  string
	begin time.Time
	took  time.Duration
}

// slow is what is looked at more closely.
const slow = time.Second

// startLoad sets everything to work.
func startLoad(ctx context.Context, s *site, t *truth, seed uint64) *load {
	l := &load{s: s, truth: t, ctx: ctx, witness: startWitness(s)}
	for d := range disks {
		for range 2 {
			l.guests[d] = append(l.guests[d], &guest{l: l, disk: d})
		}
	}
	worker := uint64(0)
	run := func(f func(rng *rand.Rand) error) {
		worker++
		rng := rand.New(rand.NewPCG(seed, worker))
		l.wg.Go(func() {
			if err := f(rng); err != nil && ctx.Err() == nil {
				s.Note("%v", err)
			}
		})
	}
	for _, c := range t.chains {
		run(func(rng *rand.Rand) error { return l.runChain(c, rng) })
	}
	for _, r := range t.regions {
		run(func(rng *rand.Rand) error { return l.runRegion(r, rng) })
	}
	for d := range disks {
		for range brawlers {
			run(func(rng *rand.Rand) error { return l.runBrawl(brawlPlace(d), rng) })
		}
	}
	return l
}

// finish lets operations under way end and closes the connections.
func (l *load) finish() {
	l.stop.Store(true)
	l.wg.Wait()
	for _, gs := range l.guests {
		for _, g := range gs {
			g.drop(g.c)
		}
	}
	l.witness.finish()
}

// pause waits a random time; false: the load ends.
func (l *load) pause(rng *rand.Rand, most time.Duration) bool {
	t := time.NewTimer(time.Duration(rng.Int64N(int64(most))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.ctx.Done():
	}
	return !l.stop.Load() && l.ctx.Err() == nil
}

// runChain issues a chain's steps.
func (l *load) runChain(c *chain, rng *rand.Rand) error {
	buf := make([]byte, c.slots[0].n)
	for n := uint64(1); l.pause(rng, chainPause); n++ {
		s := c.slots[c.slotOf(n)]
		c.encode(buf, n)
		c.issue()
		err := l.do(l.guests[s.disk][c.id%2], "chain write", func(ctx context.Context, cl *nbd.Client) error {
			_, err := cl.WriteAt(ctx, buf, s.off, 0)
			return err
		})
		if err != nil {
			return fmt.Errorf("chain %d, step %d: %w", c.id, n, err)
		}
		c.ack()
	}
	return nil
}

// runRegion does random operations, one at a time, and now and then reads its
// own writes.
func (l *load) runRegion(r *region, rng *rand.Rand) error {
	live, buf := r.initial(), make([]byte, maxOp)
	g := l.guests[r.disk][r.id%2]
	for l.pause(rng, regionPause) {
		switch rng.IntN(16) {
		case 0:
			if err := l.do(g, "flush", func(ctx context.Context, cl *nbd.Client) error { return cl.Flush(ctx) }); err != nil {
				return err
			}
			continue
		case 1:
			o := randomOp(rng, r.n)
			p := buf[:o.n]
			err := l.do(g, "read", func(ctx context.Context, cl *nbd.Client) error {
				_, err := cl.ReadAt(ctx, p, r.off+o.off)
				return err
			})
			if err != nil {
				return err
			}
			if !slices.Equal(p, live[o.off:o.off+o.n]) {
				return fmt.Errorf("region %d: %d bytes at %d are not what was written", r.id, o.n, o.off)
			}
			continue
		}
		o := randomOp(rng, r.n)
		o.apply(live)
		r.begin(o)
		if err := l.perform(g, r.off, &o, live[o.off:o.off+o.n], rng); err != nil {
			return fmt.Errorf("region %d, operation of %d bytes: %w", r.id, o.n, err)
		}
		r.ack()
	}
	return nil
}

// runBrawl does random operations where others do, too.
func (l *load) runBrawl(p place, rng *rand.Rand) error {
	buf := make([]byte, p.n)
	g := l.guests[p.disk][rng.IntN(2)]
	for l.pause(rng, brawlPause) {
		o := randomOp(rng, p.n)
		o.apply(buf)
		if err := l.perform(g, p.off, &o, buf[o.off:o.off+o.n], rng); err != nil {
			return fmt.Errorf("brawl on disk %d: %w", p.disk, err)
		}
	}
	return nil
}

// perform does o, of a part of the disk that begins at base.
func (l *load) perform(g *guest, base int64, o *op, data []byte, rng *rand.Rand) error {
	var flags nbd.Flags
	if rng.IntN(16) == 0 {
		flags = nbd.FUA
	}
	switch o.kind {
	case opZero:
		if rng.IntN(2) == 0 {
			flags |= nbd.NoHole
		}
		return l.do(g, "zeroes", func(ctx context.Context, cl *nbd.Client) error { return cl.WriteZeroes(ctx, base+o.off, o.n, flags) })
	case opTrim:
		return l.do(g, "trim", func(ctx context.Context, cl *nbd.Client) error { return cl.Trim(ctx, base+o.off, o.n, flags) })
	}
	return l.do(g, "write", func(ctx context.Context, cl *nbd.Client) error {
		_, err := cl.WriteAt(ctx, data, base+o.off, flags)
		return err
	})
}

// do performs one operation, as a guest's driver does: when the connection
// dies with the host's component, again on the next one. What it takes on a
// connection that lives is a latency the guest sees.
func (l *load) do(g *guest, what string, f func(context.Context, *nbd.Client) error) error {
	for {
		c, kills, err := g.client()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(l.ctx, opLimit)
		begin := time.Now()
		err = f(ctx, c)
		took := time.Since(begin)
		cancel()
		l.measure(latency{fmt.Sprintf("%s on disk %d", what, g.disk), begin, took}, err)
		switch {
		case err == nil:
			return nil
		case l.ctx.Err() != nil:
			return l.ctx.Err()
		case !errs.Is(err, errs.Unavailable):
			return fmt.Errorf("a guest's %s on disk %d failed after %v: %w", what, g.disk, took, err)
		case !g.excused(kills):
			return fmt.Errorf("disk %d's connection broke while its host lived: %w", g.disk, err)
		}
		g.drop(c)
	}
}

func (l *load) measure(v latency, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.broken++
		return
	}
	l.ops++
	l.slowest = max(l.slowest, v.took)
	if v.took >= slow {
		l.latencies = append(l.latencies, v)
	}
}

// client returns the connection, made if there is none, and how often the host
// had been killed before it was made.
func (g *guest) client() (*nbd.Client, int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	until := time.Now().Add(opLimit)
	for g.c == nil {
		kills := g.l.s.hosts[hostOf(g.disk)].killed()
		c, err := nbd.Dial(g.l.ctx, "unix", g.l.s.sockets[g.disk], nbd.DialOptions{Export: diskName(g.disk), Timeout: opLimit})
		switch {
		case err == nil:
			g.c, g.kills = c, kills
		case g.l.ctx.Err() != nil:
			return nil, 0, g.l.ctx.Err()
		case time.Now().After(until):
			return nil, 0, fmt.Errorf("disk %d cannot be reached: %w", g.disk, err)
		default:
			time.Sleep(redial)
		}
	}
	return g.c, g.kills, nil
}

// excused reports whether the host was killed since kills were counted.
func (g *guest) excused(kills int) bool {
	h := g.l.s.hosts[hostOf(g.disk)]
	for until := time.Now().Add(excuseWithin); h.killed() == kills; time.Sleep(redial) {
		if time.Now().After(until) {
			return false
		}
	}
	return true
}

// drop gives c up, unless another user of the guest has done so.
func (g *guest) drop(c *nbd.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c != nil && g.c == c {
		g.c = nil
		c.Close()
	}
}
