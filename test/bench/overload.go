package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
)

var (
	rpoFigures    = []string{"rpo_p50_s", "rpo_p99_s"}
	rpo1Figures   = []string{"rpo1_p50_s", "rpo1_p99_s"}
	outageFigures = []string{"outage_points_lost"}
	disksFigures  = []string{"disks_per_drva"}
)

const (
	// overloadRate is the load of mixed 4 KiB to 64 KiB writes, bytes a second.
	overloadRate = 50e6
	// outageLog is the log that must outlast 21 minutes at overloadRate.
	outageLog = 64 * gib
	// manyDisks of manyHosts idle, nearly, each of them.
	manyDisks, manyHosts = 500, 10
	manyRate             = 2e6
	manyRSS              = 2 * gib
	// rpoLook is how often the age of the newest recoverable point is looked at.
	rpoLook = 50 * time.Millisecond
)

// overloadStages measure a DRVA by itself: it runs in this process, and what
// hosts would send comes over the loopback from scripts.
func overloadStages() []journalStage {
	return []journalStage{
		{rpoFigures, func(b *bench, ctx context.Context, dir string) ([]figure, error) {
			return b.rpoUnderLoad(ctx, dir, rpoFigures, drva.DefaultInterval, [2]float64{4, 6})
		}},
		{rpo1Figures, func(b *bench, ctx context.Context, dir string) ([]figure, error) {
			return b.rpoUnderLoad(ctx, dir, rpo1Figures, time.Second, [2]float64{1.5, 2.5})
		}},
		{outageFigures, (*bench).outage},
		{disksFigures, (*bench).disksPerDRVA},
	}
}

// aloneDRVA is an appliance in this process.
type aloneDRVA struct {
	srv    *drva.Server
	store  *valve
	open   *journal.Container
	addr   string
	cancel context.CancelFunc
	ended  chan error
}

// valve is a store that can be shut: creates then wait.
type valve struct {
	store.Store
	mu   sync.Mutex
	shut chan struct{} // closed when it opens; nil: open
}

// set shuts or opens it.
func (v *valve) set(shut bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if shut && v.shut == nil {
		v.shut = make(chan struct{})
	} else if !shut && v.shut != nil {
		close(v.shut)
		v.shut = nil
	}
}

// Create implements store.Store.
func (v *valve) Create(ctx context.Context, key string, body []byte) error {
	v.mu.Lock()
	shut := v.shut
	v.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
			return errs.E("valve.Create", errs.Canceled, key, ctx.Err())
		}
	}
	return v.Store.Create(ctx, key, body)
}

// startDRVA starts one with a container in a directory.
func startDRVA(ctx context.Context, base string, interval time.Duration, quota int64) (*aloneDRVA, error) {
	place := filepath.Join(base, "container")
	if err := os.MkdirAll(place, 0o755); err != nil {
		return nil, err
	}
	st, err := dir.Open(place)
	if err != nil {
		return nil, err
	}
	key, err := journal.NewRecoveryKey()
	if err != nil {
		return nil, err
	}
	a := &aloneDRVA{store: &valve{Store: st}, ended: make(chan error, 1)}
	if a.open, err = journal.Create(ctx, a.store, journal.CreateOptions{Name: "bench", Recipients: []journal.Recipient{key.Recipient()}}); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a.addr = ln.Addr().String()
	if a.srv, err = drva.New(drva.Config{Container: a.open, Host: "bench", LogDir: filepath.Join(base, "log"), Quota: quota, Interval: interval, Listener: ln}); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	ctx, a.cancel = context.WithCancel(ctx)
	go func() { a.ended <- a.srv.Run(ctx) }()
	return a, nil
}

func (a *aloneDRVA) stop() error {
	a.cancel()
	return <-a.ended
}

// protectedBy attaches hosts and waits for a first group point.
func (a *aloneDRVA) protectedBy(ctx context.Context, hosts, disks int) ([]*scripted, error) {
	var all []*scripted
	for i := range hosts {
		h, err := newScripted(ctx, a, i, disks)
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	return all, await(ctx, syncedWithin, "a group point", func() (bool, error) { return a.srv.Status().RPO >= 0, a.broken(all) })
}

// broken says what has ended that should run.
func (a *aloneDRVA) broken(hosts []*scripted) error {
	for _, h := range hosts {
		if err := h.failed(); err != nil {
			return err
		}
	}
	return nil
}

// underLoad looks at the RPO while hosts write.
func (a *aloneDRVA) underLoad(ctx context.Context, hosts []*scripted, rate float64, d time.Duration) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var writing sync.WaitGroup
	for i, h := range hosts {
		writing.Go(func() { h.load(ctx, rate/float64(len(hosts)), uint64(i)) })
	}
	defer writing.Wait()
	var ages []float64
	tick := time.NewTicker(rpoLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ages, a.broken(hosts)
		case <-tick.C:
			ages = append(ages, a.srv.Status().RPO)
		}
	}
}

