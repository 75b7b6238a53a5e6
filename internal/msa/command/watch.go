package command

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// unwantedOf is the condition that nobody waits for a row of a table: its run goes on
// without the step, or is over.
func unwantedOf(table string) string {
	return `NOT EXISTS (SELECT 1 FROM run_steps s WHERE s.run = ` + table + `.run AND s.seq = ` + table + `.seq AND s.status = 'running')`
}

// Run cancels what runs asked for and do not want any more, until ctx ends: here and
// abroad. Replicas do it beside each other.
func (e *Effects) Run(ctx context.Context) error {
	log := e.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		err := e.Desk.Sweep(ctx)
		if err == nil {
			err = e.Sweep(ctx)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("commands that nobody wants were not cancelled", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// asked is something that was asked of another site's manager.
type asked struct {
	key  string
	pair site.Name
	at   int64
}

// Sweep cancels, once, the commands whose steps have ended without them.
func (e *Effects) Sweep(ctx context.Context) error {
	var here int
	var abroad []asked
	var now int64
	err := e.Desk.DB.View(ctx, func(tx *db.Tx) error {
		now, abroad = tx.Now(), nil
		_, err := tx.Row(ctx, `SELECT count(*) FROM commands c WHERE origin = $1 AND state IN ($2, $3) AND cancelled = 0 AND deadline = 0 AND `+unwantedOf("c"), []any{e.Origin, waiting, taken}, &here)
		if err != nil {
			return err
		}
		return tx.Rows(ctx, `SELECT key, pair, at FROM command_abroad a WHERE `+unwantedOf("a")+` ORDER BY at LIMIT $1`, []any{pruneBatch}, func(scan func(...any) error) error {
			var a asked
			err := scan(&a.key, &a.pair, &a.at)
			abroad = append(abroad, a)
			return err
		})
	})
	if err == nil && here > 0 {
		err = e.Desk.tx(ctx, func(tx *db.Tx, ring ringing) error {
			return cancel(ctx, tx, ring, `origin = $1 AND deadline = 0 AND `+unwantedOf("commands"), e.Origin)
		})
	}
	for _, a := range abroad {
		if err != nil {
			break
		}
		err = e.recall(ctx, a, now)
	}
	return err
}

// recall cancels something abroad. Whom nobody reaches drops it by itself, when nobody
// comes for it.
func (e *Effects) recall(ctx context.Context, a asked, now int64) error {
	if e.Peers != nil {
		err := e.Peers.Post(ctx, a.pair, AbroadPath, &Abroad{Command: Command{Key: a.key}, Cancel: true}, &Status{})
		if err != nil && !errs.Is(err, errs.NotFound) && now-a.at < (orphanFor+patience).Milliseconds() {
			return nil // again with the next sweep
		}
	}
	return e.forget(ctx, a.key)
}
