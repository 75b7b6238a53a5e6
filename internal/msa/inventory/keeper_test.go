package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/site"
)

// patience ends a wait for what does not come.
const patience = 2 * time.Minute

// rig is a manager's database with a keeper of site a.
type rig struct {
	*testing.T
	d     *db.DB
	p     *fake.Provider
	cat   *catalog.Catalog
	store inventory.Store
}

func newRig(t *testing.T, url string, p *fake.Provider) *rig {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	r := &rig{T: t, d: d, p: p}
	r.cat = &catalog.Catalog{Views: r.store.Views}
	return r
}

// keep runs a keeper until stop is called, or the test ends.
func (r *rig) keep(of site.Name, p inventory.Provider) (k *inventory.Keeper, stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	k = inventory.NewKeeper(inventory.Options{Site: of, Provider: p, DB: r.d, Catalog: r.cat, Store: &r.store, Poll: 10 * time.Millisecond})
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.Cleanup(stop)
	return k, stop
}

func (r *rig) view(f func(tx *db.Tx) error) {
	r.Helper()
	if err := r.d.View(r.Context(), f); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) tx(f func(tx *db.Tx) error) {
	r.Helper()
	if err := r.d.Tx(r.Context(), f); err != nil {
		r.Fatal(err)
	}
}

