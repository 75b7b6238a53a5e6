package replica

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/api"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/operate"
)

// pruners delete rows that are over, each a bounded number at once, and say how many.
var pruners = []struct {
	what string
	f    func(context.Context, *db.Tx) (int64, error)
}{
	{"runs", func(ctx context.Context, tx *db.Tx) (int64, error) {
		return operate.Prune(ctx, tx, tx.Now()-RunsFor.Milliseconds(), tx.Now()-HistoryFor.Milliseconds())
	}},
	{"changes", catalog.PruneFeed},
	{"drafts", catalog.PruneDrafts},
	{"answers", api.PruneAnswers},
	{"commands", command.Prune},
	{"events", alarm.Prune},
	{"sessions", func(ctx context.Context, tx *db.Tx) (int64, error) { return 0, auth.Prune(ctx, tx) }},
}

// prune deletes what is over, now and then. All replicas do: who comes second finds
// nothing.
func (r *Replica) prune(ctx context.Context) error {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	var told audit.Head
	for {
		told = r.tellHead(ctx, told)
		r.pruneOnce(ctx)
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tellHead logs the audit log's head if it is not the one that was told last: whoever
// keeps the manager's log elsewhere can tell by it that the audit log was written anew.
func (r *Replica) tellHead(ctx context.Context, told audit.Head) (head audit.Head) {
	if err := r.DB.View(ctx, func(tx *db.Tx) (err error) { head, err = audit.Newest(ctx, tx); return err }); err != nil || head == told {
		return told
	}
	r.Log.Info("the audit log's head", "head", fmt.Sprintf("%d:%s", head.Seq, head.Hash))
	return head
}

// pruneOnce deletes until nothing is left that is over, or for a bounded time. What
// cannot be deleted is tried again the next time.
func (r *Replica) pruneOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pruneFor)
	defer cancel()
	for _, p := range pruners {
		for {
			var n int64
			err := r.DB.Tx(ctx, func(tx *db.Tx) (err error) {
				n, err = p.f(ctx, tx)
				return err
			})
			if err != nil && ctx.Err() == nil {
				r.Log.Warn("rows that are over could not be deleted", "of", p.what, "err", err)
			}
			if err != nil || n == 0 {
				break
			}
		}
	}
}
