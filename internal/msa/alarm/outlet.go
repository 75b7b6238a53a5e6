package alarm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// Sort is how an outlet sends. Names are stable.
type Sort string

// The sorts.
const (
	Mail    Sort = "smtp"    // one mail for each event
	Syslog  Sort = "syslog"  // RFC 5424 over TCP or TLS, messages counted as RFC 5425 does
	Webhook Sort = "webhook" // a signed POST
)

// Outlet is where events are sent. It holds no secret: that is sealed apart, under
// the name it gives.
type Outlet struct {
	Name     string   `json:"name"`
	Version  int64    `json:"version,omitempty"`  // optimistic lock
	Sort     Sort     `json:"sort"`               // "smtp", "syslog" or "webhook"
	Address  string   `json:"address"`            // HOST:PORT; of a webhook its URL
	TLS      string   `json:"tls,omitempty"`      // "", "starttls" (smtp) or "tls"; a webhook's URL says it
	CA       string   `json:"ca,omitempty"`       // certificates that are trusted, PEM; empty: the system's
	From     string   `json:"from,omitempty"`     // smtp: the sender's address
	To       []string `json:"to,omitempty"`       // smtp: who gets it
	User     string   `json:"user,omitempty"`     // smtp: to log in as, with the secret; needs TLS
	Secret   string   `json:"secret,omitempty"`   // name of the sealed secret: smtp's password, or the webhook's key
	Facility int      `json:"facility,omitempty"` // syslog: 0 to 23; 0: 16, local0
	Least    Severity `json:"severity,omitempty"` // the least that is sent; empty: warning
	Codes    []Code   `json:"codes,omitempty"`    // these alone; empty: all
	Off      bool     `json:"off,omitempty"`
}

// Standing is how an outlet does.
type Standing struct {
	Sent, Dropped int64     // events since it was made
	Last          time.Time // when one was taken last; zero: never
	Failures      int64     // in a row
	Error         string    // of the last attempt; empty: it worked
	Pending       int64     // deliveries that wait
}

// takes reports whether an outlet wants an event.
func (o *Outlet) takes(d Definition) bool {
	least := o.Least
	if least == "" {
		least = Warning
	}
	if o.Off || !d.Severity.AtLeast(least) && d.Code != OutletTest {
		return false
	}
	if len(o.Codes) == 0 {
		return true
	}
	for _, c := range o.Codes {
		if c == d.Code {
			return true
		}
	}
	return false
}

// Check adds every problem the outlet has.
func (o *Outlet) Check(l *problem.List) {
	c := problem.For(l, "outlet "+o.Name)
	if !site.Name(o.Name).Valid() {
		c.At("name").Block(problem.Form, fmt.Sprintf("%q is not a name", o.Name), "use 1 to 63 of a-z, 0-9, '-', '.', '_', with a letter or digit at both ends")
	}
	problem.OneOf(c, "sort", o.Sort, Mail, Syslog, Webhook)
	problem.OneOf(c, "severity", o.Least, "", Info, Warning, Error)
	problem.Within(c, "facility", o.Facility, 0, 23)
	c.Text("user", o.User, site.MaxRef)
	c.Count("codes", len(o.Codes), len(defined))
	for i, code := range o.Codes {
		if _, ok := Of(code); !ok {
			c.Index("codes", i).Block(problem.Unknown, fmt.Sprintf("no event has the code %q", code), "see the list of codes")
		}
	}
	if o.Secret != "" && !site.Name(o.Secret).Valid() {
		c.At("secret").Block(problem.Form, "it is no name of a secret", "store the secret, and name it here")
	}
	if o.CA != "" && (len(o.CA) > maxPEM || !x509.NewCertPool().AppendCertsFromPEM([]byte(o.CA))) {
		c.At("ca").Block(problem.Form, "it holds no certificate", "give certificates in PEM")
	}
	o.checkAddress(c)
	if o.Sort == Mail {
		o.checkMail(c)
	}
}

