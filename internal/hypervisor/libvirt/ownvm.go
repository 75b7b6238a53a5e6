package libvirt

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// vm is a VM that a Provider started or adopted.
type vm struct {
	p       *Provider // immutable, as all up to over
	id      dr.VMID
	name    string
	log     *slog.Logger
	life    *hypervisor.Lifecycle
	exited  chan struct{} // closed after the final move
	letGone chan struct{} // closed by letGo
	turn    chan struct{} // holds one token: the right to change a disk

	over   sync.Once   // the final move, or letting go: whichever comes first
	burial sync.Once   // whoever first learns that it ended
	killed atomic.Bool // somebody wanted the VM to be killed

	mu      sync.Mutex
	ref     golibvirt.Domain // guarded by mu, as all below; zero until there is a VM
	rec     *run             // nil until it is known
	booting bool             // the first instruction is still to come
	moves   uint64           // pauses and resumptions that libvirt told of
	moreOf  chan struct{}    // closed and replaced by each of those
	trouble string           // words for the I/O error that is about to pause the VM
}

var _ hypervisor.VM = (*vm)(nil)

func newVM(p *Provider, id dr.VMID, name string) *vm {
	v := &vm{
		p: p, id: id, name: name, log: p.log.With("vm", id), life: hypervisor.NewLifecycle(time.Now),
		exited: make(chan struct{}), letGone: make(chan struct{}), turn: make(chan struct{}, 1), moreOf: make(chan struct{}),
	}
	v.turn <- struct{}{}
	return v
}

// launch brings the VM up. On error the caller abandons it.
func (v *vm) launch(ctx context.Context, spec *hypervisor.Spec) error {
	const op = "libvirt.Start"
	dir, err := makeDir(spec)
	if err != nil {
		return err
	}
	text, rec, err := (&domain{spec: spec, dir: dir}).build()
	v.mu.Lock()
	v.rec, v.booting = &run{Dir: dir}, true
	if err == nil {
		v.rec = rec
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	if err := v.create(ctx, text); err != nil {
		return err
	}
	if err := v.furnish(ctx); err != nil {
		return errs.E(op, errs.Internal, v.name, err)
	}
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
	}
	if spec.Paused {
		v.life.Move(hypervisor.Paused, "started paused")
		return nil
	}
	if err := v.goOn(ctx); err != nil {
		return errs.E(op, errs.Internal, v.name, err)
	}
	if s := v.life.Status(); s.State.Final() {
		return errs.New(op, errs.Unavailable, v.name, "the VM ended at once: "+s.Reason)
	}
	return nil
}

// create makes the VM, which does not run yet. A call to the daemon cannot be
// taken back, so it is waited for.
func (v *vm) create(ctx context.Context, text string) error {
	const op = "libvirt.Start"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer cancel()
	flags := golibvirt.DomainStartPaused | golibvirt.DomainStartValidate
	if v.p.opt.DieWithParent && !v.record().Keep {
		flags |= golibvirt.DomainStartAutodestroy
	}
	w, err := parseVM(text)
	if err != nil {
		return err
	}
	v.p.nets.Lock()
	defer v.p.nets.Unlock()
	if err := v.p.inflate(ctx, w.bubbles()); err != nil {
		return err
	}
	ref, err := ask(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) {
		return l.DomainCreateXML(text, flags)
	})
	if err == nil {
		v.mu.Lock()
		v.ref = ref
		v.mu.Unlock()
		return nil
	}
	return v.whyNot(ctx, err)
}

// whyNot finds out what a failed start means.
func (v *vm) whyNot(ctx context.Context, err error) error {
	const op = "libvirt.Start"
	if strings.Contains(err.Error(), "Failed to get") && strings.Contains(err.Error(), "lock") {
		return errs.E(op, errs.Conflict, v.name, err).WithRemedy("another process uses a disk of this VM; end it first")
	}
	for _, key := range []string{v.id.String(), v.name} {
		other, e := v.p.live.VM(ctx, key)
		if e != nil {
			continue
		}
		// A definition of the same identity that is off is no obstacle.
		if info, e := other.Info(ctx); e == nil && (info.Running || info.Config.ID != v.id) {
			return errs.E(op, errs.Exists, v.name, err).WithRemedy("a VM of this name or identity is there: end it, or recover under another name and identity")
		}
	}
	return err
}

// furnish puts exports in front of images, and says that all is in place.
func (v *vm) furnish(ctx context.Context) error {
	rec := *v.record()
	for _, d := range rec.Disks {
		if d.State == onExport && d.Path != "" {
			if err := v.slipIn(ctx, d); err != nil {
				return err
			}
		}
	}
	rec.State = started
	return v.write(ctx, &rec)
}

// goOn lets the processors run and returns once libvirt told of it.
func (v *vm) goOn(ctx context.Context) error {
	return v.toggle(ctx, "libvirt.Resume", func(l *golibvirt.Libvirt) error { return l.DomainResume(v.ref) })
}

