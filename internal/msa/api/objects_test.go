package api

import (
	"net/http"
	"strings"
	"testing"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

func siteOf(name string) v1.Site {
	return v1.Site{Meta: v1.Meta{Name: v1.Name(name)}, Platform: site.Fake}
}

// TestOneKind follows one object through its life, over TLS.
func TestOneKind(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		r.send("GET", "/sites/a", nil).problem(http.StatusNotFound, errs.NotFound)
		made := r.send("PUT", "/sites/a", siteOf("a")).want(http.StatusCreated)
		a := as[v1.Site](made)
		if a.Version != 1 || a.ID.IsZero() || a.Platform != site.Fake {
			t.Fatalf("made %+v", a)
		}
		if got := r.send("GET", "/sites/a", nil).want(http.StatusOK); got.Header.Get("ETag") != made.Header.Get("ETag") || as[v1.Site](got).ID != a.ID {
			t.Errorf("read %s %s", got.Header.Get("ETag"), got.body)
		}
		// Without a version, and with an old one, nothing is changed.
		b := a
		b.Title, b.Version = "Berlin", 0
		if p := r.send("PUT", "/sites/a", b).problem(http.StatusPreconditionRequired, errs.Conflict); p.Object != "site a" {
			t.Errorf("object %q", p.Object)
		}
		b = as[v1.Site](r.send("PUT", "/sites/a", b, "If-Match", made.Header.Get("ETag")).want(http.StatusOK))
		if b.Version != 2 || b.Title != "Berlin" {
			t.Errorf("changed %+v", b)
		}
		a.Title = "Bonn"
		r.send("PUT", "/sites/a", a).problem(http.StatusPreconditionFailed, errs.Conflict)
		// What is so already is no change, whoever asks again.
		b.Version = 1
		if c := as[v1.Site](r.send("PUT", "/sites/a", b).want(http.StatusOK)); c.Version != 2 {
			t.Errorf("version %d of what was not changed", c.Version)
		}
		if page := as[v1.Page[v1.Site]](r.send("GET", "/sites", nil).want(http.StatusOK)); len(page.Items) != 1 || page.Next != "" {
			t.Errorf("list %+v", page)
		}
		r.send("DELETE", "/sites/a", nil).problem(http.StatusPreconditionRequired, errs.Conflict)
		r.send("DELETE", "/sites/a", nil, "If-Match", made.Header.Get("ETag")).problem(http.StatusPreconditionFailed, errs.Conflict)
		r.send("DELETE", "/sites/a", nil, "If-Match", "*").want(http.StatusNoContent)
		r.send("DELETE", "/sites/a", nil, "If-Match", "*").want(http.StatusNoContent)
		// Another one of the same name has other tags: the old one's writer loses.
		r.send("PUT", "/sites/a", siteOf("a")).want(http.StatusCreated)
		d := siteOf("a")
		d.Title = "Dresden"
		r.send("PUT", "/sites/a", d, "If-Match", made.Header.Get("ETag")).problem(http.StatusPreconditionFailed, errs.Conflict)
		if s := r.log.String(); s != "" {
			t.Errorf("logged:\n%s", s)
		}
	})
}

func TestWhoAsks(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	r.who = ""
	if a := r.send("GET", "/sites", nil); !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("no word how to log in: %v", a.Header)
	} else {
		a.want(http.StatusUnauthorized)
	}
	r.send("GET", "/health", nil).want(http.StatusOK)
	r.who = "viewer"
	r.send("PUT", "/sites/a", siteOf("a")).problem(http.StatusForbidden, errs.Denied)
	r.send("GET", "/sites", nil).want(http.StatusOK)
	if len(r.audit) != 1 || r.audit[0].By != "viewer" || r.audit[0].Outcome != "refused" || r.audit[0].Operation != "put-site" {
		t.Errorf("audit log: %+v", r.audit)
	}
	r.who = "admin"
	r.send("PUT", "/sites/a", siteOf("a")).want(http.StatusCreated)
	if len(r.audit) != 2 || r.audit[1].Outcome != "done" || r.audit[1].Object != "site a" {
		t.Errorf("audit log: %+v", r.audit)
	}
}
