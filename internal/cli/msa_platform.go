package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/journal"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/site"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
)

// openInventory opens the platform of a manager's site, by its endpoints:
//
//	libvirt   unix:///run/libvirt/libvirt-sock             a daemon each; none: the system's.
//	                                                       ?host=PATH: where its own host has it
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
	for i, u := range sockets {
		address := ""
		if len(s.Endpoints) > 0 {
			address = s.Endpoints[i]
		}
		endpoints = append(endpoints, inventory.Endpoint{Name: u.Path, Address: address, Open: func(ctx context.Context) (hypervisor.Platform, error) {
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

// openManagedStore opens a store for a manager, with credentials of its own.
func openManagedStore(ctx context.Context, url string, a access.Access, create bool) (store.Store, error) {
	s, err := openStack(ctx, url, stackOptions{create: create, access: a, elapsed: trialPatience})
	if err != nil {
		return nil, err
	}
	return s.store, nil
}

// readKeyText reads the text of a recovery key's file; "" of no file.
func readKeyText(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if _, err := journal.ParseIdentityFile(path); err != nil { // it says what is wrong with a file, its mode among it
		return "", err
	}
	b, err := durable.ReadFile(durable.OS{}, path, maxKeyFile)
	if err != nil {
		return "", errs.E("msa", errs.Internal, path, err)
	}
	return string(b), nil
}

// maxKeyFile bounds the file of a recovery key, bytes.
const maxKeyFile = 64 << 10
