package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/kms"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
	"holdfast/internal/store/mem"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// clouds are stores by address, each with the credentials it takes.
type clouds struct {
	mu     sync.Mutex
	stores map[string]*mem.Store
	secret string // of AWS_SECRET_ACCESS_KEY; "": none is asked for
	away   error
}

func (c *clouds) open(_ context.Context, url string, a access.Access, _ bool) (store.Store, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return nil, c.away
	}
	if c.secret != "" && a.Getenv("AWS_SECRET_ACCESS_KEY") != c.secret {
		return nil, errs.New("clouds", errs.Denied, url, "wrong credentials")
	}
	if c.stores[url] == nil {
		c.stores[url] = mem.New()
	}
	return c.stores[url], nil
}

// rig is a manager with what the fleet needs of it.
type rig struct {
	*testing.T
	d   *db.DB
	box *seal.Box
	pki *pki.PKI
	cat catalog.Catalog
	inv inventory.Store
	rec *stats.Recorder
	f   *fleet.Fleet
}

func newRig(t *testing.T, url string, own site.Name, c *clouds, given string) *rig {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	check(t, err)
	t.Cleanup(func() { d.Close() })
	path := filepath.Join(t.TempDir(), "seal.key")
	check(t, seal.Create(durable.OS{}, path, nil))
	r := &rig{T: t, d: d, rec: stats.NewRecorder(nil)}
	r.box, err = seal.Open(t.Context(), d, durable.OS{}, path, nil)
	check(t, err)
	r.pki, err = pki.Open(t.Context(), pki.Options{DB: d, Box: r.box, Site: string(own), Names: []string{"127.0.0.1"}})
	check(t, err)
	r.cat.Views = r.inv.Views
	r.f, err = fleet.New(fleet.Options{DB: d, Box: r.box, Site: own, Inventory: &r.inv, Stats: r.rec, Release: "1", OpenStore: c.open, Given: given})
	check(t, err)
	r.tx(r.f.MakeKey)
	return r
}

func (r *rig) tx(f func(context.Context, *db.Tx) error) {
	r.Helper()
	check(r, r.d.Tx(r.Context(), func(tx *db.Tx) error { return f(r.Context(), tx) }))
}

// put configures objects, in place of what there was.
func (r *rig) put(objects ...site.Object) {
	r.Helper()
	for _, o := range objects {
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			o.Head().Version, o.Head().ID = 0, dr.UUID{}
			if was, err := catalog.Get(ctx, tx, o.Kind(), o.Head().Name); err == nil {
				o.Head().Version, o.Head().ID = was.Object.Head().Version, was.Object.Head().ID
			}
			found, _, err := r.cat.Put(ctx, tx, o, "test")
			if err != nil {
				r.Logf("%+v", found)
			}
			return err
		})
	}
}

// enrol has a box join, and beat.
func (r *rig) enrol(name site.Name, role site.Role, id string) {
	r.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(r, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	check(r, err)
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		token, err := enrol.Invite(ctx, tx, r.pki, enrol.Invitation{Name: name, Role: role, Manager: "https://127.0.0.1:1", Replace: true}, "test")
		if err != nil {
			return err
		}
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "hfe1."))
		if err != nil {
			return err
		}
		var ticket struct{ Secret string }
		if err := json.Unmarshal(b, &ticket); err != nil {
			return err
		}
		_, err = enrol.Accept(ctx, tx, r.pki, enrol.Request{Secret: ticket.Secret, CSR: base64.StdEncoding.EncodeToString(csr), BoxID: id}, "127.0.0.1:1")
		return err
	})
	r.seen(name, 0)
}

