package auth

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

const goodPassword = "crow lamp tundra 7"

// rig is an Auth on a database.
type rig struct {
	*Auth
	t   *testing.T
	ctx context.Context
}

func each(t *testing.T, f func(*rig)) {
	dbtest.Each(t, func(t *testing.T, u string) {
		d, err := db.Open(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		f(&rig{New(Options{DB: d, cheap: true}), t, t.Context()})
	})
}

func (r *rig) tx(f func(*db.Tx) error) error { return r.db.Tx(r.ctx, f) }

func (r *rig) must(f func(*db.Tx) error) {
	r.t.Helper()
	if err := r.tx(f); err != nil {
		r.t.Fatal(err)
	}
}

// sql runs a statement that no program of ours would: the test's clock, mostly.
func (r *rig) sql(query string, args ...any) {
	r.t.Helper()
	r.must(func(tx *db.Tx) error { _, err := tx.Exec(r.ctx, query, args...); return err })
}

func (r *rig) user(name string, grants ...Grant) User {
	r.t.Helper()
	h, err := r.Hash(r.ctx, name, goodPassword)
	if err != nil {
		r.t.Fatal(err)
	}
	var u User
	r.must(func(tx *db.Tx) error { u, err = Create(r.ctx, tx, User{Name: name, Grants: grants}, h); return err })
	return u
}

func (r *rig) login(name string) (*Principal, string) {
	r.t.Helper()
	p, secret, err := r.Login(r.ctx, name, goodPassword, "192.0.2.7:4000", "test")
	if err != nil {
		r.t.Fatal(err)
	}
	return p, secret
}

// ask makes a request with headers "Name: value" and authenticates it.
func (r *rig) ask(method string, headers ...string) (*Principal, error) {
	req := httptest.NewRequest(method, "https://msa/api/v1/plans", nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return r.Authenticate(r.ctx, req)
}

func cookie(secret string) string { return "Cookie: " + SessionCookie + "=" + secret }

func TestMatrix(t *testing.T) {
	seen := map[Permission]bool{}
	for _, l := range Matrix() {
		if seen[l.Permission] || !l.Permission.Valid() {
			t.Errorf("%s is twice", l.Permission)
		}
		seen[l.Permission] = true
		if l.Permission != BoxBeat && l.Permission != PeerBeat && !Admin.Has(l.Permission) {
			t.Errorf("an admin has not got %s", l.Permission)
		}
	}
	for _, k := range site.Kinds() {
		if !seen[Reading(k)] || !seen[Writing(k)] {
			t.Errorf("kind %s has no permission", k)
		}
	}
	// The separations the product promises, said once more than the table does.
	for _, c := range []struct {
		role Role
		may  string
		not  string
	}{
		{Viewer, "plan.read run.read token.own", "plan.test plan.write audit.read user.read secret.read domain.operate"},
		{Auditor, "audit.read user.read plan.read", "plan.test plan.run user.admin secret.read alarm.write"},
		{TestOperator, "plan.test", "plan.run plan.reprotect plan.approve plan.write domain.write"},
		{PlanAuthor, "plan.write plan.test mappings.write", "plan.run plan.reprotect plan.approve domain.write user.admin"},
		{ProtectionAdmin, "domain.write store.write secret.write", "plan.write plan.test plan.run user.admin appliance.write"},
		{RecoveryAdmin, "plan.test plan.run plan.reprotect plan.approve", "plan.write domain.write mappings.write user.admin secret.write"},
		{boxRole, "appliance.beat", "plan.read site.read peer.beat inventory.read"},
		{peerRole, "peer.beat site.read domain.read", "appliance.beat plan.run secret.read user.read audit.read store.read"},
		{"nobody", "", "plan.read"},
	} {
		for p := range strings.FieldsSeq(c.may) {
			if !c.role.Has(Permission(p)) {
				t.Errorf("%s has not got %s", c.role, p)
			}
		}
		for p := range strings.FieldsSeq(c.not) {
			if c.role.Has(Permission(p)) {
				t.Errorf("%s has %s", c.role, p)
			}
			if !Permission(p).Valid() {
				t.Errorf("%s is no permission", p)
			}
		}
	}
}

func TestRolesDocument(t *testing.T) {
	b, err := os.ReadFile("../../../docs/operate/roles.md")
	if err != nil || !strings.Contains(string(b), Markdown()) {
		t.Errorf("docs/operate/roles.md has not got the table of Markdown(): %v\n%s", err, Markdown())
	}
}

func TestFolders(t *testing.T) {
	p := &Principal{grants: []Grant{{TestOperator, "erp/prod"}, {Viewer, "web"}}}
	for _, c := range []struct {
		perm   Permission
		folder site.Ref
		want   bool
	}{
		{PlanTest, "erp/prod", true}, {PlanTest, "erp/prod/db", true}, {PlanTest, "erp", false}, {PlanTest, "", false},
		{PlanTest, "erp/prod2", false}, {PlanTest, "web", false}, {PlanRead, "web/a", true}, {PlanRun, "erp/prod", false},
	} {
		if got := p.May(c.perm, c.folder); got != c.want {
			t.Errorf("%s in %q: %v", c.perm, c.folder, got)
		}
	}
	if !p.Anywhere(PlanTest) || p.Anywhere(PlanRun) || (*Principal)(nil).Anywhere(PlanRead) || (*Principal)(nil).May(PlanRead, "") {
		t.Error("anywhere")
	}
	// A token may what both its holder and its scope allow.
	p.limited, p.scope = true, []Grant{{Viewer, ""}}
	if p.May(PlanTest, "erp/prod") || !p.May(PlanRead, "erp/prod") || p.May(PlanRead, "hr") || p.Anywhere(PlanTest) || !p.Anywhere(PlanRead) {
		t.Error("the scope does not limit")
	}
	p.scope = []Grant{{Admin, "hr"}}
	if p.May(PlanRead, "hr") || p.Anywhere(PlanRead) {
		t.Error("a scope allows what the holder may not")
	}
	p.scope = nil
	if p.May(PlanRead, "web") || p.Anywhere(PlanRead) {
		t.Error("a token without a scope may something")
	}
	for f, want := range map[site.Ref]bool{"": true, "a/b": true, "a//b": false, "/a": false, "a/": false, "a/../b": false, ".": false, "a\x00": false} {
		if ValidFolder(f) != want {
			t.Errorf("folder %q: %v", f, !want)
		}
	}
}

func TestPasswords(t *testing.T) {
	for p, want := range map[string]bool{
		goodPassword: true, "correct horse battery staple": true, "pÄßwörter sind schön": true,
		"short": false, "aaaaaaaaaaaaaaaa": false, "abcabcabcabcabc": false, "password1234": false, "Holdfast2026!": false,
		"alice-alice-1": false, "qwertyuiop12": false, "crow\x00lamp tundra 7": false, "crow lamp\ntundra 7": false, "four words at random": false, "Four words at random!": false,
		"\xff\xfe crow lamp tundra": false, strings.Repeat("ab cd ef ", 40): false, "Passw0rd2025!": false, "121212121212": false,
	} {
		if err := checkPassword("alice", p); (err == nil) != want || err != nil && errs.RemedyOf(err) == "" {
			t.Errorf("%q: %v", p, err)
		}
		if err := checkPassword("alice", p); err != nil && len(p) > 8 && strings.Contains(err.Error(), p) {
			t.Errorf("the refusal tells the password: %v", err)
		}
	}
}

func TestHash(t *testing.T) {
	h := newHasher(cost{64, 1, 1})
	text, err := h.make(t.Context(), goodPassword)
	if err != nil || !strings.HasPrefix(text, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatal(text, err)
	}
	if again, _ := h.make(t.Context(), goodPassword); again == text {
		t.Error("two hashes have one salt")
	}
	ok, stale, err := h.verify(t.Context(), goodPassword, text)
	if !ok || stale || err != nil {
		t.Error(ok, stale, err)
	}
	if ok, _, _ := h.verify(t.Context(), goodPassword+" ", text); ok {
		t.Error("another password is taken")
	}
	if ok, _, _ := h.verify(t.Context(), "", ""); ok {
		t.Error("nobody's password is taken")
	}
	h.cost.passes = 2
	if ok, stale, _ := h.verify(t.Context(), goodPassword, text); !ok || !stale {
		t.Error("a cheap hash is not told")
	}
	if _, _, err := h.verify(t.Context(), "x", strings.Replace(text, "m=64", "m=4294967295", 1)); !errs.Is(err, errs.Corrupt) {
		t.Errorf("a hash that would take all memory: %v", err)
	}
	if fullCost.memory < 47104 || fullCost.passes < 1 || newHasher(fullCost).dummy.memory != fullCost.memory {
		t.Error("the cost is below what OWASP asks for")
	}
}

func TestHashesAreBounded(t *testing.T) {
	h := newHasher(cost{64, 1, 1})
	for range hashAtOnce {
		h.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range hashWaiting {
		wg.Go(func() {
			if _, err := h.make(ctx, "x"); !errs.Is(err, errs.Canceled) {
				t.Error(err)
			}
		})
	}
	for h.waiting.Load() < hashWaiting { // they are all in the queue
		time.Sleep(time.Millisecond)
	}
	if _, err := h.make(ctx, "x"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("one more waits: %v", err)
	}
	cancel()
	wg.Wait()
}

func FuzzParseHash(f *testing.F) {
	f.Add(hashed{cost{64, 1, 1}, make([]byte, 16), make([]byte, 32)}.String())
	f.Add("$argon2id$v=19$m=1,t=1,p=300$c2FsdHNhbHQ$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s)
		if err == nil && (h.memory > mostMemory || h.passes > mostPasses || h.threads > mostThreads || h.threads == 0) {
			t.Errorf("%q: %+v", s, h.cost)
		}
	})
}

func TestUsers(t *testing.T) {
	each(t, func(r *rig) {
		admin := r.user("root.admin", Grant{Admin, ""})
		r.user("alice", Grant{Viewer, "erp"}, Grant{Viewer, "erp"})
		h, _ := r.Hash(r.ctx, "alice", goodPassword)
		if err := r.tx(func(tx *db.Tx) error { _, err := Create(r.ctx, tx, User{Name: "alice"}, h); return err }); !errs.Is(err, errs.Exists) {
			r.t.Errorf("twice: %v", err)
		}
		if err := r.tx(func(tx *db.Tx) error { _, err := Create(r.ctx, tx, User{Name: "bob"}, h); return err }); !errs.Is(err, errs.Invalid) {
			r.t.Errorf("a password checked for another user: %v", err)
		}
		for _, bad := range []User{{Name: ""}, {Name: "A"}, {Name: "a b"}, {Name: "peer/x"}, {Name: "-a"}, {Name: strings.Repeat("a", 200)},
			{Name: "a", Grants: []Grant{{"god", ""}}}, {Name: "a", Grants: []Grant{{boxRole, ""}}}, {Name: "a", Grants: []Grant{{Viewer, "a//b"}}},
			{Name: "a", Grants: make([]Grant, 100)}, {Name: "a", Title: strings.Repeat("x", 300)}} {
			if err := r.tx(func(tx *db.Tx) error { _, err := Create(r.ctx, tx, bad, Hash{user: bad.Name, text: "x"}); return err }); !errs.Is(err, errs.Invalid) {
				r.t.Errorf("%+v: %v", bad, err)
			}
		}
		// Nobody takes the last admin away, in whatever way.
		for name, f := range map[string]func(*db.Tx) error{
			"delete":  func(tx *db.Tx) error { return Delete(r.ctx, tx, admin.Name) },
			"disable": func(tx *db.Tx) error { u := admin; u.Disabled = true; _, err := Update(r.ctx, tx, u); return err },
			"demote":  func(tx *db.Tx) error { u := admin; u.Grants = nil; _, err := Update(r.ctx, tx, u); return err },
			"folder": func(tx *db.Tx) error {
				u := admin
				u.Grants = []Grant{{Admin, "erp"}}
				_, err := Update(r.ctx, tx, u)
				return err
			},
		} {
			if err := r.tx(f); !errs.Is(err, errs.Conflict) {
				r.t.Errorf("%s the last admin: %v", name, err)
			}
		}
		// A lost update is refused.
		u := admin
		u.Title = "first"
		r.must(func(tx *db.Tx) error { _, err := Update(r.ctx, tx, u); return err })
		if err := r.tx(func(tx *db.Tx) error { _, err := Update(r.ctx, tx, u); return err }); !errs.Is(err, errs.Conflict) {
			r.t.Errorf("a lost update: %v", err)
		}
		r.must(func(tx *db.Tx) error {
			list, err := List(r.ctx, tx, "", 10)
			if len(list) != 2 || list[0].Name != "alice" || len(list[0].Grants) != 1 || list[1].Title != "first" {
				r.t.Errorf("%+v", list)
			}
			return err
		})
	})
}

// TestTwoAdminsAtOnce: two admins who demote each other at the same time leave one.
func TestTwoAdminsAtOnce(t *testing.T) {
	each(t, func(r *rig) {
		for i := range 5 {
			a, b := r.user(fmt.Sprintf("a%d", i), Grant{Admin, ""}), r.user(fmt.Sprintf("b%d", i), Grant{Admin, ""})
			if i > 0 {
				r.sql(`UPDATE users SET disabled = 1 WHERE name NOT IN ($1, $2)`, a.Name, b.Name)
			}
			var wg sync.WaitGroup
			results := make(chan error, 2)
			for _, u := range []User{a, b} {
				u.Grants = nil
				wg.Go(func() { results <- r.tx(func(tx *db.Tx) error { _, err := Update(r.ctx, tx, u); return err }) })
			}
			wg.Wait()
			if x, y := <-results, <-results; (x == nil) == (y == nil) {
				r.t.Fatalf("%v and %v", x, y)
			}
		}
	})
}

func TestSetup(t *testing.T) {
	each(t, func(r *rig) {
		var first, second string
		r.must(func(tx *db.Tx) (err error) { first, err = NeedsSetup(r.ctx, tx); return err })
		r.must(func(tx *db.Tx) (err error) { second, err = NeedsSetup(r.ctx, tx); return err }) // another replica
		h, err := r.Hash(r.ctx, "root", goodPassword)
		if err != nil {
			r.t.Fatal(err)
		}
		use := func(token string) error {
			return r.tx(func(tx *db.Tx) error { _, err := Setup(r.ctx, tx, token, h); return err })
		}
		if err := use("hfs_guess"); !errs.Is(err, errs.Denied) {
			r.t.Errorf("a guess: %v", err)
		}
		// Of many at once one has it.
		var wg sync.WaitGroup
		results := make(chan error, 6)
		for range cap(results) {
			wg.Go(func() { results <- use(first) })
		}
		wg.Wait()
		won := 0
		for range cap(results) {
			switch err := <-results; {
			case err == nil:
				won++
			case !errs.Is(err, errs.Denied):
				r.t.Error(err)
			}
		}
		if won != 1 {
			r.t.Errorf("%d of %d used one token", won, cap(results))
		}
		if err := use(second); !errs.Is(err, errs.Denied) {
			r.t.Errorf("the other replica's token outlives the set-up: %v", err)
		}
		r.must(func(tx *db.Tx) error {
			token, err := NeedsSetup(r.ctx, tx)
			if token != "" {
				r.t.Error("a set-up that is done is asked for again")
			}
			return err
		})
		// Whoever stands at the machine gets back in, and whoever was in is out.
		_, session := r.login("root")
		var again string
		r.must(func(tx *db.Tx) (err error) { again, err = MintSetup(r.ctx, tx); return err })
		r.sql(`UPDATE users SET disabled = 1`)
		if err := use(again); err != nil {
			r.t.Error(err)
		}
		if _, err := r.ask("GET", cookie(session)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("the session before: %v", err)
		}
		r.login("root")
		// Too old.
		r.must(func(tx *db.Tx) (err error) { again, err = MintSetup(r.ctx, tx); return err })
		r.sql(`UPDATE single_tokens SET expires_at = created_at - 1`)
		if err := use(again); !errs.Is(err, errs.Denied) {
			r.t.Errorf("an old token: %v", err)
		}
	})
}

func TestSingleTokensHavePurposes(t *testing.T) {
	each(t, func(r *rig) {
		var s string
		r.must(func(tx *db.Tx) (err error) {
			s, err = Mint(r.ctx, tx, ForBox, "drva-1", `{"a":1}`, "root", time.Hour)
			return err
		})
		if err := r.tx(func(tx *db.Tx) error { _, err := Spend(r.ctx, tx, ForSetup, s); return err }); !errs.Is(err, errs.Denied) {
			r.t.Errorf("an enrolment's token sets up: %v", err)
		}
		// A transaction that fails has not spent it.
		broken := errs.New("x", errs.Full, "", "x")
		if err := r.tx(func(tx *db.Tx) error {
			if _, err := Spend(r.ctx, tx, ForBox, s); err != nil {
				return err
			}
			return broken
		}); err != error(broken) {
			r.t.Error(err)
		}
		r.must(func(tx *db.Tx) error {
			got, err := Spend(r.ctx, tx, ForBox, s)
			if got != (Single{"drva-1", `{"a":1}`, "root"}) {
				r.t.Errorf("%+v", got)
			}
			return err
		})
		r.must(func(tx *db.Tx) error {
			a, err := Mint(r.ctx, tx, ForBox, "x", "", "root", time.Hour)
			if err == nil {
				err = Forget(r.ctx, tx, ForBox, "x")
			}
			if err == nil {
				if _, err := Spend(r.ctx, tx, ForBox, a); !errs.Is(err, errs.Denied) {
					r.t.Errorf("a forgotten token: %v", err)
				}
			}
			return err
		})
	})
}

func TestSessions(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		r.user("alice", Grant{PlanAuthor, "erp"})
		p, secret := r.login("alice")
		if !p.Session || p.User != "alice" || !p.May(PlanWrite, "erp") {
			r.t.Errorf("%+v", p)
		}
		got, err := r.ask("GET", cookie(secret))
		if err != nil || got.User != "alice" || !got.Session || got.CSRF != p.CSRF || got.Name() != "alice" {
			r.t.Fatalf("%+v, %v", got, err)
		}
		_, other := r.login("alice")
		csrf := CSRFHeader + ": " + p.CSRF
		for name, c := range map[string]struct {
			method  string
			headers []string
			ok      bool
		}{
			"write with token":        {"POST", []string{cookie(secret), csrf}, true},
			"write without token":     {"POST", []string{cookie(secret)}, false},
			"delete without token":    {"DELETE", []string{cookie(secret)}, false},
			"another session's token": {"POST", []string{cookie(other), csrf}, false},
			"another site's page":     {"POST", []string{cookie(secret), csrf, "Sec-Fetch-Site: cross-site"}, false},
			"another origin":          {"POST", []string{cookie(secret), csrf, "Origin: https://evil.example"}, false},
			"own page":                {"PUT", []string{cookie(secret), csrf, "Sec-Fetch-Site: same-origin", "Origin: https://msa"}, true},
			"odd method":              {"GETX", []string{cookie(secret)}, false},
			"made up":                 {"GET", []string{cookie("hfc_" + strings.Repeat("A", 43))}, false},
			"hash instead of secret":  {"GET", []string{cookie(hashOf(secret))}, false},
			"long":                    {"GET", []string{cookie(strings.Repeat("A", 5000))}, false},
			"bad bearer wins":         {"GET", []string{cookie(secret), "Authorization: Bearer hft_x"}, false},
			"session as bearer":       {"POST", []string{"Authorization: Bearer " + secret}, true},
			"made up bearer":          {"GET", []string{"Authorization: Bearer hfc_x"}, false},
			"nothing":                 {"GET", nil, false},
		} {
			if _, err := r.ask(c.method, c.headers...); (err == nil) != c.ok || err != nil && !errs.Is(err, errs.Denied) {
				r.t.Errorf("%s: %v", name, err)
			}
		}
		// What an admin changes counts from the next request on.
		r.must(func(tx *db.Tx) error {
			u, err := Get(r.ctx, tx, "alice")
			if err == nil {
				u.Grants = nil
				_, err = Update(r.ctx, tx, u)
			}
			return err
		})
		if got, err := r.ask("GET", cookie(secret)); err != nil || got.May(PlanRead, "erp") {
			r.t.Errorf("grants taken away: %v", err)
		}
		// A change of password ends the others, and not one's own.
		h, _ := r.Hash(r.ctx, "alice", "another four words")
		r.must(func(tx *db.Tx) error { return SetPassword(r.ctx, tx, h, p.Keep()) })
		if _, err := r.ask("GET", cookie(other)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("another session: %v", err)
		}
		if _, err := r.ask("GET", cookie(secret)); err != nil {
			r.t.Errorf("one's own session: %v", err)
		}
		r.sql(`UPDATE user_sessions SET seen_at = seen_at - $1`, idleFor.Milliseconds())
		if _, err := r.ask("GET", cookie(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("an idle session: %v", err)
		}
	})
}

func TestSessionsEnd(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		r.user("alice")
		p, secret := r.login("root")
		_, alice := r.login("alice")
		r.must(func(tx *db.Tx) error {
			list, err := Sessions(r.ctx, tx, "root")
			if err != nil || len(list) != 1 || strings.Contains(secret, list[0].ID) {
				r.t.Fatalf("%+v, %v", list, err)
			}
			if err := EndSession(r.ctx, tx, "alice", list[0].ID); !errs.Is(err, errs.NotFound) {
				r.t.Errorf("another's session: %v", err)
			}
			return Logout(r.ctx, tx, p)
		})
		if _, err := r.ask("GET", cookie(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("after the log-out: %v", err)
		}
		r.must(func(tx *db.Tx) error {
			u, err := Get(r.ctx, tx, "alice")
			if err == nil {
				u.Disabled = true
				_, err = Update(r.ctx, tx, u)
			}
			return err
		})
		if _, err := r.ask("GET", cookie(alice)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("a disabled user: %v", err)
		}
		if _, _, err := r.Login(r.ctx, "alice", goodPassword, "192.0.2.7:1", ""); !errs.Is(err, errs.Denied) {
			r.t.Errorf("a disabled user: %v", err)
		}
		_, secret = r.login("root")
		r.sql(`UPDATE user_sessions SET expires_at = created_at`)
		if _, err := r.ask("GET", cookie(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("an old session: %v", err)
		}
		for range maxSessions + 5 {
			r.login("root")
		}
		var n int
		r.must(func(tx *db.Tx) error {
			_, err := tx.Row(r.ctx, `SELECT count(*) FROM user_sessions`, nil, &n)
			return err
		})
		if n > maxSessions {
			r.t.Errorf("%d sessions", n)
		}
		r.sql(`UPDATE user_sessions SET expires_at = created_at`)
		r.must(func(tx *db.Tx) error { return Prune(r.ctx, tx) })
		r.must(func(tx *db.Tx) error {
			_, err := tx.Row(r.ctx, `SELECT count(*) FROM user_sessions`, nil, &n)
			return err
		})
		if n != 0 {
			r.t.Errorf("%d sessions after pruning", n)
		}
	})
}

func TestTokens(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		r.user("alice", Grant{RecoveryAdmin, "erp"})
		make := func(scope []Grant, life time.Duration) (tok Token, secret string, err error) {
			err = r.tx(func(tx *db.Tx) error {
				tok, secret, err = NewToken(r.ctx, tx, "alice", "nightly test", scope, life)
				return err
			})
			return
		}
		tok, secret, err := make([]Grant{{TestOperator, ""}}, time.Hour)
		if err != nil {
			r.t.Fatal(err)
		}
		bearer := func(s string) string { return "Authorization: Bearer " + s }
		p, err := r.ask("POST", bearer(secret)) // no CSRF token: no browser sends this by itself
		if err != nil || p.Session || p.Token != tok.ID || !p.May(PlanTest, "erp") || p.May(PlanRun, "erp") || p.May(PlanTest, "web") {
			r.t.Fatalf("%+v, %v", p, err)
		}
		if p.Name() != "alice by token "+tok.ID {
			r.t.Error(p.Name())
		}
		for name, headers := range map[string][]string{
			"another secret": {bearer(secret + "x")}, "its hash": {bearer(hashOf(secret))}, "its id": {bearer(tok.ID)}, "empty": {bearer("")},
			"two": {bearer(secret), bearer(secret)}, "basic": {"Authorization: Basic " + secret}, "long": {bearer(tokenPrefix + strings.Repeat("x", 1000))},
		} {
			if _, err := r.ask("GET", headers...); !errs.Is(err, errs.Denied) {
				r.t.Errorf("%s: %v", name, err)
			}
		}
		for name, f := range map[string]func() error{
			"no scope":   func() error { _, _, err := make(nil, time.Hour); return err },
			"for ever":   func() error { _, _, err := make([]Grant{{Viewer, ""}}, 1000*24*time.Hour); return err },
			"no time":    func() error { _, _, err := make([]Grant{{Viewer, ""}}, 0); return err },
			"odd scope":  func() error { _, _, err := make([]Grant{{"god", ""}}, time.Hour); return err },
			"box's role": func() error { _, _, err := make([]Grant{{boxRole, ""}}, time.Hour); return err },
		} {
			if err := f(); !errs.Is(err, errs.Invalid) {
				r.t.Errorf("%s: %v", name, err)
			}
		}
		r.must(func(tx *db.Tx) error {
			if err := Revoke(r.ctx, tx, "root", tok.ID); !errs.Is(err, errs.NotFound) {
				r.t.Errorf("another's token: %v", err)
			}
			list, err := Tokens(r.ctx, tx, "alice")
			if len(list) != 1 || list[0].UsedAt == 0 || len(list[0].Scope) != 1 {
				r.t.Errorf("%+v", list)
			}
			return err
		})
		// Stolen and expired; revoked; its holder disabled; its holder gone.
		r.sql(`UPDATE user_tokens SET expires_at = created_at`)
		if _, err := r.ask("GET", bearer(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("expired: %v", err)
		}
		tok, secret, _ = make([]Grant{{Viewer, ""}}, time.Hour)
		r.sql(`UPDATE users SET disabled = 1 WHERE name = 'alice'`)
		if _, err := r.ask("GET", bearer(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("disabled: %v", err)
		}
		r.sql(`UPDATE users SET disabled = 0 WHERE name = 'alice'`)
		r.must(func(tx *db.Tx) error { return Revoke(r.ctx, tx, "alice", tok.ID) })
		if _, err := r.ask("GET", bearer(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("revoked: %v", err)
		}
		_, secret, _ = make([]Grant{{Viewer, ""}}, time.Hour)
		r.must(func(tx *db.Tx) error { return Delete(r.ctx, tx, "alice") })
		if _, err := r.ask("GET", bearer(secret)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("holder gone: %v", err)
		}
	})
}
