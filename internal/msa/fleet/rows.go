package fleet

import (
	"context"
	"encoding/json"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// place is a row of fleet_domains: a domain's container, and the DRVA that has it.
type place struct {
	domain site.Name
	id     string // of the container; "": it is not known yet
	url    string // where it was found
	opens  string // whose key opens it: openSite or openGiven
	// checked is a digest of the recipients the container was seen to have.
	checked       string
	due           int64
	tries         int64
	words, remedy string // why the container cannot be used
	kind          string // and the kind of that error
	drva          site.Name
	leaving       bool
	placed        int64
}

// Whose key opens a container. Names are stable.
const (
	openSite  = "site"
	openGiven = "given"
	// openLent is never stored: boxes cannot be given it.
	openLent = "lent"
)

const placeColumns = `domain, id, url, opens, checked, due_at, tries, error, remedy, kind, drva, leaving, placed_at`

func scanPlace(scan func(...any) error) (p place, err error) {
	var leaving int64
	err = scan(&p.domain, &p.id, &p.url, &p.opens, &p.checked, &p.due, &p.tries, &p.words, &p.remedy, &p.kind, &p.drva, &leaving, &p.placed)
	p.leaving = leaving != 0
	return p, err
}

// places returns all rows.
func places(ctx context.Context, tx *db.Tx) (map[site.Name]*place, error) {
	all := map[site.Name]*place{}
	err := tx.Rows(ctx, `SELECT `+placeColumns+` FROM fleet_domains`, nil, func(scan func(...any) error) error {
		p, err := scanPlace(scan)
		all[p.domain] = &p
		return err
	})
	return all, err
}

// domainID is the id of the container.
func (p *place) domainID() (dr.DomainID, error) {
	id, err := dr.ParseUUID(p.id)
	if err != nil {
		return dr.DomainID{}, errs.E("fleet.read", errs.Corrupt, "domain "+string(p.domain), err)
	}
	return dr.DomainID{UUID: id}, nil
}

// turn has this transaction decide alone what boxes are to be.
func turn(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE sequences SET value = value + 1 WHERE name = 'fleet'`)
	return err
}

// told is a row of fleet_boxes: what a box told last.
type told struct {
	box        site.Name
	serial     int64
	generation string
	heard      int64 // UTC milliseconds by the database; 0: never
	started    int64
	report     setup.Report
}

func scanTold(scan func(...any) error) (t told, err error) {
	var report string
	if err = scan(&t.box, &t.serial, &t.generation, &t.heard, &t.started, &report); err != nil || report == "" {
		return t, err
	}
	if err := json.Unmarshal([]byte(report), &t.report); err != nil {
		return t, errs.E("fleet.read", errs.Corrupt, "appliance "+string(t.box), err)
	}
	return t, nil
}

const toldColumns = `box, serial, generation, heard_at, started, report`

// toldOf returns what a box told last; the zero value: nothing.
func toldOf(ctx context.Context, tx *db.Tx, box site.Name) (t told, err error) {
	err = tx.Rows(ctx, `SELECT `+toldColumns+` FROM fleet_boxes WHERE box = $1`, []any{string(box)}, func(scan func(...any) error) (err error) {
		t, err = scanTold(scan)
		return err
	})
	return t, err
}

// allTold returns what all boxes told last.
func allTold(ctx context.Context, tx *db.Tx) (map[site.Name]*told, error) {
	all := map[site.Name]*told{}
	err := tx.Rows(ctx, `SELECT `+toldColumns+` FROM fleet_boxes ORDER BY box`, nil, func(scan func(...any) error) error {
		t, err := scanTold(scan)
		all[t.box] = &t
		return err
	})
	return all, err
}

// nextSerial gives a box a new serial: what it tells of an older setup counts no more.
func nextSerial(ctx context.Context, tx *db.Tx, box site.Name) error {
	_, err := tx.Exec(ctx, `INSERT INTO fleet_boxes (box, serial, generation, heard_at, started, report) VALUES ($1, 1, '', 0, 0, '')
		ON CONFLICT (box) DO UPDATE SET serial = fleet_boxes.serial + 1`, string(box))
	return err
}