// seen has a box been heard of some time ago.
func (r *rig) seen(name site.Name, ago time.Duration) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE enrolments SET seen_at = $2, enrolled_at = $2 WHERE name = $1`, string(name), tx.Now()-ago.Milliseconds())
		return err
	})
}

func (r *rig) settle() {
	r.Helper()
	check(r, r.f.Settle(r.Context()))
	check(r, r.f.Containers(r.Context()))
	check(r, r.f.Settle(r.Context()))
}

func (r *rig) setup(name site.Name) (s *setup.Setup) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) (err error) { s, err = r.f.Setup(ctx, tx, name); return err })
	return s
}

// tell has a box tell that it is what it is told to be.
func (r *rig) tell(name site.Name) {
	r.Helper()
	s := r.setup(name)
	r.hear(name, &setup.Report{Generation: s.Generation, Started: 1})
}

func (r *rig) hear(name site.Name, report *setup.Report) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) error { return r.f.Heard(ctx, tx, name, report) })
}

// has lists the domains of a DRVA's setup.
func (r *rig) has(name site.Name) (names []site.Name) {
	r.Helper()
	for _, d := range r.setup(name).DRVA.Domains {
		names = append(names, d.Name)
	}
	return names
}

func meta(n site.Name) site.Meta { return site.Meta{Name: n} }

var (
	vm1, vm2, vm3 = dr.VMID{UUID: dr.NewUUID()}, dr.VMID{UUID: dr.NewUUID()}, dr.VMID{UUID: dr.NewUUID()}
	hostID        = dr.NewUUID()
)

// furnish configures two sites, a store, boxes, and two domains of site a.
func (r *rig) furnish() {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := inventory.Import(ctx, tx, &site.Inventory{Site: "a", Hosts: []site.Host{{Ref: "node1"}, {Ref: "node2"}},
			VMs: []site.VM{{ID: vm1, Ref: "db", Host: "node1", Running: true}, {ID: vm2, Ref: "web", Host: "node2", Running: true}, {ID: vm3, Ref: "mail", Host: "node1", Running: true}}})
		return err
	})
	keep := site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}
	r.put(&site.Site{Meta: meta("a"), Platform: site.Fake}, &site.Site{Meta: meta("b"), Platform: site.Fake, MaxBoots: 4},
		&site.Store{Meta: meta("s3"), URL: "s3://bucket/dr?region=eu-west-1", Credential: "s3"},
		&site.Appliance{Meta: meta("drva-1"), Role: site.DRVA, Site: "a", Address: "10.0.0.1:7480", LogPool: 1 << 30},
		&site.Appliance{Meta: meta("drva-2"), Role: site.DRVA, Site: "a", Address: "10.0.0.2:7480"},
		&site.Appliance{Meta: meta("host-1"), Role: site.IOFilter, Site: "a", Host: "node1"},
		&site.Appliance{Meta: meta("roc-a"), Role: site.RocVA, Site: "a"},
		&site.Appliance{Meta: meta("roc-b"), Role: site.RocVA, Site: "b"},
		&site.ProtectedDomain{Meta: meta("erp"), From: "a", To: "b", VMs: []site.Ref{"db", "web"}, Stores: []site.Name{"s3"}, Ack: "ordered", Retention: keep, Mode: site.Continuous},
		&site.ProtectedDomain{Meta: meta("mail"), From: "a", VMs: []site.Ref{"mail"}, Stores: []site.Name{"s3"}, Retention: keep},
	)
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		return r.box.Put(ctx, tx, fleet.CredentialPrefix+"s3", []byte("AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=word\n"), "test")
	})
}

func newClouds() *clouds { return &clouds{stores: map[string]*mem.Store{}, secret: "word"} }

// TestSetups: from what is configured, each box is told what it is to be.
func TestSetups(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		c := newClouds()
		r := newRig(t, url, "a", c, "")
		r.furnish()
		for _, n := range []site.Name{"drva-1", "drva-2"} {
			r.enrol(n, site.DRVA, "")
		}
		r.enrol("host-1", site.IOFilter, hostID.String())
		r.enrol("roc-a", site.RocVA, "")
		if got := r.has("drva-1"); len(got) != 0 {
			t.Fatalf("before there are containers it has %v", got)
		}
		r.settle()
		one, two := r.setup("drva-1"), r.setup("drva-2")
		if len(one.DRVA.Domains) != 1 || len(two.DRVA.Domains) != 1 || one.DRVA.Domains[0].Name != "erp" {
			t.Fatalf("placed as %v and %v", one.DRVA.Domains, two.DRVA.Domains)
		}
		d := one.DRVA.Domains[0]
		if d.Container != "s3://bucket/dr/erp?region=eu-west-1" || !strings.Contains(d.Credentials, "AWS_SECRET_ACCESS_KEY=word") || one.DRVA.Listen != "10.0.0.1:7480" || one.DRVA.LogPool != 1<<30 || d.Settings.Ack != "ordered" {
			t.Errorf("%+v", d)
		}
		id, err := journal.ParseIdentity(d.Identity)
		check(t, err)
		container, err := journal.Open(t.Context(), c.stores[d.Container], id)
		check(t, err)
		if container.Domain().ID != d.ID || container.Domain().Name != "erp" {
			t.Errorf("the container is %+v", container.Domain())
		}
		h := r.setup("host-1").Host
		if h.ID.UUID != hostID || len(h.Domains) != 2 || h.Domains[0].DRVA != "10.0.0.1:7480" || !slices.Equal(h.Domains[0].VMs, []setup.HostVM{{ID: vm1, Ref: "db"}}) {
			t.Errorf("%+v", h)
		}
		if x := r.setup("roc-a").RocVA; len(x.Domains) != 2 || x.MaxBoots != site.DefaultBoots || x.Domains[0].Mode != site.Failover {
			t.Errorf("%+v", x)
		}
		if again := r.setup("drva-1"); again.Generation != one.Generation || again.Generation == two.Generation {
			t.Error("generations are not digests")
		}
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			e, err := enrol.Get(ctx, tx, "drva-1")
			if !slices.Equal(e.Domains, []string{d.ID.String()}) {
				t.Errorf("its certificate stands for %v", e.Domains)
			}
			_, nobody := r.f.Setup(ctx, tx, "roc-b")
			if !errs.Is(nobody, errs.NotFound) {
				t.Errorf("a box of another site: %v", nobody)
			}
			return err
		})
	})
}

// TestEndpoints: boxes of a site whose hosts have a daemon each are told that of theirs.
func TestEndpoints(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	one, two := "unix:///run/one.sock", "unix:///run/two.sock"
	host := func(name site.Name, ref site.Ref) *site.Appliance {
		return &site.Appliance{Meta: meta(name), Role: site.IOFilter, Site: "a", Host: ref}
	}
	r.put(host("host-2", "node2"), host("host-3", "node3"), &site.Appliance{Meta: meta("roc-2"), Role: site.RocVA, Site: "a", Host: "node2"})
	want := func(when string, all map[site.Name]string) {
		t.Helper()
		for name, endpoints := range all {
			if got := strings.Join(r.setup(name).Endpoints, " "); got != endpoints {
				t.Errorf("%s, %s has %q, not %q", when, name, got, endpoints)
			}
		}
	}
	r.put(&site.Site{Meta: meta("a"), Platform: site.Libvirt, Endpoints: []string{one}})
	want("with one endpoint", map[site.Name]string{"host-1": one, "host-2": one, "roc-a": one})
	r.put(&site.Site{Meta: meta("a"), Platform: site.Libvirt, Endpoints: []string{one, two}})
	want("before it is known", map[site.Name]string{"host-1": "", "host-2": "", "roc-a": one, "roc-2": "", "drva-1": ""})
	hosts := func(of1, of2 string) {
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := inventory.Import(ctx, tx, &site.Inventory{Site: "a", Hosts: []site.Host{{Ref: "node1", Endpoint: of1}, {Ref: "node2", Endpoint: of2}}})
			return err
		})
	}
	hosts(two, one)
	want("found out", map[site.Name]string{"host-1": two, "host-2": one, "host-3": "", "roc-a": one, "roc-2": one, "drva-1": ""})
	hosts(one, two)
	want("exchanged", map[site.Name]string{"host-1": one, "host-2": two, "roc-2": two})
	r.put(&site.Site{Meta: meta("a"), Platform: site.Libvirt, Endpoints: []string{two, "unix:///run/three.sock"}})
	want("one is another", map[site.Name]string{"host-1": "", "host-2": two})
	r.put(&site.Site{Meta: meta("a"), Platform: site.QEMU, Endpoints: []string{one, two}})
	want("monitors of one host", map[site.Name]string{"host-1": one + " " + two, "roc-a": one + " " + two})
}

// TestMove: a drained DRVA's domains go to the other one, once it has said that it let go.
func TestMove(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url, "a", newClouds(), "")
		r.furnish()
		r.enrol("drva-1", site.DRVA, "")
		r.settle()
		old := r.setup("drva-1")
		if len(old.DRVA.Domains) != 2 {
			t.Fatalf("it has %v", old.DRVA.Domains)
		}
		r.enrol("drva-2", site.DRVA, "")
		r.put(&site.Appliance{Meta: meta("drva-1"), Role: site.DRVA, Site: "a", Address: "10.0.0.1:7480", LogPool: 1 << 30, Draining: true})
		r.settle()
		if got := append(r.has("drva-1"), r.has("drva-2")...); len(got) != 0 {
			t.Fatalf("while they leave, somebody has %v", got)
		}
		r.hear("drva-1", &setup.Report{Generation: old.Generation})
		r.settle()
		if got := r.has("drva-2"); len(got) != 0 {
			t.Fatalf("before the old one let go, the new one has %v", got)
		}
		r.tell("drva-1")
		r.settle()
		if got := r.has("drva-2"); len(got) != 2 || len(r.has("drva-1")) != 0 {
			t.Fatalf("the new one has %v", got)
		}
		// The new one is lost: the old one, which is drained no more, takes over.
		r.put(&site.Appliance{Meta: meta("drva-1"), Role: site.DRVA, Site: "a", Address: "10.0.0.1:7480", LogPool: 1 << 30})
		r.seen("drva-2", fleet.LostAfter/2)
		r.settle()
		if got := r.has("drva-2"); len(got) != 2 {
			t.Fatalf("it is not lost yet, and has %v", got)
		}
		r.seen("drva-1", 0)
		r.seen("drva-2", fleet.LostAfter*2)
		r.settle()
		if got := r.has("drva-1"); len(got) != 2 || len(r.has("drva-2")) != 0 {
			t.Fatalf("after a loss the other one has %v", got)
		}
	})
}

// TestElsewhere: a domain that was recovered at the other site, or in a recovery here,
// is in no DRVA and on no host any more.
func TestElsewhere(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	r.enrol("drva-1", site.DRVA, "")
	r.enrol("host-1", site.IOFilter, hostID.String())
	r.enrol("roc-a", site.RocVA, "")
	r.settle()
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO domain_states (domain, failover, reversed, plan, changed_at) VALUES ('erp', 'failed-over', 0, 'p', 1)`)
		return err
	})
	r.settle()
	if got := r.has("drva-1"); !slices.Equal(got, []site.Name{"mail"}) {
		t.Errorf("after a recovery elsewhere it has %v", got)
	}
	r.tell("drva-1")
	r.hear("roc-a", &setup.Report{Lives: []site.Name{"mail"}})
	r.settle()
	if got := r.has("drva-1"); len(got) != 0 {
		t.Errorf("with a recovery here it has %v", got)
	}
	if h := r.setup("host-1").Host; len(h.Domains) != 0 {
		t.Errorf("the host has %v", h.Domains)
	}
	r.hear("roc-a", &setup.Report{Started: 2}) // its agent begins anew, and has not looked yet
	r.settle()
	if got := r.has("drva-1"); len(got) != 0 {
		t.Errorf("while the recovery's appliance begins it has %v", got)
	}
	r.hear("roc-a", &setup.Report{Started: 2, Generation: "2"})
	r.settle()
	if got := r.has("drva-1"); !slices.Equal(got, []site.Name{"mail"}) {
		t.Errorf("after the recovery has ended it has %v", got)
	}
	if x := r.setup("roc-a").RocVA; len(x.Domains) != 2 {
		t.Errorf("the recovery appliance has %v", x.Domains)
	}
}

