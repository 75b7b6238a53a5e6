package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/control"
	"holdfast/internal/copies"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/maintain"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/store/meter"
)

// drvaStatus is what a DRVA answers for one of its domains.
type drvaStatus struct {
	drva.Status
	Store struct {
		meter.Counts
	} `json:"store"`
	Maintenance *upkeepStatus   `json:"maintenance,omitempty"`
	Copies      []copies.Status `json:"copies,omitempty"` // as the configuration has them
}

// upkeepStatus is how it says that a domain's history stands.
type upkeepStatus struct {
	maintain.Status
	Waiting string `json:"waiting,omitempty"` // why it could not begin
}

// DRVA is an appliance that serves domains: one process for all of them. Make it with
// NewDRVA. Safe for concurrent use.
type DRVA struct {
	box
	unit *unit

	look sync.Mutex // one look at a time

	seen     map[site.Name]*served // guarded by box.mu
	restart  time.Time             // guarded by look; no restart for the sake of one domain before
	patience time.Duration         // guarded by look; between two of them
}

// served is how a domain was, when it was looked at last.
type served struct {
	status *drvaStatus // nil: it did not answer
	err    error
	since  time.Time // when it stopped answering; zero: it answers
	stuck  time.Time // since when its history is not maintained; zero: it is
	rates  rates
}

// NewDRVA returns the appliance of a directory; it does nothing before Run or Setup.
func NewDRVA(o Options) *DRVA {
	d := &DRVA{box: newBox(o), seen: map[site.Name]*served{}}
	d.unit = newUnit(&d.Boxes, d.log, "drva", filepath.Join(d.Dir, "drva"), "drva")
	return d
}

// domainDir is where a domain's files are.
func (d *DRVA) domainDir(m *setup.Domain) string {
	return filepath.Join(d.unit.dir, m.ID.String()[:8])
}

func (d *DRVA) socket(m *setup.Domain) string { return filepath.Join(d.domainDir(m), "s.sock") }

// Setup makes the DRVA what it is to be. What it serves no more has ended on return, and
// what its log held unpublished is kept beside.
func (d *DRVA) Setup(ctx context.Context, s *setup.Setup) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	if err := d.take(s); err != nil {
		return err
	}
	if err := d.apply(ctx, s); err != nil {
		return err
	}
	d.is(s)
	d.once(ctx)
	return nil
}

// Run keeps the process.
func (d *DRVA) Run(ctx context.Context) error {
	d.applying.Lock()
	if s := d.load(); s != nil && d.current() == nil {
		d.mu.Lock()
		d.now = s
		d.mu.Unlock()
		if err := d.apply(ctx, s); err != nil {
			d.tell("appliance", err)
		} else {
			d.is(s)
		}
	}
	d.applying.Unlock()
	every(ctx, d.once)
	return nil
}

// apply writes what the process is to be, and ends one that is something else.
func (d *DRVA) apply(ctx context.Context, s *setup.Setup) error {
	domains, err := d.admitted(s)
	if err != nil {
		return err
	}
	if len(domains) == 0 {
		if !d.unit.isConfigured() {
			return nil
		}
		if err := d.unit.end(ctx); err != nil {
			return err
		}
		if err := errors.Join(durable.Remove(durable.OS{}, d.unit.startedPath()), durable.Remove(durable.OS{}, d.unit.config)); err != nil {
			return err
		}
	} else {
		if err := d.writeDomains(ctx, domains); err != nil {
			return err
		}
		text, err := d.config(s, domains)
		if err != nil {
			return err
		}
		var sockets []string
		for _, m := range domains {
			sockets = append(sockets, d.socket(m))
		}
		if err := d.unit.configured(ctx, text, sockets...); err != nil {
			return err
		}
	}
	return d.sweep(s)
}

