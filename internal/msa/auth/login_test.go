package auth

import (
	"fmt"
	"sync"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
)

func (r *rig) try(name, password, remote string) error {
	_, _, err := r.Login(r.ctx, name, password, remote, "")
	return err
}

func TestLockOut(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		for i := range failuresPair {
			if err := r.try("root", "wrong", fmt.Sprintf("198.51.100.1:%d", 1000+i)); !errs.Is(err, errs.Denied) {
				r.t.Fatalf("attempt %d: %v", i, err)
			}
		}
		// Locked: the right password does not open, and what is told is when.
		err := r.try("root", goodPassword, "198.51.100.1:9")
		if !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
			r.t.Errorf("locked: %v", err)
		}
		r.must(func(tx *db.Tx) error {
			told, _, err := alarm.Events(r.ctx, tx, "", 10)
			if len(told) != 1 || told[0].Code != alarm.LoginBlocked || told[0].Object != "user root" {
				r.t.Errorf("told are %+v", told)
			}
			return err
		})
		// The user is not locked out elsewhere.
		if err := r.try("root", goodPassword, "203.0.113.9:1"); err != nil {
			r.t.Errorf("from another address: %v", err)
		}
		// Later it opens again; one more failure locks for longer.
		r.sql(`UPDATE login_failures SET locked_until = 0`)
		if err := r.try("root", "wrong", "198.51.100.1:9"); !errs.Is(err, errs.Denied) {
			r.t.Error(err)
		}
		var lock int64
		r.must(func(tx *db.Tx) error {
			_, err := tx.Row(r.ctx, `SELECT locked_until - failed_at FROM login_failures WHERE place = $1`, []any{"both 198.51.100.1 root"}, &lock)
			return err
		})
		if lock != 2*lockFirst.Milliseconds() {
			r.t.Errorf("locked for %d ms", lock)
		}
		// Success forgives the pair; a day forgives all.
		r.sql(`UPDATE login_failures SET locked_until = 0`)
		if err := r.try("root", goodPassword, "198.51.100.1:9"); err != nil {
			r.t.Error(err)
		}
		for range failuresPair - 1 {
			if err := r.try("root", "wrong", "198.51.100.1:9"); !errs.Is(err, errs.Denied) {
				r.t.Error(err)
			}
		}
		r.sql(`UPDATE login_failures SET failed_at = failed_at - $1`, forgetAfter.Milliseconds())
		if err := r.try("root", "wrong", "198.51.100.1:9"); !errs.Is(err, errs.Denied) {
			r.t.Error(err)
		}
		if err := r.try("root", goodPassword, "198.51.100.1:9"); err != nil {
			r.t.Errorf("a day later: %v", err)
		}
	})
}

// TestGuessingAtOnce: attempts at the same time are all counted before any password
// is looked at, so that not one more is looked at than in a row.
func TestGuessingAtOnce(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		var wg sync.WaitGroup
		results := make(chan error, 30)
		for range cap(results) {
			wg.Go(func() { results <- r.try("root", "wrong guess", "198.51.100.1:1") })
		}
		wg.Wait()
		looked := 0
		for range cap(results) {
			switch err := <-results; {
			case errs.Is(err, errs.Denied):
				looked++
			case !errs.Is(err, errs.Unavailable):
				r.t.Error(err)
			}
		}
		if looked != failuresPair {
			r.t.Errorf("%d passwords were looked at, not %d", looked, failuresPair)
		}
	})
}

// TestSpreadGuessing: many names from one address, and one name from many, are
// noticed too; names that nobody has are counted like the others.
func TestSpreadGuessing(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		for i := range failuresRemote {
			if err := r.try(fmt.Sprintf("user%d", i), "wrong", "198.51.100.1:1"); !errs.Is(err, errs.Denied) {
				r.t.Fatalf("%d: %v", i, err)
			}
		}
		if err := r.try("root", goodPassword, "198.51.100.1:1"); !errs.Is(err, errs.Unavailable) {
			r.t.Errorf("one address, many names: %v", err)
		}
		for i := range failuresName {
			if err := r.try("root", "wrong", fmt.Sprintf("[2001:db8:0:%x::1]:1", i)); !errs.Is(err, errs.Denied) {
				r.t.Fatalf("%d: %v", i, err)
			}
		}
		if err := r.try("root", goodPassword, "203.0.113.9:1"); !errs.Is(err, errs.Unavailable) {
			r.t.Errorf("one name, many addresses: %v", err)
		}
		// One customer's addresses of v6 are one place.
		r.sql(`DELETE FROM login_failures`)
		for i := range failuresPair {
			if err := r.try("root", "wrong", fmt.Sprintf("[2001:db8::%x]:1", i+1)); !errs.Is(err, errs.Denied) {
				r.t.Fatal(err)
			}
		}
		if err := r.try("root", goodPassword, "[2001:db8::ffff]:1"); !errs.Is(err, errs.Unavailable) {
			r.t.Errorf("another address of the same /64: %v", err)
		}
		// Odd names make one row, not one each.
		var before, after int
		count := func(n *int) {
			r.must(func(tx *db.Tx) error {
				_, err := tx.Row(r.ctx, `SELECT count(*) FROM login_failures`, nil, n)
				return err
			})
		}
		count(&before)
		for _, n := range []string{"", "A B", "\x00", "x'; DROP TABLE users", "peer/x"} {
			if err := r.try(n, "wrong", "192.0.2.99:1"); !errs.Is(err, errs.Denied) && !errs.Is(err, errs.Unavailable) {
				r.t.Errorf("%q: %v", n, err)
			}
		}
		if count(&after); after != before+2 {
			r.t.Errorf("%d rows more", after-before)
		}
	})
}

