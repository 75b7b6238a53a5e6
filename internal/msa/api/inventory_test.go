package api

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
)

// stocked is a rig with an inventory of 30 VMs.
func stocked(t *testing.T, url string, tune ...func(*Options)) *rig {
	r := newRig(t, url, tune...)
	inv := fake.Estate("a", 30)
	r.tx(func(tx *db.Tx) error { _, err := inventory.Import(t.Context(), tx, &inv); return err })
	return r
}

// TestInventoryAPI: inventories are read page by page, filtered, and one by one.
func TestInventoryAPI(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, u string) {
		r := stocked(t, u)
		states := as[v1.Page[v1.InventoryState]](r.send("GET", "/inventories", nil).want(200))
		if len(states.Items) != 1 || states.Items[0].VMs != 30 || states.Items[0].Seen != nil {
			t.Errorf("%+v", states)
		}
		inv := as[v1.Inventory](r.send("GET", "/inventories/a", nil).want(200))
		if len(inv.VMs) != 0 || len(inv.Networks) != 2 || len(inv.Hosts) != 1 || len(inv.Folders) != 3 {
			t.Errorf("%+v", inv)
		}
		r.send("GET", "/inventories/nowhere", nil).problem(404, errs.NotFound)
		seen := map[string]bool{}
		for path := "/inventories/a/vms?limit=7&folder=erp"; path != ""; {
			page := as[v1.Page[v1.VM]](r.send("GET", path, nil).want(200))
			for _, vm := range page.Items {
				seen[string(vm.Ref)] = true
			}
			if path = ""; page.Next != "" {
				path = "/inventories/a/vms?limit=7&folder=erp&cursor=" + page.Next
			}
		}
		if len(seen) != 10 {
			t.Errorf("%d VMs in the folder, not 10", len(seen))
		}
		if page := as[v1.Page[v1.VM]](r.send("GET", "/inventories/a/vms?name=00007&running=yes", nil).want(200)); len(page.Items) != 1 {
			t.Errorf("%+v", page)
		}
		for _, bad := range []string{"cursor=!", "cursor=" + cursor("x"), "cursor=" + cursor(`{"n":1}`), "running=maybe", "limit=0", "unknown=1"} {
			if a := r.send("GET", "/inventories/a/vms?"+bad, nil); a.StatusCode != 422 {
				t.Errorf("%s: %d", bad, a.StatusCode)
			}
		}
		id := fake.ID("a", "vm-00003")
		for _, ref := range []string{"vm-00003", id.String()} {
			if vm := as[v1.VM](r.send("GET", "/inventories/a/vms/"+ref, nil).want(200)); vm.ID != id {
				t.Errorf("%+v", vm)
			}
		}
		r.send("GET", "/inventories/a/vms/nobody%00", nil).problem(404, errs.NotFound)
		r.who = "erp" // in one folder alone: an inventory is all or nothing
		r.send("GET", "/inventories/a/vms", nil).want(200)
	})
}

