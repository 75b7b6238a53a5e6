package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/store/limit"
)

// tuner makes a running process what its configuration file says by now, as far as that
// can be done while it runs.
type tuner struct {
	path  string
	total *limit.Limiter // of all domains together
	all   []*appliance   // in the file's order; immutable

	mu  sync.Mutex  // one change at a time
	cfg *drvaConfig // what runs; guarded by mu
}

// tuned is what is answered to a local /reconfigure call.
type tuned struct {
	Changed []string `json:"changed"` // containers of the domains that are otherwise now
}

// reconfigure reads the file again. It is the truth: what of it differs from what runs is
// done at once, or, if anything differs that cannot be, nothing is. Kinds: Invalid (the
// file is bad), Conflict (it asks for what takes a restart): then nothing has changed.
func (t *tuner) reconfigure(ctx context.Context) (any, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next drvaConfig
	if err := readConfig(t.path, &next); err != nil {
		return nil, err
	}
	domains, err := next.each()
	if err != nil {
		return nil, err
	}
	if err := t.restarts(&next, domains); err != nil {
		return nil, err
	}
	total, err := limit.ParseSchedule(next.TotalBandwidth)
	if err != nil {
		return nil, err
	}
	changes := make([]*change, len(domains))
	for i, d := range domains {
		if changes[i], err = t.all[i].changeTo(d); err != nil {
			return nil, err
		}
	}
	// From here on nothing fails.
	if next.TotalBandwidth != t.cfg.TotalBandwidth {
		t.total.Set(total)
	}
	out := tuned{Changed: []string{}}
	for i, c := range changes {
		if c != nil {
			t.all[i].become(ctx, c)
			out.Changed = append(out.Changed, domains[i].Container)
		}
	}
	t.cfg = &next
	return out, nil
}

// restarts refuses what differs and cannot be changed while the process runs.
func (t *tuner) restarts(next *drvaConfig, domains []*domainConfig) error {
	refuse := func(object, words string) error {
		return errs.New("drva.reconfigure", errs.Conflict, object, words).WithRemedy("start the appliance again")
	}
	if next.Listen != t.cfg.Listen || next.TLS != t.cfg.TLS {
		return refuse("listen", "where hosts connect, and by which certificate, stays while the process runs")
	}
	if len(domains) != len(t.all) {
		return refuse("domains", fmt.Sprintf("the process serves %d domains, the file has %d", len(t.all), len(domains)))
	}
	for i, d := range domains {
		if !sameButLive(t.all[i].cfg, d) {
			return refuse(d.Container, "something differs that stays while the process runs: other than interval, app-interval, rpo-target, compression, throttle, throttle-delay, bandwidth and the history's settings")
		}
	}
	return nil
}

// sameButLive reports whether two configurations of a domain differ at most in what can
// be changed while it runs.
func sameButLive(a, b *domainConfig) bool {
	text := func(d domainConfig) string {
		d.Interval, d.AppInterval, d.RPOTarget, d.Compression, d.Bandwidth = "", "", "", "", ""
		d.Throttle, d.ThrottleDelay = nil, ""
		d.Retention, d.Limit, d.Grace, d.TagTime = "", "", "", ""
		b, _ := json.Marshal(d) // of strings, numbers and booleans: it never fails
		return string(b)
	}
	return text(*a) == text(*b)
}

// change is what a domain's appliance is to be, checked.
type change struct {
	to        *domainConfig
	tuning    drva.Tuning
	policy    policyText
	bandwidth *limit.Schedule // nil: as before
	upkeep    bool            // the history's settings are others
}

// changeTo checks what the appliance is to be; nil: what it is.
func (a *appliance) changeTo(d *domainConfig) (*change, error) {
	config, err := d.config()
	if err != nil {
		return nil, err
	}
	c := &change{to: d, tuning: config.Tuning()}
	if err := c.tuning.Check(); err != nil {
		return nil, err
	}
	if c.policy, err = d.policy(); err != nil {
		return nil, err
	}
	schedule, err := limit.ParseSchedule(d.Bandwidth)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	was, err := a.live.policy()
	if err != nil {
		return nil, err
	}
	if c.upkeep = was != c.policy; d.Bandwidth != a.live.Bandwidth { // what "holdfast bandwidth" has set stays, else
		c.bandwidth = &schedule
	}
	before, err := a.live.config()
	if err == nil && before.Tuning() == c.tuning && !c.upkeep && c.bandwidth == nil {
		return nil, nil
	}
	return c, err
}

// become makes the appliance what was checked. One that waits for its store is so when it
// has reached it.
func (a *appliance) become(ctx context.Context, c *change) {
	if c.bandwidth != nil {
		a.limiter.Set(*c.bandwidth)
	}
	a.mu.Lock()
	a.live = *c.to
	s, up := a.server, a.up
	a.mu.Unlock()
	a.follow(ctx, s, up, c)
}

// follow hands a change on to what runs; nil: it does not yet.
func (a *appliance) follow(ctx context.Context, s *drva.Server, up *upkeep, c *change) {
	if s == nil {
		return
	}
	if err := s.Tune(ctx, c.tuning); err != nil { // it was checked
		a.log.Error("a domain's settings are not taken", "container", c.to.Container, "err", err)
	}
	if up != nil && c.upkeep {
		up.retune(c.policy)
	}
	a.log.Info("a domain has other settings now", "container", c.to.Container)
}

// catchUp hands on what was changed while the appliance began.
func (a *appliance) catchUp(ctx context.Context, s *drva.Server, up *upkeep, begins, live *domainConfig) error {
	if reflect.DeepEqual(begins, live) {
		return nil
	}
	config, err := live.config()
	if err != nil {
		return err
	}
	policy, err := live.policy()
	if err != nil {
		return err
	}
	a.follow(ctx, s, up, &change{to: live, tuning: config.Tuning(), policy: policy, upkeep: true})
	return nil
}
