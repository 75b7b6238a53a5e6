package fleet

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Heard takes what a box tells: its figures go to the statistics, what it let go of is
// free for others. Kind Invalid: more than a box may tell.
func (f *Fleet) Heard(ctx context.Context, tx *db.Tx, box site.Name, r *setup.Report) error {
	const op = "fleet.Heard"
	if err := r.Check(); err != nil {
		return err
	}
	was, err := toldOf(ctx, tx, box)
	if err != nil {
		return err
	}
	kept := *r
	kept.Figures = nil // they are in the statistics
	if !r.IsUp() {
		kept.Lives, kept.Domains = stillThere(&was.report, r)
	}
	b, err := json.Marshal(&kept)
	if err != nil || len(b) > maxReport {
		return errs.New(op, errs.Invalid, "appliance "+string(box), "its report is too long").WithRemedy("tell less")
	}
	if _, err := tx.Exec(ctx, `INSERT INTO fleet_boxes (box, serial, generation, heard_at, started, report) VALUES ($1, 0, $2, $3, $4, $5)
		ON CONFLICT (box) DO UPDATE SET generation = excluded.generation, heard_at = excluded.heard_at, started = excluded.started, report = excluded.report`,
		string(box), db.Text(r.Generation, 64), tx.Now(), r.Started, db.Text(string(b), maxReport)); err != nil {
		return err
	}
	if was.heard == 0 {
		f.Wake() // it may be waited for
	}
	if was.started != 0 && was.started != r.Started {
		if err := alarm.Tell(ctx, tx, alarm.ApplianceBack, "appliance "+string(box), "since "+db.Time(r.Started).UTC().Format(time.RFC3339)); err != nil {
			return err
		}
	}
	if err := f.observe(ctx, tx, box, r.Figures); err != nil {
		return err
	}
	return f.letGo(ctx, tx, box, r.Generation)
}

// stillThere is what a box has whose agent is not up yet: what it names, and what it named
// before. A domain that lives in it must not be given to a DRVA meanwhile.
func stillThere(was, now *setup.Report) (lives []site.Name, domains []setup.DomainReport) {
	lives, domains = slices.Clone(now.Lives), slices.Clone(now.Domains)
	for _, name := range was.Lives {
		if !slices.Contains(lives, name) && len(lives) < setup.MaxDomains {
			lives = append(lives, name)
		}
	}
	for i := range was.Domains {
		d := &was.Domains[i]
		if !slices.ContainsFunc(domains, func(x setup.DomainReport) bool { return x.Name == d.Name }) && len(domains) < setup.MaxDomains {
			domains = append(domains, *d)
		}
	}
	return lives, domains
}

// letGo frees the domains that a box leaves, if it is a setup without them.
func (f *Fleet) letGo(ctx context.Context, tx *db.Tx, name site.Name, generation string) error {
	var n int64
	if _, err := tx.Row(ctx, `SELECT count(*) FROM fleet_domains WHERE drva = $1 AND leaving = 1`, []any{string(name)}, &n); err != nil || n == 0 || generation == "" {
		return err
	}
	if err := turn(ctx, tx); err != nil {
		return err
	}
	s, err := f.Setup(ctx, tx, name)
	if errs.Is(err, errs.NotFound) {
		return nil // settle sees that it is gone
	}
	if err != nil || s.Generation != generation {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE fleet_domains SET drva = '', leaving = 0, placed_at = $2 WHERE drva = $1 AND leaving = 1`, string(name), tx.Now())
	f.Wake()
	return err
}

// observe hands figures on, of objects that a box may speak about.
func (f *Fleet) observe(ctx context.Context, tx *db.Tx, box site.Name, figures []setup.Figure) error {
	if f.Stats == nil || len(figures) == 0 {
		return nil
	}
	domains := map[string]bool{}
	if err := tx.Rows(ctx, `SELECT name FROM objects WHERE kind = $1`, []any{string(site.KindDomain)}, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		domains[name] = true
		return err
	}); err != nil {
		return err
	}
	for _, x := range figures {
		kind, name, _ := strings.Cut(x.Object, " ")
		of, _, _ := strings.Cut(name, "/")
		switch {
		case kind == "domain" && domains[name], kind == "vm" && domains[of], kind == "appliance" && name == string(box):
			f.Stats.Observe(x.Metric, x.Object, x.Value)
		}
	}
	return nil
}
