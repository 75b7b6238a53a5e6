package alarm

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"strings"
	"time"

	"holdfast/internal/errs"
)

// unreachable is an error of an outlet's server.
func unreachable(o *Outlet, err error) error {
	return errs.E("alarm.send", errs.Unavailable, o.Name, err)
}

// dial connects to an outlet's server, with TLS from the start if it says so. What
// is said over the connection ends with ctx.
func (o *Outlet) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{}
	var c net.Conn
	var err error
	if o.TLS == "tls" {
		c, err = (&tls.Dialer{NetDialer: &d, Config: o.tlsConfig()}).DialContext(ctx, "tcp", o.Address)
	} else {
		c, err = d.DialContext(ctx, "tcp", o.Address)
	}
	if err != nil {
		return nil, unreachable(o, err)
	}
	if until, ok := ctx.Deadline(); ok {
		c.SetDeadline(until)
	}
	return c, nil
}

// sendMail sends an event as a mail.
func sendMail(ctx context.Context, o *Outlet, secret string, e *Event) error {
	nc, err := o.dial(ctx)
	if err != nil {
		return err
	}
	c, err := smtp.NewClient(nc, o.host())
	if err != nil {
		nc.Close()
		return unreachable(o, err)
	}
	defer c.Close()
	if o.TLS == "starttls" {
		if err := c.StartTLS(o.tlsConfig()); err != nil {
			return unreachable(o, fmt.Errorf("STARTTLS: %w", err))
		}
	}
	if o.User != "" {
		if err := c.Auth(smtp.PlainAuth("", o.User, secret, o.host())); err != nil {
			return errs.E("alarm.send", errs.Denied, o.Name, err).WithRemedy("correct the user, or store the password again")
		}
	}
	if err := c.Mail(o.From); err != nil {
		return unreachable(o, err)
	}
	for _, to := range o.To {
		if err := c.Rcpt(to); err != nil {
			return unreachable(o, err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return unreachable(o, err)
	}
	if _, err := w.Write(mailText(o, e)); err != nil {
		return unreachable(o, err)
	}
	if err := w.Close(); err != nil { // the server has it now
		return unreachable(o, err)
	}
	c.Quit() //nolint:errcheck // a farewell
	return nil
}

// mailText is an event as a mail. Its id is the event's: a mail that comes twice is
// one to whoever threads mails.
func mailText(o *Outlet, e *Event) []byte {
	var b bytes.Buffer
	domain := o.From[strings.LastIndexByte(o.From, '@')+1:]
	head := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	head("From", "Holdfast <"+o.From+">")
	head("To", strings.Join(o.To, ", "))
	head("Subject", mime.QEncoding.Encode("utf-8", oneLine(fmt.Sprintf("[%s] %s %s: %s", e.Severity, e.State, e.Object, e.Code))))
	head("Date", e.At.Format(time.RFC1123Z))
	head("Message-ID", "<"+e.ID+"@"+domain+">")
	head("Auto-Submitted", "auto-generated")
	head("MIME-Version", "1.0")
	head("Content-Type", "text/plain; charset=utf-8")
	head("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	fmt.Fprintf(q, "%s (%s, %s)\r\n\r\nof:       %s\r\nwhen:     %s\r\nmeans:    %s\r\n", e.Code, e.Severity, e.State, oneLine(e.Object), e.At.Format(time.RFC3339), e.Words)
	if e.Detail != "" {
		fmt.Fprintf(q, "detail:   %s\r\n", oneLine(e.Detail))
	}
	fmt.Fprintf(q, "remedy:   %s\r\nevent:    %s\r\n", e.Remedy, e.ID)
	q.Close() // a Buffer takes everything
	return b.Bytes()
}

// payload is what a webhook gets.
func payload(e *Event) ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, errs.E("alarm.send", errs.Internal, e.ID, err)
	}
	return b, nil
}
