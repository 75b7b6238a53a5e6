package scan_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/copies"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/site"
	"holdfast/internal/store/mem"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// manager is a manager's database.
type manager struct {
	*testing.T
	d     *db.DB
	store inventory.Store
	cat   catalog.Catalog
}

func newManager(t *testing.T, url string) *manager {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	m := &manager{T: t, d: d}
	m.cat.Views = m.store.Views
	return m
}

func (m *manager) tx(f func(ctx context.Context, tx *db.Tx) error) {
	m.Helper()
	if err := m.d.Tx(m.Context(), func(tx *db.Tx) error { return f(m.Context(), tx) }); err != nil {
		m.Fatal(err)
	}
}

func (m *manager) put(objects ...site.Object) {
	m.Helper()
	m.tx(func(ctx context.Context, tx *db.Tx) error {
		for _, o := range objects {
			if _, _, err := m.cat.Put(ctx, tx, o, "test"); err != nil {
				return err
			}
		}
		return nil
	})
}

// export is everything that is configured, as text.
func (m *manager) export() string {
	var out []byte
	m.tx(func(ctx context.Context, tx *db.Tx) error {
		all, err := catalog.All(ctx, tx)
		if err == nil {
			out, err = file.Export(all)
		}
		return err
	})
	return string(out)
}

// protected fills a manager with a site of VMs, two domains and a plan over both.
func (m *manager) protected() {
	m.Helper()
	inv := fake.Estate("a", 20)
	m.tx(func(ctx context.Context, tx *db.Tx) error { _, err := inventory.Import(ctx, tx, &inv); return err })
	domain := func(name site.Name, vms ...site.Ref) *site.ProtectedDomain {
		return &site.ProtectedDomain{Meta: site.Meta{Name: name, Folder: "prod"}, From: "a", To: "b", Stores: []site.Name{"s"}, VMs: vms,
			Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}}
	}
	m.put(
		&site.Site{Meta: site.Meta{Name: "a"}, Platform: site.Fake}, &site.Site{Meta: site.Meta{Name: "b"}, Platform: site.Fake},
		&site.Site{Meta: site.Meta{Name: "other"}, Platform: site.Fake},
		&site.Store{Meta: site.Meta{Name: "s"}, URL: "s3://h/b", Credential: "s-key"},
		domain("db", "vm-00001", "vm-00002"), domain("web", site.Ref(fake.ID("a", "vm-00003").String())),
		&mapping.Mappings{Meta: site.Meta{Name: "a-b"}, From: "a", To: "b", Networks: []mapping.NetworkPair{{From: "prod", To: "dr"}}},
		&site.RecoverySettings{Meta: site.Meta{Name: "db-1"}, Site: "b", VM: "vm-00001", CPUs: 8},
		&site.RecoverySettings{Meta: site.Meta{Name: "foreign"}, Site: "b", VM: "vm-00009", CPUs: 8},
		&plan.Plan{Meta: site.Meta{Name: "erp"}, From: "a", To: "b", Domains: []site.Name{"db", "web"}},
	)
}

// containers opens, or makes, the container of each domain.
func containers(t *testing.T, fail *error) (scan.Journals, func(site.Name) *journal.Container) {
	made := map[site.Name]*journal.Container{}
	open := func(n site.Name) *journal.Container {
		if made[n] == nil {
			key, err := journal.NewRecoveryKey()
			if err != nil {
				t.Fatal(err)
			}
			if made[n], err = journal.Create(t.Context(), mem.New(), journal.CreateOptions{Name: string(n), Recipients: []journal.Recipient{key.Recipient()}}); err != nil {
				t.Fatal(err)
			}
		}
		return made[n]
	}
	return scan.Journals{Open: func(_ context.Context, d *site.ProtectedDomain, _ site.Name) (*journal.Container, error) {
		return open(d.Name), *fail
	}}, open
}

