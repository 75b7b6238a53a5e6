package replica

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
	"holdfast/internal/store/mem"
)

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestFleet: a DRVA that enrols is given a domain, over TLS, with the container that was
// made for it; its certificate stands for the domain, and what it tells is what people see.
func TestFleet(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stores := sync.Map{}
	r, err := Open(ctx, Options{Data: t.TempDir(), Listen: "127.0.0.1:0", Names: []string{"127.0.0.1"}, Site: "a", Release: "test",
		OpenStore: func(_ context.Context, url string, _ access.Access, _ bool) (store.Store, error) {
			s, _ := stores.LoadOrStore(url, mem.New())
			return s.(store.Store), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	tx := func(f func(tx *db.Tx) error) {
		t.Helper()
		if err := r.DB.Tx(ctx, f); err != nil {
			t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
		}
	}
	for _, o := range []site.Object{
		&site.Site{Meta: site.Meta{Name: "a"}, Platform: site.Fake}, &site.Store{Meta: site.Meta{Name: "s"}, URL: "file:///srv/dr"},
		&site.Appliance{Meta: site.Meta{Name: "drva-1"}, Role: site.DRVA, Site: "a", Address: "127.0.0.1:7480"},
		&site.ProtectedDomain{Meta: site.Meta{Name: "erp"}, From: "a", VMs: []site.Ref{"db"}, Stores: []site.Name{"s"}, Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}},
	} {
		tx(func(tx *db.Tx) error { _, _, err := r.Catalog.Put(ctx, tx, o, "test"); return err })
	}
	var token string
	tx(func(tx *db.Tx) (err error) {
		token, err = enrol.Invite(ctx, tx, r.PKI, enrol.Invitation{Name: "drva-1", Role: site.DRVA, Manager: r.Address()}, "")
		return err
	})
	dir := filepath.Join(t.TempDir(), "tls")
	if _, err := enrol.Join(ctx, token, dir, "", "test"); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var is setup.Setup
	agent := &command.Agent{Dir: dir, Setup: func(_ context.Context, s *setup.Setup) error {
		mu.Lock()
		defer mu.Unlock()
		is = *s
		return nil
	}, Report: func() *setup.Report {
		mu.Lock()
		defer mu.Unlock()
		out := &setup.Report{Generation: is.Generation, Started: 1}
		if is.DRVA != nil {
			for _, d := range is.DRVA.Domains {
				out.Domains = append(out.Domains, setup.DomainReport{Name: d.Name, State: setup.Protected, Newest: time.Now().UnixMilli()})
			}
		}
		return out
	}}
	running.Go(func() {
		if err := agent.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	id := ""
	until(t, "the DRVA is given the domain", func() bool {
		mu.Lock()
		defer mu.Unlock()
		if is.DRVA == nil || len(is.DRVA.Domains) != 1 {
			return false
		}
		d := is.DRVA.Domains[0]
		id = d.ID.String()
		return d.Container == "file:///srv/dr/erp" && d.Identity != ""
	})
	until(t, "its certificate stands for the domain", func() bool {
		c, err := control.LoadCredentials(dir)
		return err == nil && slices.Contains(c.Names(control.RoleDRVA), id)
	})
	until(t, "what it tells is seen", func() bool {
		var d v1.DomainStatus
		tx(func(tx *db.Tx) (err error) { d, err = r.Fleet.Status(ctx, tx, "erp"); return err })
		return d.State == "protected" && d.Newest != nil && d.Box == "drva-1"
	})
}