// until waits for a condition of the database; it is looked at again and again
// because what it waits for has no event of its own.
func (r *rig) until(what string, ok func(tx *db.Tx) (bool, error)) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	for {
		done := false
		r.view(func(tx *db.Tx) (err error) { done, err = ok(tx); return err })
		if done {
			return
		}
		select {
		case <-ctx.Done():
			r.Fatalf("waiting until %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// same waits until the rows are the platform's.
func (r *rig) same(of site.Name, p *fake.Provider) {
	r.Helper()
	want, err := json.Marshal(p.Has().VMs)
	if err != nil {
		r.Fatal(err)
	}
	r.until("the rows are the platform's", func(tx *db.Tx) (bool, error) {
		inv, err := inventory.Load(r.Context(), tx, of)
		if err != nil {
			return false, err
		}
		got, err := json.Marshal(inv.VMs)
		return string(got) == string(want), err
	})
}

func (r *rig) put(objects ...site.Object) {
	r.Helper()
	r.tx(func(tx *db.Tx) error {
		for _, o := range objects {
			if _, _, err := r.cat.Put(r.Context(), tx, o, "test"); err != nil {
				return err
			}
		}
		return nil
	})
}

// changes returns the feed's lines.
func (r *rig) changes() (list []string) {
	r.view(func(tx *db.Tx) error {
		f, err := catalog.Since(r.Context(), tx, 0, "", catalog.MaxPage)
		for _, c := range f.Changes {
			list = append(list, c.Kind+" "+c.Name+" "+c.Action)
		}
		return err
	})
	return list
}

// TestKeeper: what a platform has and what changes there is in the rows, with as few
// writes as there are differences.
func TestKeeper(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		p := fake.Filled("a", 120)
		r := newRig(t, url, p)
		_, stop := r.keep("a", p)
		r.same("a", p)
		if got := r.changes(); !slices.Equal(got, []string{"inventory a change"}) {
			t.Errorf("the first look is told as %q", got)
		}
		id := fake.ID("a", "vm-00007")
		p.Change(id, func(vm *site.VM) { vm.Running = false })
		r.same("a", p)
		p.Remove(fake.ID("a", "vm-00008"))
		r.same("a", p)
		want := []string{"inventory a change", "vm a/" + id.String() + " change", "vm a/" + fake.ID("a", "vm-00008").String() + " delete"}
		if got := r.changes(); !slices.Equal(got, want) {
			t.Errorf("changes are told as %q", got)
		}
		p.Change(id, func(*site.VM) {}) // told, and no different
		p.Put(site.VM{ID: fake.ID("a", "new"), Ref: "new", Folder: "x/y", NICs: []site.VMNIC{{Network: "lan"}}})
		r.same("a", p)
		if n := len(r.changes()); n != 4 {
			t.Errorf("%d lines in the feed, not 4: %q", n, r.changes())
		}
		r.view(func(tx *db.Tx) error {
			v, err := r.store.View(t.Context(), tx, "a")
			if err == nil && (!v.Folders["x"] || !v.Folders["x/y"] || v.Networks["lan"] == nil || v.Networks["prod"] == nil || v.Datastores["flash"] == nil) {
				t.Errorf("the view lacks what is known by use: %v %v", v.Folders, v.Networks)
			}
			return err
		})
		// A guest that is off keeps the addresses it told.
		p.Change(fake.ID("a", "vm-00009"), func(vm *site.VM) { vm.Running, vm.NICs[0].Addresses = false, nil })
		r.until("the VM is off", func(tx *db.Tx) (bool, error) {
			vm, err := inventory.Find(t.Context(), tx, "a", "vm-00009")
			if err == nil && !vm.Running && len(vm.NICs[0].Addresses) != 1 {
				t.Error("its addresses are forgotten")
			}
			return !vm.Running, err
		})
		stop()
		r.view(func(tx *db.Tx) error {
			v, err := r.store.View(t.Context(), tx, "a")
			if again, _ := r.store.View(t.Context(), tx, "a"); again != v {
				t.Error("a view is made twice for one generation")
			}
			return err
		})
		// Another one takes over at once, and sees what happened meanwhile.
		p.Remove(id)
		p.Change(fake.ID("a", "vm-00009"), func(vm *site.VM) {
			vm.Running = true
			vm.NICs[0].Addresses = fake.Estate("a", 10).VMs[0].NICs[0].Addresses
		})
		_, _ = r.keep("a", p)
		r.same("a", p)
	})
}

// TestAway: a platform that does not answer is told, its rows stay, and it is told
// that it is back.
func TestAway(t *testing.T) {
	p := fake.Filled("a", 10)
	r := newRig(t, dbtest.SQLite(t), p)
	r.keep("a", p)
	r.same("a", p)
	p.Cut(errors.New("the cable is out"))
	standing := func(tx *db.Tx) (inventory.Standing, error) {
		list, err := inventory.Sites(t.Context(), tx)
		if err != nil || len(list) != 1 {
			return inventory.Standing{}, err
		}
		return list[0], nil
	}
	r.until("it is away", func(tx *db.Tx) (bool, error) {
		s, err := standing(tx)
		if err == nil && !s.Away.IsZero() && (s.VMs != 10 || !strings.Contains(s.Words, "cable")) {
			t.Errorf("its standing: %+v", s)
		}
		return !s.Away.IsZero(), err
	})
	if !r.holds(alarm.PlatformAway, "a") {
		t.Error("no alarm")
	}
	p.Cut(nil)
	r.until("it is back", func(tx *db.Tx) (bool, error) { s, err := standing(tx); return s.Away.IsZero() && s.Words == "", err })
	if r.holds(alarm.PlatformAway, "a") {
		t.Error("the alarm stays")
	}
}

// TestPartial: what of a platform cannot be kept is told, and when that is over.
func TestPartial(t *testing.T) {
	p := fake.Filled("a", 3)
	r := newRig(t, dbtest.SQLite(t), p)
	r.keep("a", p)
	odd := site.VM{ID: fake.ID("a", "odd"), Ref: site.Ref(strings.Repeat("x", site.MaxRef+1))}
	p.Put(odd)
	r.until("the alarm holds", func(*db.Tx) (bool, error) { return r.holds(alarm.InventoryPartial, "a"), nil })
	p.Remove(odd.ID)
	r.until("the alarm ends", func(*db.Tx) (bool, error) { return !r.holds(alarm.InventoryPartial, "a"), nil })
}

// holds reports whether an alarm holds.
func (r *rig) holds(c alarm.Code, object string) (found bool) {
	r.view(func(tx *db.Tx) error {
		list, _, err := alarm.List(r.Context(), tx, false, alarm.Cursor{}, 0)
		found = slices.ContainsFunc(list, func(a alarm.Alarm) bool { return a.Code == c && a.Object == object })
		return err
	})
	return found
}

// TestOneKeeper: of many replicas one writes, and when it is gone another does.
func TestOneKeeper(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		p := fake.Filled("a", 20)
		r := newRig(t, url, p)
		var stops []func()
		for range 3 {
			_, stop := r.keep("a", p)
			stops = append(stops, stop)
		}
		r.same("a", p)
		rng := rand.New(rand.NewPCG(1, 2))
		for i, stop := range stops {
			id := p.IDs()[rng.IntN(len(p.IDs()))]
			p.Change(id, func(vm *site.VM) { vm.CPUs = 10 + i })
			r.same("a", p)
			if i < 2 {
				stop()
			}
		}
		if looks := p.Looks(); looks > 3*20+10 {
			t.Errorf("%d VMs were looked at: more than one keeper works", looks)
		}
	})
}