// TestPlaceholdersAPI: placeholders are listed, and tried again when somebody asks.
func TestPlaceholdersAPI(t *testing.T) {
	r := stocked(t, dbtest.SQLite(t))
	r.tx(func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO placeholders (site, vm, domain, id, ref, state, error, used, doc, due_at, tries)
			VALUES ('b', 'x', 'erp', 'y', 'vm-1', '', 'no room', 0, '{}', 99999999999999, 3)`)
		return err
	})
	list := as[v1.Page[v1.Placeholder]](r.send("GET", "/placeholders?site=b&domain=erp", nil).want(200))
	if len(list.Items) != 1 || list.Items[0].State != "planned" || list.Items[0].Due == nil || list.Items[0].Error == "" {
		t.Errorf("%+v", list)
	}
	r.who = "viewer"
	r.send("POST", "/placeholders/repair", v1.Repair{Site: "b"}).problem(403, errs.Denied)
	r.who = "protection-admin"
	if got := as[v1.Repaired](r.send("POST", "/placeholders/repair", v1.Repair{Site: "b"}).want(200)); got.Placeholders != 1 {
		t.Errorf("%+v", got)
	}
	if list = as[v1.Page[v1.Placeholder]](r.send("GET", "/placeholders?domain=other", nil).want(200)); len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}
}

// TestAlarmsAPI: alarms are paged and acknowledged; outlets are made, changed by who
// read them, tested and deleted, and never tell a secret.
func TestAlarmsAPI(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	r.tx(func(tx *db.Tx) error {
		return errors.Join(alarm.Set(t.Context(), tx, alarm.StoreAway, "s", true, "no route"), alarm.Set(t.Context(), tx, alarm.RPOMissed, "domain erp", true, ""),
			alarm.Set(t.Context(), tx, alarm.RPOMissed, "domain web", true, ""), alarm.Set(t.Context(), tx, alarm.RPOMissed, "domain web", false, ""))
	})
	seen := map[string]v1.Alarm{}
	for path := "/alarms?limit=1"; path != ""; {
		page := as[v1.Page[v1.Alarm]](r.send("GET", path, nil).want(200))
		for _, a := range page.Items {
			seen[a.Code+" "+a.Object] = a
		}
		if path = ""; page.Next != "" {
			path = "/alarms?limit=1&cursor=" + page.Next
		}
	}
	if a := seen["store-away s"]; len(seen) != 2 || a.Remedy == "" || a.Severity != "error" || a.Detail != "no route" {
		t.Errorf("%+v", seen)
	}
	if all := as[v1.Page[v1.Alarm]](r.send("GET", "/alarms?all=true", nil).want(200)); len(all.Items) != 3 {
		t.Errorf("%+v", all)
	}
	r.send("POST", "/alarms/acknowledge", v1.Acknowledge{Code: "store-away", Object: "s", Note: "known"}).want(204)
	r.send("POST", "/alarms/acknowledge", v1.Acknowledge{Code: "rpo-missed", Object: "domain web"}).problem(404, errs.NotFound)
	if page := as[v1.Page[v1.AlarmEvent]](r.send("GET", "/alarm-events?limit=2", nil).want(200)); len(page.Items) != 2 || page.Next == "" {
		t.Errorf("%+v", page)
	}
	if codes := as[v1.Page[v1.AlarmCode]](r.send("GET", "/alarm-codes", nil).want(200)); len(codes.Items) != len(alarm.Table()) {
		t.Errorf("%d codes", len(codes.Items))
	}
	o := v1.Outlet{Name: "mail", Sort: alarm.Mail, Address: "h:25", From: "a@b.c", To: []string{"d@e.f"}}
	o = as[v1.Outlet](r.send("PUT", "/outlets/mail", o).want(200))
	r.send("PUT", "/outlets/mail", v1.Outlet{Name: "mail", Sort: alarm.Mail, Address: "h:26", From: "a@b.c", To: []string{"d@e.f"}}).problem(409, errs.Exists)
	o.Address = "h:587"
	if o = as[v1.Outlet](r.send("PUT", "/outlets/mail", o).want(200)); o.Version != 2 {
		t.Errorf("%+v", o)
	}
	o.Version = 1
	r.send("PUT", "/outlets/mail", o).problem(412, errs.Conflict)
	r.send("PUT", "/outlets/other", o).problem(422, errs.Invalid)
	r.send("PUT", "/outlets/bad", v1.Outlet{Name: "bad", Sort: "pager"}).want(422)
	r.send("POST", "/outlets/mail/test", nil).want(204)
	r.send("POST", "/outlets/none/test", nil).problem(404, errs.NotFound)
	if got := as[v1.OutletState](r.send("GET", "/outlets/mail", nil).want(200)); got.Pending != 1 || got.Address != "h:587" {
		t.Errorf("%+v", got)
	}
	if list := as[v1.Page[v1.OutletState]](r.send("GET", "/outlets", nil).want(200)); len(list.Items) != 1 {
		t.Errorf("%+v", list)
	}
	for range 2 {
		r.send("DELETE", "/outlets/mail", nil).want(204)
	}
	r.send("GET", "/outlets/mail", nil).problem(404, errs.NotFound)
	r.who = "viewer"
	r.send("POST", "/alarms/acknowledge", v1.Acknowledge{Code: "store-away", Object: "s"}).problem(403, errs.Denied)
	r.send("PUT", "/outlets/x", v1.Outlet{Name: "x"}).problem(403, errs.Denied)
}

// TestStatsAPI: series, metrics for Prometheus, and a support bundle.
func TestStatsAPI(t *testing.T) {
	rec := stats.NewRecorder(nil)
	r := newRig(t, dbtest.SQLite(t), func(o *Options) { o.Stats = rec })
	rec.Observe(stats.RPO, "domain erp", 4200)
	rec.Observe(stats.RPO, "domain erp", 4400)
	if err := rec.Flush(t.Context(), r.db); err != nil {
		t.Fatal(err)
	}
	s := as[v1.Series](r.send("GET", "/stats?metric=rpo_ms&object="+url.QueryEscape("domain erp"), nil).want(200))
	if len(s.Points) != 1 || s.Points[0].Mean != 4300 || s.Points[0].Samples != 2 || s.Every != "minute" {
		t.Errorf("%+v", s)
	}
	r.send("GET", "/stats?metric=nothing&object=x", nil).problem(422, errs.Invalid)
	r.send("GET", "/stats?metric=rpo_ms&object=x&from="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)), nil).problem(422, errs.Invalid)
	if got := as[v1.Page[string]](r.send("GET", "/stats/metrics/rpo_ms/objects", nil).want(200)); len(got.Items) != 1 || got.Items[0] != "domain erp" {
		t.Errorf("%+v", got)
	}
	if got := as[v1.Page[v1.Metric]](r.send("GET", "/stats/metrics", nil).want(200)); len(got.Items) != len(stats.Table()) {
		t.Errorf("%+v", got)
	}
	a := r.send("GET", "/metrics", nil).want(200)
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain; version=0.0.4") || !strings.Contains(string(a.body), `holdfast_rpo_ms{kind="domain",name="erp"} 4400`) {
		t.Errorf("%s: %.300s", a.Header.Get("Content-Type"), a.body)
	}
	a = r.send("GET", "/support-bundle", nil).want(200)
	z, err := gzip.NewReader(bytes.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for tr := tar.NewReader(z); ; n++ {
		if _, err := tr.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n < 10 {
		t.Errorf("%d files in the bundle", n)
	}
	r.who = "viewer"
	r.send("GET", "/support-bundle", nil).problem(403, errs.Denied)
	r.who = ""
	if a := r.send("GET", "/metrics", nil); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("anybody reads the metrics: %d", a.StatusCode)
	}
}

// TestImportAPI: documents of containers are imported; what is none is refused.
func TestImportAPI(t *testing.T) {
	inv := fake.Estate("a", 3)
	objects := "apiVersion: holdfast/v1\nkind: site\nname: a\nplatform: fake\n"
	d := &scan.Document{Format: 1, Domain: "erp", Site: "a", At: time.Now(), Objects: objects, Inventory: inv}
	b, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	store := &inventory.Store{}
	r := newRig(t, dbtest.SQLite(t), func(o *Options) { o.Catalog = &catalog.Catalog{Views: store.Views} })
	got := as[v1.Imported](r.send("POST", "/imports", v1.Import{Documents: [][]byte{b}}, "Idempotency-Key", "once").want(200))
	if len(got.Changes.All) != 1 || got.Changes.All[0].Name != "a" || len(got.Sites) != 1 {
		t.Errorf("%+v", got)
	}
	if vm := as[site.VM](r.send("GET", "/inventories/a/vms/vm-00001", nil).want(200)); vm.CPUs != 2 {
		t.Errorf("%+v", vm)
	}
	for _, bad := range []any{v1.Import{Documents: [][]byte{[]byte("x")}}, v1.Import{}, "{", v1.Import{Documents: make([][]byte, 251)}} {
		if a := r.send("POST", "/imports", bad); a.StatusCode/100 != 4 {
			t.Errorf("%v: %d", fmt.Sprint(bad)[:1], a.StatusCode)
		}
	}
	r.who = "protection-admin"
	r.send("POST", "/imports", v1.Import{Documents: [][]byte{b}}).problem(403, errs.Denied)
}
