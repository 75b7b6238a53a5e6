package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// chain follows entries and says where they do not fit.
type chain struct {
	last Head
	kept []Head // heads noted elsewhere, that must be passed
}

func (c *chain) next(e *Entry) error {
	switch {
	case e.Seq > c.last.Seq+1:
		return broken(c.last.Seq+1, fmt.Sprintf("it is missing; the next one is %d", e.Seq))
	case e.Seq <= c.last.Seq:
		return broken(e.Seq, fmt.Sprintf("it comes after %d", c.last.Seq))
	case e.Hash != e.digest(c.last.Hash):
		return broken(e.Seq, "it was changed, or one before it was replaced")
	}
	c.last = Head{e.Seq, e.Hash}
	return c.meet(c.last)
}

// meet compares with what was noted elsewhere.
func (c *chain) meet(h Head) error {
	for _, k := range c.kept {
		if k.Seq == h.Seq && k.Hash != h.Hash {
			return broken(h.Seq, "the log was written anew: this is not the entry that was noted elsewhere")
		}
	}
	return nil
}

// end checks that the log ends where its head says, and holds all that was noted.
func (c *chain) end(head Head) error {
	switch {
	case head.Seq > c.last.Seq:
		return broken(c.last.Seq+1, fmt.Sprintf("the log ends before it; its head is %d", head.Seq))
	case head != c.last:
		return broken(head.Seq, "the log does not end with its head")
	}
	for _, k := range c.kept {
		if k.Seq > c.last.Seq {
			return broken(c.last.Seq+1, fmt.Sprintf("the log ends before it, and entry %d was noted elsewhere", k.Seq))
		}
	}
	return nil
}

// Verify follows the whole log, page by page, and returns its head. kept are heads
// that were noted elsewhere: a log that was written anew has not got them. Entries
// appended meanwhile need not be in it. Kind Corrupt names the first entry that does
// not fit.
func Verify(ctx context.Context, d *db.DB, kept ...Head) (Head, error) {
	return walk(ctx, d, kept, func(*Entry) error { return nil })
}

// Export writes the log as lines of JSON, one an entry, and its head as the last
// line, and verifies it on the way.
func Export(ctx context.Context, d *db.DB, w io.Writer) (Head, error) {
	b := bufio.NewWriter(w)
	out := json.NewEncoder(b)
	head, err := walk(ctx, d, nil, func(e *Entry) error { return out.Encode(e) })
	if err != nil {
		return Head{}, err
	}
	if err := out.Encode(trailer{head}); err != nil {
		return Head{}, errs.E("audit.Export", errs.Unavailable, "export", err)
	}
	if err := b.Flush(); err != nil {
		return Head{}, errs.E("audit.Export", errs.Unavailable, "export", err)
	}
	return head, nil
}

// trailer ends an export.
type trailer struct {
	Head Head `json:"head"`
}

func walk(ctx context.Context, d *db.DB, kept []Head, each func(*Entry) error) (Head, error) {
	c := chain{kept: kept}
	var head Head
	for more := true; more; {
		n := 0
		err := d.View(ctx, func(tx *db.Tx) error {
			var err error
			// The head of the first page: what is appended later need not be read.
			if head.Seq == 0 {
				if head, err = Newest(ctx, tx); err != nil {
					return err
				}
			}
			return tx.Rows(ctx, `SELECT `+columns+` FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2`, []any{c.last.Seq, page}, func(scan func(...any) error) error {
				var e Entry
				if err := scan(e.scan()...); err != nil {
					return err
				}
				n++
				if e.Seq > head.Seq {
					return nil
				}
				if err := c.next(&e); err != nil {
					return err
				}
				return each(&e)
			})
		})
		if err != nil {
			return Head{}, err
		}
		more = n == page && c.last.Seq < head.Seq
	}
	return c.last, c.end(head)
}

// VerifyExport reads an export, by itself or against heads noted elsewhere, with no
// database. Kinds: Corrupt (an entry, by its number), Invalid (no export).
func VerifyExport(r io.Reader, kept ...Head) (Head, error) {
	const op = "audit.VerifyExport"
	c := chain{kept: kept}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 64<<10) // an entry has at most some 7 KiB, six times that escaped
	for s.Scan() {
		var line struct {
			Entry
			Head *Head `json:"head"`
		}
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			return Head{}, errs.E(op, errs.Invalid, fmt.Sprintf("line behind entry %d", c.last.Seq), err)
		}
		if line.Head != nil {
			if s.Scan() {
				return Head{}, errs.New(op, errs.Invalid, "export", "something follows the head")
			}
			return c.last, errors.Join(s.Err(), c.end(*line.Head))
		}
		if err := c.next(&line.Entry); err != nil {
			return Head{}, err
		}
	}
	if err := s.Err(); err != nil {
		return Head{}, errs.E(op, errs.Invalid, "export", err)
	}
	return Head{}, broken(c.last.Seq+1, "the export ends before its head")
}
