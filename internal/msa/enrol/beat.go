package enrol

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/site"
)

// Beat is what a box tells of itself.
type Beat struct {
	At      int64  `json:"at"` // UTC milliseconds by its clock
	Release string `json:"release,omitempty"`
	// Capacity is figures by name, as log_bytes, log_used, cpus, domains.
	Capacity map[string]int64 `json:"capacity,omitempty"`
}

// Answer is what it is told.
type Answer struct {
	At      int64    `json:"at"`                // UTC milliseconds by the manager's database
	Renew   bool     `json:"renew"`             // its certificate is to be made anew, by age or because what it is has changed
	Domains []string `json:"domains,omitempty"` // ids of those it serves
}

// Note enters a beat of a box that has proved the certificate with the digest used.
// Kinds: Denied (it does not count any more), Invalid.
func Note(ctx context.Context, tx *db.Tx, name site.Name, used string, beat Beat, remote string) (Answer, error) {
	const op = "enrol.Note"
	if len(beat.Capacity) > maxFigures {
		return Answer{}, errs.New(op, errs.Invalid, "capacity", fmt.Sprintf("it has %d figures, at most %d are taken", len(beat.Capacity), maxFigures)).WithRemedy("send fewer")
	}
	for k := range beat.Capacity {
		if k == "" || k != db.Text(k, maxFigure) {
			return Answer{}, errs.New(op, errs.Invalid, "capacity", "a figure has a name that is none").WithRemedy("use names of 1 to 64 bytes")
		}
	}
	b, found, err := take(ctx, tx, op, name)
	if err != nil {
		return Answer{}, err
	}
	if err := b.counts(op, found, name, used); err != nil {
		return Answer{}, err
	}
	capacity, err := json.Marshal(beat.Capacity)
	if err != nil {
		return Answer{}, errs.E(op, errs.Internal, string(name), err)
	}
	// The newest certificate was used: the box has it, and the one before is over.
	before := b.before
	if used == b.cert {
		before = ""
	}
	skew := max(min(beat.At-tx.Now(), 1<<40), -1<<40)
	_, err = tx.Exec(ctx, `UPDATE enrolments SET seen_at = $2, remote = $3, release = $4, skew = $5, capacity = $6, cert_before = $7 WHERE name = $1`,
		name, tx.Now(), db.Text(remote, 128), db.Text(beat.Release, maxRelease), skew, string(capacity), before)
	due := b.CertUntil-tx.Now() < (pki.BoxValidity / 3).Milliseconds()
	return Answer{At: tx.Now(), Renew: due || used != b.cert || b.stale(), Domains: b.Domains}, err
}

// stale reports whether what a box is has changed since its certificate was signed:
// Assign says so by taking its end away.
func (b *Box) stale() bool { return b.CertUntil == 0 }

// Assign says which domains a DRVA serves; with the next beat it is told, and renews
// its certificate to stand for them. Kinds: NotFound, Invalid.
func Assign(ctx context.Context, tx *db.Tx, name site.Name, domains []dr.DomainID) error {
	const op = "enrol.Assign"
	b, found, err := take(ctx, tx, op, name)
	if err != nil {
		return err
	}
	switch {
	case !found:
		return noBox(op, name)
	case b.Role != site.DRVA:
		return errs.New(op, errs.Invalid, "appliance "+string(name), "it is no DRVA").WithRemedy("assign domains to a DRVA")
	case len(domains) >= control.MaxNames:
		return errs.New(op, errs.Invalid, "appliance "+string(name), fmt.Sprintf("a DRVA serves at most %d domains", control.MaxNames-1)).WithRemedy("use another DRVA besides")
	}
	ids := []string{}
	for _, d := range domains {
		ids = append(ids, d.String())
	}
	texts, err := jsonTexts(ids)
	if err != nil {
		return err
	}
	// An end of 0 has the box renew at once; what it has goes on to count.
	_, err = tx.Exec(ctx, `UPDATE enrolments SET domains = $2, cert_until = 0, changed_at = $3 WHERE name = $1`, name, texts[0], tx.Now())
	return err
}

// Revoke has a box's certificate count no more, and its invitation neither. Kind
// NotFound.
func Revoke(ctx context.Context, tx *db.Tx, name site.Name) error {
	n, err := tx.Exec(ctx, `UPDATE enrolments SET state = $2, cert = '', cert_before = '', changed_at = $3 WHERE name = $1`, name, Revoked, tx.Now())
	if err == nil && n == 0 {
		err = noBox("enrol.Revoke", name)
	}
	if err != nil {
		return err
	}
	return auth.Forget(ctx, tx, auth.ForBox, string(name))
}

// Remove forgets a box. Kind NotFound.
func Remove(ctx context.Context, tx *db.Tx, name site.Name) error {
	if err := Revoke(ctx, tx, name); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM enrolments WHERE name = $1`, name)
	return err
}

// Expiring lists boxes whose certificates end within a time: they have not renewed
// when they should have.
func Expiring(ctx context.Context, tx *db.Tx, within time.Duration) (list []Box, err error) {
	err = tx.Rows(ctx, `SELECT `+columns+` FROM enrolments WHERE state = $1 AND cert_until > 0 AND cert_until < $2 ORDER BY cert_until, name LIMIT $3`,
		[]any{Enrolled, tx.Now() + within.Milliseconds(), page}, func(scan func(...any) error) error {
			b, err := read(scan, tx.Now())
			list = append(list, b)
			return err
		})
	return list, err
}
