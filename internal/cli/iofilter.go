package cli

import (
	"context"
	"errors"
	"net"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/errs"
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

// pauseFile says where pauses are kept if the configuration, at path, does not:
// beside what is written anyway, or beside the configuration itself.
func (c *ioFilterConfig) pauseFile(path string) {
	if c.PauseFile != "" {
		return
	}
	if c.PauseFile = path + pauseSuffix; c.Live.Record != "" {
		c.PauseFile = c.Live.Record + pauseSuffix
	}
}

// pauseSuffix makes a file of pauses from one beside it.
const pauseSuffix = ".paused"

func newIOFilterCommand() *cobra.Command {
	var path string
	var takeOver bool
	cmd := &cobra.Command{
		Use:   "iofilter --config FILE [--takeover]",
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
way to guests besides), pause_file (where it is kept over restarts what "holdfast
pause" has paused; by default the record of live, or this file, with .paused behind).

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
hang, no_watchdog.

To upgrade it, start the new program with --takeover while the old one runs, as the
same user: it is given the guests' connections, serves them, and the old one ends.
Guests wait for some milliseconds. If the new one fails, the old one goes on.`,
		Example: "  holdfast iofilter --config node1.json\n  holdfast iofilter --config node1.json --takeover",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg ioFilterConfig
			if err := readConfig(path, &cfg); err != nil {
				return err
			}
			cfg.pauseFile(path)
			return runIOFilter(cmd, &cfg, path, takeOver)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration file")
	cmd.Flags().BoolVar(&takeOver, "takeover", false, "go on in the place of the one that runs with this status socket")
	return cmd
}

func runIOFilter(cmd *cobra.Command, cfg *ioFilterConfig, path string, takeOver bool) error {
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	log = log.With("host", cfg.Name)
	creds, err := control.LoadCredentials(cfg.TLS)
	if err != nil {
		return err
	}
	h := newHostProcess(log, cfg, path, dialDRVA(creds, cfg))
	begin := h.start
	if takeOver {
		begin = h.succeed
	}
	if err := begin(cmd.Context()); err != nil {
		return err
	}
	if err := h.run(cmd.Context()); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped")
	return nil
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