// rpoUnderLoad measures the age of the newest point all VMs can be recovered to
// from the container, as the appliance counts it when the store has taken it.
func (b *bench) rpoUnderLoad(ctx context.Context, dir string, names []string, interval time.Duration, want [2]float64) (_ []figure, err error) {
	a, err := startDRVA(ctx, dir, interval, 8*gib)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	hosts, err := a.protectedBy(ctx, 2, 2)
	if err != nil {
		return nil, err
	}
	ages, err := a.underLoad(ctx, hosts, overloadRate, b.long)
	if err != nil {
		return nil, err
	}
	in := float64(a.srv.Status().BytesIn) / 1e6 / b.long.Seconds()
	against := fmt.Sprintf("mixed 4k-64k writes of 2 hosts at %.0f MB/s for %v, a checkpoint every %v", in, b.long, interval)
	return []figure{
		spread(names[0], "s", against, bound{"<", want[0]}, []float64{percentile(ages, 0.50)}),
		spread(names[1], "s", against, bound{"<", want[1]}, []float64{percentile(ages, 0.99)}),
	}, nil
}

// outage shuts the store, cuts checkpoints meanwhile, opens it, and counts those
// that are not in the container afterwards.
func (b *bench) outage(ctx context.Context, dir string) (_ []figure, err error) {
	const quota = 8 * gib
	away := min(b.long, time.Duration(0.6*quota/overloadRate*float64(time.Second)))
	a, err := startDRVA(ctx, dir, time.Second, quota)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, a.stop())
		}
	}()
	hosts, err := a.protectedBy(ctx, 2, 2)
	if err != nil {
		return nil, err
	}
	a.store.set(true)
	before := a.srv.Status()
	if _, err := a.underLoad(ctx, hosts, overloadRate, away); err != nil {
		return nil, err
	}
	s := a.srv.Status()
	cut, used := s.Checkpoints.Group-before.Checkpoints.Group, s.Log.Used
	a.store.set(false)
	began := time.Now()
	last, err := a.srv.Checkpoint(ctx, "after")
	if err != nil {
		return nil, err
	}
	if err := await(ctx, drainedWithin, "the log to drain", func() (bool, error) {
		p := a.srv.Status().Checkpoints.LastPublished
		return p != nil && p.ID >= last.ID, a.broken(hosts)
	}); err != nil {
		return nil, err
	}
	drained := time.Since(began)
	stopped = true
	if err := a.stop(); err != nil {
		return nil, err
	}
	h, err := a.open.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return nil, err
	}
	listed := uint64(0)
	for _, p := range h.Checkpoints() {
		if p.Recoverable && p.ID < last.ID && p.Scope == dr.Group && p.ID > before.Checkpoints.LastPublished.ID {
			listed++
		}
	}
	lost := max(0, int(cut)-int(listed))
	b.remark("outage: %v of store away at %.0f MB/s took %.1f GB of the log (64 GiB: %.1f min), %d checkpoints, drained in %.1f s",
		away, overloadRate/1e6, float64(used)/1e9, float64(outageLog)/(float64(used)/away.Seconds())/60, cut, drained.Seconds())
	if cut == 0 {
		return nil, errors.New("no checkpoint was cut in the outage")
	}
	return []figure{spread(outageFigures[0], "checkpoints", fmt.Sprintf("%d group checkpoints cut in %v of store outage", cut, away), bound{"=", 0}, []float64{float64(lost)})}, nil
}

// disksPerDRVA measures what many disks cost that write a little: the figure is
// how many there are if memory and RPO keep within their bounds, else 0.
func (b *bench) disksPerDRVA(ctx context.Context, dir string) (_ []figure, err error) {
	a, err := startDRVA(ctx, dir, drva.DefaultInterval, 8*gib)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	hosts, err := a.protectedBy(ctx, manyHosts, manyDisks/manyHosts)
	if err != nil {
		return nil, err
	}
	ages, err := a.underLoad(ctx, hosts, manyRate, b.long)
	if err != nil {
		return nil, err
	}
	rss, err := ownRSS()
	if err != nil {
		return nil, err
	}
	p99, n := percentile(ages, 0.99), float64(manyDisks)
	if rss > manyRSS || p99 >= 6+drva.DefaultInterval.Seconds()/5 {
		n = 0
	}
	b.remark("%d disks on %d hosts: %d MiB of memory at most, the scripts of the hosts included, rpo p99 %.2f s", manyDisks, manyHosts, rss/mib, p99)
	return []figure{spread(disksFigures[0], "disks", fmt.Sprintf("%d hosts, %.0f MB/s together, memory at most 2 GiB, RPO kept", manyHosts, manyRate/1e6), bound{">=", manyDisks}, []float64{n})}, nil
}

// ownRSS is the most memory this process ever had resident, in bytes.
func ownRSS() (int64, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not tell the memory of this process")
}
