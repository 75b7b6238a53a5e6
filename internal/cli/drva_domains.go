package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/fair"
	"holdfast/internal/store/access"
	"holdfast/internal/store/limit"
)

const (
	// sharedPuts and leastPuts are the requests that create objects which the
	// domains of a process may have under way: as many as one alone may have,
	// and two more for each, so that none waits for another's store.
	sharedPuts = 8
	leastPuts  = 2
)

// parts are what the domains of one process share.
type parts struct {
	shared *drva.Shared
	total  *limit.Limiter // of all domains together
	puts   *fair.Slots
	front  *drva.Front
	names  []string
	host   string
	log    *slog.Logger
	creds  *control.Credentials
}

// each returns the domains of the configuration, with quotas.
func (cfg *drvaConfig) each() ([]*domainConfig, error) {
	bad := func(object, words, remedy string) ([]*domainConfig, error) {
		return nil, errs.New("drva", errs.Invalid, object, words).WithRemedy(remedy)
	}
	if cfg.LogPool < 0 {
		return bad("log-pool", "it is negative", "give bytes, or leave it out")
	}
	if len(cfg.Domains) == 0 {
		d := cfg.domainConfig
		if d.Quota == 0 {
			d.Quota = max(cfg.LogPool, 0)
		}
		if d.Quota == 0 {
			d.Quota = defaultQuota
		}
		return []*domainConfig{&d}, nil
	}
	switch {
	case !reflect.ValueOf(cfg.domainConfig).IsZero():
		return bad("domains", "settings of one domain stand beside the list of domains", "move them into the list")
	case len(cfg.Domains) > control.MaxNames:
		return bad("domains", fmt.Sprintf("%d domains are more than one process serves", len(cfg.Domains)), "use a second appliance")
	}
	var out []*domainConfig
	logs, sockets := map[string]bool{}, map[string]bool{}
	weights := 0
	for i := range cfg.Domains {
		d := cfg.Domains[i]
		name := fmt.Sprintf("domain %d of the list", i+1)
		p, ok := drva.ParsePriority(d.Priority)
		log := filepath.Clean(d.Log)
		switch {
		case !ok:
			return bad(name, fmt.Sprintf("priority %q", d.Priority), "choose low, normal or high")
		case d.Log == "" || d.Container == "":
			return bad(name, "it has no container or no log", "complete it")
		case logs[log] || d.Status != "" && sockets[d.Status]:
			return bad(name, "another domain has the same log directory or status socket", "give each domain its own")
		}
		logs[log], sockets[d.Status] = true, true
		if d.Quota == 0 {
			weights += int(p)
		}
		out = append(out, &d)
	}
	for _, d := range out {
		if p, _ := drva.ParsePriority(d.Priority); d.Quota == 0 {
			if d.Quota = defaultQuota; cfg.LogPool > 0 {
				d.Quota = cfg.LogPool / int64(weights) * int64(p)
			}
		}
	}
	return out, nil
}

func runDRVA(cmd *cobra.Command, path string, cfg *drvaConfig) error {
	ctx := cmd.Context()
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	domains, err := cfg.each()
	if err != nil {
		return err
	}
	creds, err := control.LoadCredentials(cfg.TLS)
	if err != nil {
		return err
	}
	total, err := limit.ParseSchedule(cfg.TotalBandwidth)
	if err != nil {
		return err
	}
	p := &parts{shared: drva.NewShared(), total: limit.NewLimiter(total), puts: fair.New(sharedPuts, leastPuts),
		names: creds.Names(control.RoleDRVA), log: log, creds: creds, host: "unknown"}
	if name, err := os.Hostname(); err == nil {
		p.host = name
	}
	ln, err := creds.Listen(cfg.Listen, control.RoleHost)
	if err != nil {
		return err
	}
	defer ln.Close()
	p.front = drva.NewFront(ln, hostOf(ctx), log)
	var all []*appliance
	for _, d := range domains {
		a, err := p.appliance(ctx, d)
		if err != nil {
			return err
		}
		a.address = ln.Addr()
		all = append(all, a)
	}
	t := &tuner{path: path, total: p.total, all: all, cfg: cfg}
	for _, a := range all {
		a.tuner = t
	}
	return p.serve(ctx, all)
}

