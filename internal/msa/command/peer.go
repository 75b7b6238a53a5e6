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
// a domain that both sites share is. Kinds besides: Denied.
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
	return d.ask(ctx, &c, min(max(time.Duration(in.WaitMS)*time.Millisecond, 0), abroadFor), p)
}

// foreign refuses what a peer may not have done here, and notes what it may.
func (d *Desk) foreign(ctx context.Context, tx *db.Tx, c *Command, p *Peer) error {
	const op = "command.Abroad"
	object := "domain " + string(c.Domain)
	denied := func(words, remedy string) error { return errs.New(op, errs.Denied, object, words).WithRemedy(remedy) }
	here := c.To
	if AtSource(c.Kind) {
		here = c.From
	}
	switch {
	case here != d.Site || c.From == c.To || c.From != p.Site && c.To != p.Site:
		return denied(fmt.Sprintf("a step from site %s to %s is nothing that site %s can have done here", c.From, c.To, p.Site), "run the plan where it recovers to")
	case c.Kind == string(plan.KindScript) && !guestScript(c):
		return denied("another site has no scripts run here but in guests of a shared domain", "run the script on an appliance of the site whose manager runs the plan")
	case c.Domain == "" && !siteWide[c.Kind]:
		return denied("another site has nothing done here but steps about a shared domain", "run the plan where it recovers to")
	}
	if err := shares(ctx, tx, c, p); err != nil {
		return err
	}
	var open int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM commands WHERE origin = $1 AND state <> $2`, []any{c.Origin, done}, &open); err != nil {
		return err
	}
	if open >= maxForeign {
		return errs.New(op, errs.Full, object, fmt.Sprintf("site %s has %d commands under way here", p.Site, open)).WithRemedy("see why none ends")
	}
	if c.Question() {
		return nil
	}
	return audit.Append(ctx, tx, audit.Entry{By: "peer/" + string(p.Pair), Operation: "command-" + c.Kind, Object: object, Outcome: audit.Done,
		Detail: db.Text(fmt.Sprintf("plan %s, run %s, step %s", c.Plan, c.Run, c.Step), maxWords)})
}

// siteWide are kinds that are of no domain, but make way for one.
var siteWide = map[string]bool{string(plan.KindWakeHost): true, string(plan.KindSuspendVM): true, string(plan.KindResumeVM): true, string(plan.KindTestNetwork): true}

func guestScript(c *Command) bool {
	var in plan.ScriptInputs
	return json.Unmarshal(c.Input, &in) == nil && in.Run == plan.InGuest && c.Domain != ""
}

// shares refuses a domain that is not both sites', or, of a step of none, a site with
// which there is no such domain. Kind Denied.
func shares(ctx context.Context, tx *db.Tx, c *Command, p *Peer) error {
	objects, err := catalog.All(ctx, tx, site.KindDomain)
	if err != nil {
		return err
	}
	for _, o := range objects {
		d, ok := o.(*site.ProtectedDomain)
		if ok && (c.Domain == "" || d.Name == c.Domain) && (d.From == c.From && d.To == c.To || d.From == c.To && d.To == c.From) {
			return nil
		}
	}
	return errs.New("command.Abroad", errs.Denied, "domain "+string(c.Domain), fmt.Sprintf("it is not shared with site %s", p.Site)).WithRemedy("configure it at both sites")
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
