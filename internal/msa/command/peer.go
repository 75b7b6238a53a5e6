package command

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// Peer is another site's manager that has proved itself.
type Peer struct {
	Pair        site.Name
	Site        site.Name
	Fingerprint string // of its authority: the origin of its commands
}

// Abroad is what a manager asks of another site's.
type Abroad struct {
	Command Command `json:"command"` // its origin is who asks, whatever it says
	WaitMS  int64   `json:"wait_ms,omitempty"`
	Cancel  bool    `json:"cancel,omitempty"` // of the command's key; nothing else of it counts
}

// AskFor does what another site's manager asks: see Ask. Only what is done at our end of
// a domain that both sites share is, and to VMs of it alone. What is denied is in the
// audit log. Kinds besides: Denied.
func (d *Desk) AskFor(ctx context.Context, p *Peer, in *Abroad) (Status, error) {
	c := in.Command
	c.Origin = p.Fingerprint
	if in.Cancel {
		return Status{Done: true}, d.Cancel(ctx, c.Origin, c.Key)
	}
	if c.Deadline > 0 { // by our clock: theirs may be another
		if err := d.DB.View(ctx, func(tx *db.Tx) error { c.Deadline = tx.Now() + answerFor.Milliseconds(); return nil }); err != nil {
			return Status{}, err
		}
	}
	s, err := d.ask(ctx, &c, min(max(time.Duration(in.WaitMS)*time.Millisecond, 0), abroadFor), p)
	if errs.Is(err, errs.Denied) {
		d.refused(ctx, &c, p, err)
	}
	return s, err
}

// foreign refuses what a peer may not have done here, and notes what it may.
func (d *Desk) foreign(ctx context.Context, tx *db.Tx, c *Command, p *Peer) error {
	if err := d.permit(ctx, tx, c, p); err != nil {
		return err
	}
	object := "domain " + string(c.Domain)
	var open int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM commands WHERE origin = $1 AND state <> $2`, []any{c.Origin, done}, &open); err != nil {
		return err
	}
	if open >= maxForeign {
		return errs.New("command.Abroad", errs.Full, object, fmt.Sprintf("site %s has %d commands under way here", p.Site, open)).WithRemedy("see why none ends")
	}
	if c.Question() {
		return nil
	}
	return audit.Append(ctx, tx, entry(c, p, audit.Done, where(c)))
}

// refused notes what a peer asked for and was denied, whatever becomes of its request.
func (d *Desk) refused(ctx context.Context, c *Command, p *Peer, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteFor)
	defer cancel()
	err := d.DB.Tx(ctx, func(tx *db.Tx) error {
		return audit.Append(ctx, tx, entry(c, p, audit.Refused, where(c)+": "+why.Error()))
	})
	if err != nil && d.Logger != nil {
		d.Logger.Warn("the audit log does not have what another site was denied", "pair", p.Pair, "kind", c.Kind, "err", err)
	}
}

func entry(c *Command, p *Peer, outcome audit.Outcome, detail string) audit.Entry {
	return audit.Entry{By: "peer/" + string(p.Pair), Operation: "command-" + c.Kind, Object: "domain " + string(c.Domain), Outcome: outcome, Detail: db.Text(detail, maxWords)}
}

// siteWide are kinds that are of no domain, but make way for one.
var siteWide = map[string]bool{string(plan.KindWakeHost): true, string(plan.KindSuspendVM): true, string(plan.KindResumeVM): true, string(plan.KindTestNetwork): true}

func guestScript(c *Command) bool {
	var in plan.ScriptInputs
	return json.Unmarshal(c.Input, &in) == nil && in.Run == plan.InGuest && c.Domain != ""
}

// shared returns all domains. It refuses a step of one that is not both sites', or, of a
// step of none, a site with which there is no such domain. Kind Denied.
func shared(ctx context.Context, tx *db.Tx, c *Command, p *Peer) (all []*site.ProtectedDomain, err error) {
	objects, err := catalog.All(ctx, tx, site.KindDomain)
	if err != nil {
		return nil, err
	}
	found := false
	for _, o := range objects {
		d, ok := o.(*site.ProtectedDomain)
		if !ok {
			continue
		}
		all = append(all, d)
		found = found || (c.Domain == "" || d.Name == c.Domain) && (d.From == c.From && d.To == c.To || d.From == c.To && d.To == c.From)
	}
	if !found {
		return nil, denied("domain "+string(c.Domain), fmt.Sprintf("it is not shared with site %s", p.Site), "configure it at both sites")
	}
	return all, nil
}

// abroad asks another site's manager. What it was asked is noted first, so that it can
// be cancelled, whoever dies.
func (e *Effects) abroad(ctx context.Context, at site.Name, c *Command, wait time.Duration) (s Status, err error) {
	if e.Peers == nil {
		return s, errs.New("command.Ask", errs.Unavailable, "site "+string(at), "no pair is known whose manager could be asked").WithRemedy("pair the sites")
	}
	pair, err := e.Peers.Of(ctx, at)
	if err != nil {
		return s, err
	}
	if !c.Question() && c.Deadline == 0 {
		if err := e.note(ctx, pair, c); err != nil {
			return s, err
		}
	}
	if err := e.Peers.Post(ctx, pair, AbroadPath, &Abroad{Command: *c, WaitMS: max(wait.Milliseconds(), 0)}, &s); err != nil {
		return s, err
	}
	s.Progress.fit()
	s.Outcome.fit()
	if s.Done && c.Deadline == 0 {
		err = e.forget(ctx, c.Key)
	}
	return s, err
}

func (e *Effects) note(ctx context.Context, pair site.Name, c *Command) error {
	var n int
	err := e.Desk.DB.View(ctx, func(tx *db.Tx) error {
		_, err := tx.Row(ctx, `SELECT count(*) FROM command_abroad WHERE key = $1 AND pair = $2`, []any{c.Key, pair}, &n)
		return err
	})
	if err != nil || n > 0 {
		return err
	}
	return e.Desk.DB.Tx(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO command_abroad (key, pair, run, seq, at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (key) DO UPDATE SET pair = excluded.pair`, c.Key, pair, c.Run, c.Seq, tx.Now())
		return err
	})
}

func (e *Effects) forget(ctx context.Context, key string) error {
	return e.Desk.DB.Tx(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM command_abroad WHERE key = $1`, key)
		return err
	})
}
