package cli

import (
	"context"
	"errors"
	"net"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// ioFilterConfig is the host component's configuration file.
type ioFilterConfig struct {
	iofilter.Config
	DRVA   string `json:"drva"`             // host:port of the domain's DRVA
	TLS    string `json:"tls"`              // directory made by "cert issue --role host"
	Status string `json:"status,omitempty"` // unix socket for "holdfast status"

	Platform platformConfig `json:"platform,omitzero"` // for "holdfast protect"
	Live     liveConfig     `json:"live,omitzero"`
}

func newIOFilterCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "iofilter --config FILE",
		Short: "Host component: serve VMs' disks and send every write to the DRVA",
		Long: `Runs the host component of one hypervisor host. It serves each protected disk
over NBD on a unix socket, in front of the same primary disk, and sends every
write to the domain's DRVA. When it cannot, guests go on: it remembers what
changed and sends that later.

Configuration, in JSON:

  {
    "domain": "8f0c…", "host": "17aa…", "name": "node1",
    "ack": "async",
    "drva": "10.0.0.5:7480", "tls": "/etc/holdfast/tls",
    "status": "/run/holdfast/iofilter.sock",
    "vms": [{
      "config": {"id": "51d0…", "name": "erp1", "cpus": 2, "memory_mib": 4096,
                 "machine": "q35", "firmware": "bios",
                 "disks": [{"id": "c3f1…", "name": "disk0", "bus": "virtio"}], "nics": []},
      "disks": [{"id": "c3f1…", "name": "disk0", "path": "/var/lib/vms/erp1.raw",
                 "socket": "/run/holdfast/erp1-disk0.sock", "direct": true}]
    }]
  }

ack: async (default) acknowledges a guest's write when the primary has it and it
is in the stream; ordered waits for its place in the domain's order as well; sync
until it is durable in the replication log.
Optional: ring_bytes, stall_limit ("500ms"), sync_bandwidth (for the first copy
and resyncs: bytes a second, or a schedule as in "holdfast drva --help"; they give
way to guests besides).

For application-consistent checkpoints each VM is frozen by its guest agent where
the hypervisor offers that, or, with "freeze": {"pre": ["/etc/holdfast/quiesce",
"erp"], "post": ["/etc/holdfast/thaw", "erp"], "timeout": "4s"} in its block, by
commands on this host, which no shell reads; {"exempt": true} leaves it out.
Whatever happens, post runs, and the guest thaws, at the latest 10 s later.

VMs need not be listed: with the hypervisor named, "holdfast protect" takes up VMs
that run, and a watchdog lets them go on alone if the host component dies or does
not answer for "hang" (10 s):

  "platform": {"libvirt": "/run/libvirt/libvirt-sock"},
  "live": {"sockets": "/run/holdfast", "record": "/var/lib/holdfast/live.json"}

platform may instead be {"qmp": [{"socket": "/run/erp1.qmp", "agent": "/run/erp1.qga"}]};
libvirt takes "route": "blockcopy" (its XML stays true) or "monitor" (milliseconds).
Optional in live: capture (see "holdfast protect --help"), direct, leave_new_disks,
hang, no_watchdog.`,
		Example: "  holdfast iofilter --config node1.json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg ioFilterConfig
			if err := readConfig(path, &cfg); err != nil {
				return err
			}
			return runIOFilter(cmd, &cfg, path)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration file")
	return cmd
}

func runIOFilter(cmd *cobra.Command, cfg *ioFilterConfig, path string) error {
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	log = log.With("host", cfg.Name)
	creds, err := control.LoadCredentials(cfg.TLS)
	if err != nil {
		return err
	}
	var platform hypervisor.Platform
	var find func(context.Context, dr.VMID) (hypervisor.LiveVM, error)
	if cfg.Platform.isSet() {
		if platform, err = openPlatform(cmd.Context(), &cfg.Platform, log); err != nil {
			return err
		}
		find = func(ctx context.Context, id dr.VMID) (hypervisor.LiveVM, error) { return platform.VM(ctx, id.String()) }
	}
	f, err := iofilter.New(cfg.Config, iofilter.Options{Logger: log, Dial: dialDRVA(creds, cfg), Freezer: newFreezer(cfg.VMs, find)})
	if err != nil {
		if platform != nil {
			err = errors.Join(err, platform.Close())
		}
		return err
	}
	calls, run := hostCalls(f), f.Run
	if platform != nil {
		h, err := openLive(log, cfg, f, platform)
		if err != nil {
			return errors.Join(err, f.Close(), platform.Close())
		}
		h.calls(calls)
		run = h.run
		if !cfg.Live.Unwatch {
			if err := startWatchdog(path); err != nil {
				return errors.Join(err, f.Close(), platform.Close())
			}
		}
	}
	return serve(cmd.Context(), log, cfg.Status, calls, run)
}

// dialDRVA connects to the DRVA of the very domain the host is configured for.
func dialDRVA(creds *control.Credentials, cfg *ioFilterConfig) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		link, err := creds.Dial(ctx, cfg.DRVA, control.RoleDRVA)
		if err != nil {
			return nil, err
		}
		if _, name := link.Peer(); !link.Is(control.RoleDRVA, cfg.Domain.String()) {
			link.Close()
			return nil, errs.New("iofilter.dial", errs.Denied, cfg.DRVA, "this DRVA serves domain "+name+", not "+cfg.Domain.String()).
				WithRemedy("set drva to the address of this domain's DRVA")
		}
		return link, nil
	}
}
