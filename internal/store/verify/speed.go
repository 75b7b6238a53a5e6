package verify

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// latencyList bounds the lists whose latency is taken.
const latencyList = 100

func costLatency(s *scale, _ uint64) Budget {
	n := uint64(s.samples)
	return Budget{3 * n, int64(n) * smallBody, int64(n) * smallBody}
}

// tryLatency takes the time of small requests, one at a time.
func tryLatency(ctx context.Context, p *probe) finding {
	n := p.scale.samples
	put, get, list := make([]time.Duration, n), make([]time.Duration, n), make([]time.Duration, n)
	c := p.conns[0]
	dir := p.prefix + "speed/"
	for i := range n {
		key := fmt.Sprintf("%s%03d", dir, i)
		began := time.Now()
		if _, err := p.put(ctx, c, key, smallBody); err != nil {
			return *trouble("creating", err)
		}
		put[i] = time.Since(began)
		began = time.Now()
		if _, err := c.readRange(ctx, key, make([]byte, smallBody), 0); err != nil {
			return *trouble("reading", err)
		}
		get[i] = time.Since(began)
		began = time.Now()
		if _, err := c.list(ctx, dir, "", latencyList); err != nil {
			return *trouble("listing", err)
		}
		list[i] = time.Since(began)
	}
	p.report.Latency = []Latency{latency("put", smallBody, put), latency("get", smallBody, get), latency("list", 0, list)}
	l := p.report.Latency
	return pass("p50/p99 of %d: put %v/%v, get %v/%v, list %v/%v", n,
		brief(l[0].P50), brief(l[0].P99), brief(l[1].P50), brief(l[1].P99), brief(l[2].P50), brief(l[2].P99))
}

// latency sorts samples and takes the nearest ranks.
func latency(op string, size int64, samples []time.Duration) Latency {
	slices.Sort(samples)
	n := len(samples)
	rank := func(percent int) time.Duration { return samples[min((n*percent+99)/100, n)-1] }
	return Latency{Op: op, Count: n, Bytes: size, P50: rank(50), P99: rank(99)}
}

// brief rounds a duration to three digits or so.
func brief(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > 100*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}

func mib(n int64) string { return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20)) }

func costThroughput(s *scale, _ uint64) Budget {
	n := uint64(s.streams)
	return Budget{2 * n, int64(n) * s.streamBody, int64(n) * s.streamBody}
}

// tryThroughput moves a few objects in parallel, up and then down.
func tryThroughput(ctx context.Context, p *probe) finding {
	n := p.scale.streams
	failed := make([]error, n)
	bodies := make([][]byte, n) // made beforehand: making them takes time
	keys := make([]string, n)
	for i := range n {
		keys[i] = fmt.Sprintf("%sstream/%d", p.prefix, i)
		p.sent(keys[i])
		bodies[i] = body(made{p.fresh(), int(p.scale.streamBody)})
	}
	rate := func(move func(i int) error) float64 {
		began := time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { failed[i] = move(i) })
		}
		wg.Wait()
		return float64(int64(n)*p.scale.streamBody) / time.Since(began).Seconds()
	}
	up := rate(func(i int) error { return p.conn(i).create(ctx, keys[i], bodies[i]) })
	for _, err := range failed {
		if err != nil {
			return *trouble("writing", err)
		}
	}
	down := rate(func(i int) error {
		_, err := p.conn(i).readRange(ctx, keys[i], bodies[i], 0)
		return err
	})
	for _, err := range failed {
		if err != nil {
			return *trouble("reading", err)
		}
	}
	p.report.Throughput = Throughput{Up: up, Down: down}
	return pass("%d transfers of %s at once: %s/s up, %s/s down", n, mib(p.scale.streamBody), mib(int64(up)), mib(int64(down)))
}