// TestStoreIsEnough: a fresh manager that has the containers alone knows the plan, its
// domains, mappings, settings and VMs; and importing again changes nothing.
func TestStoreIsEnough(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a := newManager(t, url)
		a.protected()
		var fail error
		to, open := containers(t, &fail)
		p := &scan.Publisher{DB: a.d, Store: &a.store, To: to, Site: "a"}
		for range 2 {
			if err := p.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		read := func(n site.Name) *scan.Document {
			d, err := scan.Read(t.Context(), open(n))
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		first := read("db")
		if err := p.Once(t.Context()); err != nil || !read("db").At.Equal(first.At) {
			t.Errorf("what did not change was stored again: %v", err)
		}
		// A copy of the container in another store says the same.
		second := mem.New()
		keeper, err := copies.New(open("db"), second, copies.Options{Name: "second"})
		if err == nil {
			err = keeper.CatchUp(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if there, err := scan.Read(t.Context(), open("db").At(second)); err != nil || !reflect.DeepEqual(there, first) {
			t.Errorf("in the copy: %+v, %v", there, err)
		}
		if first, err = scan.Read(t.Context(), open("db").At(second)); err != nil {
			t.Fatal(err)
		}
		b := newManager(t, dbtest.SQLite(t))
		load := func(docs ...*scan.Document) (out *scan.Imported) {
			t.Helper()
			b.tx(func(ctx context.Context, tx *db.Tx) (err error) {
				out, err = scan.Import(ctx, tx, &b.cat, docs, "ada")
				return err
			})
			return out
		}
		// One domain alone: the plan needs the other.
		out := load(first)
		if len(out.Left) != 1 || out.Left[0].Name != "erp" || !strings.Contains(out.Left[0].Why, "domain web") || !slices.Equal(out.Sites, []site.Name{"a"}) {
			t.Errorf("left out: %+v, sites %v", out.Left, out.Sites)
		}
		if out = load(first, read("web")); len(out.Left) != 0 {
			t.Errorf("left out: %+v", out.Left)
		}
		text := b.export()
		for _, want := range []string{"kind: plan", "name: erp", "kind: mappings", "name: db-1", "credential: s-key", "folder: prod"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s was not imported:\n%s", want, text)
			}
		}
		for _, no := range []string{"foreign", "other"} {
			if strings.Contains(text, no) {
				t.Errorf("%s was imported, and is of no domain", no)
			}
		}
		b.tx(func(ctx context.Context, tx *db.Tx) error {
			pl, err := catalog.Find[*plan.Plan](ctx, tx, "erp")
			if err != nil {
				return err
			}
			v, err := b.cat.PlanView(ctx, tx, pl)
			if err == nil && (len(v.Protected.All()) != 3 || v.Protected.Networks["prod"] == nil) {
				t.Errorf("%d VMs are known of the lost site", len(v.Protected.All()))
			}
			return err
		})
		if out = load(first, read("web")); len(out.Changes.All) != 0 || len(out.Left) != 0 || b.export() != text {
			t.Errorf("importing again: %+v, %+v", out.Changes.All, out.Left)
		}
		// What was changed here stays.
		b.tx(func(ctx context.Context, tx *db.Tx) error {
			m, err := catalog.Find[*mapping.Mappings](ctx, tx, "a-b")
			if err == nil {
				m.Networks[0].To = "better"
				_, _, err = b.cat.Put(ctx, tx, m, "ada")
			}
			return err
		})
		if out = load(first); len(out.Left) != 1 || out.Left[0].Name != "a-b" || !strings.Contains(b.export(), "better") {
			t.Errorf("left out: %+v", out.Left)
		}
	})
}

// TestPublisher: what changed is stored again, a store that fails is told and tried
// again, and only what this site protects is spoken for.
func TestPublisher(t *testing.T) {
	a := newManager(t, dbtest.SQLite(t))
	a.protected()
	fail := errors.New("no such bucket")
	to, open := containers(t, &fail)
	p := &scan.Publisher{DB: a.d, Store: &a.store, To: to, Site: "a"}
	holds := func() (n int) {
		a.tx(func(ctx context.Context, tx *db.Tx) error {
			list, _, err := alarm.List(ctx, tx, false, alarm.Cursor{}, 0)
			n = len(list)
			for _, x := range list {
				if x.Code != alarm.SettingsStale {
					t.Errorf("%+v", x)
				}
			}
			return err
		})
		return n
	}
	if err := p.Once(t.Context()); err == nil || holds() != 2 {
		t.Errorf("a store that fails: %v, %d alarms", err, holds())
	}
	fail = nil
	if err := p.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := scan.Read(t.Context(), open("db")); !errs.Is(err, errs.NotFound) || errs.RemedyOf(err) == "" {
		t.Errorf("it was tried at once, or is not told so: %v", err)
	}
	later := func() {
		a.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE published SET due_at = 0`)
			return err
		})
	}
	later()
	if err := p.Once(t.Context()); err != nil || holds() != 0 {
		t.Errorf("the store is back: %v, %d alarms", err, holds())
	}
	was, err := scan.Read(t.Context(), open("db"))
	if err != nil {
		t.Fatal(err)
	}
	a.tx(func(ctx context.Context, tx *db.Tx) error {
		d, err := catalog.Find[*site.ProtectedDomain](ctx, tx, "db")
		if err == nil {
			d.Description = "changed"
			_, _, err = a.cat.Put(ctx, tx, d, "ada")
		}
		return err
	})
	if err := p.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, err := scan.Read(t.Context(), open("db")); err != nil || !strings.Contains(now.Objects, "changed") || !now.At.After(was.At) {
		t.Errorf("a change is not stored: %v", err)
	}
	elsewhere := &scan.Publisher{DB: a.d, Store: &a.store, To: scan.Journals{Open: func(context.Context, *site.ProtectedDomain, site.Name) (*journal.Container, error) {
		t.Error("a manager speaks for another site's domains")
		return nil, errors.New("no")
	}}, Site: "b"}
	if err := elsewhere.Once(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzDecode: whatever is in a container, it is a document or an error.
func FuzzDecode(f *testing.F) {
	inv := fake.Estate("a", 2)
	good := &scan.Document{Format: 1, Domain: "d", Site: "a", Objects: "apiVersion: holdfast/v1\nkind: site\nname: a\nplatform: fake\n", Inventory: inv}
	b, err := good.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte("nothing"))
	other := *good
	other.Format = 2
	if b, err = other.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := scan.Decode(b)
		if err != nil {
			if !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Invalid) {
				t.Errorf("kind %v: %v", errs.KindOf(err), err)
			}
			return
		}
		again, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if e, err := scan.Decode(again); err != nil || e.Objects != d.Objects {
			t.Errorf("a document that was read cannot be read again: %v", err)
		}
	})
}

// TestBomb: what unpacks to more than a document may have is refused.
func TestBomb(t *testing.T) {
	d := &scan.Document{Format: 1, Domain: "d", Site: "a", Objects: strings.Repeat(" ", 17<<20)}
	if _, err := d.Encode(); !errs.Is(err, errs.Invalid) {
		t.Errorf("encoding: %v", err)
	}
	if _, err := scan.Decode(bombOf(t, 64<<20)); !errs.Is(err, errs.Corrupt) {
		t.Errorf("decoding: %v", err)
	}
}

func bombOf(t *testing.T, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(bytes.Repeat([]byte(" "), n)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	return b.Bytes()
}
