package command

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Desk is where commands of a site's boxes lie: they are asked for at one side, and
// taken and done at the other. Its fields are set before it is used; it is for
// concurrent use, by several processes on one database.
type Desk struct {
	DB     *db.DB
	Site   site.Name // whose boxes they are
	Router Router
	Fleet  setup.Fleet  // nil: boxes are told no setup, and what they report is for the router alone
	Logger *slog.Logger // nil: none
	// Before, if not nil, makes ready what a command needs of the site, each time it is
	// asked for, and before a box can have it.
	Before func(ctx context.Context, c *Command) error
	// Allow says whether a certificate of a box, by its digest, still counts, in the
	// transaction that gives it commands. Nil: it does.
	Allow func(ctx context.Context, tx *db.Tx, box site.Name, proof string) error

	bells bells
}

// Status is how a command stands.
type Status struct {
	Done     bool     `json:"done"`
	Progress Progress `json:"progress,omitzero"` // while it is not done
	Outcome  Outcome  `json:"outcome,omitzero"`  // once it is
}

// Ask has a command done, or looks how far it is, and waits up to a time for its end.
// The key decides: what is under way is waited for, what was done is told again. What
// failed is told to one attempt, and done again for the next. Kinds: Fenced (a newer owner
// has asked), Unavailable (a box is missing, silent, or takes nothing; the box is
// named), Full, Invalid, those of the router.
func (d *Desk) Ask(ctx context.Context, c *Command, wait time.Duration) (Status, error) {
	return d.ask(ctx, c, wait, nil)
}

