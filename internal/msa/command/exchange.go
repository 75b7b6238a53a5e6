package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// The paths of the manager's API that boxes and paired managers call.
const (
	ExchangePath = "/api/v1/enrolments/exchange"
	TellPath     = "/api/v1/enrolments/told"
	AbroadPath   = "/api/v1/pairing/commands"
)

// Exchange is what a box sends to ask for commands.
type Exchange struct {
	// Generation is that of the newest setup it was given; "": of none.
	Generation string `json:"generation,omitempty"`
	// Holds are the commands it has.
	Holds []Held `json:"holds,omitempty"`
}

// Held is a command that a box has, going on, in line, or with an outcome that the
// manager has not taken yet.
type Held struct {
	ID        string `json:"id"`
	Epoch     int64  `json:"epoch"`               // as it was told last
	Cancelled bool   `json:"cancelled,omitempty"` // it was told
}

// Reply is what it is told.
type Reply struct {
	At int64 `json:"at"` // UTC milliseconds by the manager's database: deadlines are by it
	// Commands are new ones, in the order in which they were asked for.
	Commands []Command `json:"commands,omitempty"`
	// Cancelled are commands that it has and nobody wants; Gone, those of which nobody
	// knows any more, to be forgotten.
	Cancelled []string `json:"cancelled,omitempty"`
	Gone      []string `json:"gone,omitempty"`
	// Epochs are of commands that it has, and a newer owner goes on with.
	Epochs map[string]int64 `json:"epochs,omitempty"`
	Setup  *setup.Setup     `json:"setup,omitempty"` // what it is to be, if that has changed
}

func (r *Reply) empty() bool {
	return len(r.Commands) == 0 && len(r.Cancelled) == 0 && len(r.Gone) == 0 && len(r.Epochs) == 0 && r.Setup == nil
}

// Exchange waits up to a quarter of a minute for something
// that it is to know. proof is the digest of the certificate it has proved. Kinds:
// Denied (it does not count any more), Invalid.
func (d *Desk) Exchange(ctx context.Context, box site.Name, proof string, in *Exchange) (*Reply, error) {
	if len(in.Holds) > 2*maxHeld || len(in.Generation) > maxName {
		return nil, errs.New("command.Exchange", errs.Invalid, "appliance "+string(box), fmt.Sprintf("it has %d commands", len(in.Holds))).WithRemedy("use appliances of this release")
	}
	ring, leave := d.bells.listen(bellOf(box))
	defer leave()
	end := time.NewTimer(pollFor)
	defer end.Stop()
	again := newLooks()
	defer again.Stop()
	var asked time.Time // for the setup, which costs more than a look
	for {
		alsoSetup := time.Since(asked) >= setupEvery
		r, err := d.hand(ctx, box, proof, in, alsoSetup)
		if err != nil || !r.empty() {
			return r, err
		}
		if alsoSetup {
			asked = time.Now()
		}
		select {
		case <-ring:
		case <-again.C:
			again.later()
		case <-end.C:
			return r, nil
		case <-ctx.Done():
			return nil, errs.E("command.Exchange", errs.Canceled, string(box), context.Cause(ctx))
		}
	}
}

// hear enters what a box tells of itself.
func (d *Desk) hear(ctx context.Context, box site.Name, proof string, r *setup.Report) error {
	if r == nil {
		return nil
	}
	if err := r.Check(); err != nil {
		return err
	}
	return d.DB.Tx(ctx, func(tx *db.Tx) error {
		if err := d.counts(ctx, tx, box, proof); err != nil {
			return err
		}
		if err := housed(ctx, tx, box, r); err != nil {
			return err
		}
		if d.Fleet == nil {
			return nil
		}
		return d.Fleet.Heard(ctx, tx, box, r)
	})
}

func (d *Desk) counts(ctx context.Context, tx *db.Tx, box site.Name, proof string) error {
	if d.Allow == nil {
		return nil
	}
	return d.Allow(ctx, tx, box, proof)
}

