package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

// TestEveryAnswerIsGuarded: whatever is asked, the answer has an id and the headers
// that keep browsers from mischief, and an error is a problem.
func TestEveryAnswerIsGuarded(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	for _, x := range []struct {
		method, path string
		status       int
		kind         errs.Kind
	}{
		{"GET", "/nothing", http.StatusNotFound, errs.NotFound},
		{"PATCH", "/sites/a", http.StatusMethodNotAllowed, errs.Invalid},
		{"GET", "/sites?limit=x", http.StatusUnprocessableEntity, errs.Invalid},
		{"GET", "/sites?limti=1", http.StatusUnprocessableEntity, errs.Invalid},
		{"GET", "/sites/a", http.StatusNotFound, errs.NotFound},
	} {
		a := r.send(x.method, x.path, nil)
		if p := a.problem(x.status, x.kind); p.Request != a.Header.Get("X-Request-Id") || p.Request == "" {
			t.Errorf("%s: request %q, header %q", x.path, p.Request, a.Header.Get("X-Request-Id"))
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Strict-Transport-Security": "max-age=31536000", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q", x.method, x.path, name, got)
			}
		}
	}
	if a := r.send("PATCH", "/sites/a", nil); a.Header.Get("Allow") != "GET, PUT, DELETE" {
		t.Errorf("allowed are %q", a.Header.Get("Allow"))
	}
	if a := r.send("GET", "/openapi.json", nil).want(http.StatusOK); !strings.Contains(string(a.body), `"openapi": "3.1.0"`) {
		t.Error("the document is not served")
	}
}

func TestTooLargeBodies(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	large := siteOf("a")
	large.Title = strings.Repeat("x", maxBody)
	for _, key := range []string{"", "k"} {
		a := r.send("PUT", "/sites/a", large, "Idempotency-Key", key)
		a.problem(http.StatusRequestEntityTooLarge, errs.Full)
	}
}

// TestPanicIsAProblem: what we did not foresee says nothing to who asked, and
// everything to the log.
func TestPanicIsAProblem(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), func(o *Options) {
		o.Catalog = &catalog.Catalog{Guards: []catalog.Guard{func(context.Context, *db.Tx, site.Object, site.Object) error { panic("secret of the house") }}}
	})
	p := r.send("PUT", "/sites/a", siteOf("a")).problem(http.StatusInternalServerError, errs.Internal)
	if strings.Contains(fmt.Sprint(p), "secret") {
		t.Errorf("it tells %+v", p)
	}
	if log := r.log.String(); !strings.Contains(log, "secret of the house") || !strings.Contains(log, p.Request) {
		t.Errorf("logged %q", log)
	}
	r.send("GET", "/sites/a", nil).problem(http.StatusNotFound, errs.NotFound) // the transaction is undone, its connection is free
}

func TestGates(t *testing.T) {
	g := newGates()
	now := time.Unix(1000, 0)
	for i := range burst {
		if wait := g.take("a", 1, now); wait != 0 {
			t.Fatalf("request %d waits %s", i, wait)
		}
	}
	if wait := g.take("a", 1, now); wait <= 0 || wait > time.Second {
		t.Errorf("one too many waits %s", wait)
	}
	if wait := g.take("b", 1, now); wait != 0 {
		t.Error("another address waits")
	}
	if wait := g.take("a", 1, now.Add(-time.Hour)); wait <= 0 {
		t.Error("a clock that goes back gives requests")
	}
	if wait := g.take("a", 1, now.Add(time.Second)); wait != 0 {
		t.Error("it waits for ever")
	}
	for i := range 2 * maxAddresses {
		g.take(fmt.Sprint(i), 1, now)
	}
	if len(g.by) != maxAddresses || g.recent.Len() != maxAddresses {
		t.Errorf("%d and %d addresses are remembered", len(g.by), g.recent.Len())
	}
	for range maxAtOnce {
		if !g.enter() {
			t.Fatal("a place is missing")
		}
	}
	if g.enter() {
		t.Error("one place too many")
	}
	g.leave()
	if !g.enter() {
		t.Error("a place that was left is not free")
	}
}

// TestPages: a list in pages has everything once.
func TestPages(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	for i := range 7 {
		r.send("PUT", fmt.Sprintf("/sites/s%d", i), siteOf(fmt.Sprintf("s%d", i))).want(http.StatusCreated)
	}
	var names []string
	for query := "?limit=3"; ; {
		page := as[v1.Page[v1.Site]](r.send("GET", "/sites"+query, nil).want(http.StatusOK))
		for _, s := range page.Items {
			names = append(names, string(s.Name))
		}
		if page.Next == "" {
			break
		}
		query = "?limit=3&cursor=" + page.Next
	}
	if got := strings.Join(names, " "); got != "s0 s1 s2 s3 s4 s5 s6" {
		t.Error(got)
	}
	r.send("GET", "/sites?cursor=%21", nil).problem(http.StatusUnprocessableEntity, errs.Invalid)
}

// TestBoxesAskOften: the requests of boxes count little, so that all boxes of one
// machine can carry a plan out; they count.
func TestBoxesAskOften(t *testing.T) {
	g := newGates()
	now := time.Now()
	for i := range 10 * burst {
		if wait := g.take("a", costOf(command.TellPath), now); wait != 0 {
			t.Fatalf("request %d waits for %s", i, wait)
		}
	}
	for range 11 * burst {
		g.take("a", costOf(command.ExchangePath), now)
	}
	if wait := g.take("a", costOf(command.ExchangePath), now); wait <= 0 {
		t.Error("they are not bounded")
	}
}
