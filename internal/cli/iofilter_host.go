package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/iofilter/takeover"
)

const (
	// heirSuffix makes the socket on which a next process asks to take over from
	// the status socket.
	heirSuffix = ".heir"
	// handOverDrain is how long guests may wait in a hand-over for the DRVA to
	// have what the stream holds: what it has not by then is sent again, found by
	// the sidecars.
	handOverDrain = 500 * time.Millisecond
	// connectRetry is the pause before the hypervisor is tried again.
	connectRetry = time.Second
	// managedLimit is how long a call about VMs waits for the hypervisor.
	managedLimit = 10 * time.Second
	// answerEvery is how often a new process looks whether it answers.
	answerEvery = 5 * time.Millisecond
)

// hostProcess is one process of the host component: a Filter, the local calls,
// and, with a platform, the Manager beside it. It begins by itself or in the
// place of another, and ends so, too.
type hostProcess struct {
	log  *slog.Logger
	cfg  *ioFilterConfig
	path string // of the configuration
	dial func(context.Context) (net.Conn, error)

	heirs  *takeover.Listener    // nil: nobody can take over, because there is no status socket
	before *takeover.Predecessor // nil: it began by itself
	asked  time.Time             // when the guests of before began to wait
	left   chan struct{}         // closed when no other process answers local calls, or has the hypervisor's monitors

	guard *live.Guard // of the watchdog; nil: there is to be none

	mu       sync.Mutex
	watchdog *iofilter.WatchdogStatus // guarded by mu; nil: there is to be none
	filter   *iofilter.Filter         // guarded by mu
	platform hypervisor.Platform      // guarded by mu; nil: none, or not connected yet
	manager  *live.Manager            // guarded by mu; nil likewise
	managed  chan struct{}            // guarded by mu; closed when there is a manager
}

func newHostProcess(log *slog.Logger, cfg *ioFilterConfig, path string, dial func(context.Context) (net.Conn, error)) *hostProcess {
	return &hostProcess{log: log, cfg: cfg, path: path, dial: dial, left: make(chan struct{}), managed: make(chan struct{})}
}

// id is whose process it is.
func (h *hostProcess) id() takeover.Identity {
	return takeover.Identity{Domain: h.cfg.Domain, Host: h.cfg.Host}
}

// newFilter makes the Filter to run next, over what is handed over; nil: over
// the configuration alone.
func (h *hostProcess) newFilter(vms []iofilter.VM, legacy *iofilter.Legacy) error {
	cfg := h.cfg.Config
	cfg.VMs = vms
	var find func(context.Context, dr.VMID) (hypervisor.LiveVM, error)
	if h.cfg.Platform.isSet() {
		find = h.findVM
	}
	f, err := iofilter.New(cfg, iofilter.Options{Logger: h.log, Dial: h.dial, Legacy: legacy, Freezer: newFreezer(h.cfg.VMs, find)})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.filter = f
	if h.watchdog != nil {
		f.Watched(*h.watchdog)
	}
	return nil
}

func (h *hostProcess) now() (*iofilter.Filter, *live.Manager, hypervisor.Platform) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.filter, h.manager, h.platform
}

// findVM finds a VM at the hypervisor.
func (h *hostProcess) findVM(ctx context.Context, id dr.VMID) (hypervisor.LiveVM, error) {
	_, _, p := h.now()
	if p == nil {
		return nil, notConnected(h.cfg.Name)
	}
	return p.VM(ctx, id.String())
}

func notConnected(name string) error {
	return errs.New("iofilter.platform", errs.Unavailable, name, "the host component is not connected to its hypervisor yet").WithRemedy("repeat in a moment")
}

// calls are the local calls. Each reaches the Filter and the Manager there are
// then.
func (h *hostProcess) calls() map[string]control.Handler {
	f, _, _ := h.now()
	to := map[string]control.Handler{}
	for path := range hostCalls(f) {
		to[path] = func(ctx context.Context, body []byte) (any, error) {
			f, _, _ := h.now()
			return hostCalls(f)[path](ctx, body)
		}
	}
	if h.cfg.Platform.isSet() {
		h.liveCalls(to)
	}
	return to
}

// tenure is one run of a Filter.
type tenure struct {
	filter *iofilter.Filter
	stop   context.CancelFunc
	over   chan struct{} // closed when Run has returned
	err    error         // what it returned; valid then
}

// errHeir ends what runs beside a Filter that is to be handed over.
var errHeir = errors.New("another process takes over")