// hand looks for what a box is to know; commands it hands out are the box's then.
func (d *Desk) hand(ctx context.Context, box site.Name, proof string, in *Exchange, alsoSetup bool) (*Reply, error) {
	r := &Reply{}
	var fresh []string
	err := d.DB.View(ctx, func(tx *db.Tx) (err error) {
		*r, fresh = Reply{At: tx.Now()}, nil
		if err := d.counts(ctx, tx, box, proof); err != nil {
			return err
		}
		if alsoSetup && d.Fleet != nil {
			if err := d.setup(ctx, tx, box, in.Generation, r); err != nil {
				return err
			}
		}
		fresh, err = compare(ctx, tx, box, in.Holds, r)
		return err
	})
	if err != nil || len(fresh) == 0 || r.Setup != nil { // a setup has an answer of its own: it is large
		return r, err
	}
	err = d.DB.Tx(ctx, func(tx *db.Tx) error {
		r.Commands = nil
		if err := d.counts(ctx, tx, box, proof); err != nil {
			return err
		}
		return give(ctx, tx, box, fresh, r)
	})
	return r, err
}

func (d *Desk) setup(ctx context.Context, tx *db.Tx, box site.Name, has string, r *Reply) error {
	s, err := d.Fleet.Setup(ctx, tx, box)
	switch {
	case errs.Is(err, errs.NotFound): // enrolled, and not configured yet
		return nil
	case err != nil:
		return err
	case s.Generation == has:
		return nil
	}
	if b, err := json.Marshal(s); err != nil || len(b) > maxSetup {
		return errs.E("command.Exchange", errs.Full, "appliance "+string(box), errors.Join(err, fmt.Errorf("what it is to be has %d bytes", len(b)))).
			WithRemedy("give it less to do")
	}
	r.Setup = s
	return nil
}

// compare says what has changed of what a box has, and returns the ids of what it does
// not have.
func compare(ctx context.Context, tx *db.Tx, box site.Name, holds []Held, r *Reply) (fresh []string, err error) {
	held := map[string]Held{}
	for _, h := range holds {
		held[h.ID] = h
	}
	err = tx.Rows(ctx, `SELECT id, epoch, cancelled FROM commands WHERE box = $1 AND state IN ($2, $3) ORDER BY made_at, id LIMIT $4`, []any{box, waiting, taken, maxOpen},
		func(scan func(...any) error) error {
			var id string
			var epoch, cancelled int64
			if err := scan(&id, &epoch, &cancelled); err != nil {
				return err
			}
			h, has := held[id]
			delete(held, id)
			switch {
			case !has && len(holds)+len(fresh) < maxHeld:
				fresh = append(fresh, id)
			case has && cancelled != 0 && !h.Cancelled:
				r.Cancelled = append(r.Cancelled, id)
			case has && epoch > h.Epoch:
				if r.Epochs == nil {
					r.Epochs = map[string]int64{}
				}
				r.Epochs[id] = epoch
			}
			return nil
		})
	for id := range held {
		r.Gone = append(r.Gone, id)
	}
	return fresh, err
}

// give hands commands out. Those that nobody waits for end instead.
func give(ctx context.Context, tx *db.Tx, box site.Name, ids []string, r *Reply) error {
	size := 0
	for _, id := range ids {
		var found *row
		err := tx.Rows(ctx, `UPDATE commands SET state = $3 WHERE id = $1 AND box = $2 AND state <> $4 RETURNING `+columns, []any{id, box, taken, done}, func(scan func(...any) error) error {
			one, err := scanRow(scan)
			found = &one
			return err
		})
		if err != nil {
			return err
		}
		if found == nil {
			continue
		}
		if found.cancelled || found.Deadline > 0 && found.Deadline < tx.Now() {
			if err := found.end(ctx, tx, Fail(errCancelled)); err != nil {
				return err
			}
			continue
		}
		if len(found.progress.Memory) > 0 { // of the box's life before
			found.Memory = found.progress.Memory
		}
		if size += len(found.Input) + len(found.Memory) + len(found.UndoesMemory); size > maxHanded && len(r.Commands) > 0 {
			_, err := tx.Exec(ctx, `UPDATE commands SET state = $2 WHERE id = $1`, id, waiting)
			return err // the rest waits for the next exchange
		}
		r.Commands = append(r.Commands, found.Command)
	}
	return nil
}

// Told is what a box tells.
type Told struct {
	Commands []Tale `json:"commands,omitempty"`
	// Report is of itself: every ten seconds at least, and before the end of a command is
	// told, since the next step asks for what that made. Nil: as before.
	Report *setup.Report `json:"report,omitempty"`
}

