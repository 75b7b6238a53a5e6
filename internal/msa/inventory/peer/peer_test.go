package peer_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/api"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/inventory/inventorytest"
	"holdfast/internal/msa/inventory/peer"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// asPeer lets everybody in as a paired manager.
type asPeer struct{}

func (asPeer) Authenticate(context.Context, *http.Request) (*auth.Principal, error) {
	return auth.OfPeer("b"), nil
}

// over asks a manager's API over HTTP; away is an error of the way to it.
type over struct {
	address string

	mu   sync.Mutex
	away error
	asks int
}

func (o *over) Get(ctx context.Context, path string, query url.Values, out any) error {
	o.mu.Lock()
	away := o.away
	o.asks++
	o.mu.Unlock()
	if away != nil {
		return errs.E("test", errs.Unavailable, "", away)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.address+"/api/v1"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return errs.E("test", errs.Unavailable, "", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errs.New("test", errs.NotFound, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func open(t *testing.T) (*db.DB, *inventory.Store, *catalog.Catalog) {
	t.Helper()
	d, err := db.Open(t.Context(), dbtest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	s := &inventory.Store{}
	return d, s, &catalog.Catalog{Views: s.Views}
}

// TestPeer: what one manager keeps of its site another one has by asking, and the
// provider by which it does passes the suite.
func TestPeer(t *testing.T) {
	d, store, cat := open(t)
	p := fake.Filled("a", 1200)
	o := inventory.NewOverseer(inventory.OverseerOptions{DB: d, Catalog: cat, Store: store, Every: 20 * time.Millisecond,
		Sources: func(context.Context, *db.Tx) ([]inventory.Source, error) {
			return []inventory.Source{{Site: "a", How: "fake", Open: func() (inventory.Provider, error) { return p, nil }}}, nil
		}})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := o.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer stop()
	h, err := api.New(api.Options{DB: d, Auth: asPeer{}, Catalog: cat})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	src := &over{address: srv.URL}
	// The manager may not have looked at its own site yet: that is Unavailable.
	prov := peer.New("a", src, 100*time.Millisecond)
	w, err := prov.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for {
		u, err := w.Next(t.Context())
		if err == nil {
			if len(u.Whole.VMs) != 1200 || len(u.Whole.Networks) != 2 {
				t.Errorf("%d VMs, %d networks", len(u.Whole.VMs), len(u.Whole.Networks))
			}
			break
		}
		if !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
	}
	w.Close()
	id := fake.ID("a", "vm-00000")
	inventorytest.Run(t, inventorytest.Rig{
		Provider: prov, First: "vm-00000", Size: 40 << 30,
		Add:  func(_ *testing.T, name string) { p.Put(site.VM{ID: fake.ID("a", name), Ref: site.Ref(name)}) },
		Drop: func(_ *testing.T, name string) { p.Remove(fake.ID("a", name)) },
		Stop: func(*testing.T, string) { p.Change(id, func(vm *site.VM) { vm.Running = false }) },
		Cut: func(*testing.T) func(*testing.T) {
			src.mu.Lock()
			src.away = errors.New("the line is cut")
			src.mu.Unlock()
			return func(*testing.T) {
				src.mu.Lock()
				src.away = nil
				src.mu.Unlock()
			}
		},
	})
}

// TestOverseer: a site is looked at as it is configured, anew when that changes, not
// at all when it is gone; what cannot be opened holds nobody up.
func TestOverseer(t *testing.T) {
	d, store, cat := open(t)
	var mu sync.Mutex
	how, opened, ended := "one", []string{}, []string{}
	o := inventory.NewOverseer(inventory.OverseerOptions{DB: d, Catalog: cat, Store: store, Every: 5 * time.Millisecond,
		Sources: func(context.Context, *db.Tx) ([]inventory.Source, error) {
			mu.Lock()
			defer mu.Unlock()
			bad := inventory.Source{Site: "bad", How: "x", Open: func() (inventory.Provider, error) {
				mu.Lock()
				defer mu.Unlock()
				opened = append(opened, "bad")
				return nil, errors.New("no such driver")
			}}
			if how == "" {
				return []inventory.Source{bad}, nil
			}
			now := how
			return []inventory.Source{bad, {Site: "a", How: now, Open: func() (inventory.Provider, error) {
				mu.Lock()
				defer mu.Unlock()
				opened = append(opened, now)
				return &noted{Provider: fake.Filled("a", 3), end: func() { mu.Lock(); defer mu.Unlock(); ended = append(ended, now) }}, nil
			}}}, nil
		}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; <-time.After(2 * time.Millisecond) {
			mu.Lock()
			good := ok()
			mu.Unlock()
			if good {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("waiting until %s: opened %q, ended %q", what, opened, ended)
			}
		}
	}
	set := func(s string) { mu.Lock(); defer mu.Unlock(); how = s }
	until("it is looked at", func() bool { return slices.Contains(opened, "one") })
	if err := o.Vacate(t.Context(), "nowhere", fake.ID("a", "x")); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Errorf("a site nobody looks at: %v", err)
	}
	if err := o.Vacate(t.Context(), "a", fake.ID("a", "x")); err != nil {
		t.Error(err)
	}
	set("two")
	until("the new way is used", func() bool { return slices.Contains(opened, "two") && slices.Contains(ended, "one") })
	set("")
	until("it is let go of", func() bool { return slices.Contains(ended, "two") })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := len(slices.DeleteFunc(slices.Clone(opened), func(s string) bool { return s != "bad" })); n != 1 || len(opened) != 3 {
		t.Errorf("opened %q", opened)
	}
}

// noted notes its end.
type noted struct {
	*fake.Provider
	end func()
}

func (n *noted) Close() error {
	n.end()
	return n.Provider.Close()
}