// run runs the process until ctx ends, something fails, or an heir has taken
// over.
func (h *hostProcess) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer h.guarded(ctx)()
	answering, mute := context.WithCancel(context.WithoutCancel(ctx))
	answered := make(chan struct{})
	var failed error
	go func() {
		defer close(answered)
		if failed = h.answer(answering); failed != nil {
			cancel(failed)
		}
	}()
	silence := func() { mute(); <-answered }
	err := h.serveGuests(ctx, silence)
	silence()
	return errors.Join(err, failed, h.close())
}

// close lets go of what is beside the Filter.
func (h *hostProcess) close() (err error) {
	if h.heirs != nil {
		err = h.heirs.Close()
	}
	if _, _, p := h.now(); p != nil {
		err = errors.Join(err, p.Close())
	}
	return err
}

// answer serves the local calls; in the place of another process, once that has
// left them.
func (h *hostProcess) answer(ctx context.Context) error {
	if h.cfg.Status == "" {
		return nil
	}
	if h.before == nil {
		close(h.left)
		return control.ServeLocal(ctx, h.cfg.Status, h.calls())
	}
	h.before.AwaitLeft(ctx)
	close(h.left)
	var tell sync.WaitGroup
	defer tell.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell.Go(func() {
		tick := time.NewTicker(answerEvery)
		defer tick.Stop()
		var out done
		for control.CallLocal(ctx, h.cfg.Status, "/ping", nil, &out) != nil {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		h.before.Answering()
	})
	return control.ServeLocal(ctx, h.cfg.Status, h.calls())
}

// serveGuests runs one Filter after the other: a further one when an heir has
// failed.
func (h *hostProcess) serveGuests(ctx context.Context, silence func()) error {
	for {
		t, err := h.begin(ctx)
		if err != nil {
			return err
		}
		heir, err := h.follow(ctx, t)
		for heir != nil && err != nil { // what cannot be handed over stays as it is
			h.log.Error("another process cannot take over", "err", err, "remedy", errs.RemedyOf(err))
			heir.Refuse(err)
			if err := heir.Close(); err != nil {
				h.log.Warn("the other process cannot be let go", "err", err)
			}
			heir, err = h.follow(ctx, t)
		}
		if heir == nil {
			t.stop()
			<-t.over
			return errors.Join(err, t.err)
		}
		if over, err := h.handOver(context.WithoutCancel(ctx), heir, t, silence); over || err != nil {
			return err
		}
	}
}

// begin runs the Filter and returns when it serves. In the place of another
// process that is told so; from then on this one can be followed.
func (h *hostProcess) begin(ctx context.Context) (*tenure, error) {
	f, _, _ := h.now()
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	t := &tenure{filter: f, stop: stop, over: make(chan struct{})}
	go func() {
		defer close(t.over)
		t.err = f.Run(serving)
	}()
	select {
	case <-t.over:
		stop()
		return nil, t.err
	case <-f.Running():
	}
	if h.before != nil && h.heirs == nil {
		h.before.Serving()
		h.heirs = h.before.Listener(h.id())
		h.log.Info("took over", "disks", len(f.Status().Disks), "pause", time.Since(h.asked))
	}
	return t, nil
}

// follow keeps up with the platform and waits for an heir, until ctx ends,
// something fails, or there is one: guests stay attached then. With an heir an
// error says why it cannot be handed anything.
func (h *hostProcess) follow(ctx context.Context, t *tenure) (heir *takeover.Heir, err error) {
	var keep atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	if h.heirs != nil {
		g.Go(func() error {
			next, err := h.heirs.Accept(ctx)
			if errs.Is(err, errs.Canceled) {
				return nil
			}
			if err != nil {
				return err
			}
			heir = next
			keep.Store(true)
			return errHeir
		})
	}
	var managed error
	if h.cfg.Platform.isSet() {
		g.Go(func() error {
			managed = h.manage(ctx, keep.Load)
			return managed
		})
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-t.over:
			return errs.New("iofilter.run", errs.Internal, h.cfg.Name, "the disks are not served any more")
		}
	})
	if err = g.Wait(); heir != nil {
		return heir, managed // also if ctx ended at the same moment: nobody was taken off
	}
	return nil, err
}

