package alarm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Sender carries deliveries to outlets. Every replica has one; each delivery is one's
// at a time.
type Sender struct {
	DB *db.DB
	// Secret opens a sealed secret by its name; nil: there are none.
	Secret func(ctx context.Context, name string) (string, error)
	Logger *slog.Logger  // nil: nothing is logged
	Every  time.Duration // between looks for what is due; 0: 2 s
	Retry  time.Duration // the first pause after a failure, doubled each time; 0: 5 s
	Lease  time.Duration // how long what this one takes stays with it; 0: as long as a batch may take

	owner string
}

// delivery is an event that an outlet has to get.
type delivery struct {
	outlet string
	event  Event
	made   int64
	tries  int64
}

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	every := s.Every
	if every <= 0 {
		every = sendEvery
	}
	if s.Retry <= 0 {
		s.Retry = firstRetry
	}
	if s.Lease <= 0 {
		s.Lease = sendLease
	}
	s.owner = dr.NewUUID().String()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			n, err := s.round(ctx)
			if err != nil && ctx.Err() == nil {
				s.Logger.Warn("events are not sent", "err", err)
			}
			more = err == nil && n == sendBatch
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round takes what is due and sends it; it returns how many deliveries that was.
func (s *Sender) round(ctx context.Context) (int, error) {
	list, outlets, err := s.take(ctx)
	if err != nil {
		return 0, err
	}
	by := map[string][]delivery{}
	for _, d := range list {
		by[d.outlet] = append(by[d.outlet], d)
	}
	var wg sync.WaitGroup
	for name, ds := range by {
		o := outlets[name]
		wg.Go(func() { s.sendAll(ctx, &o, ds) })
	}
	wg.Wait()
	return len(list), nil
}

// take claims deliveries that are due, in the order in which they were made.
func (s *Sender) take(ctx context.Context) (list []delivery, outlets map[string]Outlet, err error) {
	err = s.DB.Tx(ctx, func(tx *db.Tx) error {
		list, outlets = nil, map[string]Outlet{}
		now := tx.Now()
		if _, err := tx.Exec(ctx, `DELETE FROM deliveries WHERE lease_until <= $1 AND made_at < $2`, now, now-giveUp.Milliseconds()); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `UPDATE deliveries SET owner = $1, lease_until = $2 WHERE lease_until <= $3 AND event || ' ' || outlet IN
			(SELECT event || ' ' || outlet FROM deliveries WHERE due_at <= $3 AND lease_until <= $3 ORDER BY due_at, event LIMIT $4)`,
			s.owner, now+s.Lease.Milliseconds(), now, sendBatch)
		if err != nil || n == 0 {
			return err
		}
		all, err := Outlets(ctx, tx)
		if err != nil {
			return err
		}
		for _, o := range all {
			outlets[o.Name] = o
		}
		return tx.Rows(ctx, `SELECT d.outlet, d.made_at, d.tries, e.id, e.at, e.code, e.severity, e.state, e.object, e.detail
			FROM deliveries d JOIN events e ON e.id = d.event WHERE d.owner = $1 AND d.lease_until > $2 ORDER BY e.id, d.outlet`, []any{s.owner, now},
			func(scan func(...any) error) error {
				var d delivery
				e, err := scanEvent(func(dest ...any) error {
					return scan(append([]any{&d.outlet, &d.made, &d.tries}, dest...)...)
				})
				d.event = e
				list = append(list, d)
				return err
			})
	})
	return list, outlets, err
}

// sendAll sends one outlet's deliveries, until one fails: the others wait with it.
func (s *Sender) sendAll(ctx context.Context, o *Outlet, list []delivery) {
	for i := range list {
		err := s.send(ctx, o, &list[i].event)
		if ctx.Err() != nil {
			err = errs.E("alarm.send", errs.Canceled, o.Name, context.Cause(ctx))
		}
		noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendFor)
		var nerr error
		if err == nil {
			nerr = s.sent(noting, &list[i])
		} else {
			nerr = s.failed(noting, o, list[i:], err)
		}
		cancel()
		if nerr != nil {
			s.Logger.Warn("how an event was sent is not noted: it is sent again", "outlet", o.Name, "event", list[i].event.ID, "err", nerr)
		}
		if err != nil {
			return
		}
	}
}

// send sends one event.
func (s *Sender) send(ctx context.Context, o *Outlet, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, sendFor)
	defer cancel()
	secret := ""
	if o.Secret != "" {
		if s.Secret == nil {
			return errs.New("alarm.send", errs.Unavailable, o.Name, "this manager keeps no secrets")
		}
		var err error
		if secret, err = s.Secret(ctx, o.Secret); err != nil {
			return err
		}
	}
	switch o.Sort {
	case Mail:
		return sendMail(ctx, o, secret, e)
	case Syslog:
		return sendSyslog(ctx, o, e)
	case Webhook:
		return sendWebhook(ctx, o, secret, e, time.Now())
	}
	return errs.New("alarm.send", errs.Invalid, o.Name, "this release does not know such an outlet")
}

// sent forgets a delivery that was taken.
func (s *Sender) sent(ctx context.Context, d *delivery) error {
	return s.DB.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM deliveries WHERE outlet = $1 AND event = $2 AND owner = $3`, d.outlet, d.event.ID, s.owner)
		if err != nil || n == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE outlets SET sent = sent + 1, sent_at = $2, failures = 0, error = '' WHERE name = $1`, d.outlet, tx.Now()); err != nil {
			return err
		}
		return Set(ctx, tx, OutletFails, d.outlet, false, "")
	})
}

// failed has deliveries wait: the first one failed. Giving up because the sender ends
// is no failure.
func (s *Sender) failed(ctx context.Context, o *Outlet, list []delivery, why error) error {
	return s.DB.Tx(ctx, func(tx *db.Tx) error {
		pause, count := min(lastRetry, s.Retry<<min(list[0].tries, 10)), int64(1)
		if errs.Is(why, errs.Canceled) {
			pause, count = 0, 0
		}
		for _, d := range list {
			if _, err := tx.Exec(ctx, `UPDATE deliveries SET owner = '', lease_until = 0, due_at = $4, tries = tries + $5 WHERE outlet = $1 AND event = $2 AND owner = $3`,
				d.outlet, d.event.ID, s.owner, tx.Now()+pause.Milliseconds(), count); err != nil {
				return err
			}
		}
		if count == 0 {
			return nil
		}
		var failures int64
		words := db.Text(why.Error(), maxDetail)
		if _, err := tx.Row(ctx, `UPDATE outlets SET failures = failures + 1, error = $2 WHERE name = $1 RETURNING failures`, []any{o.Name, words}, &failures); err != nil {
			return err
		}
		// One failure happens; the second says that it stays.
		return Set(ctx, tx, OutletFails, o.Name, failures > 1, words)
	})
}