func (o *Outlet) checkAddress(c problem.Checker) {
	c.NeedText("address", o.Address, site.MaxURL)
	if o.Sort == Webhook {
		u, err := url.Parse(o.Address)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			c.At("address").Block(problem.Form, "it is no web address without a password", "write https://HOST/PATH; the receiver knows us by the signature")
		}
		problem.OneOf(c, "tls", o.TLS, "")
		return
	}
	if host, port, err := net.SplitHostPort(o.Address); err != nil || host == "" || port == "" {
		c.At("address").Block(problem.Form, fmt.Sprintf("%q is not HOST:PORT", o.Address), "write it as mail.example.com:587")
	}
	if o.Sort == Mail {
		problem.OneOf(c, "tls", o.TLS, "", "starttls", "tls")
	} else {
		problem.OneOf(c, "tls", o.TLS, "", "tls")
	}
}

func (o *Outlet) checkMail(c problem.Checker) {
	if a, err := mail.ParseAddress(o.From); err != nil || a.Address != o.From {
		c.At("from").Block(problem.Form, fmt.Sprintf("%q is no mail address", o.From), "write it as holdfast@example.com")
	}
	c.Count("to", len(o.To), maxRecipients)
	if len(o.To) == 0 {
		c.At("to").Block(problem.Missing, "nobody gets the mail", "give an address")
	}
	for i, to := range o.To {
		if a, err := mail.ParseAddress(to); err != nil || a.Address != to {
			c.Index("to", i).Block(problem.Form, fmt.Sprintf("%q is no mail address", to), "write it as admin@example.com")
		}
	}
	if o.User != "" && o.TLS == "" {
		c.At("tls").Block(problem.Contrary, "the password would be sent in the clear", "use starttls or tls")
	}
}

// host is the server's name, which its certificate has to have.
func (o *Outlet) host() string {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return o.Address
	}
	return host
}

// tlsConfig is how the outlet's server is known.
func (o *Outlet) tlsConfig() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.host()}
	if o.CA != "" {
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AppendCertsFromPEM([]byte(o.CA))
	}
	return c
}

// Outlets returns every outlet, by name.
func Outlets(ctx context.Context, tx *db.Tx) (list []Outlet, err error) {
	err = tx.Rows(ctx, `SELECT name, version, body FROM outlets ORDER BY name LIMIT $1`, []any{MaxOutlets}, func(scan func(...any) error) error {
		var o Outlet
		var name, body string
		var version int64
		if err := scan(&name, &version, &body); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(body), &o); err != nil {
			return errs.E("alarm.Outlets", errs.Corrupt, name, err)
		}
		o.Name, o.Version = name, version
		list = append(list, o)
		return nil
	})
	return list, err
}

// GetOutlet returns an outlet and how it does. Kind NotFound.
func GetOutlet(ctx context.Context, tx *db.Tx, name string) (o Outlet, s Standing, err error) {
	var body string
	var last int64
	found, err := tx.Row(ctx, `SELECT version, body, sent, dropped, sent_at, failures, error, (SELECT count(*) FROM deliveries WHERE outlet = name)
		FROM outlets WHERE name = $1`, []any{db.Text(name, maxObject)}, &o.Version, &body, &s.Sent, &s.Dropped, &last, &s.Failures, &s.Error, &s.Pending)
	if err != nil {
		return o, s, err
	}
	if !found {
		return o, s, noOutlet(name)
	}
	version := o.Version
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		return o, s, errs.E("alarm.GetOutlet", errs.Corrupt, name, err)
	}
	o.Name, o.Version, s.Last = name, version, db.Time(last)
	return o, s, nil
}

func noOutlet(name string) error {
	return errs.New("alarm.Outlet", errs.NotFound, db.Text(name, maxObject), "there is no such outlet").WithRemedy("list the outlets there are")
}