// TestStrangerForgivesNobody: one who knows one password does not use it to go on
// guessing another's.
func TestStrangerForgivesNobody(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		r.user("mallory")
		locked := false
		for range failuresPair {
			if err := r.try("root", "wrong", "198.51.100.1:1"); errs.Is(err, errs.Unavailable) {
				locked = true
			}
			if err := r.try("mallory", goodPassword, "198.51.100.1:1"); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := r.try("root", goodPassword, "198.51.100.1:1"); !errs.Is(err, errs.Unavailable) || locked {
			r.t.Errorf("guessing goes on: %v", err)
		}
	})
}

func TestRehash(t *testing.T) {
	each(t, func(r *rig) {
		r.user("root", Grant{Admin, ""})
		r.hash.passes = 2
		r.login("root")
		var text string
		r.must(func(tx *db.Tx) error {
			_, err := tx.Row(r.ctx, `SELECT password FROM users`, nil, &text)
			return err
		})
		h, err := parseHash(text)
		if err != nil || h.passes != 2 {
			r.t.Errorf("%+v, %v", h, err)
		}
		r.login("root")
	})
}

func TestApprovals(t *testing.T) {
	each(t, func(r *rig) {
		alice := &Principal{User: "alice", grants: []Grant{{RecoveryAdmin, "erp"}}}
		bob := &Principal{User: "bob", grants: []Grant{{RecoveryAdmin, "erp"}}}
		ask := func() (a Approval) {
			r.must(func(tx *db.Tx) (err error) {
				a, err = Ask(r.ctx, tx, alice, "plan erp", "disaster", "digest", "erp")
				return err
			})
			return a
		}
		decide := func(p *Principal, id string, v Verdict) error {
			return r.tx(func(tx *db.Tx) error { _, err := Decide(r.ctx, tx, p, id, v); return err })
		}
		use := func(p *Principal, id, subject, operation, digest string) error {
			return r.tx(func(tx *db.Tx) error { _, err := Use(r.ctx, tx, p, id, subject, operation, digest); return err })
		}
		want := func(what string, err error, k errs.Kind) {
			r.t.Helper()
			if !errs.Is(err, k) {
				r.t.Errorf("%s: %v", what, err)
			}
		}
		a := ask()
		want("use before", use(alice, a.ID, "plan erp", "disaster", "digest"), errs.Denied)
		want("oneself", decide(alice, a.ID, Approved), errs.Denied)
		want("oneself by token", decide(&Principal{User: "alice", Token: "t", limited: true, scope: []Grant{{Admin, ""}}, grants: alice.grants}, a.ID, Approved), errs.Denied)
		want("a tester", decide(&Principal{User: "carol", grants: []Grant{{TestOperator, ""}}}, a.ID, Approved), errs.Denied)
		want("another folder", decide(&Principal{User: "carol", grants: []Grant{{RecoveryAdmin, "web"}}}, a.ID, Approved), errs.Denied)
		want("no verdict", decide(bob, a.ID, "perhaps"), errs.Invalid)
		want("unknown", decide(bob, "x", Approved), errs.NotFound)
		if err := decide(bob, a.ID, Approved); err != nil {
			r.t.Fatal(err)
		}
		want("twice", decide(bob, a.ID, Refused), errs.Conflict)
		want("by another", use(bob, a.ID, "plan erp", "disaster", "digest"), errs.Denied)
		want("another plan", use(alice, a.ID, "plan web", "disaster", "digest"), errs.Denied)
		want("another operation", use(alice, a.ID, "plan erp", "planned", "digest"), errs.Denied)
		want("another checkpoint", use(alice, a.ID, "plan erp", "disaster", "other"), errs.Denied)
		if err := use(alice, a.ID, "plan erp", "disaster", "digest"); err != nil {
			r.t.Fatal(err)
		}
		want("used twice", use(alice, a.ID, "plan erp", "disaster", "digest"), errs.Conflict)
		a = ask()
		if err := decide(bob, a.ID, Refused); err != nil {
			r.t.Fatal(err)
		}
		want("refused", use(alice, a.ID, "plan erp", "disaster", "digest"), errs.Denied)
		a = ask()
		r.sql(`UPDATE approvals SET expires_at = asked_at WHERE id = $1`, a.ID)
		want("late", decide(bob, a.ID, Approved), errs.Conflict)
		a = ask()
		if err := decide(bob, a.ID, Approved); err != nil {
			r.t.Fatal(err)
		}
		r.sql(`UPDATE approvals SET expires_at = asked_at WHERE id = $1`, a.ID)
		want("old", use(alice, a.ID, "plan erp", "disaster", "digest"), errs.Conflict)
		r.must(func(tx *db.Tx) error {
			list, err := Approvals(r.ctx, tx, "plan erp", 10)
			if len(list) != 4 {
				r.t.Errorf("%d approvals", len(list))
			}
			return err
		})
	})
}
