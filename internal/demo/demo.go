package demo

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/qemu"
)

// Options say how the demo runs. The zero value of each but Binary and Image
// is a sensible choice.
type Options struct {
	Binary   string        // the holdfast binary
	Image    string        // the test guest's disk image
	Dir      string        // where to work; empty: a new directory under the system's temporary one
	Keep     bool          // leave site B and the container behind
	Seed     uint64        // of the random moment of the disaster; 0: a random one
	Interval time.Duration // between checkpoints; 0: 5 s
	MinRun   time.Duration // earliest disaster after protection is complete; 0: 12 s
	MaxRun   time.Duration // latest; 0: 25 s
	Ack      string        // ack rule of the hosts; empty: async
	Out      io.Writer     // what happens, for people; nil: nobody
	Second   bool          // the second act as well: test, failover, failback
	// Inspect, if not nil, is called between disaster and recovery: tests look
	// at more checkpoints than the newest there.
	Inspect func(ctx context.Context, l *Loss) error
}

// Loss is the state of the world after the disaster.
type Loss struct {
	URL    string    // of the container
	Key    string    // file of the recovery key
	Dir    string    // site B's directory, for scratch
	At     time.Time // of the disaster
	before func(time.Time) ack
}

// AckedBefore returns the highest commits that were seen acknowledged, from
// outside the guests, before t.
func (l *Loss) AckedBefore(t time.Time) (leader, follower uint64) {
	a := l.before(t)
	return a.leader, a.follower
}

// Result is what the demo measured.
type Result struct {
	Seed       uint64
	Acked      [guests]uint64 // at the disaster
	Promised   [guests]uint64 // of these, acknowledged before the recovered checkpoint was cut
	Recovered  [guests]uint64
	RPO        time.Duration // disaster minus the time of the recovered checkpoint
	RTO        time.Duration // from the disaster until both guests were up again
	Checkpoint dr.CheckpointID
	Points     int   // recoverable group checkpoints in the container
	BytesIn    int64 // received by the DRVA
	BytesOut   int64 // written to the store
	BytesBack  int64 // read from the store by the recovery
	Second     *Second
}

// limits of the phases: generous, because emulated guests on a busy machine
// are slow; the demo waits on events and these only end what hangs.
const (
	bootLimit    = 3 * time.Minute
	protectLimit = 5 * time.Minute
	recoverLimit = 5 * time.Minute
)

// run is one demo under way.
type run struct {
	opts     Options
	dir      string
	provider hypervisor.Provider
	accel    hypervisor.Accelerator
	vms      [guests]dr.VMConfig
	drvaAddr string
	acks     acks
	res      Result
}

// Run runs the demo to its end and returns what it measured. An error says
// what went wrong, or which promise was broken (kind Corrupt).
func Run(ctx context.Context, opts Options) (*Result, error) {
	r, err := newRun(opts)
	if err != nil {
		return nil, err
	}
	defer r.cleanUp()
	key, recipient, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	a, err := r.protect(ctx, recipient)
	if a != nil {
		// Site A never survives the demo; after the disaster this finds nothing.
		defer a.destroy() //nolint:errcheck // the first call's error was returned
	}
	if err != nil {
		return nil, err
	}
	loss, err := r.disaster(ctx, a, key)
	if err != nil {
		return nil, err
	}
	if opts.Inspect != nil {
		if err := opts.Inspect(ctx, loss); err != nil {
			return nil, err
		}
	}
	if err := r.recover(ctx, loss); err != nil {
		return nil, err
	}
	if err := r.judge(); err != nil || !opts.Second {
		return &r.res, err
	}
	return &r.res, r.second(ctx, loss)
}