// TestOtherSite: the recovery site learns of containers it has not made, by a key that
// was given to it, and then by its own.
func TestOtherSite(t *testing.T) {
	c := newClouds()
	a := newRig(t, dbtest.SQLite(t), "a", c, "")
	a.furnish()
	a.settle()
	recovery, err := journal.NewRecoveryKey()
	check(t, err)
	b := newRig(t, dbtest.SQLite(t), "b", c, string(recovery.FileText()))
	b.furnish()
	b.enrol("roc-b", site.RocVA, "")
	b.settle()
	if x := b.setup("roc-b").RocVA; len(x.Domains) != 0 || x.MaxBoots != 4 {
		t.Fatalf("without a key it has %v", x.Domains)
	}
	// The key is one that opens the container.
	d := a.setup("roc-a").RocVA.Domains[0]
	id, err := journal.ParseIdentity(d.Identity)
	check(t, err)
	container, err := journal.Open(t.Context(), c.stores[d.Container], id)
	check(t, err)
	_, err = container.AddRecipient(t.Context(), recovery.Recipient())
	check(t, err)
	b.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE fleet_domains SET due_at = 0`)
		return err
	})
	b.settle()
	x := b.setup("roc-b").RocVA
	if len(x.Domains) != 1 || x.Domains[0].ID != d.ID || x.Domains[0].Mode != site.Continuous {
		t.Fatalf("with a key it has %v", x.Domains)
	}
	own, err := journal.ParseIdentity(x.Domains[0].Identity)
	check(t, err)
	if own.Recipient() == recovery.String() {
		t.Error("boxes get the key that was given, although the site's own would do")
	}
	_, err = journal.Open(t.Context(), c.stores[d.Container], own)
	check(t, err)
}

// keyService wraps by a byte.
type keyService byte

func (k keyService) URI() string { return fmt.Sprintf("vault://kms.example.com/transit/key%d", k) }

func (k keyService) Wrap(_ context.Context, secret, bound []byte) (kms.Wrapped, error) {
	b, err := kms.Bind(secret, bound)
	return kms.Wrapped{Version: "v1", Data: k.turn(b)}, err
}

func (k keyService) Unwrap(_ context.Context, w kms.Wrapped, bound []byte) ([]byte, error) {
	return kms.Unbind(k.turn(w.Data), bound)
}

func (k keyService) Describe(context.Context) (kms.Info, error) { return kms.Info{}, nil }

func (k keyService) turn(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ byte(k)
	}
	return out
}

// TestLentOpeners: a container that a passphrase or a key service alone opens is opened by
// it once, and by the site's own key from then on: boxes get that, and a manager that is
// not given the passphrase any more needs none.
func TestLentOpeners(t *testing.T) {
	phrase, err := journal.PassphraseRecipient("correct horse", "")
	check(t, err)
	kept, err := journal.KeyServiceRecipient(keyService(7), "")
	check(t, err)
	openers := []journal.Identity{journal.PassphraseIdentity("wrong horse"), journal.PassphraseIdentity("correct horse"), journal.KeyServiceIdentity(keyService(7))}
	for name, recipient := range map[string]journal.Recipient{"passphrase": phrase, "key service": kept} {
		t.Run(name, func(t *testing.T) {
			const url = "s3://bucket/dr/erp?region=eu-west-1"
			c := newClouds()
			st := mem.New()
			c.stores[url] = st
			_, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{recipient}})
			check(t, err)
			b := newRig(t, dbtest.SQLite(t), "b", c, "")
			b.furnish()
			b.enrol("roc-b", site.RocVA, "")
			again := func() []setup.Domain {
				t.Helper()
				b.tx(func(ctx context.Context, tx *db.Tx) error {
					_, err := tx.Exec(ctx, `UPDATE fleet_domains SET due_at = 0`)
					return err
				})
				b.settle()
				return b.setup("roc-b").RocVA.Domains
			}
			b.settle()
			if got := again(); len(got) != 0 {
				t.Fatalf("without what opens it, it has %v", got)
			}
			b.f.Openers = openers
			if got := again(); len(got) != 1 {
				t.Fatalf("with what opens it, it has %v", got)
			}
			b.f.Openers = nil
			got := again()
			if len(got) != 1 {
				t.Fatalf("afterwards it has %v", got)
			}
			id, err := journal.ParseIdentity(got[0].Identity)
			check(t, err)
			_, err = journal.Open(t.Context(), st, id)
			check(t, err)
		})
	}
}

// TestStoreAway: what cannot be made is tried again, and no DRVA is given it before.
func TestStoreAway(t *testing.T) {
	c := newClouds()
	c.away = errs.New("clouds", errs.Unavailable, "s3", "nobody answers")
	r := newRig(t, dbtest.SQLite(t), "a", c, "")
	r.furnish()
	r.enrol("drva-1", site.DRVA, "")
	r.settle()
	if got := r.has("drva-1"); len(got) != 0 {
		t.Fatalf("without containers it has %v", got)
	}
	c.away = nil
	r.settle()
	if got := r.has("drva-1"); len(got) != 0 {
		t.Fatalf("before the pause is over it was tried again: %v", got)
	}
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE fleet_domains SET due_at = 0`)
		return err
	})
	r.settle()
	if got := r.has("drva-1"); len(got) != 2 {
		t.Fatalf("when the store is back it has %v", got)
	}
}

