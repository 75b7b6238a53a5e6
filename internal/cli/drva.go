package cli

import (
	"context"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/copies"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store/limit"
	"holdfast/internal/store/meter"
)

// drvaConfig is the DRVA's configuration file: one domain, or Domains. What the
// process has once stands beside them.
type drvaConfig struct {
	domainConfig
	Listen  string         `json:"listen"`            // host:port for host components
	TLS     string         `json:"tls"`               // directory made by "cert issue --role drva"
	Domains []domainConfig `json:"domains,omitempty"` // several, in place of the one above

	// TotalBandwidth limits the traffic of all domains together, LogPool is what
	// the logs of those without a quota share, in bytes.
	TotalBandwidth string `json:"total-bandwidth,omitempty"`
	LogPool        int64  `json:"log-pool,omitempty"`
}

// domainConfig is one domain of a DRVA.
type domainConfig struct {
	Container  string `json:"container,omitempty"`       // URL
	Key        string `json:"key,omitempty"`             // the appliance's own recovery key file
	Passphrase string `json:"passphrase_file,omitempty"` // or a passphrase's
	KMS        string `json:"kms,omitempty"`             // or the address of a key service's key
	Access     string `json:"credentials,omitempty"`     // file of mode 0600 with the store's credentials; empty: the environment
	Timeline   string `json:"timeline,omitempty"`        // id of the one to publish; empty: the log's, or the current one
	Log        string `json:"log,omitempty"`             // directory of the replication log
	Quota      int64  `json:"quota,omitempty"`           // bytes
	Interval   string `json:"interval,omitempty"`        // between checkpoints
	Bandwidth  string `json:"bandwidth,omitempty"`       // schedule of the traffic with the store
	Retention  string `json:"retention,omitempty"`       // schedule of the history
	Limit      string `json:"history-limit,omitempty"`   // of the history's size
	Grace      string `json:"history-grace,omitempty"`   // before what nothing needs is deleted
	TagTime    string `json:"tag-time,omitempty"`        // how long tagged checkpoints stay
	Lock       string `json:"lock,omitempty"`            // how long nobody can delete what the history needs
	Maintain   *bool  `json:"maintain,omitempty"`        // false: somebody else does
	OldLock    string `json:"object-lock,omitempty"`     // what lock was before; refused
	OldLockFor string `json:"lock-for,omitempty"`        // likewise
	Status     string `json:"status,omitempty"`          // unix socket for "holdfast status"

	Priority      string `json:"priority,omitempty"`       // low, normal, high
	RPOTarget     string `json:"rpo-target,omitempty"`     // what is promised, as "30s"
	AppInterval   string `json:"app-interval,omitempty"`   // between application-consistent checkpoints
	Compression   string `json:"compression,omitempty"`    // fastest, default, better, none
	Throttle      *bool  `json:"throttle,omitempty"`       // false: never slow guests down
	ThrottleDelay string `json:"throttle-delay,omitempty"` // most for one write

	Copies []copyConfig `json:"copies,omitempty"` // further stores
}

// copyConfig is a store that gets a copy of the domain's container.
type copyConfig struct {
	Container string `json:"container"`             // URL; made if it is missing
	Access    string `json:"credentials,omitempty"` // as that of the domain
}

// defaultQuota is the replication log's size when the configuration is silent:
// 64 GiB absorb an outage of the store of 21 minutes at 50 MB/s.
const defaultQuota = 64 << 30

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string      `json:"address"` // where hosts connect
	Store   storeStatus `json:"store"`
	DataKey keyStatus   `json:"data_key"`
	// Maintenance of the history; absent when it is done elsewhere.
	Maintenance *upkeepStatus `json:"maintenance,omitempty"`
	// Copies are the container's in other stores, in the configuration's order.
	Copies []copies.Status `json:"copies,omitempty"`
}

// storeStatus is what a DRVA asked of its store since it was started, and what
// it may.
type storeStatus struct {
	meter.Counts
	Bandwidth string     `json:"bandwidth,omitempty"` // the schedule; empty: no limit
	Up        limit.Rate `json:"up_bytes_per_s"`      // allowed now; 0: no limit
	Down      limit.Rate `json:"down_bytes_per_s"`
}

// storeStatusOf asks the store's wrappers.
func storeStatusOf(st *stack, l *limit.Limiter) storeStatus {
	s := storeStatus{Counts: st.meter.Counts(), Bandwidth: l.Schedule().String()}
	s.Up, s.Down = l.Rates()
	return s
}

