package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// guests is how many guests, each on a host of its own, site A has. The
// ledger's dependence is between two.
const guests = 2

// siteA is the protected site: all it has is below dir or in its processes.
type siteA struct {
	dir       string
	drva      *process
	hosts     [guests]*process
	vms       [guests]hypervisor.VM
	consoles  [guests]*ledger.Console
	provider  hypervisor.Provider
	drvaSock  string
	hostSocks [guests]string
}

// hostConfig is a host component's configuration file.
type hostConfig struct {
	iofilter.Config
	DRVA   string `json:"drva"`
	TLS    string `json:"tls"`
	Status string `json:"status"`
}

// drvaConfig is the DRVA's configuration file.
type drvaConfig struct {
	Container string `json:"container"`
	Key       string `json:"key"`
	Log       string `json:"log"`
	Quota     int64  `json:"quota"`
	Listen    string `json:"listen"`
	TLS       string `json:"tls"`
	Interval  string `json:"interval"`
	Status    string `json:"status"`
}

// syncBandwidth slows the first copy down, in bytes a second, so that guests
// boot and write while it runs, and it can be watched: the guest's 25 MiB would
// be copied before its first word.
const syncBandwidth = 3 << 19

// logQuota is the DRVA's replication log, in bytes.
const logQuota = 1 << 30

