package cli

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
)

// drvaConfig is the DRVA's configuration file.
type drvaConfig struct {
	Container  string `json:"container"`                 // URL
	Key        string `json:"key,omitempty"`             // the appliance's own recovery key file
	Passphrase string `json:"passphrase_file,omitempty"` // or a passphrase's
	Log        string `json:"log"`                       // directory of the replication log
	Quota      int64  `json:"quota"`                     // bytes
	Listen     string `json:"listen"`                    // host:port for host components
	TLS        string `json:"tls"`                       // directory made by "cert issue --role drva"
	Interval   string `json:"interval,omitempty"`        // between checkpoints
	Status     string `json:"status,omitempty"`          // unix socket for "holdfast status"
}

// defaultQuota is the replication log's size when the configuration is silent:
// 64 GiB absorb an outage of the store of 21 minutes at 50 MB/s.
const defaultQuota = 64 << 30

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"` // where hosts connect
}

func newDRVACommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "drva --config FILE",
		Short: "DR virtual appliance: order, log, cut and publish one domain",
		Long: `Runs the DR virtual appliance of one protected domain: it takes the writes of the
domain's hosts, puts them in one order, logs them durably, cuts a checkpoint
every few seconds and publishes it into the domain's container.

Configuration, in JSON:

  {
    "container": "file:///srv/dr/erp", "key": "/etc/holdfast/drva.key",
    "log": "/var/lib/holdfast/log", "quota": 68719476736,
    "listen": "10.0.0.5:7480", "tls": "/etc/holdfast/tls",
    "interval": "5s",
    "status": "/run/holdfast/drva.sock"
  }

key (or passphrase_file) opens the container; it is the appliance's own, so that
the recovery key can stay away from the site. quota bounds the log in bytes
(default 64 GiB); put it on a disk of its own. interval is 1s to 60s.

Starting a second appliance for a domain fences the first: it stops for good.`,
		Example: "  holdfast drva --config drva.json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := drvaConfig{Quota: defaultQuota}
			if err := readConfig(path, &cfg); err != nil {
				return err
			}
			return runDRVA(cmd, &cfg)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration file")
	return cmd
}

func runDRVA(cmd *cobra.Command, cfg *drvaConfig) error {
	const op = "drva"
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	var interval time.Duration
	if cfg.Interval != "" {
		if interval, err = time.ParseDuration(cfg.Interval); err != nil {
			return errs.E(op, errs.Invalid, "interval", err).WithRemedy("write it as in 5s")
		}
	}
	creds, err := control.LoadCredentials(cfg.TLS)
	if err != nil {
		return err
	}
	c, err := openContainer(cmd.Context(), cfg.Container, &identityFlags{key: cfg.Key, passphrase: cfg.Passphrase})
	if err != nil {
		return err
	}
	ln, err := creds.Listen(cfg.Listen, control.RoleHost)
	if err != nil {
		return err
	}
	defer ln.Close()
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	s, err := drva.New(drva.Config{
		Container: c, Host: name, LogDir: cfg.Log, Quota: cfg.Quota, Interval: interval,
		Listener: ln, Authenticate: hostOf(cmd.Context()), Logger: log,
	})
	if err != nil {
		return err
	}
	return serve(cmd.Context(), log, cfg.Status, map[string]control.Handler{
		"/status": func(context.Context, []byte) (any, error) {
			return drvaStatus{s.Status(), ln.Addr().String()}, nil
		},
		"/checkpoint": func(ctx context.Context, body []byte) (any, error) {
			var r checkpointRequest
			if err := json.Unmarshal(body, &r); err != nil {
				return nil, errs.E(op, errs.Invalid, "checkpoint", err)
			}
			return s.Checkpoint(ctx, r.Tag)
		},
	}, s.Run)
}

// hostOf completes the handshake of an accepted link and tells which host's
// certificate the other side has.
func hostOf(ctx context.Context) func(net.Conn) (dr.HostID, error) {
	return func(nc net.Conn) (dr.HostID, error) {
		link, ok := nc.(*control.Link)
		if !ok {
			return dr.HostID{}, errs.New("drva.accept", errs.Internal, nc.RemoteAddr().String(), "not a link of this site")
		}
		if err := link.Handshake(ctx); err != nil {
			return dr.HostID{}, err
		}
		_, name := link.Peer()
		id, err := dr.ParseUUID(name)
		if err != nil {
			return dr.HostID{}, errs.E("drva.accept", errs.Denied, nc.RemoteAddr().String(), err).
				WithRemedy("issue the host's certificate with its host id: holdfast cert issue --role host --name ID")
		}
		return dr.HostID{UUID: id}, nil
	}
}
