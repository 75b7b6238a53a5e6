package libvirt

import (
	"context"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// freeze is a guest that we froze.
type freeze struct {
	vm    *liveVM
	timer *time.Timer // thaws it
}

// Freeze has the guest's agent freeze its file systems.
func (v *liveVM) Freeze(ctx context.Context, limit time.Duration) (int, error) {
	const op = "libvirt.Freeze"
	if limit <= 0 {
		limit = hypervisor.DefaultFreezeLimit
	}
	w, err := v.look(ctx)
	if err != nil {
		return 0, err
	}
	if !w.active || !w.agent() {
		return 0, errs.New(op, errs.Unavailable, v.name, "no guest agent is connected").
			WithRemedy("install and start qemu-guest-agent in the guest, and give the VM the channel " + agentChannel)
	}
	f := &freeze{vm: v}
	v.p.mu.Lock()
	if v.p.frozen[v.id] != nil || v.p.closed {
		v.p.mu.Unlock()
		return 0, errs.New(op, errs.Conflict, v.name, "the guest is frozen already")
	}
	v.p.frozen[v.id] = f
	// The timer runs before the agent is asked: an agent that froze and whose
	// answer is late, or lost, must not leave the guest so.
	f.timer = time.AfterFunc(limit, func() { v.p.expire(f) })
	v.p.mu.Unlock()
	n, err := v.askAgent(ctx, op, (*golibvirt.Libvirt).DomainFsfreeze)
	if err != nil {
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawLimit)
		defer cancel()
		if _, e := v.askAgent(undoing, op, (*golibvirt.Libvirt).DomainFsthaw); e == nil {
			v.p.release(f)
		} // else the timer goes on trying
		return 0, err
	}
	return n, nil
}

// Thaw ends a freeze.
func (v *liveVM) Thaw(ctx context.Context) (int, error) {
	n, err := v.askAgent(ctx, "libvirt.Thaw", (*golibvirt.Libvirt).DomainFsthaw)
	if err != nil {
		return 0, err
	}
	v.p.mu.Lock()
	f := v.p.frozen[v.id]
	v.p.mu.Unlock()
	if f != nil {
		v.p.release(f)
	}
	return n, nil
}

// askAgent freezes or thaws all file systems.
func (v *liveVM) askAgent(ctx context.Context, op string,
	what func(*golibvirt.Libvirt, golibvirt.Domain, []string, uint32) (int32, error)) (int, error) {
	n, err := ask(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) (int32, error) { return what(l, v.ref, nil, 0) })
	return int(n), err
}

// release ends the watch over a freeze.
func (p *Platform) release(f *freeze) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.timer.Stop()
	if p.frozen[f.vm.id] == f {
		delete(p.frozen, f.vm.id)
	}
}

// expire thaws a guest whose time is up, and tries again until it is thawed
// or gone.
func (p *Platform) expire(f *freeze) {
	ctx, cancel := context.WithTimeout(context.Background(), thawLimit)
	defer cancel()
	n, err := f.vm.askAgent(ctx, "libvirt.Thaw", (*golibvirt.Libvirt).DomainFsthaw)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen[f.vm.id] != f {
		return
	}
	if err == nil || errs.Is(err, errs.NotFound) || errs.Is(err, errs.Conflict) || p.closed {
		delete(p.frozen, f.vm.id)
		p.log.Warn("freeze ended by its limit", "vm", f.vm.id, "filesystems", n)
		return
	}
	p.log.Warn("frozen guest not thawed yet", "vm", f.vm.id, "err", err)
	f.timer.Reset(thawEvery)
}

// thawAll thaws what is frozen, once.
func (p *Platform) thawAll(ctx context.Context) {
	p.mu.Lock()
	var all []*freeze
	for _, f := range p.frozen {
		all = append(all, f)
	}
	p.mu.Unlock()
	for _, f := range all {
		if _, err := f.vm.Thaw(ctx); err != nil {
			p.log.Warn("frozen guest not thawed", "vm", f.vm.id, "err", err)
		}
		p.release(f)
	}
}