// PutOutlet stores an outlet. Version 0 makes a new one; another is the version that
// was read. It sets the version. Kinds: Invalid, Exists, NotFound, Conflict
// (catalog.ErrStale), Full.
func PutOutlet(ctx context.Context, tx *db.Tx, o *Outlet, by string) error {
	const op = "alarm.PutOutlet"
	var l problem.List
	if o.Check(&l); l.Blocked() {
		return l.Err(op)
	}
	version := o.Version
	bare := *o
	bare.Version = 0
	body, err := json.Marshal(bare)
	if err != nil {
		return errs.E(op, errs.Internal, o.Name, err)
	}
	action := "change"
	if version == 0 {
		n, err := tx.Exec(ctx, `INSERT INTO outlets (name, version, body, sent, dropped, sent_at, failures, error)
			SELECT CAST($1 AS TEXT), 1, CAST($2 AS TEXT), 0, 0, 0, 0, '' WHERE (SELECT count(*) FROM outlets) < $3`, o.Name, string(body), MaxOutlets)
		if errs.Is(err, errs.Exists) {
			return errs.New(op, errs.Exists, o.Name, "there is an outlet of this name").WithRemedy("choose another name; or read it, and send its version with your change")
		}
		if err == nil && n == 0 {
			err = errs.New(op, errs.Full, o.Name, fmt.Sprintf("there are %d outlets", MaxOutlets)).WithRemedy("delete one that is not used")
		}
		if err != nil {
			return err
		}
		o.Version, action = 1, "create"
		return catalog.Note(ctx, tx, "outlet", o.Name, action, by)
	}
	n, err := tx.Exec(ctx, `UPDATE outlets SET version = version + 1, body = $3, failures = 0, error = '' WHERE name = $1 AND version = $2`, o.Name, version, string(body))
	if err != nil {
		return err
	}
	if n == 0 {
		if _, _, err := GetOutlet(ctx, tx, o.Name); err != nil {
			return err
		}
		return stale(op, o.Name)
	}
	o.Version = version + 1
	// What waits is tried with the new settings at once.
	if _, err := tx.Exec(ctx, `UPDATE deliveries SET due_at = $2 WHERE outlet = $1`, o.Name, tx.Now()); err != nil {
		return err
	}
	return catalog.Note(ctx, tx, "outlet", o.Name, action, by)
}

func stale(op, name string) error {
	return errs.E(op, errs.Conflict, name, catalog.ErrStale).WithRemedy("read it again, and make your change there")
}

// DeleteOutlet deletes an outlet and what waits there; version 0: whichever it has.
// Kinds: NotFound, Conflict (catalog.ErrStale).
func DeleteOutlet(ctx context.Context, tx *db.Tx, name string, version int64, by string) error {
	n, err := tx.Exec(ctx, `DELETE FROM outlets WHERE name = $1 AND (CAST($2 AS BIGINT) = 0 OR version = $2)`, db.Text(name, maxObject), version)
	if err != nil {
		return err
	}
	if n == 0 {
		if _, _, err := GetOutlet(ctx, tx, name); err != nil {
			return err
		}
		return stale("alarm.DeleteOutlet", name)
	}
	if err := Set(ctx, tx, OutletFails, name, false, "it was deleted"); err != nil {
		return err
	}
	return catalog.Note(ctx, tx, "outlet", name, "delete", by)
}

// TestOutlet queues a test for one outlet. Kind NotFound.
func TestOutlet(ctx context.Context, tx *db.Tx, name, by string) error {
	if _, _, err := GetOutlet(ctx, tx, name); err != nil {
		return err
	}
	id, err := storeEvent(ctx, tx, defined[OutletTest], Happened, name, "asked for by "+by)
	if err != nil {
		return err
	}
	return deliver(ctx, tx, name, id)
}

// oneLine is text without line breaks and other control characters: what ends up in
// a mail's header or a log must not begin another one.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 }), " ")
}
