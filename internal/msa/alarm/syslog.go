package alarm

import (
	"context"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"
)

// local0 is the facility unless an outlet says another.
const local0 = 16

// levels are RFC 5424's severities.
var levels = map[Severity]int{Info: 6, Warning: 4, Error: 3}

// sendSyslog sends an event as one message, with its length before it.
func sendSyslog(ctx context.Context, o *Outlet, e *Event) error {
	c, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	text := syslogText(o, e)
	if _, err := fmt.Fprintf(c, "%d %s", len(text), text); err != nil {
		return unreachable(o, err)
	}
	// The protocol has no answer: closing the stream in order has the system tell
	// whether the other side has it.
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return unreachable(o, err)
		}
	}
	return nil
}

// syslogText is an event in RFC 5424's form:
//
//	<PRI>1 TIME HOST holdfast-msa - CODE [event@32473 id="…" state="…" …] BOM TEXT
//
// 32473 is the enterprise number for documentation: we have none.
func syslogText(o *Outlet, e *Event) string {
	facility := o.Facility
	if facility == 0 {
		facility = local0
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	head := fmt.Sprintf("<%d>1 %s %s holdfast-msa - %s [event@32473 id=%s code=%s severity=%s state=%s object=%s] ", facility*8+levels[e.Severity],
		e.At.UTC().Format("2006-01-02T15:04:05.000Z07:00"), ascii(host, 255), ascii(string(e.Code), 32),
		param(e.ID), param(string(e.Code)), param(string(e.Severity)), param(string(e.State)), param(e.Object))
	text := oneLine(fmt.Sprintf("%s %s: %s. %s (%s)", e.Object, e.State, e.Words, e.Detail, e.Remedy))
	room := max(0, maxSyslog-len(head)-3)
	if len(text) > room {
		for room > 0 && !utf8.RuneStart(text[room]) {
			room--
		}
		text = text[:room]
	}
	return head + "\uFEFF" + text
}

// param is a quoted value of structured data.
func param(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(oneLine(s)) + `"`
}

// ascii is text of visible ASCII, as header fields have to be.
func ascii(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}