// ask is Ask, for another site's manager if by is not nil.
func (d *Desk) ask(ctx context.Context, c *Command, wait time.Duration, by *Peer) (Status, error) {
	if err := check(c); err != nil {
		return Status{}, err
	}
	if err := d.ready(ctx, c, by); err != nil {
		return Status{}, err
	}
	ring, leave := d.bells.listen(c.Origin + " " + c.Key)
	defer leave()
	rows, err := d.glance(ctx, c)
	if err == nil && rows == nil {
		rows, err = d.submit(ctx, c, by)
	}
	if err != nil {
		return Status{}, err
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	looks := newLooks()
	defer looks.Stop()
	for over := wait <= 0; !ended(rows) && !over; {
		select {
		case <-ring:
		case <-looks.C:
			looks.later()
		case <-end.C:
			over = true
		case <-ctx.Done():
			return Status{}, errs.E("command.Ask", errs.Canceled, c.Key, context.Cause(ctx))
		}
		if err := d.DB.View(ctx, func(tx *db.Tx) (err error) { rows, err = news(ctx, tx, c, rows, over); return err }); err != nil {
			return Status{}, err
		}
	}
	if !ended(rows) {
		return pending(rows), nil
	}
	s := Status{Done: true, Outcome: merge(rows)}
	if s.Outcome.Failure != nil {
		err = d.tell(ctx, c)
	}
	return s, err
}

func ended(rows []row) bool {
	return len(rows) > 0 && !slices.ContainsFunc(rows, func(r row) bool { return r.state != done })
}

// check refuses what no manager of this release sends.
func check(c *Command) error {
	bad := func(what string) error {
		return errs.New("command.Ask", errs.Invalid, db.Text(c.Key, maxKey), "a command's "+what+" is not possible").WithRemedy("use managers of one release")
	}
	for what, text := range map[string]string{"kind": c.Kind, "key": c.Key, "step's key": c.StepKey, "run": c.Run, "step": c.Step, "undoes": c.Undoes} {
		if len(text) > maxKey || text != db.Text(text, maxKey) || text == "" && what != "undoes" && what != "step" {
			return bad(what)
		}
	}
	for what, name := range map[string]site.Name{"plan": c.Plan, "from": c.From, "to": c.To} {
		if !name.Valid() {
			return bad(what)
		}
	}
	switch {
	case c.Domain != "" && !c.Domain.Valid():
		return bad("domain")
	case len(c.Input) > maxInput || !valid(c.Input):
		return bad("input")
	case len(c.Memory) > maxMemory || !valid(c.Memory) || len(c.UndoesMemory) > maxMemory || !valid(c.UndoesMemory):
		return bad("memory")
	case c.Epoch < 0 || c.Epoch >= 1<<53 || c.Attempt < 0 || c.Seq < 0 || c.Timeout < 0:
		return bad("epoch, attempt, number or timeout")
	}
	return nil
}

// glance returns the rows of a command that are as they are to be: nothing has to be
// written; nil: it has.
func (d *Desk) glance(ctx context.Context, c *Command) (rows []row, err error) {
	err = d.DB.View(ctx, func(tx *db.Tx) error {
		if rows, err = look(ctx, tx, c.Origin, c.Key); err != nil {
			return err
		}
		over := ended(rows)
		if over && lost(rows, c) || slices.ContainsFunc(rows, func(r row) bool {
			return r.Epoch > c.Epoch || !over && (r.Epoch < c.Epoch || tx.Now()-r.asked >= touchEvery.Milliseconds())
		}) {
			rows = nil
		}
		return nil
	})
	if len(rows) == 0 {
		rows = nil
	}
	return rows, err
}

// news returns the rows of a command if all have ended, or it is the last look; else
// those that the caller has.
func news(ctx context.Context, tx *db.Tx, c *Command, have []row, last bool) ([]row, error) {
	if !last {
		var open int
		if _, err := tx.Row(ctx, `SELECT count(*) FROM commands WHERE origin = $1 AND key = $2 AND state <> $3`, []any{c.Origin, c.Key, done}, &open); err != nil || open > 0 {
			return have, err
		}
	}
	return look(ctx, tx, c.Origin, c.Key)
}

// submit enters the command, or takes up what is there of it.
func (d *Desk) submit(ctx context.Context, c *Command, by *Peer) (rows []row, err error) {
	err = d.tx(ctx, func(tx *db.Tx, ring ringing) (err error) {
		if rows, err = find(ctx, tx, c.Origin, c.Key); err != nil {
			return err
		}
		again := *c
		if len(rows) > 0 {
			fresh, err := d.keep(ctx, tx, c, rows, ring)
			if err != nil || fresh == nil {
				return err
			}
			again = *fresh
		}
		rows, err = d.begin(ctx, tx, &again, by, ring)
		return err
	})
	if errs.Is(err, errs.Exists) { // somebody entered it at the same moment: who asks again finds it
		err = errs.E("command.Ask", errs.Transient, c.Key, err)
	}
	return rows, err
}

// ready has made ready what a command needs, of who may have it done.
func (d *Desk) ready(ctx context.Context, c *Command, by *Peer) error {
	if d.Before == nil {
		return nil
	}
	if by != nil {
		if err := d.DB.View(ctx, func(tx *db.Tx) error { return d.permit(ctx, tx, c, by) }); err != nil {
			return err
		}
	}
	return d.Before(ctx, c)
}

// begin enters a new command, and cancels what it follows: the step it takes back, and
// what an earlier run of the plan left open.
func (d *Desk) begin(ctx context.Context, tx *db.Tx, c *Command, by *Peer, ring ringing) ([]row, error) {
	if by != nil {
		if err := d.foreign(ctx, tx, c, by); err != nil {
			return nil, err
		}
	}
	boxes, err := d.Router.Route(ctx, tx, c)
	if err != nil {
		return nil, err
	}
	if !c.Question() {
		if err := cancel(ctx, tx, ring, `origin = $1 AND plan = $2 AND run <> $3`, c.Origin, c.Plan, c.Run); err != nil {
			return nil, err
		}
	}
	if c.Undoes != "" {
		if err := cancel(ctx, tx, ring, `origin = $1 AND plan = $2 AND run = $3 AND substr(key, 1, length($4)) = $4`, c.Origin, c.Plan, c.Run, c.Undoes+"/"); err != nil {
			return nil, err
		}
	}
	if err := d.remember(ctx, tx, c, by); err != nil {
		return nil, err
	}
	for _, b := range boxes {
		ring(b)
	}
	return enter(ctx, tx, c, boxes)
}

// keep takes up the rows that are there, or drops them and returns the command that is
// to be entered anew.
func (d *Desk) keep(ctx context.Context, tx *db.Tx, c *Command, rows []row, ring ringing) (fresh *Command, err error) {
	for i := range rows {
		if rows[i].Epoch > c.Epoch {
			return nil, errs.New("command.Ask", errs.Fenced, c.Key, "a newer owner of the run has asked for it")
		}
	}
	if !ended(rows) {
		for i := range rows {
			if rows[i].state == done {
				continue
			}
			if err := attend(ctx, tx, c, &rows[i], ring); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	if !lost(rows, c) {
		return nil, nil
	}
	again := *c
	for i := range rows {
		if m := rows[i].progress.Memory; len(m) > 0 {
			again.Memory = m
		}
	}
	_, err = tx.Exec(ctx, `DELETE FROM commands WHERE origin = $1 AND key = $2`, c.Origin, c.Key)
	return &again, err
}

// lost reports whether a command that has ended is to be done again for an attempt: it
// failed, and that was told to an earlier one, or was of an earlier owner, or it was
// cancelled and is wanted again.
func lost(rows []row, c *Command) bool {
	return slices.ContainsFunc(rows, func(r row) bool {
		return r.outcome.Failure != nil && (r.told > 0 && r.told < c.Attempt || r.Epoch < c.Epoch || r.cancelled)
	})
}

// attend goes on with a row that is under way: for a newer owner, as wanted still.
func attend(ctx context.Context, tx *db.Tx, c *Command, r *row, ring ringing) error {
	if err := answers(ctx, tx, r); err != nil {
		return err
	}
	if r.Epoch == c.Epoch && tx.Now()-r.asked < touchEvery.Milliseconds() {
		return nil
	}
	if r.Epoch < c.Epoch { // the box is told: what is under way goes on under the new epoch
		ring(r.Box)
	}
	r.Epoch, r.asked = c.Epoch, tx.Now()
	_, err := tx.Exec(ctx, `UPDATE commands SET epoch = $2, asked_at = $3 WHERE id = $1`, r.ID, c.Epoch, tx.Now())
	return err
}

// answers refuses to wait for a box that is away for longer than a restart takes, or
// does not take the command.
func answers(ctx context.Context, tx *db.Tx, r *row) error {
	const op = "command.Ask"
	var seen int64
	found, err := tx.Row(ctx, `SELECT seen_at FROM enrolments WHERE name = $1 AND state = 'enrolled'`, []any{r.Box}, &seen)
	object := "appliance " + string(r.Box)
	switch long := patience.Milliseconds(); {
	case err != nil:
		return err
	case !found:
		return errs.New(op, errs.Unavailable, object, "it is no appliance of this site any more").WithRemedy("have it enrol again, or cancel the run")
	case tx.Now()-seen > long:
		return errs.New(op, errs.Unavailable, object, fmt.Sprintf("it has said nothing for %s", (time.Duration(tx.Now()-seen)*time.Millisecond).Round(time.Second))).
			WithRemedy("see that it runs, and reaches its manager")
	case r.state == waiting && tx.Now()-r.made > long:
		return errs.New(op, errs.Unavailable, object, "it takes no commands").WithRemedy("run it with: holdfast appliance run DIR")
	}
	return nil
}

// cancel has boxes stop what they do of some commands, and forget what they have not
// begun. A command that no box has ends here.
func cancel(ctx context.Context, tx *db.Tx, ring ringing, where string, args ...any) error {
	var rows []row
	err := tx.Rows(ctx, fmt.Sprintf(`UPDATE commands SET cancelled = 1 WHERE %s AND state <> $%d AND cancelled = 0 RETURNING `, where, len(args)+1)+columns, append(args, done),
		func(scan func(...any) error) error {
			r, err := scanRow(scan)
			rows = append(rows, r)
			return err
		})
	for i := range rows {
		if err == nil && rows[i].state == waiting {
			err = rows[i].end(ctx, tx, Fail(errCancelled))
		}
		ring(rows[i].Box)
	}
	return err
}

// errCancelled is how a command ends that nobody wants any more.
var errCancelled = errs.New("command", errs.Canceled, "", "the command was cancelled")

// Cancel has a command not be done any more, if it is not done.
func (d *Desk) Cancel(ctx context.Context, origin, key string) error {
	return d.tx(ctx, func(tx *db.Tx, ring ringing) error {
		return cancel(ctx, tx, ring, `origin = $1 AND key = $2`, origin, key)
	})
}

// ringing notes a box that is to be woken once the transaction is committed.
type ringing func(box site.Name)

// tx runs f in a transaction, and wakes whom it has rung for.
func (d *Desk) tx(ctx context.Context, f func(tx *db.Tx, ring ringing) error) error {
	var rung []site.Name
	err := d.DB.Tx(ctx, func(tx *db.Tx) error {
		rung = nil
		return f(tx, func(box site.Name) { rung = append(rung, box) })
	})
	for _, b := range rung {
		d.bells.ring(bellOf(b))
	}
	return err
}

// bellOf names the bell of a box's exchange.
func bellOf(box site.Name) string { return "box " + string(box) }

// tell notes that an attempt is told how the command failed.
func (d *Desk) tell(ctx context.Context, c *Command) error {
	return d.DB.Tx(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE commands SET told = $3 WHERE origin = $1 AND key = $2 AND state = $4 AND told = 0`, c.Origin, c.Key, max(c.Attempt, 1), done)
		return err
	})
}

// pending is how a command stands that is not done by all of its boxes.
func pending(rows []row) (s Status) {
	for i := range rows {
		p := rows[i].progress
		s.Progress.Done, s.Progress.Total = s.Progress.Done+p.Done, s.Progress.Total+p.Total
		if p.Output != "" {
			s.Progress.Output = p.Output
		}
		if len(p.Memory) > 0 {
			s.Progress.Memory = p.Memory
		}
	}
	return s
}

// merge is what several boxes' outcomes are together. One that does not have what it is
// about says NotFound, which counts if all do.
func merge(rows []row) (o Outcome) {
	o.AlreadyDone = true
	var missing *Failure
	var notes []string
	some := false
	for i := range rows {
		r := &rows[i].outcome
		switch {
		case r.Failure != nil && r.Failure.Kind == errs.NotFound.String():
			missing = r.Failure
			continue
		case r.Failure != nil && o.Failure == nil:
			o.Failure = r.Failure
		}
		some = true
		o.AlreadyDone = o.AlreadyDone && r.AlreadyDone
		o.Answer = o.Answer || r.Answer
		o.Warnings = append(o.Warnings, r.Warnings...)
		if r.Output != "" {
			o.Output = r.Output
		}
		if len(r.Memory) > 0 {
			o.Memory = r.Memory
		}
		if r.Note != "" && !slices.Contains(notes, r.Note) {
			notes = append(notes, r.Note)
		}
	}
	if !some {
		o.Failure = missing
	}
	o.AlreadyDone = o.AlreadyDone && some && o.Failure == nil
	o.Note = db.Text(strings.Join(notes, "; "), maxWords)
	return o
}

// looks says when to look for what no bell of this process tells.
type looks struct {
	*time.Timer
	pause time.Duration
}

func newLooks() *looks { return &looks{time.NewTimer(lookSoon), lookSoon} }

// later has the next look be twice as late.
func (l *looks) later() {
	l.pause = min(2*l.pause, lookEvery)
	l.Reset(l.pause)
}

// bells wake who waits in this process. The zero value is ready.
type bells struct {
	mu sync.Mutex
	by map[string]map[chan struct{}]bool // guarded by mu
}

// listen returns what is rung for a name, until leave is called.
func (b *bells) listen(name string) (ring <-chan struct{}, leave func()) {
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]map[chan struct{}]bool{}
	}
	if b.by[name] == nil {
		b.by[name] = map[chan struct{}]bool{}
	}
	b.by[name][ch] = true
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if delete(b.by[name], ch); len(b.by[name]) == 0 {
			delete(b.by, name)
		}
	}
}

func (b *bells) ring(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.by[name] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
