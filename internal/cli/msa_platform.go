package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/journal"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/site"
)

// openInventory opens the platform of a manager's site, by its endpoints:
//
//	libvirt   unix:///run/libvirt/libvirt-sock             a daemon each; none: the system's
//	qemu      unix:///run/vm1.qmp?agent=/run/vm1.ga        the monitor of a QEMU each
//	fake      fake:///100                                  so many VMs, for demonstrations
//
// Kind Invalid: an endpoint of another form, or a platform this release cannot look at.
func openInventory(s *site.Site, log *slog.Logger) (inventory.Provider, error) {
	var sockets []*url.URL
	for _, e := range s.Endpoints {
		u, err := url.Parse(e)
		if err != nil || s.Platform != site.Fake && (u.Scheme != "unix" || u.Host != "" || u.Path == "") {
			return nil, badEndpoint(s, e, "write unix:///PATH of a socket on this host")
		}
		sockets = append(sockets, u)
	}
	switch s.Platform {
	case site.Libvirt:
		return libvirtInventory(s, sockets, log), nil
	case site.QEMU:
		return qemuInventory(s, sockets, log)
	case site.Fake:
		n := 10
		if len(sockets) > 0 {
			var err error
			if n, err = strconv.Atoi(sockets[0].Path[min(1, len(sockets[0].Path)):]); err != nil || n < 0 || n > site.MaxVMs {
				return nil, badEndpoint(s, s.Endpoints[0], "write fake:///100 for a hundred VMs")
			}
		}
		return fake.Filled(s.Name, n), nil
	case site.VSphere, site.Azure:
	}
	return nil, errs.New("cli.openInventory", errs.Invalid, site.Label(s), fmt.Sprintf("this release cannot look at platform %q", s.Platform)).
		WithRemedy("write the VMs' names into the domains: recovery needs no inventory of the protected site")
}

func badEndpoint(s *site.Site, e, remedy string) error {
	return errs.New("cli.openInventory", errs.Invalid, site.Label(s), fmt.Sprintf("endpoint %q is none of platform %s", e, s.Platform)).WithRemedy(remedy)
}

func libvirtInventory(s *site.Site, sockets []*url.URL, log *slog.Logger) inventory.Provider {
	if len(sockets) == 0 {
		sockets = []*url.URL{{Path: libvirt.DefaultSocket}}
	}
	var endpoints []inventory.Endpoint
	for _, u := range sockets {
		endpoints = append(endpoints, inventory.Endpoint{Name: u.Path, Open: func(ctx context.Context) (hypervisor.Platform, error) {
			return libvirt.Connect(ctx, libvirt.Options{Socket: u.Path, Log: log})
		}})
	}
	return inventory.NewPlatform(string(s.Platform), s.Name, endpoints, log)
}

func qemuInventory(s *site.Site, sockets []*url.URL, log *slog.Logger) (inventory.Provider, error) {
	if len(sockets) == 0 {
		return nil, errs.New("cli.openInventory", errs.Invalid, site.Label(s), "QEMU by itself is known by its monitors alone").
			WithRemedy("name the QMP socket of each QEMU as an endpoint: unix:///PATH")
	}
	o := qemu.LiveOptions{Log: log}
	for _, u := range sockets {
		o.VMs = append(o.VMs, qemu.Monitor{QMP: u.Path, Agent: u.Query().Get("agent")})
	}
	endpoint := inventory.Endpoint{Name: "this host", Open: func(ctx context.Context) (hypervisor.Platform, error) { return qemu.NewPlatform(ctx, o) }}
	return inventory.NewPlatform(string(s.Platform), s.Name, []inventory.Endpoint{endpoint}, log), nil
}

// containersOf opens the containers of domains with one key: that of a domain is at its
// store's address, under the domain's name.
func containersOf(key string) func(*replica.Replica) scan.Containers {
	id := &identityFlags{key: key}
	return func(r *replica.Replica) scan.Containers {
		return scan.Journals{Open: func(ctx context.Context, d *site.ProtectedDomain, name site.Name) (*journal.Container, error) {
			var s *site.Store
			if err := r.DB.View(ctx, func(tx *db.Tx) (err error) {
				s, err = catalog.Find[*site.Store](ctx, tx, name)
				return err
			}); err != nil {
				return nil, err
			}
			return openContainer(ctx, strings.TrimSuffix(s.URL, "/")+"/"+string(d.Name), id)
		}}
	}
}
