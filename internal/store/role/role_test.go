package role

import (
	"maps"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/verify"
)

// all calls every operation once, on objects that are there, and returns the
// outcome of each.
func all(t *testing.T, st *Store, inner store.Store) map[Op]error {
	t.Helper()
	ctx := t.Context()
	lock := store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)}
	for _, key := range []string{"there", "away"} {
		if err := inner.Create(ctx, key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	l, ok := store.AsLocker(st)
	if !ok {
		t.Fatal("the wrapper hides locks")
	}
	got := map[Op]error{}
	got[Create] = st.Create(ctx, "new", nil)
	_, got[Read] = st.ReadRange(ctx, "there", make([]byte, 1), 0)
	_, got[Stat] = st.Stat(ctx, "there")
	_, got[List] = st.List(ctx, "", "", 1)
	got[Delete] = st.Delete(ctx, "away")
	got[CreateLocked] = l.CreateLocked(ctx, "locked", nil, lock)
	got[ExtendLock] = l.ExtendLock(ctx, "there", lock)
	_, got[ReadLock] = l.ReadLock(ctx, "there")
	return got
}

func TestRights(t *testing.T) {
	no := func(ops ...Op) map[Op]int {
		m := map[Op]int{}
		for _, op := range ops {
			m[op] = 1
		}
		return m
	}
	for role, refused := range map[Role]map[Op]int{
		Publisher:  no(Delete, ExtendLock),
		Maintainer: no(),
		Recovery:   no(Create, Delete, CreateLocked, ExtendLock),
		"":         no(Create, Read, Stat, List, Delete, CreateLocked, ExtendLock, ReadLock),
	} {
		inner := mem.New()
		st := New(inner, role)
		for op, err := range all(t, st, inner) {
			if (refused[op] == 0) != (err == nil) || err != nil && !errs.Is(err, errs.Denied) {
				t.Errorf("%s, %s: %v", role, op, err)
			}
		}
		if got := st.Refused(); !maps.Equal(got, refused) {
			t.Errorf("%s: refused %v, want %v", role, got, refused)
		}
		_, err := inner.Stat(t.Context(), "away")
		if gone := errs.Is(err, errs.NotFound); gone != (refused[Delete] == 0) {
			t.Errorf("%s: the refused deletion reached the store", role)
		}
	}
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(mem.New(), Maintainer) })
}

// TestTrialTellsRoles: the trial of a store finds out which rights there are.
func TestTrialTellsRoles(t *testing.T) {
	for role, usable := range map[Role][]verify.Role{
		Maintainer: {verify.Recovery, verify.Publisher, verify.Maintainer},
		Publisher:  {verify.Recovery, verify.Publisher},
		Recovery:   {verify.Recovery},
		"":         {},
	} {
		inner := mem.New()
		if err := inner.Create(t.Context(), "domain", []byte("content")); err != nil {
			t.Fatal(err)
		}
		r, err := verify.Run(t.Context(), New(inner, role), verify.Options{Quick: true})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, as := range verify.Roles() {
			if err := r.Usable(as); err == nil {
				n++
			} else if !errs.Is(err, errs.Denied) {
				t.Errorf("%q as %s: %v", role, as, err)
			}
		}
		if n != len(usable) {
			t.Errorf("%q is usable for %d roles, want %v", role, n, usable)
		}
		for _, as := range usable {
			if err := r.Usable(as); err != nil {
				t.Errorf("%q: %v", role, err)
			}
		}
	}
}
