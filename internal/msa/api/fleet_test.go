package api

import (
	"net/http"
	"testing"

	v1 "holdfast/api"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/setup"
)

func init() {
	get := func(id, path string) exercise {
		return exercise{id, func(r *rig) answer { return r.send("GET", path, nil) }}
	}
	exercises = append(exercises, get("get-site-key", "/site-key"), get("list-domain-statuses", "/domain-statuses"), get("get-domain-status", "/domains/d/status"),
		exercise{"get-appliance-status", func(r *rig) answer {
			r.send("PUT", "/appliances/far-1", v1.Appliance{Meta: v1.Meta{Name: "far-1"}, Role: "drva", Site: "a"}).want(http.StatusCreated)
			return r.send("GET", "/appliances/far-1/status", nil)
		}})
}

// fleet is that of the rig's site.
func (r *rig) fleet() *fleet.Fleet {
	r.t.Helper()
	r.boxes = fleetOf(r.t, r.db, r.access.Box)
	return r.boxes
}

// fleetOf is the fleet of site a.
func fleetOf(t testing.TB, d *db.DB, box *seal.Box) *fleet.Fleet {
	t.Helper()
	f, err := fleet.New(fleet.Options{DB: d, Box: box, Site: "a", Inventory: &inventory.Store{}})
	if err == nil {
		err = d.Tx(t.Context(), func(tx *db.Tx) error { return f.MakeKey(t.Context(), tx) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestDomainStatus: what is told of a domain is what is known, to those who may read it.
func TestDomainStatus(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	furnish(r)
	if err := r.boxes.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := as[v1.DomainStatus](r.send("GET", "/domains/d/status", nil).want(http.StatusOK)); d.State != "created" || d.Cause == "" || len(d.VMs) == 0 {
		t.Errorf("before its container is there: %+v", d)
	}
	r.tx(func(tx *db.Tx) error {
		if _, err := tx.Exec(t.Context(), `UPDATE fleet_domains SET id = $1, drva = 'drva-1' WHERE domain = 'd'`, "0e7c0b9c-0000-4000-8000-000000000001"); err != nil {
			return err
		}
		return r.boxes.Heard(t.Context(), tx, "drva-1", &setup.Report{Domains: []setup.DomainReport{{Name: "d", State: setup.Tracking, Cause: "the log is full", Newest: tx.Now() - 5000, Points: 3}}})
	})
	d := as[v1.DomainStatus](r.send("GET", "/domains/d/status", nil).want(http.StatusOK))
	if d.State != "tracking" || d.Cause != "the log is full" || d.Points != 3 || d.Newest == nil || d.RPO.D().Seconds() < 5 || d.Box != "drva-1" {
		t.Errorf("it is told %+v", d)
	}
	all := as[struct{ Items []v1.DomainStatus }](r.send("GET", "/domain-statuses", nil).want(http.StatusOK))
	if len(all.Items) != 1 || all.Items[0].Domain != "d" {
		t.Errorf("the list is %+v", all)
	}
	r.send("PUT", "/appliances/drva-1", v1.Appliance{Meta: v1.Meta{Name: "drva-1"}, Role: "drva", Site: "a", Address: "10.0.0.1:1", Draining: true}).want(http.StatusCreated)
	if b := as[v1.BoxStatus](r.send("GET", "/appliances/drva-1/status", nil).want(http.StatusOK)); len(b.Domains) != 1 || b.Ready || b.Told == nil || !b.Draining {
		t.Errorf("the box is told as %+v", b)
	}
	if r.send("GET", "/domains/none/status", nil).StatusCode != http.StatusNotFound {
		t.Error("a domain that there is not has a status")
	}
}