// toggle has the VM pause or go on, and waits until libvirt told of it.
func (v *vm) toggle(ctx context.Context, op string, fn func(*golibvirt.Libvirt) error) error {
	v.mu.Lock()
	before := v.moves
	v.mu.Unlock()
	if err := tell(ctx, v.p.conn, op, v.name, fn); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, eventLimit)
	defer cancel()
	for {
		v.mu.Lock()
		now, moreOf := v.moves, v.moreOf
		v.mu.Unlock()
		if now > before {
			return nil
		}
		select {
		case <-moreOf:
		case <-v.life.Ended():
			return nil // the caller sees it
		case <-limited.Done():
			if ctx.Err() != nil {
				return errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
			}
			v.sync(ctx) // the event was lost
			return nil
		}
	}
}

// record returns what is known of the VM.
func (v *vm) record() *run {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

// dirNow returns the run's directory, or "".
func (v *vm) dirNow() string {
	if r := v.record(); r != nil {
		return r.Dir
	}
	return ""
}

// write puts what is known of the VM into its metadata.
func (v *vm) write(ctx context.Context, r *run) error {
	err := tell(ctx, v.p.conn, "libvirt.save", v.name, func(l *golibvirt.Libvirt) error {
		return l.DomainSetMetadata(v.ref, int32(golibvirt.DomainMetadataElement), golibvirt.OptString{r.String()},
			golibvirt.OptString{runKey}, golibvirt.OptString{RunURI}, golibvirt.DomainAffectLive)
	})
	if err == nil {
		v.mu.Lock()
		v.rec = r
		v.mu.Unlock()
	}
	return err
}

// meet learns how a VM is that another provider started, and whose place is
// reserved. up is false when it has ended, or was ended because its start was
// cut short; then its place is free.
func (v *vm) meet(ctx context.Context) (up bool, err error) {
	if v.rec.State != started {
		v.abandon()
		return false, nil
	}
	v.sync(ctx)
	switch s := v.life.Status(); {
	case s.State.Final():
		<-v.exited
		return false, nil
	case s.State == hypervisor.Starting:
		v.letGo()
		return false, errs.New("libvirt.Adopt", errs.Unavailable, v.name, "the libvirt daemon does not say how the VM is")
	}
	return true, nil
}

// sync brings the lifecycle to where libvirt says the VM is.
func (v *vm) sync(ctx context.Context) {
	v.mu.Lock()
	ref := v.ref
	v.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	var why int32
	state, err := ask(ctx, v.p.conn, "libvirt.sync", v.name, func(l *golibvirt.Libvirt) (state int32, err error) {
		state, why, err = l.DomainGetState(ref, 0)
		return state, err
	})
	switch {
	case errs.Is(err, errs.NotFound):
		v.end(hypervisor.Crashed, "it ended while nobody could tell how")
	case err == nil && golibvirt.DomainState(state) == golibvirt.DomainShutoff:
		v.end(v.verdict(detailOf(golibvirt.DomainShutoffReason(why))))
	case err != nil:
		v.log.Warn("a VM's state cannot be had", "err", err)
	case golibvirt.DomainState(state) == golibvirt.DomainRunning:
		v.life.Move(hypervisor.Running, "")
	default:
		v.life.Move(hypervisor.Paused, "paused")
	}
}

// moved takes an event of the VM's lifecycle.
func (v *vm) moved(kind golibvirt.DomainEventType, detail int32) {
	switch kind {
	case golibvirt.DomainEventResumed:
		v.mu.Lock()
		v.booting, v.trouble = false, ""
		v.mu.Unlock()
		v.life.Move(hypervisor.Running, "")
		v.tellMove()
	case golibvirt.DomainEventSuspended, golibvirt.DomainEventPmsuspended:
		v.mu.Lock()
		booting, reason := v.booting, v.trouble
		v.mu.Unlock()
		if booting {
			return // of the start itself
		}
		if reason == "" {
			reason = "paused"
		}
		v.life.Move(hypervisor.Paused, reason)
		v.tellMove()
	case golibvirt.DomainEventCrashed:
		v.life.Emit(hypervisor.Event{Kind: hypervisor.GuestPanic})
	case golibvirt.DomainEventStopped:
		v.end(v.verdict(golibvirt.DomainEventStoppedDetailType(detail)))
	}
}

// tellMove wakes those who wait for a pause or a resumption.
func (v *vm) tellMove() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.moves++
	close(v.moreOf)
	v.moreOf = make(chan struct{})
}

// detailOf says what the event of a VM's end would have told, of one that the platform
// keeps: it remembers why.
func detailOf(why golibvirt.DomainShutoffReason) golibvirt.DomainEventStoppedDetailType {
	switch why {
	case golibvirt.DomainShutoffShutdown:
		return golibvirt.DomainEventStoppedShutdown
	case golibvirt.DomainShutoffDestroyed:
		return golibvirt.DomainEventStoppedDestroyed
	case golibvirt.DomainShutoffCrashed:
		return golibvirt.DomainEventStoppedCrashed
	}
	return golibvirt.DomainEventStoppedFailed
}

