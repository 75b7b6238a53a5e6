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
	case c.Domain == "" || c.Kind == string(plan.KindScript):
		return denied("another site has nothing done here but steps about a shared domain, and no scripts", "run the plan where it recovers to")
	}
	shared, err := catalog.Find[*site.ProtectedDomain](ctx, tx, c.Domain)
	switch {
	case errs.Is(err, errs.NotFound):
		return denied("this site does not know the domain", "configure it at both sites")
	case err != nil:
		return err
	case !(shared.From == c.From && shared.To == c.To) && !(shared.From == c.To && shared.To == c.From):
		return denied(fmt.Sprintf("the domain is not shared with site %s", p.Site), "see the domain's sites")
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
		doc, err := json.Marshal(&Command{Key: c.Key})
		if err != nil {
			return s, errs.E("command.Ask", errs.Internal, c.Key, err)
		}
		if err := e.note(ctx, pair, c, string(doc)); err != nil {
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

func (e *Effects) note(ctx context.Context, pair site.Name, c *Command, doc string) error {
	var n int
	err := e.Desk.DB.View(ctx, func(tx *db.Tx) error {
		_, err := tx.Row(ctx, `SELECT count(*) FROM command_abroad WHERE key = $1 AND pair = $2`, []any{c.Key, pair}, &n)
		return err
	})
	if err != nil || n > 0 {
		return err
	}
	return e.Desk.DB.Tx(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO command_abroad (key, pair, run, seq, at, doc) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (key) DO UPDATE SET pair = excluded.pair`, c.Key, pair, c.Run, c.Seq, tx.Now(), doc)
		return err
	})
}

func (e *Effects) forget(ctx context.Context, key string) error {
	return e.Desk.DB.Tx(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM command_abroad WHERE key = $1`, key)
		return err
	})
}