// TestKeeperBeginsAgain: a keeper that was killed, and begins again under its name, does
// not wait for the end of its lease; one of another name does.
func TestKeeperBeginsAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		p := fake.Filled("a", 3)
		r := newRig(t, url, p)
		r.tx(func(tx *db.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO inventory_sites (site, generation, seen_at, away_since, words, owner, epoch, lease_until) VALUES ('a', 0, 0, 0, '', 'me', 7, $1)`,
				tx.Now()+time.Hour.Milliseconds())
			return err
		})
		begin := func(owner string) (stop func()) {
			k := inventory.NewKeeper(inventory.Options{Site: "a", Provider: p, DB: r.d, Catalog: r.cat, Store: &r.store, Owner: owner, Poll: time.Millisecond})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); k.Run(ctx) }()
			return func() { cancel(); <-ended }
		}
		defer begin("other")()
		defer begin("me")()
		r.same("a", p)
		r.tx(func(tx *db.Tx) error {
			var owner string
			var epoch int64
			_, err := tx.Row(t.Context(), `SELECT owner, epoch FROM inventory_sites WHERE site = 'a'`, nil, &owner, &epoch)
			if owner != "me" || epoch != 8 {
				t.Errorf("%s keeps it under epoch %d", owner, epoch)
			}
			return err
		})
	})
}

func domain(name site.Name, rules []site.Rule, vms ...site.Ref) *site.ProtectedDomain {
	return &site.ProtectedDomain{
		Meta: site.Meta{Name: name}, From: "a", To: "b", Stores: []site.Name{"s"}, VMs: vms, Adopt: rules,
		Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}},
	}
}

// base configures two sites, a store, and mappings from a to b.
func (r *rig) base() {
	r.Helper()
	r.put(
		&site.Site{Meta: site.Meta{Name: "a"}, Platform: site.Fake}, &site.Site{Meta: site.Meta{Name: "b"}, Platform: site.Fake},
		&site.Store{Meta: site.Meta{Name: "s"}, URL: "file:///srv/dr"},
		&mapping.Mappings{Meta: site.Meta{Name: "a-b"}, From: "a", To: "b", Networks: []mapping.NetworkPair{{From: "prod", To: "dr"}},
			Folders: []mapping.Pair{{From: "erp", To: "recovered"}, {From: "web", To: "recovered", Reverse: mapping.No}}, Pools: []mapping.Pair{{From: "cluster", To: "pool-b"}}})
}

// TestAdoption: VMs that rules match come into domains, those two want into none.
func TestAdoption(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		p := fake.Filled("a", 30)
		r := newRig(t, url, p)
		r.base()
		r.put(domain("gold", []site.Rule{{Tag: "gold", Folder: "erp"}}), domain("erp2", []site.Rule{{Folder: "erp/two"}}, "vm-00003"))
		r.keep("a", p)
		members := func(tx *db.Tx, name site.Name) []site.Ref {
			d, err := catalog.Find[*site.ProtectedDomain](t.Context(), tx, name)
			if err != nil {
				t.Fatal(err)
			}
			return d.VMs
		}
		// Of 30 VMs, those divisible by 30 are gold and in erp: one.
		r.until("the matching VM is adopted", func(tx *db.Tx) (bool, error) { return len(members(tx, "gold")) == 1, nil })
		p.Change(fake.ID("a", "vm-00001"), func(vm *site.VM) { vm.Folder, vm.Tags = "erp/two", []string{"gold"} })
		r.until("a VM two domains want is refused", func(*db.Tx) (bool, error) { return r.holds(alarm.AdoptRefused, "a"), nil })
		p.Change(fake.ID("a", "vm-00001"), func(vm *site.VM) { vm.Tags = nil })
		r.until("and adopted when one wants it", func(tx *db.Tx) (bool, error) { return len(members(tx, "erp2")) == 2, nil })
		r.until("the alarm ends", func(*db.Tx) (bool, error) { return !r.holds(alarm.AdoptRefused, "a"), nil })
		r.until("adoptions are told", func(tx *db.Tx) (bool, error) {
			told, _, err := alarm.Events(t.Context(), tx, "", 100)
			return slices.ContainsFunc(told, func(e alarm.Event) bool { return e.Code == alarm.Adopted && e.Object == "domain erp2" }), err
		})
	})
}

// TestAdoptionsRules walks the decision with random sites and domains: what is
// adopted is in one domain only, matches its rules, and was in none; and a version
// that forgets one of the conditions is noticed.
func TestAdoptionsRules(t *testing.T) {
	broken := map[string]func([]inventory.Adoption, *site.Inventory) []inventory.Adoption{
		"": func(a []inventory.Adoption, _ *site.Inventory) []inventory.Adoption { return a },
		"adopts placeholders": func(a []inventory.Adoption, inv *site.Inventory) []inventory.Adoption {
			for i := range inv.VMs {
				if vm := &inv.VMs[i]; !vm.PlaceholderFor.IsZero() {
					a = append(a, inventory.Adoption{Domain: "d0", VMs: []*site.VM{vm}})
				}
			}
			return a
		},
		"adopts twice": func(a []inventory.Adoption, _ *site.Inventory) []inventory.Adoption { return append(a, a...) },
		"ignores rules": func(a []inventory.Adoption, inv *site.Inventory) []inventory.Adoption {
			return append(a, inventory.Adoption{Domain: "d1", VMs: []*site.VM{&inv.VMs[0]}})
		},
	}
	for name, bend := range broken {
		caught := ""
		for seed := range uint64(300) {
			if caught = playAdoption(seed, bend); caught != "" {
				if name == "" {
					t.Fatalf("seed %d: %s", seed, caught)
				}
				break
			}
		}
		if name != "" && caught == "" {
			t.Errorf("a version that %s is not noticed", name)
		}
	}
}

func playAdoption(seed uint64, bend func([]inventory.Adoption, *site.Inventory) []inventory.Adoption) string {
	rng := rand.New(rand.NewPCG(seed, 7))
	inv := fake.Estate("a", 12)
	tags := []string{"x", "y", "z"}
	for i := range inv.VMs {
		inv.VMs[i].Tags = tags[:rng.IntN(4)]
		if rng.IntN(5) == 0 {
			inv.VMs[i].PlaceholderFor = dr.VMID{UUID: dr.NewUUID()}
		}
	}
	var domains []*site.ProtectedDomain
	for i := range 3 {
		d := &site.ProtectedDomain{Meta: site.Meta{Name: site.Name(fmt.Sprintf("d%d", i))}, From: "a"}
		for range rng.IntN(3) {
			d.Adopt = append(d.Adopt, site.Rule{Tag: tags[rng.IntN(3)]})
		}
		if rng.IntN(2) == 0 {
			d.VMs = append(d.VMs, []site.Ref{inv.VMs[i].Ref, site.Ref(inv.VMs[i].ID.String())}[rng.IntN(2)])
		}
		if rng.IntN(4) == 0 {
			d.From = "b" // it was recovered elsewhere: its VMs are known by id alone
		}
		domains = append(domains, d)
	}
	list, refused := inventory.Adoptions("a", map[site.Name]*site.View{"a": site.NewView(&inv)}, domains)
	in := map[dr.VMID]bool{}
	for _, d := range domains {
		for i := range inv.VMs {
			if vm := &inv.VMs[i]; slices.Contains(d.VMs, site.Ref(vm.ID.String())) || d.From == "a" && slices.Contains(d.VMs, vm.Ref) {
				in[vm.ID] = true
			}
		}
	}
	for _, a := range bend(list, &inv) {
		i := slices.IndexFunc(domains, func(d *site.ProtectedDomain) bool { return d.Name == a.Domain })
		for _, vm := range a.VMs {
			if in[vm.ID] {
				return fmt.Sprintf("%s is in a domain already", vm.Ref)
			}
			in[vm.ID] = true
			if !vm.PlaceholderFor.IsZero() {
				return "a placeholder was adopted"
			}
			matching := 0
			for _, d := range domains {
				if d.From == "a" && slices.ContainsFunc(d.Adopt, func(r site.Rule) bool { return r.Matches(vm) }) {
					matching++
				}
			}
			if matching != 1 || domains[i].From != "a" || !slices.ContainsFunc(domains[i].Adopt, func(r site.Rule) bool { return r.Matches(vm) }) {
				return fmt.Sprintf("%s is adopted by %s, and %d domains want it", vm.Ref, a.Domain, matching)
			}
		}
	}
	for _, r := range refused {
		if in[r.VM.ID] {
			return "what was refused is in a domain"
		}
	}
	return ""
}

// TestPages: every VM is on one page, whatever the filter, on both engines.
func TestPages(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		p := fake.Filled("a", 150)
		p.Put(site.VM{ID: fake.ID("a", "odd"), Ref: "100%_sure!", Folder: "er_"}, site.VM{ID: fake.ID("a", "same"), Ref: "vm-00001"})
		r := newRig(t, url, p)
		r.keep("a", p)
		r.same("a", p)
		all := func(q inventory.Query) (n int) {
			q.Site, q.Limit = "a", 7
			seen := map[dr.VMID]bool{}
			r.view(func(tx *db.Tx) error {
				for {
					page, next, err := inventory.VMs(t.Context(), tx, q)
					if err != nil {
						return err
					}
					for _, vm := range page {
						if seen[vm.ID] {
							t.Errorf("%s is on two pages", vm.Ref)
						}
						seen[vm.ID] = true
					}
					if next == (inventory.Cursor{}) {
						return nil
					}
					q.After = next
				}
			})
			return len(seen)
		}
		off := false
		for what, c := range map[string]struct {
			q    inventory.Query
			want int
		}{
			"all": {inventory.Query{}, 152}, "folder": {inventory.Query{Folder: "erp"}, 50}, "odd folder": {inventory.Query{Folder: "er_"}, 1},
			"name": {inventory.Query{Name: "VM-0001"}, 10}, "odd name": {inventory.Query{Name: "%_"}, 1}, "off": {inventory.Query{Running: &off}, 2},
			"nothing": {inventory.Query{Name: "nobody"}, 0},
		} {
			if n := all(c.q); n != c.want {
				t.Errorf("%s: %d VMs, not %d", what, n, c.want)
			}
		}
	})
}

// TestTwoThousand states how long the first look at 2,000 VMs takes and how long a
// page does: inventory_sync_2000_s and msa_list_ms.
func TestTwoThousand(t *testing.T) {
	urls := map[string]string{"sqlite": dbtest.SQLite(t)}
	if os.Getenv("HOLDFAST_INVENTORY_POSTGRES") != "" {
		urls["postgres"] = dbtest.Postgres(t)
	}
	for engine, url := range urls {
		p := fake.Filled("a", 2000)
		r := newRig(t, url, p)
		began := time.Now()
		_, stop := r.keep("a", p)
		r.until("2,000 VMs are there", func(tx *db.Tx) (bool, error) {
			s, err := inventory.Sites(t.Context(), tx)
			return err == nil && len(s) == 1 && s[0].VMs == 2000, err
		})
		t.Logf("%s inventory_sync_2000_s %.3f", engine, time.Since(began).Seconds())
		var times []time.Duration
		q := inventory.Query{Site: "a", Limit: 100}
		for range 20 {
			at := time.Now()
			r.view(func(tx *db.Tx) error { var err error; _, q.After, err = inventory.VMs(t.Context(), tx, q); return err })
			times = append(times, time.Since(at))
		}
		slices.Sort(times)
		t.Logf("%s page of 100 of 2,000: median %v", engine, times[10])
		// Churn: every VM changes ten times; it is looked at once for many changes.
		looks := p.Looks()
		for i := range 10 {
			for _, id := range p.IDs() {
				p.Change(id, func(vm *site.VM) { vm.CPUs = 4 + i })
			}
		}
		at := time.Now()
		r.same("a", p)
		t.Logf("%s 20,000 changes of 2,000 VMs: %.3f s after the last, %d looks", engine, time.Since(at).Seconds(), p.Looks()-looks)
		at = time.Now()
		r.view(func(tx *db.Tx) error { _, err := r.store.View(t.Context(), tx, "a"); return err })
		t.Logf("%s a view of 2,000 VMs: %v", engine, time.Since(at))
		stop()
	}
}

// TestPlaceholders: they are made, repaired, vacated and put back, and go with their
// domain; what has their name and is none is left alone, and told.
func TestPlaceholders(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := fake.Filled("a", 12), fake.New("b")
		b.Furnish(site.Inventory{Networks: []site.Network{{Ref: "dr"}}, Folders: []site.Folder{{Ref: "recovered"}}, Pools: []site.Pool{{Ref: "pool-b"}}})
		r := newRig(t, url, a)
		r.base()
		foreign := site.VM{ID: fake.ID("b", "foreign"), Ref: "vm-00003"}
		b.Put(foreign)
		r.keep("a", a)
		k, _ := r.keep("b", b)
		r.same("a", a)
		r.put(domain("erp", nil, "vm-00000", "vm-00003"))
		state := func(name string, want site.PlaceholderState) {
			t.Helper()
			r.until(name+" is "+string(want), func(tx *db.Tx) (bool, error) {
				rows, err := inventory.Placeholders(t.Context(), tx, "b", "")
				for _, row := range rows {
					if row.Ref == site.Ref(name) {
						return row.State == want, err
					}
				}
				return want == "none", err
			})
		}
		r.poke(b)
		state("vm-00000", site.PlaceholderPresent)
		vm, other := fake.ID("a", "vm-00000"), fake.ID("a", "vm-00003")
		id := inventory.PlaceholderID("b", vm)
		if got := find(b, id); got == nil || got.Folder != "recovered" || len(got.NICs) != 1 || got.NICs[0].Network != "dr" || got.PlaceholderFor != vm {
			t.Fatalf("the placeholder: %+v", got)
		}
		r.until("the alarm holds", func(*db.Tx) (bool, error) { return r.holds(alarm.PlaceholderFails, "b/"+other.String()), nil })
		b.Remove(foreign.ID)
		r.tx(func(tx *db.Tx) error { _, err := inventory.Repair(t.Context(), tx, "b", "erp"); return err })
		r.poke(b)
		state("vm-00003", site.PlaceholderPresent)
		r.until("the alarm ends", func(*db.Tx) (bool, error) { return !r.holds(alarm.PlaceholderFails, "b/"+other.String()), nil })
		// Somebody changes one, somebody removes one.
		b.Change(id, func(vm *site.VM) { vm.Folder = "elsewhere" })
		b.Remove(inventory.PlaceholderID("b", other))
		r.until("both are as they should be", func(*db.Tx) (bool, error) {
			p, q := find(b, id), find(b, inventory.PlaceholderID("b", other))
			return p != nil && p.Folder == "recovered" && q != nil, nil
		})
		if err := k.Vacate(t.Context(), vm); err != nil {
			t.Fatal(err)
		}
		if find(b, id) != nil {
			t.Error("a placeholder is in its VM's way")
		}
		r.poke(b)
		state("vm-00000", site.PlaceholderUsed)
		r.tx(func(tx *db.Tx) error { return inventory.Restore(t.Context(), tx, "b", vm) })
		r.poke(b)
		state("vm-00000", site.PlaceholderPresent)
		r.tx(func(tx *db.Tx) error {
			_, err := r.cat.Delete(t.Context(), tx, site.KindDomain, "erp", dr.UUID{}, 0, "test")
			return err
		})
		r.poke(b)
		state("vm-00000", "none")
		if left := b.IDs(); len(left) != 1 { // the one that poke made
			t.Errorf("left at the site: %v", b.Has().VMs)
		}
	})
}

// poke makes something happen at a site, so that its keeper looks at everything.
func (r *rig) poke(p *fake.Provider) {
	id := fake.ID("b", "poke")
	p.Put(site.VM{ID: id, Ref: "poke", CPUs: int(time.Now().UnixNano() & 0xffffff)})
}

func find(p *fake.Provider, id dr.VMID) *site.VM {
	vms := p.Has().VMs
	if i := slices.IndexFunc(vms, func(vm site.VM) bool { return vm.ID == id }); i >= 0 {
		return &vms[i]
	}
	return nil
}