// admitted are the domains that the certificate stands for already: the process would
// refuse others. The manager has it renewed with the next beat.
func (d *DRVA) admitted(s *setup.Setup) (out []*setup.Domain, err error) {
	if s.DRVA == nil || len(s.DRVA.Domains) == 0 {
		return nil, nil
	}
	creds, err := control.LoadCredentials(d.Dir)
	if err != nil {
		return nil, err
	}
	names := creds.Names(control.RoleDRVA)
	for i := range s.DRVA.Domains {
		m := &s.DRVA.Domains[i]
		if slices.Contains(names, m.ID.String()) {
			out = append(out, m)
			continue
		}
		d.tell("domain "+string(m.Name), errs.New("appliance.Setup", errs.Unavailable, string(m.Name), "the appliance's certificate does not stand for the domain yet").
			WithRemedy("it is renewed with the next beat; if it is not, see whether the manager has assigned the domain"))
	}
	slices.SortFunc(out, func(a, b *setup.Domain) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// secrets are the files that a domain's configuration names, with what they are to hold.
func (d *DRVA) secrets(m *setup.Domain) map[string]string {
	dir := d.domainDir(m)
	files := map[string]string{filepath.Join(dir, "key"): m.Identity + "\n", filepath.Join(dir, "credentials"): m.Credentials}
	for i := range m.Copies {
		files[copyCredentials(dir, i)] = m.Copies[i].Credentials
	}
	return files
}

// writeDomains writes the files that the configuration names. The process has read what
// they held when it began: it ends before one of them is another.
func (d *DRVA) writeDomains(ctx context.Context, domains []*setup.Domain) error {
	for _, m := range domains {
		if err := durable.MkdirAll(durable.OS{}, d.domainDir(m)); err != nil {
			return err
		}
		for path, text := range d.secrets(m) {
			b, err := durable.ReadFile(durable.OS{}, path, maxConfig)
			if err == nil && string(b) == text {
				continue
			}
			if err == nil {
				if err := d.unit.end(ctx); err != nil {
					return err
				}
			}
			if err := durable.WriteFile(durable.OS{}, path, []byte(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyCredentials is where the credentials of a domain's copy are.
func copyCredentials(dir string, i int) string {
	return filepath.Join(dir, "copy"+strconv.Itoa(i+1)+".credentials")
}

// writeIfOther has a file of mode 0600 hold a text.
func writeIfOther(path, text string) error {
	if b, err := durable.ReadFile(durable.OS{}, path, maxConfig); err == nil && string(b) == text {
		return nil
	}
	return durable.WriteFile(durable.OS{}, path, []byte(text))
}

// drvaFile is the configuration of "holdfast drva", as it reads it.
type drvaFile struct {
	Listen         string       `json:"listen"`
	TLS            string       `json:"tls"`
	TotalBandwidth string       `json:"total-bandwidth,omitempty"`
	LogPool        int64        `json:"log-pool,omitempty"`
	Domains        []domainFile `json:"domains"`
}

type domainFile struct {
	Container   string `json:"container"`
	Key         string `json:"key"`
	Credentials string `json:"credentials,omitempty"`
	Timeline    string `json:"timeline,omitempty"`
	Log         string `json:"log"`
	Quota       int64  `json:"quota,omitempty"`
	Interval    string `json:"interval,omitempty"`
	AppInterval string `json:"app-interval,omitempty"`
	RPOTarget   string `json:"rpo-target,omitempty"`
	Bandwidth   string `json:"bandwidth,omitempty"`
	Retention   string `json:"retention,omitempty"`
	Limit       string `json:"history-limit,omitempty"`
	TagTime     string `json:"tag-time,omitempty"`
	Lock        string `json:"lock,omitempty"`
	Priority    string `json:"priority,omitempty"`
	Compression string `json:"compression,omitempty"`
	Status      string `json:"status"`

	Copies []copyFile `json:"copies,omitempty"`
}

type copyFile struct {
	Container   string `json:"container"`
	Credentials string `json:"credentials,omitempty"`
}

// config is the process's configuration.
func (d *DRVA) config(s *setup.Setup, domains []*setup.Domain) ([]byte, error) {
	f := drvaFile{Listen: s.DRVA.Listen, TLS: d.Dir, TotalBandwidth: s.DRVA.Bandwidth, LogPool: s.DRVA.LogPool}
	if f.LogPool == 0 {
		f.LogPool = d.pool()
	}
	for _, m := range domains {
		f.Domains = append(f.Domains, d.domainConfig(m))
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, errs.E("appliance.config", errs.Internal, "drva", err)
	}
	return append(b, '\n'), nil
}

// pool is what logs share if nobody says it: a number that does not change while the
// file system stays the same.
func (d *DRVA) pool() int64 {
	var fs unix.Statfs_t
	if unix.Statfs(d.Dir, &fs) != nil {
		return 0 // each log has the program's default
	}
	return min(defaultPool, int64(fs.Blocks)/2*fs.Bsize)
}

func (d *DRVA) domainConfig(m *setup.Domain) domainFile {
	dir, t := d.domainDir(m), &m.Settings
	f := domainFile{
		Container: m.Container, Key: filepath.Join(dir, "key"), Timeline: m.Timeline, Log: filepath.Join(dir, "log"), Quota: t.LogSize,
		Interval: span(t.Interval), AppInterval: span(t.AppInterval), RPOTarget: span(t.RPOTarget), Bandwidth: t.Bandwidth,
		Priority: t.Priority, Compression: t.Compression, Status: d.socket(m),
	}
	f.Retention, _ = schedule(t.Retention.Schedule, t.Interval.D())
	if m.Credentials != "" {
		f.Credentials = filepath.Join(dir, "credentials")
	}
	if r := &t.Retention; r.SizeLimit > 0 {
		f.Limit = strconv.FormatInt(r.SizeLimit, 10) + "B"
		if r.AlarmOnly {
			f.Limit += " alarm"
		}
	}
	for i := range m.Copies {
		c := copyFile{Container: m.Copies[i].Container}
		if m.Copies[i].Credentials != "" {
			c.Credentials = copyCredentials(dir, i)
		}
		f.Copies = append(f.Copies, c)
	}
	f.TagTime = span(t.Retention.TagFor)
	if t.Lock != "" && t.Retention.Lock > 0 {
		f.Lock = t.Lock + " for " + span(t.Retention.Lock)
	}
	return f
}

// span is a length of time as processes read it; zero is "".
func span(s site.Span) string {
	if s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(s.D()/time.Second), 10) + "s"
}

// schedule is a retention as processes read it. Each checkpoint is one for each interval;
// where that would be more points than a history has, it is as dense as can be. coarse
// says so.
func schedule(slots []site.Slot, interval time.Duration) (text string, coarse bool) {
	if interval == 0 {
		interval = site.DefaultEvery
	}
	tiers := tiersOf(slots, interval, 0)
	if coarse = tiers.Points() > mostPoints; coarse {
		tiers = tiersOf(slots, interval, mostPoints/len(slots))
	}
	if len(tiers) == 0 {
		return "", false
	}
	return tiers.String(), coarse
}

// tiersOf are slots whose widths rise, in whole seconds, each of at most so many points;
// 0: however many.
func tiersOf(slots []site.Slot, least time.Duration, most int) (tiers maintain.Schedule) {
	for _, s := range slots {
		t := maintain.Tier{Every: max(s.Every.D().Round(time.Second), least.Round(time.Second), time.Second), For: s.For.D().Round(time.Second)}
		if n := len(tiers); n > 0 {
			t.Every, t.For = max(t.Every, tiers[n-1].Every+time.Second), max(t.For, tiers[n-1].For+time.Second)
		}
		if most > 0 {
			t.Every = max(t.Every, (t.For/time.Duration(most)).Truncate(time.Second)+time.Second)
		}
		tiers = append(tiers, t)
	}
	return tiers
}

// sweep puts aside what domains left that are not the DRVA's any more: what their logs
// held may be nowhere else.
func (d *DRVA) sweep(s *setup.Setup) error {
	entries, err := durable.OS{}.ReadDir(d.unit.dir)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	if s.DRVA != nil {
		for i := range s.DRVA.Domains {
			keep[s.DRVA.Domains[i].ID.String()[:8]] = true
		}
	}
	var failed []error
	for _, e := range entries {
		if len(e.Name) != 8 || !e.Dir || keep[e.Name] {
			continue
		}
		failed = append(failed, d.putAside(e.Name))
	}
	return errors.Join(failed...)
}

// putAside keeps the newest log a domain left, without its secrets.
func (d *DRVA) putAside(name string) error {
	dir := filepath.Join(d.unit.dir, name)
	failed := []error{durable.Remove(durable.OS{}, filepath.Join(dir, "key")), durable.Remove(durable.OS{}, filepath.Join(dir, "credentials"))}
	for i := range site.MaxStores - 1 {
		failed = append(failed, durable.Remove(durable.OS{}, copyCredentials(dir, i)))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	gone := filepath.Join(d.unit.dir, "gone")
	if err := durable.MkdirAll(durable.OS{}, gone); err != nil {
		return err
	}
	aside := filepath.Join(gone, name)
	if err := durable.RemoveTree(durable.OS{}, aside); err != nil {
		return err
	}
	d.log.Info("a domain is not served here any more", "log", aside)
	return errors.Join(durable.OS{}.Rename(dir, aside), durable.OS{}.SyncDir(d.unit.dir), durable.OS{}.SyncDir(gone))
}

// once looks at the process and its domains.
func (d *DRVA) once(ctx context.Context) {
	d.look.Lock()
	defer d.look.Unlock()
	s := d.current()
	if s == nil {
		return
	}
	if d.applying.TryLock() { // the certificate may stand for more domains by now
		s = d.current() // another one may have come between
		err := d.apply(ctx, s)
		d.tell("appliance", err)
		if err == nil {
			d.is(s)
		}
		d.applying.Unlock()
	}
	domains, err := d.admitted(s)
	if err != nil || len(domains) == 0 || !d.unit.isConfigured() {
		return
	}
	var sockets []string
	for _, m := range domains {
		sockets = append(sockets, d.socket(m))
	}
	up := d.unit.up(ctx, sockets...)
	dead := false
	for _, m := range domains {
		dead = d.lookAt(ctx, m, up) || dead
	}
	d.revive(ctx, up == nil && dead)
}

// lookAt asks one domain, and pauses or resumes it. dead: it does not answer.
func (d *DRVA) lookAt(ctx context.Context, m *setup.Domain, up error) (dead bool) {
	var st drvaStatus
	err := up
	if err == nil {
		err = ask(ctx, d.socket(m), "/status", nil, &st)
	}
	d.mu.Lock()
	was := d.seen[m.Name]
	if was == nil {
		was = &served{}
		d.seen[m.Name] = was
	}
	now := time.Now()
	next := &served{err: err, since: was.since, rates: was.rates, stuck: was.stuck}
	if err == nil {
		next.status, next.since = &st, time.Time{}
		switch m := st.Maintenance; {
		case m == nil || m.trouble() == "":
			next.stuck = time.Time{}
		case was.stuck.IsZero():
			next.stuck = now
		}
		next.rates.note(now, &st)
	} else if was.since.IsZero() {
		next.since = now
	}
	d.seen[m.Name] = next
	d.mu.Unlock()
	object := "domain " + string(m.Name)
	if err != nil {
		d.tell(object, err)
		return true
	}
	if err = d.suspended(ctx, m, &st); err == nil {
		if _, coarse := schedule(m.Settings.Retention.Schedule, m.Settings.Interval.D()); coarse {
			err = errs.New("appliance.Setup", errs.Full, object, fmt.Sprintf("not each checkpoint is kept: a history has at most %d points", mostPoints)).
				WithRemedy("keep each for a shorter time, or fewer of them, or raise the interval")
		}
	}
	d.tell(object, err)
	return false
}

// suspendedFile says in a domain's directory that it was its manager who paused it: what
// people pause at the box stays so.
const suspendedFile = "suspended"

// suspended pauses or resumes a domain as the manager wants it.
func (d *DRVA) suspended(ctx context.Context, m *setup.Domain, st *drvaStatus) error {
	path := filepath.Join(d.domainDir(m), suspendedFile)
	_, err := durable.OS{}.Stat(path)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	ours, paused := err == nil, st.Paused != nil
	var out json.RawMessage
	switch {
	case m.Suspended && !paused:
		if err := durable.WriteFile(durable.OS{}, path, nil); err != nil {
			return err
		}
		return notYet(ask(ctx, d.socket(m), "/pause", nil, &out))
	case !m.Suspended && ours:
		if paused {
			if err := ask(ctx, d.socket(m), "/resume", nil, &out); err != nil {
				return notYet(err)
			}
		}
		return durable.Remove(durable.OS{}, path)
	}
	return nil
}

// notYet drops the error of a domain that has not reached its store: it is asked again.
func notYet(err error) error {
	if errs.Is(err, errs.Unavailable) {
		return nil
	}
	return err
}

// revive restarts the process when a domain in it has ended alone, as after it was
// fenced for a recovery that was rolled back: the others stop for a moment, so that it is
// tried ever less often.
func (d *DRVA) revive(ctx context.Context, dead bool) {
	now := time.Now()
	switch {
	case !dead:
		if now.Sub(d.restart) > deadMost {
			d.patience = 0
		}
		return
	case d.patience == 0:
		d.patience, d.restart = deadFirst, now.Add(deadFirst)
	case now.After(d.restart):
		d.patience = min(2*d.patience, deadMost)
		d.restart = now.Add(d.patience)
		d.log.Warn("a domain has ended alone: the process is restarted", "again in", d.patience)
		if err := d.unit.end(ctx); err != nil {
			d.tell("appliance", err)
		}
	}
}

// domain finds a domain of the Setup by name.
func (d *DRVA) domain(name site.Name) (*setup.Domain, error) {
	if s := d.current(); s != nil && s.DRVA != nil {
		for i := range s.DRVA.Domains {
			if m := &s.DRVA.Domains[i]; m.Name == name {
				return m, nil
			}
		}
	}
	return nil, errs.New("appliance", errs.NotFound, "domain "+string(name), "this DRVA does not serve it").
		WithRemedy(fmt.Sprintf("see at the manager which does: holdfast describe domain %s", name))
}