// verdict says what kind of end it was.
func (v *vm) verdict(detail golibvirt.DomainEventStoppedDetailType) (hypervisor.State, string) {
	switch {
	case detail == golibvirt.DomainEventStoppedShutdown:
		return hypervisor.Stopped, "guest-shutdown"
	case v.killed.Load():
		return hypervisor.Stopped, "killed"
	case detail == golibvirt.DomainEventStoppedDestroyed:
		return hypervisor.Stopped, "ended through libvirt"
	case detail == golibvirt.DomainEventStoppedCrashed:
		return hypervisor.Crashed, "the guest panicked"
	}
	return hypervisor.Crashed, "QEMU ended unexpectedly"
}

// ioError takes an event of a disk's.
func (v *vm) ioError(m golibvirt.DomainEventIOErrorReasonMsg) {
	disk := strings.TrimPrefix(m.DevAlias, "ua-")
	if r := v.record(); r != nil {
		disk = r.nameOf(v.targetOf(m.DevAlias))
	}
	words := "error on disk " + disk + ": " + m.Reason
	if m.Action == ioErrorPauses {
		v.mu.Lock()
		v.trouble = words
		v.mu.Unlock()
	}
	v.life.Emit(hypervisor.Event{Kind: hypervisor.IOError, Disk: disk, Detail: words})
}

// end has the VM's place freed once libvirt has let go of it, and makes the
// final move. It returns at once: libvirt tells of the end before all is done.
func (v *vm) end(state hypervisor.State, reason string) {
	v.burial.Do(func() {
		go func() {
			v.untilGone()
			v.conclude(state, reason)
		}()
	})
}

// untilGone waits until libvirt does not know the VM as running any more.
func (v *vm) untilGone() {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	tick := time.NewTicker(goneTick)
	defer tick.Stop()
	for {
		active, err := ask(ctx, v.p.conn, "libvirt.end", v.name, func(l *golibvirt.Libvirt) (int32, error) {
			d, err := l.DomainLookupByUUID(golibvirt.UUID(v.id.UUID))
			if err != nil {
				return 0, err
			}
			return l.DomainIsActive(d)
		})
		if err != nil || active == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// conclude frees what the run held and makes the final move. The VM's place is
// free before anybody hears of the end, so that it can be started again at once.
func (v *vm) conclude(state hypervisor.State, reason string) {
	v.over.Do(func() {
		v.sweep()
		v.p.release(v)
		v.life.Move(state, reason)
		close(v.exited)
		v.log.Info("vm ended", "state", state.String(), "reason", reason)
	})
}

// sweep removes what the run alone needed.
func (v *vm) sweep() {
	r := v.record()
	if r == nil || r.Dir == "" {
		return
	}
	if !r.Defined {
		if err := os.RemoveAll(r.Dir); err != nil {
			v.log.Warn("run directory not removed", "err", err)
		}
	}
	scope := v.id.String()
	if r.Keep {
		scope = r.WorkDir
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	if err := v.p.deflate(ctx, scopeOf(scope)); err != nil {
		v.log.Warn("an isolated network was not removed", "err", err)
	}
}

// abandon ends a VM whose start failed, if it came to be, and returns when it
// is gone.
func (v *vm) abandon() {
	v.killed.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	if v.exists() {
		if err := v.destroy(ctx); err != nil {
			v.log.Warn("a VM whose start failed was not ended", "err", err)
		}
		v.untilGone()
	}
	v.conclude(hypervisor.Crashed, "did not start")
}

// exists reports whether libvirt made the VM.
func (v *vm) exists() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ref.Name != ""
}

// letGo leaves the VM to whoever adopts it.
func (v *vm) letGo() {
	v.over.Do(func() {
		v.p.release(v)
		close(v.letGone)
	})
}

func (v *vm) isLetGone() bool {
	select {
	case <-v.letGone:
		return true
	default:
		return false
	}
}

// closeDown ends the VM, or lets it go, and returns when that is done. A VM that
// starts is ended by Start.
func (v *vm) closeDown() {
	switch r := v.record(); {
	case v.life.Status().State == hypervisor.Starting:
		select {
		case <-v.exited:
		case <-v.letGone:
		}
	case r.Keep:
		v.letGo()
	default:
		ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
		defer cancel()
		if err := v.Kill(ctx); err != nil {
			v.log.Warn("a VM was not ended", "err", err)
		}
	}
}

// isGone recognizes libvirt's answers when a VM has ended.
func isGone(err error) bool {
	return errs.Is(err, errs.NotFound) || code(err) == golibvirt.ErrOperationInvalid || errors.Is(err, os.ErrNotExist)
}