// TestReplicas: two replicas that decide at the same moment give each domain to one box,
// and make one container of each.
func TestReplicas(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		c := newClouds()
		r := newRig(t, url, "a", c, "")
		r.furnish()
		r.enrol("drva-1", site.DRVA, "")
		r.enrol("drva-2", site.DRVA, "")
		other, err := fleet.New(fleet.Options{DB: r.d, Box: r.box, Site: "a", Inventory: &r.inv, OpenStore: c.open})
		check(t, err)
		r.tx(other.MakeKey) // there is one
		var wg sync.WaitGroup
		for _, f := range []*fleet.Fleet{r.f, other, r.f, other} {
			wg.Go(func() {
				for range 3 {
					if err := f.Settle(t.Context()); err != nil {
						t.Error(err)
					}
					if err := f.Containers(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		r.settle()
		one, two := r.has("drva-1"), r.has("drva-2")
		if all := slices.Sorted(slices.Values(append(one, two...))); !slices.Equal(all, []site.Name{"erp", "mail"}) {
			t.Errorf("given are %v and %v", one, two)
		}
		for url, st := range c.stores {
			if d, err := journal.ReadDomain(t.Context(), st); err != nil || !strings.Contains(url, d.Name) {
				t.Errorf("%s: %+v, %v", url, d, err)
			}
		}
	})
}

// TestMany: what a box is to be is said fast at a site of 200 domains and 2,000 VMs.
func TestMany(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	inv := site.Inventory{Site: "a", Hosts: []site.Host{{Ref: "node1"}}}
	for range 2000 {
		id := dr.VMID{UUID: dr.NewUUID()}
		inv.VMs = append(inv.VMs, site.VM{ID: id, Ref: site.Ref(id.String()), Host: "node1", Running: true})
	}
	r.tx(func(ctx context.Context, tx *db.Tx) error { _, err := inventory.Import(ctx, tx, &inv); return err })
	r.put(&site.Site{Meta: meta("a"), Platform: site.Fake}, &site.Store{Meta: meta("s"), URL: "file:///srv/dr"}, &site.Appliance{Meta: meta("host-1"), Role: site.IOFilter, Site: "a", Host: "node1"})
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		for i := range 200 {
			d := &site.ProtectedDomain{Meta: meta(site.Name(fmt.Sprintf("d%03d", i))), From: "a", Stores: []site.Name{"s"}}
			for _, vm := range inv.VMs[10*i : 10*i+10] {
				d.VMs = append(d.VMs, vm.Ref)
			}
			body, err := json.Marshal(d)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO objects (kind, name, id, version, folder, body, changed_at, changed_by) VALUES ('domain', $1, $2, 1, '', $3, 0, '')`, string(d.Name), dr.NewUUID().String(), string(body)); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO fleet_domains (domain, id, url, opens, checked, due_at, tries, error, remedy, kind, drva, leaving, placed_at)
				VALUES ($1, $2, 'file:///srv/dr/x', 'site', '', 0, 0, '', '', '', 'drva-1', 0, 0)`, string(d.Name), dr.NewUUID().String()); err != nil {
				return err
			}
		}
		return nil
	})
	r.setup("host-1") // it reads the inventory
	began := time.Now()
	const times = 20
	for range times {
		if s := r.setup("host-1"); len(s.Host.Domains) != 200 || len(s.Host.Domains[0].VMs) != 10 {
			t.Fatalf("it has %d domains", len(s.Host.Domains))
		}
	}
	each := time.Since(began) / times
	t.Logf("a setup of 200 domains and 2,000 VMs takes %s", each)
	if each > 5*time.Second { // only what is quadratic is that slow, on whatever machine
		t.Errorf("a setup takes %s", each)
	}
}
