package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

// TestIdempotencyKeys: a request that comes several times, at once and after one
// another, is done once, and each gets the same answer.
func TestIdempotencyKeys(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		r.send("PUT", "/sites/a", siteOf("a")).want(http.StatusCreated)
		draft := v1.NewDraft{Kind: site.KindSite, Name: "b", From: "a"}
		var wg sync.WaitGroup
		ids := make(chan string, 12)
		for range cap(ids) {
			wg.Go(func() {
				a := r.send("POST", "/drafts", draft, "Idempotency-Key", "one")
				if a.StatusCode != http.StatusCreated {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
				ids <- as[v1.Draft](a).ID
			})
		}
		wg.Wait()
		first := <-ids
		for range cap(ids) - 1 {
			if id := <-ids; id != first {
				t.Errorf("drafts %s and %s of one request", first, id)
			}
		}
		if list := as[v1.Page[v1.Draft]](r.send("GET", "/drafts", nil).want(http.StatusOK)); len(list.Items) != 1 {
			t.Errorf("%d drafts", len(list.Items))
		}
		again := r.send("POST", "/drafts", draft, "Idempotency-Key", "one").want(http.StatusCreated)
		if again.Header.Get("Idempotency-Replayed") == "" || again.Header.Get("ETag") == "" {
			t.Errorf("headers of a repeated answer: %v", again.Header)
		}
		// The key is one person's, one operation's, one request's.
		draft.Name = "c"
		r.send("POST", "/drafts", draft, "Idempotency-Key", "one").problem(http.StatusConflict, errs.Conflict)
		r.who = "erp"
		r.send("POST", "/drafts", v1.NewDraft{Kind: site.KindPlan, Name: "p", Object: []byte(`{"name":"p","folder":"erp"}`)}, "Idempotency-Key", "one").want(http.StatusCreated)
		r.who = "admin"
		r.send("POST", "/drafts/"+first+"/commit", nil, "Idempotency-Key", "one").want(http.StatusOK)
		// What failed may be tried again under its key.
		r.send("PUT", "/stores/s", v1.Store{Meta: v1.Meta{Name: "s"}, URL: "file:///srv", Site: "z"}, "Idempotency-Key", "two").problem(http.StatusUnprocessableEntity, errs.Invalid)
		r.send("PUT", "/sites/z", siteOf("z")).want(http.StatusCreated)
		r.send("PUT", "/stores/s", v1.Store{Meta: v1.Meta{Name: "s"}, URL: "file:///srv", Site: "z"}, "Idempotency-Key", "two").want(http.StatusCreated)
		// An answer is forgotten after a day.
		if err := r.db.Tx(t.Context(), func(tx *db.Tx) error {
			if _, err := tx.Exec(t.Context(), `UPDATE answers SET made_at = made_at - $1`, answersFor.Milliseconds()+1); err != nil {
				return err
			}
			n, err := PruneAnswers(t.Context(), tx)
			if n < 3 {
				t.Errorf("%d answers were old", n)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if r.log.Len() > 0 {
			t.Errorf("logged:\n%s", &r.log)
		}
	})
}

func TestScopes(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	for _, n := range []string{"a", "b"} {
		r.send("PUT", "/sites/"+n, siteOf(n)).want(http.StatusCreated)
	}
	plan := func(name, folder string) v1.Plan {
		return v1.Plan{Meta: v1.Meta{Name: v1.Name(name), Folder: v1.Ref(folder)}, From: "a", To: "b", Domains: []v1.Name{"d"}}
	}
	r.send("PUT", "/stores/s", v1.Store{Meta: v1.Meta{Name: "s"}, URL: "file:///srv"}).want(http.StatusCreated)
	r.send("POST", "/apply", domainFile).want(http.StatusOK)
	r.send("PUT", "/plans/secret", plan("secret", "crm")).want(http.StatusCreated)
	r.who = "erp" // everything in erp, nothing elsewhere
	mine := as[v1.Plan](r.send("PUT", "/plans/mine", plan("mine", "erp/prod")).want(http.StatusCreated))
	if page := as[v1.Page[v1.Plan]](r.send("GET", "/plans", nil).want(http.StatusOK)); len(page.Items) != 1 || page.Items[0].Name != "mine" {
		t.Errorf("sees %+v", page.Items)
	}
	r.send("GET", "/plans/secret", nil).problem(http.StatusNotFound, errs.NotFound)
	r.send("PUT", "/plans/other", plan("other", "crm")).problem(http.StatusForbidden, errs.Denied)
	r.send("PUT", "/plans/root", plan("root", "")).problem(http.StatusForbidden, errs.Denied)
	// Neither by guessing a version, nor by moving one's own.
	stolen := plan("secret", "erp")
	r.send("PUT", "/plans/secret", stolen).problem(http.StatusConflict, errs.Exists)
	stolen.Version = 1
	r.send("PUT", "/plans/secret", stolen).problem(http.StatusNotFound, errs.NotFound)
	mine.Folder = "crm"
	r.send("PUT", "/plans/mine", mine).problem(http.StatusForbidden, errs.Denied)
	if r.send("DELETE", "/plans/secret", nil, "If-Match", "*").want(http.StatusNoContent); true {
		r.who = "admin"
		r.send("GET", "/plans/secret", nil).want(http.StatusOK)
		r.who = "erp"
	}
	yaml := "apiVersion: holdfast/v1\nkind: plan\nname: secret\nfolder: erp\nfrom: a\nto: b\ndomains: [d]\n"
	r.send("POST", "/apply", yaml).problem(http.StatusPreconditionFailed, errs.Conflict)
	pruned := as[v1.Applied](r.send("POST", "/diff?prune=true", "# nothing\n").want(http.StatusOK))
	if len(pruned.All) != 2 || pruned.All[0].Name != "mine" || pruned.All[1].Name != "d" {
		t.Errorf("prunes %+v", pruned.All)
	}
	if text := string(r.send("GET", "/export", nil).want(http.StatusOK).body); strings.Contains(text, "secret") || !strings.Contains(text, "mine") {
		t.Errorf("exports %s", text)
	}
	r.send("POST", "/drafts", v1.NewDraft{Kind: site.KindPlan, Name: "secret"}).problem(http.StatusNotFound, errs.NotFound)
	r.send("POST", "/drafts", v1.NewDraft{Kind: site.KindPlan, Name: "x", From: "secret"}).problem(http.StatusNotFound, errs.NotFound)
}

// TestForgottenQuestion: a change whose handler does not ask whether it may is not
// made, whatever it has done.
func TestForgottenQuestion(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	s, err := build(Options{DB: r.db, Auth: everybody()})
	if err != nil {
		t.Fatal(err)
	}
	for _, forgets := range []bool{true, false} {
		c := &call{op: &operation{ID: "x", Scoped: true, Change: true}, who: everybody()["erp"]}
		ctx := context.WithValue(t.Context(), callKey{}, c)
		_, err := change(ctx, s, "x", func(tx *db.Tx) (*nothingOut, error) {
			if !forgets {
				if err := s.allow(ctx, "plan.write", "erp"); err != nil {
					return nil, err
				}
			}
			return &nothingOut{}, catalog.Note(ctx, tx, "x", "x", fmt.Sprint(forgets), "")
		})
		if forgets != errs.Is(err, errs.Internal) || forgets != (err != nil) {
			t.Errorf("forgets %v: %v", forgets, err)
		}
	}
	if err := r.db.View(t.Context(), func(tx *db.Tx) error {
		f, err := catalog.Since(t.Context(), tx, 0, "x", 10)
		if len(f.Changes) != 1 || f.Changes[0].Action != "false" {
			t.Errorf("done: %+v", f.Changes)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

const domainFile = `apiVersion: holdfast/v1
kind: domain
name: d
folder: erp
from: a
vms: [db]
stores: [s]
retention:
  schedule: [{for: 24h}]
`

func TestFiles(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		text := "apiVersion: holdfast/v1\nkind: site\nname: a\nplatform: fake\n---\napiVersion: holdfast/v1\nkind: store\nname: s\nurl: file:///srv\n---\n" + domainFile
		d := as[v1.Applied](r.send("POST", "/diff", text).want(http.StatusOK))
		if len(d.All) != 3 || d.Done || d.Digest == "" {
			t.Fatalf("diff %+v", d)
		}
		done := as[v1.Applied](r.send("POST", "/apply?expect="+d.Digest, text).want(http.StatusOK))
		if !done.Done || len(done.All) != 3 {
			t.Errorf("applied %+v", done)
		}
		r.send("POST", "/apply?expect="+d.Digest, text).problem(http.StatusPreconditionFailed, errs.Conflict)
		if again := as[v1.Applied](r.send("POST", "/apply", text).want(http.StatusOK)); len(again.All) != 0 || again.Unchanged != 3 {
			t.Errorf("applied again %+v", again)
		}
		out := r.send("GET", "/export", nil).want(http.StatusOK)
		if again := as[v1.Applied](r.send("POST", "/diff?prune=true", string(out.body)).want(http.StatusOK)); len(again.All) != 0 {
			t.Errorf("what was exported differs: %+v", again.All)
		}
		p := r.send("POST", "/apply", "apiVersion: holdfast/v1\nkind: domain\nname: d\nform: a\n").problem(http.StatusUnprocessableEntity, errs.Invalid)
		if len(p.Faults) != 1 || p.Faults[0].Remedy != "did you mean from?" || p.Faults[0].Object != "file:4" {
			t.Errorf("faults %+v", p.Faults)
		}
		p = r.send("POST", "/apply", strings.Replace(domainFile, "stores: [s]", "stores: [t]", 1)).problem(http.StatusUnprocessableEntity, errs.Invalid)
		if len(p.Faults) == 0 || p.Faults[0].Field != "stores[0]" {
			t.Errorf("faults %+v", p.Faults)
		}
		if one := string(r.send("GET", "/export?kind=site&name=a", nil).want(http.StatusOK).body); !strings.Contains(one, "name: a") || strings.Contains(one, "kind: domain") {
			t.Errorf("exported %s", one)
		}
		if r.audit[len(r.audit)-1].Outcome != audit.Failed || !strings.Contains(r.audit[0].Detail, "create domain d") {
			t.Errorf("audit log %+v", r.audit)
		}
	})
}

func TestDraftsOverTheAPI(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	r.send("PUT", "/sites/a", siteOf("a")).want(http.StatusCreated)
	made := r.send("POST", "/drafts", v1.NewDraft{Kind: site.KindDomain, Name: "d", Object: []byte(`{"name":"d","from":"a"}`)}).want(http.StatusCreated)
	d := as[v1.Draft](made)
	v := as[v1.Validation](r.send("POST", "/drafts/"+d.ID+"/validate", nil).want(http.StatusOK))
	if v.OK || len(v.Faults) < 3 {
		t.Errorf("validation %+v", v)
	}
	if p := r.send("POST", "/drafts/"+d.ID+"/commit", nil).problem(http.StatusUnprocessableEntity, errs.Invalid); len(p.Faults) < 3 {
		t.Errorf("faults %+v", p.Faults)
	}
	p := r.send("PUT", "/drafts/"+d.ID, v1.SaveDraft{Object: []byte(`{"name":"d","from":"a","stors":["s"]}`)}, "If-Match", made.Header.Get("ETag")).problem(http.StatusUnprocessableEntity, errs.Invalid)
	if len(p.Faults) != 1 || p.Faults[0].Remedy != "did you mean stores?" {
		t.Errorf("faults %+v", p.Faults)
	}
	r.send("PUT", "/stores/s", v1.Store{Meta: v1.Meta{Name: "s"}, URL: "file:///srv"}).want(http.StatusCreated)
	good := v1.SaveDraft{Object: []byte(`{"name":"d","from":"a","stores":["s"],"vms":["db \u003c\u2028"],"interval":"10s","retention":{"schedule":[{"for":"24h"}]}}`)}
	saved := r.send("PUT", "/drafts/"+d.ID, good, "If-Match", made.Header.Get("ETag")).want(http.StatusOK)
	r.send("PUT", "/drafts/"+d.ID, good, "If-Match", made.Header.Get("ETag")).problem(http.StatusPreconditionFailed, errs.Conflict)
	r.send("PUT", "/drafts/"+d.ID, good).want(http.StatusUnprocessableEntity) // no If-Match
	c := as[v1.Committed](r.send("POST", "/drafts/"+d.ID+"/commit", nil, "If-Match", saved.Header.Get("ETag")).want(http.StatusOK))
	if c.Version != 1 || c.Name != "d" {
		t.Errorf("committed %+v", c)
	}
	r.send("GET", "/drafts/"+d.ID, nil).problem(http.StatusNotFound, errs.NotFound)
	e := as[v1.Draft](r.send("POST", "/drafts", v1.NewDraft{Kind: site.KindDomain, Name: "d"}).want(http.StatusCreated))
	if e.Base != 1 {
		t.Errorf("a draft of %d", e.Base)
	}
	r.send("DELETE", "/drafts/"+e.ID, nil).want(http.StatusNoContent)
	r.send("DELETE", "/drafts/"+e.ID, nil).problem(http.StatusNotFound, errs.NotFound)
	r.send("POST", "/drafts", v1.NewDraft{Kind: site.KindDomain, Name: "none"}).problem(http.StatusNotFound, errs.NotFound)
	r.send("POST", "/drafts", v1.NewDraft{Kind: "thing", Name: "none"}).problem(http.StatusUnprocessableEntity, errs.Invalid)
}