const drvaLong = `Runs the DR virtual appliance of one protected domain: it takes the writes of the
domain's hosts, puts them in one order, logs them durably, cuts a checkpoint
every few seconds and publishes it into the domain's container.

Configuration, in JSON:

  {
    "container": "file:///srv/dr/erp", "key": "/etc/holdfast/drva.key",
    "log": "/var/lib/holdfast/log", "quota": 68719476736,
    "listen": "10.0.0.5:7480", "tls": "/etc/holdfast/tls",
    "interval": "5s",
    "bandwidth": "zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; * 100MB/s",
    "retention": "5s for 1h, 1m for 24h, 1h for 30d", "history-limit": "500GB",
    "status": "/run/holdfast/drva.sock"
  }

key opens the container, or passphrase_file, or kms, the address of a key service's
key, whose credentials come from the environment; it is the appliance's own, so
that the recovery key can stay away from the site. credentials names a file of mode
0600 with the store's credentials, in lines like AWS_ACCESS_KEY_ID=…; left out,
they come from the environment. quota bounds the log in bytes
(default 64 GiB); put it on a disk of its own. interval is 1s to 60s.

bandwidth limits the traffic with the store; left out, nothing does. It is a list
of rules, of which the first that holds counts: days ("*", "mon-fri", "sat,sun"),
times (left out: the whole day), and a rate for both directions or one for each
("up 5MB/s down 50Mbit/s", "unlimited"). "zone" says whose clock is meant. While
the limit is below what the VMs write, the log fills and the RPO grows; "holdfast
bandwidth" changes the limit of a running appliance.

The appliance also maintains the history it writes: thins it, packs it, and gives
room back; replication never waits for that. retention is its schedule,
history-limit its size ("500GB": the oldest go; "500GB alarm": only an alarm),
history-grace how long what nothing needs stays (default 24h), tag-time how long
tagged checkpoints stay ("365d"), lock how long nobody, with whatever credentials,
can delete what the history needs ("governance for 30d", "compliance for 30d",
"none"). What is left out is what the container remembers when the appliance starts
(see "holdfast retention"), or the default; what is named, the container remembers
from then on. With "maintain": false it is done elsewhere, by "holdfast gc run
--watch", and the appliance needs no right to delete; of these settings it then
takes lock alone, for what it publishes.

With a lock, every object the appliance creates is held against deletion from its
first moment, for 26h (24h, if the lock is for less), and maintenance extends that
to the lock's time for as long as the history needs it, and holds what else a
recovery needs. The store must have Object Lock.

rpo-target ("30s") is what is promised: the status tells whether it is kept, and
events when it is not. app-interval ("1h") cuts application-consistent checkpoints
on schedule. compression is fastest (default), default, better or none. While the
log fills up, guests' writes are kept back, by throttle-delay (20ms) each at most;
"throttle": false leaves them alone.

copies are further stores that get a copy of the container, at most 3, as
[{"container": "s3://dr-copy/erp", "credentials": "/etc/holdfast/copy.env"}]: the
same objects under the same names, which the same keys open, some 15 s behind. A
copy is made if it is missing. Publishing never waits for it; its traffic counts
within bandwidth, where the first store goes before. A copy that somebody has
recovered from is not touched any more: the status says so, and events.

One process serves several domains with "domains": a list of such blocks, each
with container, key, log, status and what else is its own, and beside it listen,
tls (a certificate with every domain's id: "cert issue --name A --name B") and, if
wanted, total-bandwidth for all together and log-pool, the bytes that logs without
a quota share. What the domains share goes by "priority": low, normal or high, 1 to
2 to 4; none can starve another.

A running appliance reads its file again when it is asked to: POST /reconfigure on a status
socket. Interval, app-interval, rpo-target, compression, throttle, throttle-delay,
bandwidth, total-bandwidth and the history's settings but its lock are changed at once,
without a domain noticing. If the file is bad, or has anything else changed, that is the
answer, and nothing is.

The appliance comes up while the store is away, says so in its log and status, and
goes on trying; hosts track what changes meanwhile.

Starting a second appliance for a domain fences the first: it stops for good. An
appliance whose domain was recovered elsewhere does not start again: its log is of a
timeline that is not the current one. "timeline" names the one to publish, by id,
where it is not the current one.`

func newDRVACommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "drva --config FILE",
		Short:   "DR virtual appliance: order, log, cut and publish one domain",
		Long:    drvaLong,
		Example: "  holdfast drva --config drva.json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg drvaConfig
			if err := readConfig(path, &cfg); err != nil {
				return err
			}
			return runDRVA(cmd, path, &cfg)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration file")
	return cmd
}

// policy is what the configuration says of the history's maintenance. Kind
// Invalid when it is done elsewhere and it says something.
func (cfg *domainConfig) policy() (policyText, error) {
	text := policyText{schedule: cfg.Retention, limit: cfg.Limit, grace: cfg.Grace, tagTime: cfg.TagTime}
	if cfg.Maintain != nil && !*cfg.Maintain && !text.empty() {
		return text, errs.New("drva", errs.Invalid, "maintain", "the configuration says how the history is maintained, and that it is not").
			WithRemedy(`take "maintain": false out, or retention, history-limit, history-grace and tag-time`)
	}
	text.lock = cfg.Lock
	return text, text.apply(&maintain.Policy{})
}

// upkeep is what maintains the history beside the appliance; nil when it is
// done elsewhere. A store that does not answer now keeps nothing from running.
func (cfg *domainConfig) upkeep(ctx context.Context, c *journal.Container, log *slog.Logger) (*upkeep, error) {
	text, err := cfg.policy()
	if err != nil || cfg.Maintain != nil && !*cfg.Maintain {
		return nil, err
	}
	u := newUpkeep(c, text, maintain.Options{By: maintainerName("drva"), Logger: log})
	return u, u.openLater(ctx)
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