// appliance makes ready what serves one domain.
func (p *parts) appliance(ctx context.Context, d *domainConfig) (*appliance, error) {
	config, err := d.config()
	if err != nil {
		return nil, err
	}
	if _, err := d.policy(); err != nil {
		return nil, err
	}
	schedule, err := limit.ParseSchedule(d.Bandwidth)
	if err != nil {
		return nil, err
	}
	identity, err := (&identityFlags{key: d.Key, passphrase: d.Passphrase, service: d.KMS}).load()
	if err != nil {
		return nil, err
	}
	credentials, err := access.ReadFile(d.Access)
	if err != nil {
		return nil, err
	}
	list, err := d.copiers()
	if err != nil {
		return nil, err
	}
	limiter := limit.NewLimiter(schedule)
	weight := int(config.Priority)
	st, err := openStack(ctx, d.Container, stackOptions{limiter: limiter, first: firstWeight, logger: p.log, later: true, access: credentials,
		shared: p.total, weight: weight, requests: p.puts.Join(weight)})
	if err != nil {
		return nil, err
	}
	config.Host, config.Shared, config.Logger = p.host, p.shared, p.log
	p.front.Expect()
	for _, c := range list {
		c.limiter, c.shared, c.log = limiter, p.total, p.log
	}
	return &appliance{cfg: d, live: *d, copies: list, identity: identity, stack: st, limiter: limiter, log: p.log, front: p.front, names: p.names, config: config}, nil
}

// serve runs the front and all domains. A domain that cannot go on, because
// another appliance has taken it over, say, ends alone; the process ends with
// the last, and then says why each did.
func (p *parts) serve(ctx context.Context, all []*appliance) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	front := make(chan error, 1)
	go func() {
		err := p.front.Run(ctx)
		if err != nil {
			cancel(err)
		}
		front <- err
	}()
	failed := make([]error, len(all))
	var running sync.WaitGroup
	for i, a := range all {
		running.Go(func() {
			failed[i] = serve(ctx, p.log, a.cfg.Status, a.calls(), a.run)
			if failed[i] != nil && len(all) > 1 {
				p.log.Error("a domain is not served any more", "container", a.cfg.Container, "err", failed[i], "remedy", errs.RemedyOf(failed[i]))
			}
		})
	}
	running.Wait()
	cancel(nil)
	err := <-front
	if len(all) == 1 && failed[0] != nil {
		return failed[0]
	}
	return errors.Join(append(failed, err)...)
}

// config reads what package drva needs of a domain's configuration, its
// container and its share apart.
func (cfg *domainConfig) config() (c drva.Config, err error) {
	bad := func(object, word, remedy string) (drva.Config, error) {
		return c, errs.New("drva", errs.Invalid, object, fmt.Sprintf("%q", word)).WithRemedy(remedy)
	}
	c = drva.Config{LogDir: cfg.Log, Quota: cfg.Quota}
	if c.Interval, err = cfg.interval(); err != nil {
		return c, err
	}
	if cfg.Timeline != "" {
		id, err := dr.ParseUUID(cfg.Timeline)
		if err != nil {
			return c, errs.E("drva", errs.Invalid, "timeline", err).WithRemedy("give a timeline's id: holdfast timeline list URL")
		}
		c.Timeline = dr.TimelineID{UUID: id}
	}
	if err := cfg.refuseOldLock(); err != nil {
		return c, err
	}
	for _, t := range []struct {
		name, text string
		into       *time.Duration
	}{{"rpo-target", cfg.RPOTarget, &c.RPOTarget}, {"app-interval", cfg.AppInterval, &c.AppInterval}, {"throttle-delay", cfg.ThrottleDelay, &c.ThrottleDelay}} {
		if t.text == "" {
			continue
		}
		if *t.into, err = time.ParseDuration(t.text); err != nil || *t.into <= 0 {
			return bad(t.name, t.text, "write it as in 30s")
		}
	}
	var ok bool
	if c.Priority, ok = drva.ParsePriority(cfg.Priority); !ok {
		return bad("priority", cfg.Priority, "choose low, normal or high")
	}
	if c.Compression, ok = drva.ParseCompression(cfg.Compression); !ok {
		return bad("compression", cfg.Compression, "choose fastest, default, better or none")
	}
	c.NoThrottle = cfg.Throttle != nil && !*cfg.Throttle
	return c, nil
}
