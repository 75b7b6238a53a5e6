package alarm

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
)

// State says what an event tells. Names are stable.
type State string

// The states.
const (
	Happened State = "event"   // of a moment
	Raised   State = "raised"  // a condition holds from now on
	Cleared  State = "cleared" // and does no more
)

// Event is something that happened. Times by the database's clock.
type Event struct {
	ID       string    `json:"id"` // later events have larger ones, within a millisecond in any order
	At       time.Time `json:"at"`
	Code     Code      `json:"code"`
	Severity Severity  `json:"severity"`
	State    State     `json:"state"`
	Object   string    `json:"object"`
	Detail   string    `json:"detail,omitempty"` // what exactly, in words
	Words    string    `json:"words"`            // what it means: of the code
	Remedy   string    `json:"remedy"`           // what to do: of the code
}

// Alarm is a condition that holds, or did.
type Alarm struct {
	Code     Code
	Object   string
	Severity Severity
	Detail   string
	Count    int64     // how often it was raised
	Raised   time.Time // the last time
	Cleared  time.Time // zero: it holds
	// Acknowledged says when somebody said that they know; zero: nobody. It ends when
	// the alarm is raised anew.
	Acknowledged time.Time
	By, Note     string
}

// Set notes whether a condition holds, in the caller's transaction. What is noted
// already changes nothing but the detail; so it may be called as often as one looks.
// Kinds: Internal (no such alarm is declared), those of db.
func Set(ctx context.Context, tx *db.Tx, c Code, object string, holds bool, detail string) error {
	d, ok := Of(c)
	if !ok || !d.Alarm {
		return errs.New("alarm.Set", errs.Internal, string(c), "no alarm is declared by this code")
	}
	object, detail = db.Text(object, maxObject), db.Text(detail, maxDetail)
	if !holds {
		n, err := tx.Exec(ctx, `UPDATE alarms SET cleared_at = $3 WHERE code = $1 AND object = $2 AND cleared_at = 0`, string(c), object, tx.Now())
		if err != nil || n == 0 {
			return err
		}
		return note(ctx, tx, d, Cleared, object, detail)
	}
	n, err := tx.Exec(ctx, `INSERT INTO alarms (code, object, detail, count, raised_at, cleared_at, acknowledged_at, acknowledged_by, note)
		VALUES ($1, $2, $3, 1, $4, 0, 0, '', '')
		ON CONFLICT (code, object) DO UPDATE SET detail = excluded.detail, count = alarms.count + 1, raised_at = excluded.raised_at,
		cleared_at = 0, acknowledged_at = 0, acknowledged_by = '', note = '' WHERE alarms.cleared_at <> 0`, string(c), object, detail, tx.Now())
	if err != nil {
		return err
	}
	if n == 0 {
		_, err := tx.Exec(ctx, `UPDATE alarms SET detail = $3 WHERE code = $1 AND object = $2 AND detail <> $3`, string(c), object, detail)
		return err
	}
	return note(ctx, tx, d, Raised, object, detail)
}

// Held are alarms that hold: by object, what exactly it is. Not for concurrent use.
type Held map[Code]map[string]string

// Add adds one; h must have been made.
func (h Held) Add(c Code, object, detail string) {
	if h[c] == nil {
		h[c] = map[string]string{}
	}
	h[c][object] = detail
}

