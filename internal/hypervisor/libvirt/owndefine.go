package libvirt

import (
	"context"
	"errors"
	"os"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var _ hypervisor.Definer = (*Provider)(nil)

// Define gives a VM a definition, as hypervisor.Definer promises: what libvirt
// knows of it now is what the next start makes of it. Its run's directory stays
// then, with the variable store of its firmware. The run's record says so before
// there is a definition, so that whoever ends up with the VM keeps the directory.
func (p *Provider) Define(ctx context.Context, of hypervisor.VM) error {
	const op = "libvirt.Define"
	v, ours := of.(*vm)
	if !ours || v.p != p || !v.record().Keep {
		return errs.New(op, errs.Invalid, of.Name(), "the VM is not kept by this provider")
	}
	select {
	case <-v.turn:
		defer func() { v.turn <- struct{}{} }()
	case <-ctx.Done():
		return errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
	}
	if err := v.alive(op); err != nil {
		return err
	}
	rec := *v.record()
	for _, d := range rec.Disks {
		if d.State == onExport {
			return errs.New(op, errs.Conflict, v.name+" "+d.Name, "the disk is on an export that goes away").
				WithRemedy("wait until it has moved to its image")
		}
	}
	if !rec.Defined {
		rec.Defined = true
		if err := v.write(ctx, &rec); err != nil {
			return err
		}
	}
	v.mu.Lock()
	ref := v.ref
	v.mu.Unlock()
	_, all, err := p.live.handle(ref).described(ctx)
	if err != nil || len(all) == 0 {
		return v.unlessOver(op, errors.Join(err, errs.New(op, errs.Conflict, v.name, "the VM has ended")))
	}
	if err := p.keepBubbles(ctx, all[0].bubbles()); err != nil {
		return err
	}
	if last := all[len(all)-1]; len(all) > 1 && last.Metadata.Run != nil && last.Metadata.Run.Dir == rec.Dir {
		return nil // it is there
	}
	err = tell(ctx, p.conn, op, v.name, func(l *golibvirt.Libvirt) error {
		text, err := l.DomainGetXMLDesc(ref, golibvirt.DomainXMLInactive|golibvirt.DomainXMLSecure)
		if err == nil {
			_, err = l.DomainDefineXML(text)
		}
		return err
	})
	if err == nil {
		err = p.live.handle(ref).defineExports(ctx)
	}
	if err == nil {
		p.log.Info("vm defined", "vm", v.id, "name", v.name)
	}
	return v.unlessOver(op, err)
}

// defineExports has the next start use the exports that are in disks' paths now,
// behind libvirt's back: of what is defined after it was attached libvirt knows
// the disks alone.
func (v *liveVM) defineExports(ctx context.Context) error {
	w, err := v.look(ctx)
	if err != nil {
		return err
	}
	for _, x := range w.disks() {
		if w.standing(x) == behind {
			if err := v.defineExport(ctx, w, *w.Metadata.Protection.find(x.Target.Dev)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Undefine has libvirt forget VMs, as hypervisor.Definer promises.
func (p *Provider) Undefine(ctx context.Context, workDir string) error {
	const op = "libvirt.Undefine"
	workDir = abs(workDir)
	refs, err := p.live.list(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		active, all, err := p.live.handle(ref).described(ctx)
		if err != nil {
			return err
		}
		if active || len(all) == 0 || all[0].Metadata.Run == nil || all[0].Metadata.Run.WorkDir != workDir {
			continue
		}
		err = tell(ctx, p.conn, op, ref.Name, func(l *golibvirt.Libvirt) error {
			active, err := l.DomainIsActive(ref)
			if err != nil || active != 0 {
				return err
			}
			return l.DomainUndefineFlags(ref, golibvirt.DomainUndefineNvram|golibvirt.DomainUndefineManagedSave|
				golibvirt.DomainUndefineSnapshotsMetadata|golibvirt.DomainUndefineCheckpointsMetadata)
		})
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if err := os.RemoveAll(all[0].Metadata.Run.Dir); err != nil {
			return errs.E(op, errs.Unavailable, all[0].Metadata.Run.Dir, err)
		}
		p.log.Info("vm undefined", "name", ref.Name)
	}
	return p.deflate(ctx, scopeOf(workDir))
}

// described returns what libvirt says of a VM that runs, and behind that what it
// says of its definition, as there are; nothing of one that is gone.
func (v *liveVM) described(ctx context.Context) (runs bool, all []*vmXML, err error) {
	type answer struct {
		runs  bool
		texts []string
	}
	a, err := ask(ctx, v.p.conn, "libvirt.describe", v.name, func(l *golibvirt.Libvirt) (a answer, err error) {
		active, err := l.DomainIsActive(v.ref)
		if err != nil {
			return a, err
		}
		kept, err := l.DomainIsPersistent(v.ref)
		if err != nil {
			return a, err
		}
		a.runs = active != 0
		for _, c := range []struct {
			has   bool
			flags golibvirt.DomainXMLFlags
		}{{active != 0, 0}, {kept != 0, golibvirt.DomainXMLInactive}} {
			if !c.has {
				continue
			}
			text, err := l.DomainGetXMLDesc(v.ref, c.flags)
			if err != nil {
				return a, err
			}
			a.texts = append(a.texts, text)
		}
		return a, nil
	})
	if errs.Is(err, errs.NotFound) {
		return false, nil, nil
	}
	for _, text := range a.texts {
		w, err := parseVM(text)
		if err != nil {
			return false, nil, err
		}
		all = append(all, w)
	}
	return a.runs, all, err
}
