package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// The states of a row.
const (
	waiting = "waiting" // no box has it
	taken   = "taken"   // its box has it, or had it when it died
	done    = "done"    // outcome says how
)

// row is a command and what became of it.
type row struct {
	Command
	state     string
	cancelled bool
	told      int // the attempt that was told how it failed; 0: nobody was
	made      int64
	asked     int64 // when somebody last wanted it
	progress  Progress
	outcome   Outcome
}

// Progress is how far a command is.
type Progress struct {
	Done   int64           `json:"done,omitempty"`
	Total  int64           `json:"total,omitempty"`
	Output string          `json:"output,omitempty"`
	Memory json.RawMessage `json:"memory,omitempty"`
}

const columns = `id, box, epoch, state, cancelled, told, made_at, asked_at, deadline, doc, progress, outcome`

func scanRow(scan func(...any) error) (r row, err error) {
	var id, doc, progress, outcome string
	var box site.Name
	var epoch, cancelled, deadline int64
	if err := scan(&id, &box, &epoch, &r.state, &cancelled, &r.told, &r.made, &r.asked, &deadline, &doc, &progress, &outcome); err != nil {
		return r, err
	}
	for text, v := range map[string]any{doc: &r.Command, progress: &r.progress, outcome: &r.outcome} {
		if text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(text), v); err != nil {
			return r, errs.E("command.scan", errs.Corrupt, "command "+id, err)
		}
	}
	r.ID, r.Box, r.Epoch, r.Deadline, r.cancelled = id, box, epoch, deadline, cancelled != 0
	return r, nil
}

// find returns the rows of a key by box, which are the caller's until its transaction ends.
func find(ctx context.Context, tx *db.Tx, origin, key string) (rows []row, err error) {
	err = tx.Rows(ctx, `UPDATE commands SET id = id WHERE origin = $1 AND key = $2 RETURNING `+columns, []any{origin, key}, func(scan func(...any) error) error {
		r, err := scanRow(scan)
		rows = append(rows, r)
		return err
	})
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.Box, b.Box) })
	return rows, err
}

// look returns the rows of a key by box, as they are.
func look(ctx context.Context, tx *db.Tx, origin, key string) (rows []row, err error) {
	err = tx.Rows(ctx, `SELECT `+columns+` FROM commands WHERE origin = $1 AND key = $2 ORDER BY box LIMIT $3`, []any{origin, key, maxBoxes}, func(scan func(...any) error) error {
		r, err := scanRow(scan)
		rows = append(rows, r)
		return err
	})
	return rows, err
}

// enter makes a command's row for each box.
func enter(ctx context.Context, tx *db.Tx, c *Command, boxes []site.Name) (rows []row, err error) {
	const op = "command.enter"
	if len(boxes) == 0 || len(boxes) > maxBoxes {
		return nil, errs.New(op, errs.Unavailable, string(c.Domain), fmt.Sprintf("%d boxes would have to do it", len(boxes))).WithRemedy("at most 64 can do one thing together")
	}
	for _, b := range boxes {
		var open int
		if _, err := tx.Row(ctx, `SELECT count(*) FROM commands WHERE box = $1 AND state <> $2`, []any{b, done}, &open); err != nil {
			return nil, err
		}
		if open >= maxOpen {
			return nil, errs.New(op, errs.Full, "appliance "+string(b), fmt.Sprintf("it has %d commands to do", open)).WithRemedy("see why it does none")
		}
		r := row{Command: *c, state: waiting, made: tx.Now(), asked: tx.Now()}
		r.ID, r.Box = dr.NewUUID().String(), b
		doc, err := json.Marshal(&r.Command)
		if err != nil {
			return nil, errs.E(op, errs.Internal, c.Key, err)
		}
		_, err = tx.Exec(ctx, `INSERT INTO commands (id, origin, key, box, plan, run, seq, state, epoch, cancelled, told, made_at, asked_at, done_at, deadline, doc, progress, outcome)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, $10, $10, 0, $11, $12, '', '')`,
			r.ID, c.Origin, c.Key, b, c.Plan, c.Run, c.Seq, waiting, c.Epoch, tx.Now(), c.Deadline, string(doc))
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// end ends a row without its box.
func (r *row) end(ctx context.Context, tx *db.Tx, o Outcome) error {
	b, err := json.Marshal(&o)
	if err != nil {
		return errs.E("command.end", errs.Internal, r.Key, err)
	}
	r.state, r.outcome = done, o
	_, err = tx.Exec(ctx, `UPDATE commands SET state = $2, done_at = $3, outcome = $4 WHERE id = $1`, r.ID, done, tx.Now(), string(b))
	return err
}