// Settle raises what holds of some codes, and clears what does no more. It is for who
// knows all objects of those codes.
func Settle(ctx context.Context, tx *db.Tx, codes []Code, holds Held) error {
	for _, c := range codes {
		var over []string
		if err := tx.Rows(ctx, `SELECT object FROM alarms WHERE code = $1 AND cleared_at = 0`, []any{string(c)}, func(scan func(...any) error) error {
			var object string
			err := scan(&object)
			if _, still := holds[c][object]; !still {
				over = append(over, object)
			}
			return err
		}); err != nil {
			return err
		}
		for _, object := range over {
			if err := Set(ctx, tx, c, object, false, ""); err != nil {
				return err
			}
		}
		for _, object := range slices.Sorted(maps.Keys(holds[c])) {
			if err := Set(ctx, tx, c, object, true, holds[c][object]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Tell notes an event of a moment, in the caller's transaction. Kinds as of Set.
func Tell(ctx context.Context, tx *db.Tx, c Code, object, detail string) error {
	d, ok := Of(c)
	if !ok || d.Alarm {
		return errs.New("alarm.Tell", errs.Internal, string(c), "no event is declared by this code")
	}
	return note(ctx, tx, d, Happened, db.Text(object, maxObject), db.Text(detail, maxDetail))
}

// storeEvent stores an event and returns its id.
func storeEvent(ctx context.Context, tx *db.Tx, d Definition, s State, object, detail string) (string, error) {
	var random [6]byte
	rand.Read(random[:]) // never fails
	id := fmt.Sprintf("%012x%x", tx.Now(), random)
	_, err := tx.Exec(ctx, `INSERT INTO events (id, at, code, severity, state, object, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		id, tx.Now(), string(d.Code), string(d.Severity), string(s), object, detail)
	return id, err
}

// note stores an event, a delivery for each outlet, and a line of the feed.
func note(ctx context.Context, tx *db.Tx, d Definition, s State, object, detail string) error {
	id, err := storeEvent(ctx, tx, d, s, object, detail)
	if err != nil {
		return err
	}
	outlets, err := Outlets(ctx, tx)
	if err != nil {
		return err
	}
	for _, o := range outlets {
		// What an outlet that fails is told of is that it fails: it would go round.
		if o.takes(d) && (d.Code != OutletFails || object != o.Name) {
			if err := deliver(ctx, tx, o.Name, id); err != nil {
				return err
			}
		}
	}
	return catalog.Note(ctx, tx, "alarm", string(d.Code)+" "+object, string(s), "")
}

// deliver queues an event for an outlet, unless too much waits there already.
func deliver(ctx context.Context, tx *db.Tx, outlet, event string) error {
	n, err := tx.Exec(ctx, `INSERT INTO deliveries (outlet, event, made_at, due_at, tries, owner, lease_until)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($3 AS BIGINT), 0, '', 0
		WHERE (SELECT count(*) FROM deliveries WHERE outlet = $1) < $4`, outlet, event, tx.Now(), maxPending)
	if err == nil && n == 0 {
		_, err = tx.Exec(ctx, `UPDATE outlets SET dropped = dropped + 1 WHERE name = $1`, outlet)
	}
	return err
}

// Acknowledge notes that somebody knows of an alarm that holds. Kinds: NotFound,
// Conflict (it does not hold).
func Acknowledge(ctx context.Context, tx *db.Tx, c Code, object, by, words string) error {
	const op = "alarm.Acknowledge"
	n, err := tx.Exec(ctx, `UPDATE alarms SET acknowledged_at = $3, acknowledged_by = $4, note = $5 WHERE code = $1 AND object = $2 AND cleared_at = 0`,
		db.Text(string(c), maxObject), db.Text(object, maxObject), tx.Now(), db.Text(by, maxObject), db.Text(words, maxNote))
	if err != nil {
		return err
	}
	if n == 0 {
		return errs.New(op, errs.NotFound, string(c)+" "+object, "no such alarm holds").WithRemedy("list the alarms: it may have ended by itself")
	}
	return catalog.Note(ctx, tx, "alarm", string(c)+" "+object, "acknowledged", by)
}

// Cursor is a place in a list of alarms. The zero value is the beginning.
type Cursor struct {
	At     int64  `json:"a"`
	Code   string `json:"c"`
	Object string `json:"o"`
}

// List returns a page of alarms, the newest first: those that hold, or with all also
// those that did. A zero next: that was all.
func List(ctx context.Context, tx *db.Tx, all bool, after Cursor, limit int) (page []Alarm, next Cursor, err error) {
	limit = bound(limit)
	holding := 1
	if all {
		holding = 0
	}
	err = tx.Rows(ctx, `SELECT code, object, detail, count, raised_at, cleared_at, acknowledged_at, acknowledged_by, note FROM alarms
		WHERE ($1 = 0 OR cleared_at = 0) AND (CAST($2 AS BIGINT) = 0 OR raised_at < $2 OR raised_at = $2 AND (code > $3 OR code = $3 AND object > $4))
		ORDER BY raised_at DESC, code, object LIMIT $5`, []any{holding, after.At, after.Code, after.Object, limit + 1},
		func(scan func(...any) error) error {
			var a Alarm
			var raised, cleared, known int64
			if err := scan(&a.Code, &a.Object, &a.Detail, &a.Count, &raised, &cleared, &known, &a.By, &a.Note); err != nil {
				return err
			}
			d, _ := Of(a.Code)
			a.Severity, a.Raised, a.Cleared, a.Acknowledged = d.Severity, db.Time(raised), db.Time(cleared), db.Time(known)
			page = append(page, a)
			return nil
		})
	if err == nil && len(page) > limit {
		page = page[:limit]
		last := page[limit-1]
		next = Cursor{last.Raised.UnixMilli(), string(last.Code), last.Object}
	}
	return page, next, err
}

func bound(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, MaxPage)
}

const eventColumns = `id, at, code, severity, state, object, detail`

func scanEvent(scan func(...any) error) (e Event, err error) {
	var at int64
	err = scan(&e.ID, &at, &e.Code, &e.Severity, &e.State, &e.Object, &e.Detail)
	d, _ := Of(e.Code)
	e.At, e.Words, e.Remedy = db.Time(at), d.Words, d.Remedy
	return e, err
}

// Events returns a page of events, the newest first, before one that was seen; before
// "": the newest. next is empty when that was all.
func Events(ctx context.Context, tx *db.Tx, before string, limit int) (page []Event, next string, err error) {
	limit = bound(limit)
	err = tx.Rows(ctx, `SELECT `+eventColumns+` FROM events WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2`, []any{db.Text(before, 64), limit + 1},
		func(scan func(...any) error) error {
			e, err := scanEvent(scan)
			page = append(page, e)
			return err
		})
	if err == nil && len(page) > limit {
		page = page[:limit]
		next = page[limit-1].ID
	}
	return page, next, err
}

// Prune deletes events and cleared alarms that are older than EventsFor, and events
// that are too many, a bounded number at once; it returns how many.
func Prune(ctx context.Context, tx *db.Tx) (int64, error) {
	old := tx.Now() - EventsFor.Milliseconds()
	n, err := tx.Exec(ctx, `DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < $1 ORDER BY id LIMIT $2)`, old, pruneBatch)
	if err != nil {
		return n, err
	}
	var newest string
	some, err := tx.Row(ctx, `SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET $1`, []any{maxEvents}, &newest)
	if err != nil {
		return n, err
	}
	if some {
		m, err := tx.Exec(ctx, `DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id <= $1 ORDER BY id LIMIT $2)`, newest, pruneBatch)
		if n += m; err != nil {
			return n, err
		}
	}
	m, err := tx.Exec(ctx, `DELETE FROM alarms WHERE cleared_at <> 0 AND cleared_at < $1`, old)
	return n + m, err
}