// Tale is how far a command is, or how it ended.
type Tale struct {
	ID       string   `json:"id"`
	Done     bool     `json:"done,omitempty"`
	Progress Progress `json:"progress,omitzero"`
	Outcome  Outcome  `json:"outcome,omitzero"` // if it is done
}

// Tell enters what a box tells. What is of no command of the box that is
// under way changes nothing. Kinds: Denied, Invalid.
func (d *Desk) Tell(ctx context.Context, box site.Name, proof string, in *Told) error {
	if len(in.Commands) > maxTold {
		return errs.New("command.Tell", errs.Invalid, "appliance "+string(box), fmt.Sprintf("it tells of %d commands", len(in.Commands))).WithRemedy(fmt.Sprintf("tell of at most %d at once", maxTold))
	}
	if err := d.hear(ctx, box, proof, in.Report); err != nil {
		return err
	}
	var over []string
	err := d.DB.Tx(ctx, func(tx *db.Tx) error {
		over = nil
		if err := d.counts(ctx, tx, box, proof); err != nil {
			return err
		}
		for i := range in.Commands {
			bell, err := take(ctx, tx, box, &in.Commands[i])
			if err != nil {
				return err
			}
			if bell != "" {
				over = append(over, bell)
			}
		}
		return nil
	})
	for _, b := range over {
		d.bells.ring(b)
	}
	return err
}

// take enters one tale; bell is who waits for its end.
func take(ctx context.Context, tx *db.Tx, box site.Name, t *Tale) (bell string, err error) {
	t.Progress.fit()
	progress, err := json.Marshal(&t.Progress)
	if err != nil {
		return "", errs.E("command.Tell", errs.Invalid, t.ID, err)
	}
	id := db.Text(t.ID, maxName)
	if !t.Done {
		_, err := tx.Exec(ctx, `UPDATE commands SET progress = $3 WHERE id = $1 AND box = $2 AND state = $4`, id, box, string(progress), taken)
		return "", err
	}
	t.Outcome.fit()
	outcome, err := json.Marshal(&t.Outcome)
	if err != nil {
		return "", errs.E("command.Tell", errs.Invalid, t.ID, err)
	}
	var ended *row
	err = tx.Rows(ctx, `UPDATE commands SET state = $3, done_at = $4, progress = $5, outcome = $6 WHERE id = $1 AND box = $2 AND state = $7 RETURNING `+columns,
		[]any{id, box, done, tx.Now(), string(progress), string(outcome), taken}, func(scan func(...any) error) error {
			r, err := scanRow(scan)
			ended = &r
			return err
		})
	if err != nil || ended == nil {
		return "", err
	}
	return ended.Origin + " " + ended.Key, forgets(ctx, tx, ended)
}

// valid reports whether a text is JSON, or nothing.
func valid(b json.RawMessage) bool { return len(b) == 0 || json.Valid(b) }

// fit makes what a box tells fit for a row.
func (p *Progress) fit() {
	p.Done, p.Total = max(p.Done, 0), max(p.Total, 0)
	p.Output = tail(p.Output)
	if len(p.Memory) > maxMemory || !valid(p.Memory) {
		p.Memory = nil
	}
}

// fit makes an outcome fit for a row. One that cannot be is a failure.
func (o *Outcome) fit() {
	o.Note, o.Output = db.Text(o.Note, maxWords), tail(o.Output)
	o.Warnings = o.Warnings[:min(len(o.Warnings), maxWarnings)]
	for i, w := range o.Warnings {
		o.Warnings[i] = db.Text(w, maxWords)
	}
	if len(o.Memory) > maxMemory || !valid(o.Memory) {
		o.Memory = nil
		if o.Failure == nil {
			o.Failure = Fail(errs.New("command.Tell", errs.Invalid, "", "what it leaves for later is no JSON of at most 64 KiB")).Failure
		}
	}
	if f := o.Failure; f != nil {
		f.Kind, f.Object, f.Detail, f.Remedy = db.Text(f.Kind, maxName), db.Text(f.Object, maxName), db.Text(f.Detail, maxWords), db.Text(f.Remedy, maxWords)
	}
}

// tail is the end of what was printed.
func tail(s string) string {
	if len(s) > maxOutput {
		s = s[len(s)-maxOutput:]
	}
	s = db.Text(s, 4*maxOutput)
	if len(s) > maxOutput {
		s = strings.ToValidUTF8(s[len(s)-maxOutput:], "")
	}
	return s
}
