package cli

import (
	"context"
	"errors"
	"log/slog"

	head "holdfast/internal/appliance"
	"holdfast/internal/appliance/rocva"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// newRocVA makes the part of a recovery appliance.
func newRocVA(o head.Options) (part, error) {
	return rocva.New(rocva.Options{Dir: o.Dir, Name: o.Name, Logger: o.Logger,
		Begin: func(ctx context.Context, p site.Platform, endpoints []string) (*rocva.Parts, error) {
			return beginRocVA(ctx, p, endpoints, o.Logger)
		}})
}

// beginRocVA opens what runs recovered VMs, and what tells of the others of the site. The
// embedded QEMU tells only of those whose endpoints name a monitor for recoveries:
// unix:///A.qmp?recover=/B.qmp.
func beginRocVA(ctx context.Context, p site.Platform, endpoints []string, log *slog.Logger) (*rocva.Parts, error) {
	f := &providerFlags{platform: string(p)}
	var there hypervisor.Platform
	c, err := boxPlatform(p, endpoints, "recover")
	switch {
	case p == site.Libvirt && err != nil:
		return nil, err
	case p == site.Libvirt:
		f.libvirt = c.Libvirt
	case p != site.QEMU:
		return nil, errs.New("cli.beginRocVA", errs.Invalid, "platform "+string(p), "this release recovers no VMs on it").WithRemedy("use libvirt, or QEMU")
	}
	if err == nil && c.isSet() {
		if there, err = openPlatform(ctx, &c, log); err != nil {
			return nil, err
		}
	}
	provider, err := f.open(ctx, log)
	if err != nil {
		if there != nil {
			err = errors.Join(err, there.Close())
		}
		return nil, err
	}
	return &rocva.Parts{
		Service: recovery.New(recoveryOptions(f, provider, log)), Open: openAt, Site: there,
		Platform: map[string]string{"platform": f.platform, "libvirt": f.libvirt},
		Close: func() error {
			err := provider.Close()
			if there != nil {
				err = errors.Join(err, there.Close())
			}
			return err
		},
	}, nil
}
