package alarm_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// certificate is one for localhost, and its PEM.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// sender runs a sender until stop, or the test's end.
func (r *rig) sender(s *alarm.Sender) (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	s.DB, s.Every, s.Retry = r.d, 10*time.Millisecond, 20*time.Millisecond
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.Cleanup(stop)
	return stop
}

func (r *rig) outlet(o alarm.Outlet) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) error { return alarm.PutOutlet(ctx, tx, &o, "ada") })
}

func (r *rig) standing(name string) (s alarm.Standing) {
	r.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		_, s, err = alarm.GetOutlet(ctx, tx, name)
		return err
	})
	return s
}

// until waits for what the database tells; it has no event of its own.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("waiting until %s", what)
		}
	}
}

// got waits for what a server got.
func got[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

// letter is what a mail server got.
type letter struct {
	from string
	to   []string
	auth string
	tls  bool
	text string
}

// mailServer is a small SMTP server with STARTTLS and AUTH PLAIN.
func mailServer(t *testing.T, cert tls.Certificate) (address string, mails <-chan letter) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ch := make(chan letter, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveMail(c, cert, ch)
		}
	}()
	return l.Addr().String(), ch
}

func serveMail(c net.Conn, cert tls.Certificate, ch chan<- letter) {
	defer func() { c.Close() }()
	say := func(s string) { fmt.Fprintf(c, "%s\r\n", s) }
	r := bufio.NewReader(c)
	say("220 test ESMTP")
	var m letter
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-test\r\n250-STARTTLS\r\n250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			c, r, m.tls = s, bufio.NewReader(s), true
		case "AUTH":
			b, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			m.auth = string(b)
			say("235 welcome")
		case "MAIL":
			m.from = rest
			say("250 ok")
		case "RCPT":
			m.to = append(m.to, rest)
			say("250 ok")
		case "DATA":
			say("354 go on")
			var b strings.Builder
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				b.WriteString(l)
			}
			m.text = b.String()
			ch <- m
			say("250 ok")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what")
		}
	}
}

// TestMail: an event arrives as a mail, over STARTTLS, with a password, and nothing
// of what an event says becomes a header.
func TestMail(t *testing.T) {
	cert, ca := certificate(t)
	address, mails := mailServer(t, cert)
	r := newRig(t, dbtest.SQLite(t))
	r.outlet(alarm.Outlet{Name: "mail", Sort: alarm.Mail, Address: address, TLS: "starttls", CA: ca, From: "holdfast@a.test", To: []string{"ada@a.test", "bob@a.test"}, User: "u", Secret: "smtp"})
	r.sender(&alarm.Sender{Secret: func(_ context.Context, name string) (string, error) { return name + "-password", nil }})
	r.set(alarm.RPOMissed, "domain érp\r\nBcc: eve@x.test", true, "12 s\r\n.\r\nQUIT")
	m := got(t, mails)
	if !m.tls || m.auth != "\x00u\x00smtp-password" || len(m.to) != 2 || !strings.Contains(m.from, "holdfast@a.test") {
		t.Errorf("the mail's envelope: %+v", m)
	}
	parsed, err := mail.ReadMessage(strings.NewReader(m.text))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Header.Get("Bcc") != "" || !strings.Contains(string(body), "érp Bcc: eve@x.test") || !strings.Contains(string(body), "remedy:") {
		t.Errorf("the mail: %q\n%s", parsed.Header, body)
	}
	if id := r.events()[0].ID; parsed.Header.Get("Message-Id") != "<"+id+"@a.test>" {
		t.Errorf("its id is %q, the event's %s", parsed.Header.Get("Message-Id"), id)
	}
	r.until("it is noted", func() bool { s := r.standing("mail"); return s.Sent == 1 && s.Pending == 0 && !s.Last.IsZero() })
}

