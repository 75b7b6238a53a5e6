package catalog

import (
	"context"
	"time"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Change is a line of the feed.
type Change struct {
	Seq    int64     // of a later change always larger; given by the feed
	At     time.Time // by the database's clock; given by the feed
	Kind   string    // of what changed: a site.Kind, or "run", "inventory", "alarm", …
	Name   string    // its name or id
	Folder site.Ref  // where it is, for who may see it; empty: the root
	Action string    // what became of it: create, change, delete, or a word of the kind's own
	By     string    // who did it; empty: the manager itself
}

// Note adds a line to the feed, of something at the root, in the transaction that
// makes the change. It is best the last thing a transaction does: until it commits,
// others that add lines wait.
func Note(ctx context.Context, tx *db.Tx, kind, name, action, by string) error {
	return NoteAll(ctx, tx, []Change{{Kind: kind, Name: name, Action: action, By: by}})
}

// NoteAll adds lines to the feed, in their order.
func NoteAll(ctx context.Context, tx *db.Tx, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	var last int64
	if _, err := tx.Row(ctx, `UPDATE sequences SET value = value + $1 WHERE name = 'changes' RETURNING value`, []any{len(changes)}, &last); err != nil {
		return err
	}
	for i, c := range changes {
		if _, err := tx.Exec(ctx, `INSERT INTO changes (seq, at, kind, name, folder, action, made_by) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			last-int64(len(changes)-1-i), tx.Now(), db.Text(c.Kind, maxWord), db.Text(c.Name, maxWord), db.Text(string(c.Folder), maxWord),
			db.Text(c.Action, maxWord), db.Text(c.By, maxWord)); err != nil {
			return err
		}
	}
	return nil
}

// Feed is a part of the feed.
type Feed struct {
	Changes []Change // oldest first
	Last    int64    // the newest number there is, or was
	// Gap says that lines behind the place that was asked for are deleted, or that
	// the place is none of this feed: what is known has to be read anew.
	Gap bool
}

// Since returns the changes behind a place in the feed, at most limit and at most
// MaxPage; kind "": of all kinds.
func Since(ctx context.Context, tx *db.Tx, after int64, kind string, limit int) (f Feed, err error) {
	if _, err := tx.Row(ctx, `SELECT value FROM sequences WHERE name = 'changes'`, nil, &f.Last); err != nil {
		return f, err
	}
	var oldest int64
	some, err := tx.Row(ctx, `SELECT seq FROM changes ORDER BY seq LIMIT 1`, nil, &oldest)
	if err != nil {
		return f, err
	}
	if !some {
		oldest = f.Last + 1
	}
	f.Gap = after > f.Last || after+1 < oldest
	err = tx.Rows(ctx, `SELECT seq, at, kind, name, folder, action, made_by FROM changes WHERE seq > $1 AND ($2 = '' OR kind = $2) ORDER BY seq LIMIT $3`,
		[]any{after, db.Text(kind, maxWord), min(max(1, limit), MaxPage)}, collect(&f.Changes, func(scan func(...any) error) (c Change, err error) {
			var at int64
			var folder string
			err = scan(&c.Seq, &at, &c.Kind, &c.Name, &folder, &c.Action, &c.By)
			c.At, c.Folder = db.Time(at), site.Ref(folder)
			return c, err
		}))
	return f, err
}

// PruneFeed deletes lines that are older than FeedFor, or more than MaxFeed, a
// bounded number at once; it returns how many.
func PruneFeed(ctx context.Context, tx *db.Tx) (int64, error) {
	var last, oldest int64
	if _, err := tx.Row(ctx, `SELECT value FROM sequences WHERE name = 'changes'`, nil, &last); err != nil {
		return 0, err
	}
	if some, err := tx.Row(ctx, `SELECT seq FROM changes ORDER BY seq LIMIT 1`, nil, &oldest); err != nil || !some {
		return 0, err
	}
	// Lines go from the oldest on, without a hole: a gap is told by the first one.
	return tx.Exec(ctx, `DELETE FROM changes WHERE seq < $1 AND (at < $2 OR seq <= $3)`,
		oldest+pruneBatch, tx.Now()-FeedFor.Milliseconds(), last-MaxFeed)
}