// handOver gives what is served to an heir; over: that goes on, and this process
// ends. If the heir fails, the next Filter is ready to serve again.
func (h *hostProcess) handOver(ctx context.Context, heir *takeover.Heir, t *tenure, silence func()) (over bool, err error) {
	defer heir.Close()
	h.log.Info("another process takes over")
	vms := t.filter.Protected()
	legacy, err := t.filter.HandOver(ctx, handOverDrain)
	t.stop()
	<-t.over
	if err != nil {
		heir.Refuse(err)
		return false, err // requests are still under way: nobody may open the disks
	}
	given, err := heir.HandOver(legacy)
	if err == nil {
		silence()
		err = errors.Join(h.heirs.Abandon(), legacy.Release())
		h.heirs = nil
		if _, _, p := h.now(); p != nil {
			h.setPlatform(nil)
			err = errors.Join(err, p.Close())
		}
		heir.Left()
		h.log.Info("another process has taken over")
		return true, err
	}
	h.log.Error("the other process did not take over: this one goes on", "err", err, "connections", !given)
	if err := heir.End(ctx); err != nil {
		return false, errors.Join(err, legacy.Release())
	}
	if given {
		if err := legacy.Disconnect(); err != nil {
			h.log.Warn("connections cannot be closed", "err", err)
		}
	}
	if err := h.newFilter(vms, legacy); err != nil {
		return false, errors.Join(err, legacy.Close())
	}
	return false, nil
}

// start prepares a process that begins by itself.
func (h *hostProcess) start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.cfg.Status != "" {
		if h.heirs, err = takeover.Listen(h.cfg.Status+heirSuffix, h.id()); err != nil {
			return err
		}
	}
	if h.cfg.Platform.isSet() {
		// First: a watchdog of ours would take the wait for one that hangs for our
		// own hanging, and end us.
		if err := retireWatchdogs(ctx, h.path, h.log); err != nil {
			return err
		}
		if err := h.watch(); err != nil {
			return err
		}
		p, err := openPlatform(ctx, &h.cfg.Platform, h.log)
		if err != nil {
			return err
		}
		h.setPlatform(p)
		if _, err := h.openRecord(); err != nil {
			return err
		}
	}
	return h.newFilter(h.cfg.VMs, nil)
}

// succeed prepares a process that begins in the place of a running one. On error
// that one goes on.
func (h *hostProcess) succeed(ctx context.Context) (err error) {
	const op = "iofilter.takeover"
	if h.cfg.Status == "" {
		return errs.New(op, errs.Invalid, "status", "a host component without a status socket cannot be followed").WithRemedy("set status, and restart it")
	}
	if h.before, err = takeover.Ask(ctx, h.cfg.Status+heirSuffix, h.id()); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.before.Close())
		}
	}()
	if err := h.watch(); err != nil { // it looks after the guests whoever of us serves them
		return err
	}
	h.asked = time.Now()
	legacy, err := h.before.Legacy()
	if err != nil {
		return err
	}
	vms, err := h.inherited(legacy)
	if err == nil {
		err = h.newFilter(vms, legacy)
	}
	if err != nil {
		return errors.Join(err, legacy.Release())
	}
	if err := h.before.Ready(); err != nil {
		f, _, _ := h.now()
		return errors.Join(err, f.Close())
	}
	return nil
}

// inherited is what is to be served: what is configured, and what of the record
// the other process served. It served nothing besides.
func (h *hostProcess) inherited(legacy *iofilter.Legacy) ([]iofilter.VM, error) {
	vms := slices.Clone(h.cfg.VMs)
	if h.cfg.Platform.isSet() {
		r, err := h.openRecord()
		if err != nil {
			return nil, err
		}
		for _, e := range r.Entries() {
			if vm := e.VM(func(d iofilter.Disk) bool { return legacy.Has(d.ID, d.Socket) }); len(vm.Disks) > 0 {
				vms = append(vms, vm)
			}
		}
	}
	for i := range legacy.Disks {
		d := &legacy.Disks[i]
		if !slices.ContainsFunc(vms, func(vm iofilter.VM) bool {
			return slices.ContainsFunc(vm.Disks, func(c iofilter.Disk) bool { return c.ID == d.ID && c.Socket == d.Socket })
		}) {
			return nil, errs.New("iofilter.takeover", errs.Conflict, d.Socket, "the running host component serves a disk that this configuration does not have").
				WithRemedy("leave the disk in the configuration, or stop the host component and start it anew")
		}
	}
	return vms, nil
}

func (h *hostProcess) setPlatform(p hypervisor.Platform) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.platform = p
}