func newRun(opts Options) (*run, error) {
	if opts.Out == nil {
		opts.Out = io.Discard
	}
	if opts.Seed == 0 {
		opts.Seed = rand.Uint64()
	}
	if opts.Interval == 0 {
		opts.Interval = 5 * time.Second
	}
	if opts.MinRun == 0 {
		opts.MinRun = 12 * time.Second
	}
	if opts.MaxRun == 0 {
		opts.MaxRun = 25 * time.Second
	}
	if opts.MaxRun < opts.MinRun {
		return nil, errs.New("demo.Run", errs.Invalid, "", "the latest moment of the disaster lies before the earliest")
	}
	if _, err := os.Stat(opts.Image); err != nil {
		return nil, errs.E("demo.Run", errs.NotFound, opts.Image, err).WithRemedy("build the guest's image: make guest")
	}
	dir := opts.Dir
	if dir == "" {
		// Short, because unix socket paths may have only 107 bytes.
		d, err := os.MkdirTemp("", "holdfast-")
		if err != nil {
			return nil, errs.E("demo.Run", errs.Unavailable, os.TempDir(), err)
		}
		dir = d
	}
	p, err := qemu.New(qemu.Options{DieWithParent: true})
	if err != nil {
		return nil, err
	}
	r := &run{opts: opts, dir: dir, provider: p}
	r.res.Seed = opts.Seed
	return r, nil
}

// cleanUp ends what still runs and removes what the demo made.
func (r *run) cleanUp() {
	_ = r.provider.Close() // it kills; nothing more can be done
	if r.opts.Keep {
		r.say("kept: %s", r.dir)
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.say("could not remove %s: %v", r.dir, err)
	}
}

func (r *run) say(format string, a ...any) {
	fmt.Fprintf(r.opts.Out, format+"\n", a...)
}

// prepare makes site B's recovery key and finds out how guests can run.
func (r *run) prepare(ctx context.Context) (key, recipient string, err error) {
	r.say("seed %d (repeat with --seed)", r.res.Seed)
	q := r.provider.(*qemu.Provider)
	accel, why, err := q.Accelerator(ctx)
	if err != nil {
		return "", "", err
	}
	r.accel = accel
	r.say("guests run under %s: %s", accel, why)
	b := filepath.Join(r.dir, "b")
	if err := os.MkdirAll(b, 0o700); err != nil {
		return "", "", errs.E("demo.prepare", errs.Unavailable, b, err)
	}
	key = filepath.Join(b, "recovery.key")
	err = command(ctx, r.opts.Binary, &recipient, "key", "new", key)
	return key, recipient, err
}

// protect builds site A, boots the guests, and returns when everything is
// protected: baselines complete, group checkpoints published.
func (r *run) protect(ctx context.Context, recipient string) (*siteA, error) {
	r.say("site A: 1 DRVA, %d host components, %d guests", guests, guests)
	a, err := r.buildSiteA(ctx, recipient)
	if err != nil {
		return a, err
	}
	bctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("the guests did not boot within %v", bootLimit))
	defer cancel()
	if err := a.bootGuests(bctx, r); err != nil {
		return a, err
	}
	r.say("site A: both guests are up, booted from their protected disks")
	return a, nil
}

// disaster drives the guests, shows how protection goes, and kills site A at a
// random moment after protection is complete.
func (r *run) disaster(ctx context.Context, a *siteA, key string) (*Loss, error) {
	d := ledger.NewDriver(a.consoles[0], a.consoles[1], rowBytes)
	wctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	driven := make(chan error, 1)
	wg.Go(func() { driven <- d.Run(wctx) })
	wg.Go(func() { r.acks.watch(wctx, d) })

	spread := r.opts.MaxRun - r.opts.MinRun
	rng := rand.New(rand.NewPCG(r.opts.Seed, 0))
	after := r.opts.MinRun + time.Duration(rng.Int64N(int64(spread)+1))
	if err := r.steady(ctx, a, d, driven, after); err != nil {
		return nil, err
	}
	last := r.acks.sample(d)
	r.res.Acked = [guests]uint64{last.leader, last.follower}
	at := time.Now()
	if err := a.destroy(); err != nil {
		return nil, err
	}
	stop()
	r.say("\ndisaster: every process of site A is killed, its directory is gone (acknowledged: %d and %d commits)", last.leader, last.follower)
	return &Loss{URL: r.url(), Key: key, Dir: filepath.Join(r.dir, "b"), At: at, before: r.acks.before}, nil
}

// rowBytes is the payload of a commit.
const rowBytes = 24 << 10