// buildSiteA makes the container, certificates, disks and configurations, and
// starts the appliances. recipient is the public part of site B's key.
func (r *run) buildSiteA(ctx context.Context, recipient string) (*siteA, error) {
	a := &siteA{dir: filepath.Join(r.dir, "a"), provider: r.provider}
	if err := durable.MkdirAll(durable.OS{}, a.dir); err != nil {
		return nil, err
	}
	var appliance, domain string
	key := filepath.Join(a.dir, "drva.key")
	if err := command(ctx, r.opts.Binary, &appliance, "key", "new", key); err != nil {
		return nil, err
	}
	var created struct {
		Domain dr.DomainID `json:"domain"`
	}
	if err := command(ctx, r.opts.Binary, &created, "domain", "create", r.url(), "--name", "demo", "--recipient", appliance, "--recipient", recipient, "-o", "json"); err != nil {
		return nil, err
	}
	domain = created.Domain.String()
	ca := filepath.Join(a.dir, "ca")
	if err := command(ctx, r.opts.Binary, nil, "cert", "init", ca, "--site", "A"); err != nil {
		return nil, err
	}
	if err := command(ctx, r.opts.Binary, nil, "cert", "issue", filepath.Join(a.dir, "drva-tls"), "--ca", ca, "--role", "drva", "--name", domain, "--addr", "127.0.0.1"); err != nil {
		return nil, err
	}
	if err := a.startDRVA(ctx, r, key); err != nil {
		return a, err
	}
	var wg sync.WaitGroup
	var failed [guests]error
	for i := range guests {
		wg.Go(func() { failed[i] = a.startHost(ctx, r, i, created.Domain, ca) })
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

func (a *siteA) startDRVA(ctx context.Context, r *run, key string) error {
	a.drvaSock = filepath.Join(a.dir, "drva.sock")
	cfg := drvaConfig{
		Container: r.url(), Key: key, Log: filepath.Join(a.dir, "log"), Quota: logQuota,
		Listen: "127.0.0.1:0", TLS: filepath.Join(a.dir, "drva-tls"),
		Interval: r.opts.Interval.String(), Status: a.drvaSock,
	}
	path := filepath.Join(a.dir, "drva.json")
	if err := writeJSON(path, cfg); err != nil {
		return err
	}
	p, err := startProcess(r.opts.Binary, a.dir, "drva", "drva", "--config", path)
	if err != nil {
		return err
	}
	a.drva = p
	return waitStatus(ctx, p, a.drvaSock, func(s drvaStatus) bool {
		r.drvaAddr = s.Address
		return s.Address != ""
	})
}

// startHost makes one host with its guest's disk and starts its component.
func (a *siteA) startHost(ctx context.Context, r *run, i int, domain dr.DomainID, ca string) error {
	name := fmt.Sprintf("host%d", i+1)
	host := dr.HostID{UUID: dr.NewUUID()}
	tls := filepath.Join(a.dir, name+"-tls")
	if err := command(ctx, r.opts.Binary, nil, "cert", "issue", tls, "--ca", ca, "--role", "host", "--name", host.String()); err != nil {
		return err
	}
	disk := filepath.Join(a.dir, fmt.Sprintf("guest%d.raw", i+1))
	if err := ledger.CopyImage(ctx, disk, r.opts.Image); err != nil {
		return err
	}
	st, err := os.Stat(disk)
	if err != nil {
		return errs.E("demo.startHost", errs.NotFound, disk, err)
	}
	vm := ledger.Config(fmt.Sprintf("guest%d", i+1), dr.VMID{UUID: dr.NewUUID()}, dr.DiskID{UUID: dr.NewUUID()}, st.Size())
	r.vms[i] = vm
	a.hostSocks[i] = filepath.Join(a.dir, name+".sock")
	pace, err := iofilter.BytesPerSecond(syncBandwidth)
	if err != nil {
		return err
	}
	cfg := hostConfig{
		Config: iofilter.Config{
			Domain: domain, Host: host, Name: name, Ack: r.opts.Ack, SyncBandwidth: pace,
			VMs: []iofilter.VM{{Config: vm, Disks: []iofilter.Disk{{
				ID: vm.Disks[0].ID, Name: vm.Disks[0].Name, Path: disk, Socket: a.diskSocket(i),
			}}}},
		},
		DRVA: r.drvaAddr, TLS: tls, Status: a.hostSocks[i],
	}
	path := filepath.Join(a.dir, name+".json")
	if err := writeJSON(path, cfg); err != nil {
		return err
	}
	p, err := startProcess(r.opts.Binary, a.dir, name, "iofilter", "--config", path)
	if err != nil {
		return err
	}
	a.hosts[i] = p
	return waitStatus(ctx, p, a.hostSocks[i], func(s iofilter.Status) bool { return s.Link.Up })
}

func (a *siteA) diskSocket(i int) string {
	return filepath.Join(a.dir, fmt.Sprintf("guest%d.nbd", i+1))
}

// bootGuests starts the guests from their protected disks.
func (a *siteA) bootGuests(ctx context.Context, r *run) error {
	var wg sync.WaitGroup
	var failed [guests]error
	for i := range guests {
		wg.Go(func() {
			vm := r.vms[i]
			spec := hypervisor.Spec{Config: vm, Sources: map[dr.DiskID]hypervisor.Source{
				vm.Disks[0].ID: {Socket: a.diskSocket(i), Export: vm.Disks[0].Name},
			}}
			a.vms[i], a.consoles[i], failed[i] = r.boot(ctx, spec, a.dir)
		})
	}
	wg.Wait()
	for i, err := range failed {
		if err != nil {
			return errs.E("demo.boot", errs.Internal, fmt.Sprintf("guest%d", i+1), err)
		}
	}
	return nil
}

// dead returns why site A does not work, if one of its processes has ended.
func (a *siteA) dead() error {
	for _, p := range append([]*process{a.drva}, a.hosts[:]...) {
		if p == nil {
			continue
		}
		select {
		case <-p.done:
			return p.failed()
		default:
		}
	}
	return nil
}

// destroy is the disaster, and also the cleaning up: every process of the site
// is killed at once, and all it had is removed.
func (a *siteA) destroy() error {
	var ps []*process
	for _, p := range append([]*process{a.drva}, a.hosts[:]...) {
		if p != nil {
			ps = append(ps, p)
		}
	}
	var wg sync.WaitGroup
	for _, vm := range a.vms {
		if vm != nil {
			wg.Go(func() { _ = vm.Kill(context.Background()) })
		}
	}
	killAll(ps)
	wg.Wait()
	for _, c := range a.consoles {
		if c != nil {
			c.Close()
		}
	}
	if err := os.RemoveAll(a.dir); err != nil {
		return errs.E("demo.destroy", errs.Unavailable, a.dir, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return errs.E("demo.writeJSON", errs.Internal, path, err)
	}
	return durable.WriteFile(durable.OS{}, path, append(b, '\n'))
}

// url is the container's address.
func (r *run) url() string { return "file://" + filepath.Join(r.dir, "store") }

// short makes a path readable in the demo's own messages.
func (r *run) short(path string) string { return strings.TrimPrefix(path, r.dir+"/") }