// TestSyslog: an event arrives as one message of RFC 5424 over TLS.
func TestSyslog(t *testing.T) {
	cert, ca := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	lines := make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					n, err := r.ReadString(' ')
					if err != nil {
						return
					}
					size, err := strconv.Atoi(strings.TrimSpace(n))
					if err != nil {
						lines <- "no length: " + n
						return
					}
					b := make([]byte, size)
					if _, err := io.ReadFull(r, b); err == nil {
						lines <- string(b)
					}
				}
			}()
		}
	}()
	r := newRig(t, dbtest.SQLite(t))
	r.outlet(alarm.Outlet{Name: "log", Sort: alarm.Syslog, Address: l.Addr().String(), TLS: "tls", CA: ca, Least: alarm.Info, Codes: []alarm.Code{alarm.StoreAway, alarm.Adopted}})
	r.sender(&alarm.Sender{})
	r.set(alarm.RPOMissed, "another", true, "")
	r.set(alarm.StoreAway, `s"]\`+"\n<34>1 fake", true, strings.Repeat("é", 3000))
	line := got(t, lines)
	if !strings.HasPrefix(line, "<131>1 20") || !strings.Contains(line, ` holdfast-msa - store-away [event@32473 id="`) ||
		!strings.Contains(line, `object="s\"\]\\ <34>1 fake"] `+"\uFEFF") || strings.Contains(line, "\n") || len(line) > 2048 {
		t.Errorf("%d bytes: %q", len(line), line)
	}
	r.tx(func(ctx context.Context, tx *db.Tx) error { return alarm.Tell(ctx, tx, alarm.Adopted, "d", "") })
	if line := got(t, lines); !strings.HasPrefix(line, "<134>1 ") {
		t.Errorf("an event of severity info: %q", line)
	}
}

// TestWebhook: a receiver that fails at first gets each event, in order, signed; a
// redirect is not followed.
func TestWebhook(t *testing.T) {
	each(t, func(r *rig) {
		var broken atomic.Int32
		broken.Store(3)
		events := make(chan alarm.Event, 100)
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			at, _ := strconv.ParseInt(q.Header.Get(alarm.HeaderTimestamp), 10, 64)
			switch n := broken.Add(-1); {
			case alarm.Sign("key", time.Unix(at, 0), b) != q.Header.Get(alarm.HeaderSignature) || q.Header.Get(alarm.HeaderSignature) == "":
				r.Errorf("the signature is wrong: %v", q.Header)
			case n == 1:
				http.Redirect(w, q, "/elsewhere", http.StatusTemporaryRedirect)
				return
			case n >= 0:
				w.WriteHeader(http.StatusBadGateway)
				return
			case q.URL.Path != "/hook":
				r.Error("a redirect was followed")
			}
			var e alarm.Event
			if err := json.Unmarshal(b, &e); err != nil || e.ID != q.Header.Get(alarm.HeaderEvent) {
				r.Errorf("%s: %v", b, err)
			}
			events <- e
		}))
		r.Cleanup(srv.Close)
		ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
		r.outlet(alarm.Outlet{Name: "hook", Sort: alarm.Webhook, Address: srv.URL + "/hook", CA: ca, Secret: "hook"})
		r.outlet(alarm.Outlet{Name: "watch", Sort: alarm.Webhook, Address: srv.URL + "/hook", CA: ca, Secret: "hook", Codes: []alarm.Code{alarm.OutletFails}, Off: true})
		for i := range 5 {
			r.set(alarm.RPOMissed, fmt.Sprintf("d%d", i), true, "")
		}
		r.sender(&alarm.Sender{Secret: func(context.Context, string) (string, error) { return "key", nil }})
		seen := map[string]bool{}
		for len(seen) < 5 {
			if e := got(r.T, events); e.Code == alarm.RPOMissed {
				seen[e.Object] = true
			}
		}
		r.until("all is sent", func() bool { s := r.standing("hook"); return s.Pending == 0 && s.Failures == 0 && s.Error == "" })
		if n := countOf(r.events(), alarm.OutletFails); n != 2 {
			r.Errorf("%d events of the outlet's failures, not raised and cleared", n)
		}
	})
}

func countOf(list []alarm.Event, c alarm.Code) (n int) {
	for _, e := range list {
		if e.Code == c {
			n++
		}
	}
	return n
}

// TestSenderDies: what a sender had taken when it died is sent by the next one, with
// the same id; of two that live each event is sent by one.
func TestSenderDies(t *testing.T) {
	each(t, func(r *rig) {
		hang := make(chan struct{})
		ids := make(chan string, 1000)
		var first atomic.Bool
		srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			if !first.Swap(true) {
				ids <- q.Header.Get(alarm.HeaderEvent)
				select { // it got it, and the sender dies before it hears of that
				case <-hang:
				case <-q.Context().Done():
				}
				return
			}
			ids <- q.Header.Get(alarm.HeaderEvent)
		}))
		r.Cleanup(srv.Close)
		r.Cleanup(func() { close(hang) })
		r.outlet(alarm.Outlet{Name: "hook", Sort: alarm.Webhook, Address: srv.URL})
		for i := range 30 {
			r.set(alarm.RPOMissed, fmt.Sprintf("d%d", i), true, "")
		}
		stop := r.sender(&alarm.Sender{Lease: 300 * time.Millisecond})
		twice := got(r.T, ids)
		stop()
		r.tx(func(ctx context.Context, tx *db.Tx) error { // as if it had been killed: it gave nothing back
			_, err := tx.Exec(ctx, `UPDATE deliveries SET owner = 'dead', lease_until = $1 WHERE event = $2`, tx.Now()+300, twice)
			return err
		})
		r.sender(&alarm.Sender{})
		r.sender(&alarm.Sender{})
		count := map[string]int{twice: 1}
		for range 30 {
			count[got(r.T, ids)]++
		}
		r.until("all is noted as sent", func() bool { return r.standing("hook").Pending == 0 })
		if count[twice] != 2 || len(count) != 30 {
			r.Errorf("%d events, the first one sent %d times", len(count), count[twice])
		}
		for id, n := range count {
			if n != 1 && id != twice {
				r.Errorf("%s was sent %d times", id, n)
			}
		}
	})
}
