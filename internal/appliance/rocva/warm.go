package rocva

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/warm"
)

// warmth is a standby that is kept.
type warmth struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it is kept no more
}

// stop ends the keeping; the disks stay.
func (w *warmth) stop() {
	w.cancel()
	<-w.done
}

// keepWarm keeps the standbys that the newest setup asks for, and no others: of domains
// that are continuous, that do not live here and are not being recovered.
func (s *Appliance) keepWarm() {
	s.mu.Lock()
	var want []setup.Domain
	if s.told.RocVA == nil {
		s.mu.Unlock()
		return
	}
	for _, d := range s.told.RocVA.Domains {
		if d.Mode == site.Continuous && !d.Suspended && !s.takenLocked(d.Name) {
			want = append(want, d)
		}
	}
	var ends []*warmth
	for name, w := range s.standbys {
		if !slices.ContainsFunc(want, func(d setup.Domain) bool { return d.Name == name }) {
			ends = append(ends, w)
			delete(s.standbys, name)
		}
	}
	for _, d := range want {
		if s.standbys[d.Name] == nil {
			s.standbys[d.Name] = s.warmLocked(&d)
		}
	}
	s.mu.Unlock()
	for _, w := range ends {
		w.stop()
	}
}

// takenLocked reports whether a recovery of a domain that is no test is not over here.
// Called with mu held.
func (s *Appliance) takenLocked(domain site.Name) bool {
	for _, o := range s.runs {
		if rec := o.record(); rec != nil && rec.Request.Label == string(domain) && rec.Operation != recovery.Test && !over(rec.State) {
			return true
		}
	}
	return false
}

// warmLocked begins to keep a domain's standby. Called with mu held.
func (s *Appliance) warmLocked(d *setup.Domain) *warmth {
	ctx, cancel := context.WithCancel(context.Background())
	w := &warmth{cancel: cancel, done: make(chan struct{})}
	name, url, access, dir := d.Name, d.Container, s.access(d), s.path("warm", string(d.Name))
	go func() {
		defer close(w.done)
		for {
			err := s.follow(ctx, name, url, access, dir)
			if ctx.Err() != nil || err == nil {
				return // ended, or handed over
			}
			s.log.Warn("a standby is not kept", "domain", d.Name, "err", err, "remedy", errs.RemedyOf(err))
			t := time.NewTimer(standbyRetry)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
	}()
	return w
}

// errMoved ends the following of a history that is not the domain's any more.
var errMoved = errors.New("the domain goes on in another history")

// follow keeps a standby of the domain's current history until ctx ends, it is handed
// over, or another history is the current one: each has a standby of its own, since disks
// of the one before may be a VM's by now. Disks that a VM had since are compared.
func (s *Appliance) follow(ctx context.Context, name site.Name, url string, access map[string]string, parent string) error {
	p, err := s.ready()
	if err != nil {
		return err
	}
	c, err := p.Open(ctx, url, access)
	if err != nil {
		return err
	}
	t, err := current(ctx, c)
	if err != nil {
		return err
	}
	dir := warmDir(parent, t)
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return err
	}
	w, err := warm.Open(ctx, c, dir, warm.Options{Timeline: t, Place: s.placing(ctx, name, dir), Again: true, Logger: s.log})
	if err != nil {
		return err
	}
	following, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var g sync.WaitGroup
	g.Go(func() {
		tick := time.NewTicker(moveEvery)
		defer tick.Stop()
		for {
			select {
			case <-following.Done():
				return
			case <-tick.C:
			}
			if now, err := current(following, c); err == nil && now != t {
				cancel(errMoved)
			}
		}
	})
	err = w.Run(following)
	cancel(nil)
	g.Wait()
	return errors.Join(err, w.Close())
}

// current is the history that a domain goes on in.
func current(ctx context.Context, c *journal.Container) (dr.TimelineID, error) {
	all, err := c.Timelines(ctx)
	if err != nil {
		return dr.TimelineID{}, err
	}
	for _, t := range all {
		if t.Current {
			return t.ID, nil
		}
	}
	return dr.TimelineID{}, errs.New("rocva.standby", errs.NotFound, c.Domain().Name, "nothing was published yet").WithRemedy("it begins by itself when something is")
}

// warmDir is the standby of a history, below its domain's directory.
func warmDir(parent string, t dr.TimelineID) string { return filepath.Join(parent, t.String()[:8]) }

// placed lays a standby's disks out by their ids.
func placed(img *journal.Image) (out []rocva.Target, err error) {
	for _, d := range img.Disks {
		out = append(out, rocva.Target{Disk: d.ID, Path: d.ID.String() + ".raw"})
	}
	return out, nil
}

// standby lets go of a domain's standby for a run and returns its directory; empty: there
// is none that stands at anything, or it lacks a disk of the run. The run brings it to its
// point.
func (s *Appliance) standby(ctx context.Context, domain site.Name, rec *recovery.Record) string {
	s.mu.Lock()
	w := s.standbys[domain]
	delete(s.standbys, domain)
	s.mu.Unlock()
	if w == nil {
		return ""
	}
	w.stop()
	dir := warmDir(s.path("warm", string(domain)), rec.Parent)
	if _, err := (durable.OS{}).Stat(filepath.Join(dir, "standby.json")); err != nil {
		return ""
	}
	d, err := s.domain(domain)
	if err != nil {
		return ""
	}
	p, err := s.ready()
	if err != nil {
		return ""
	}
	c, err := p.Open(ctx, d.Container, s.access(d))
	if err != nil {
		return ""
	}
	sb, err := warm.Open(ctx, c, dir, warm.Options{Place: placed, Logger: s.log})
	if err != nil {
		s.log.Warn("a standby cannot be used: disks are built anew", "domain", domain, "err", err)
		return ""
	}
	st := sb.Status()
	if err := sb.Close(); err != nil {
		return ""
	}
	for _, want := range rec.Disks {
		if !slices.ContainsFunc(st.Disks, func(d warm.Disk) bool { return d.ID == want.Source && d.Size == want.Size }) {
			return ""
		}
	}
	return dir
}
