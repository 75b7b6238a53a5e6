package verify

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// same connects to st again.
func same(st store.Store) func(context.Context) (store.Store, error) {
	return func(context.Context) (store.Store, error) { return st, nil }
}

func mustRun(t *testing.T, st store.Store, opts Options) *Report {
	t.Helper()
	r, err := Run(t.Context(), st, opts)
	if err != nil {
		t.Fatal(err)
	}
	if r.Used.Requests > r.Allowed.Requests || r.Used.Up > r.Allowed.Up || r.Used.Down > r.Allowed.Down {
		t.Errorf("used %+v of %+v", r.Used, r.Allowed)
	}
	return r
}

func leftBehind(t *testing.T, st store.Store) (keys []string) {
	t.Helper()
	if err := store.Walk(t.Context(), st, "", func(i store.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestGoodStores(t *testing.T) {
	d := t.TempDir()
	open := func(context.Context) (store.Store, error) { return dir.Open(d) }
	ds, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := mem.New()
	for name, c := range map[string]struct {
		st   store.Store
		opts Options
	}{
		"mem, full":           {m, Options{Connect: same(m)}},
		"mem, one connection": {m, Options{}},
		"mem, many":           {m, Options{Connect: same(m), Connections: 100, Quick: true}},
		"dir, quick":          {ds, Options{Connect: open, Quick: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var last Progress
			c.opts.Progress = func(p Progress) {
				if p.Requests != last.Requests+1 || p.Requests > p.Allowed {
					t.Errorf("progress %+v after %+v", p, last)
				}
				last = p
			}
			before := leftBehind(t, c.st)
			r := mustRun(t, c.st, c.opts)
			for _, p := range r.Properties {
				switch {
				case p.Verdict == Pass && p.Detail != "":
				case p.Name == propDurable && p.Verdict == Unknown:
				case p.Name == propLock && p.Verdict == Unknown && !c.st.Capabilities().Lock:
				default:
					t.Errorf("%s: %s (%s)", p.Name, p.Verdict, p.Detail)
				}
			}
			for _, role := range Roles() {
				if err := r.Usable(role); err != nil {
					t.Errorf("%s: %v", role, err)
				}
			}
			if len(r.Properties) != len(checks) || len(r.Latency) != 3 || r.Throughput.Up <= 0 || r.Used.Requests != last.Requests {
				t.Errorf("incomplete report: %+v", r)
			}
			locked := 0
			if c.st.Capabilities().Lock {
				locked = 1
			}
			if left := leftBehind(t, c.st); len(left) != len(before)+locked || r.LeftCount != locked {
				t.Errorf("left behind: %v; told: %d %v", left, r.LeftCount, r.Left)
			}
		})
	}
}

// TestBudgetIsTight keeps what is announced near what is used: a bound that
// is far off tells nobody anything.
func TestBudgetIsTight(t *testing.T) {
	for _, quick := range []bool{true, false} {
		st := mem.New()
		r := mustRun(t, st, Options{Quick: quick, Connect: same(st)})
		if r.Used.Requests*3 < r.Allowed.Requests || r.Used.Up*3 < r.Allowed.Up || r.Used.Down*5 < r.Allowed.Down {
			t.Errorf("quick %v: used %+v of %+v", quick, r.Used, r.Allowed)
		}
		t.Logf("quick %v: %+v of %+v", quick, r.Used, r.Allowed)
	}
}

// TestBrokenStoresAreNamed shows every kind of broken store to a full trial.
func TestBrokenStoresAreNamed(t *testing.T) {
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			st := b.make()
			r := mustRun(t, st, Options{Quick: b.property != propUnchanged, Connect: same(st)})
			p, ok := r.Property(b.property)
			if !ok || p.Verdict != Fail || p.Remedy == "" || p.Detail == "" {
				t.Errorf("%s: %+v", b.property, p)
			}
			refused := r.Refused(Maintainer)
			if len(refused) == 0 || refused[0].Name != b.property {
				t.Errorf("refused for %+v, want %s first", refused, b.property)
			}
			err := r.Usable(Maintainer)
			if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), b.property) || errs.RemedyOf(err) == "" {
				t.Errorf("usable says %v", err)
			}
			if err := r.Usable(Publisher); err == nil {
				t.Error("a publisher would use it")
			}
		})
	}
}

func TestRights(t *testing.T) {
	for name, c := range map[string]struct {
		make   func(*broken)
		usable map[Role]bool
		not    []string // properties that must be not-permitted
		left   bool
	}{
		"no delete": {
			make:   func(b *broken) { b.remove = func(_ context.Context, key string) error { return denied(key) } },
			usable: map[Role]bool{Recovery: true, Publisher: true}, not: []string{propDelete, propDeleteStays, propRecreate}, left: true,
		},
		"no create": {
			make: func(b *broken) {
				b.create = func(_ context.Context, key string, _ []byte) error { return denied(key) }
				b.remove = func(_ context.Context, key string) error { return denied(key) }
			},
			usable: map[Role]bool{Recovery: true}, not: []string{propCreate, propCreateOnce, propDelete},
		},
		"no list": {
			make: func(b *broken) {
				b.list = func(_ context.Context, prefix, _ string, _ int) ([]store.Info, error) { return nil, denied(prefix) }
			},
			usable: map[Role]bool{}, not: []string{propList},
		},
		"no read": {
			make: func(b *broken) {
				b.read = func(_ context.Context, key string, _ []byte, _ int64) (int, error) { return 0, denied(key) }
				b.stat = func(_ context.Context, key string) (store.Info, error) { return store.Info{}, denied(key) }
			},
			usable: map[Role]bool{}, not: []string{propRead},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &broken{Store: mem.New()}
			if err := b.Store.Create(t.Context(), "domain", []byte("something to read")); err != nil {
				t.Fatal(err)
			}
			c.make(b)
			r := mustRun(t, b, Options{Quick: true, Connect: same(b)})
			for _, role := range Roles() {
				err := r.Usable(role)
				if (err == nil) != c.usable[role] {
					t.Errorf("%s: %v", role, err)
				}
				if err != nil && !errs.Is(err, errs.Denied) {
					t.Errorf("%s: kind %v of %v", role, errs.KindOf(err), err)
				}
			}
			for _, name := range c.not {
				if p, _ := r.Property(name); p.Verdict != NotPermitted {
					t.Errorf("%s: %s, %s", name, p.Verdict, p.Detail)
				}
			}
			if c.left != (r.LeftCount > 1) && name != "no list" { // one may be held by its lock
				t.Errorf("left %d: %s", r.LeftCount, r.LeftWhy)
			}
			if left := leftBehind(t, b.Store); c.left && len(left) != r.LeftCount+1 {
				t.Errorf("%d objects are there, %d named", len(left)-1, r.LeftCount)
			}
		})
	}
}

func TestClockSkew(t *testing.T) {
	st := mem.New()
	for off, want := range map[time.Duration]Verdict{0: Pass, 30 * time.Second: Pass, 2 * time.Minute: Warn, -2 * time.Minute: Warn} {
		r := mustRun(t, st, Options{Quick: true, Clock: func() time.Time { return time.Now().Add(off) }})
		if p, _ := r.Property(propClock); p.Verdict != want {
			t.Errorf("off by %v: %s, %s", off, p.Verdict, p.Detail)
		}
		if err := r.Usable(Maintainer); err != nil {
			t.Errorf("off by %v: %v", off, err)
		}
	}
}

// TestUnreachable: a store that fails now and then is neither good nor bad.
func TestUnreachable(t *testing.T) {
	for name, rule := range map[string]fault.Rule{
		"a racer":  {Op: fault.Create, Skip: 10, Do: fault.Fail(errs.Transient)},
		"a list":   {Op: fault.List, Skip: 3, Do: fault.Fail(errs.Unavailable)},
		"creating": {Op: fault.Create, Times: -1, Do: fault.Fail(errs.Unavailable)},
	} {
		st := fault.New(mem.New())
		st.Add(rule)
		r := mustRun(t, st, Options{Quick: true, Connect: same(st)})
		if err := r.Usable(Publisher); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLostAnswers: what package retry makes of a winner whose answer is lost
// (all are told that it exists) is no failure.
func TestLostAnswers(t *testing.T) {
	b := &broken{Store: mem.New()}
	var lost atomic.Int32
	b.create = func(ctx context.Context, key string, body []byte) error {
		err := b.Store.Create(ctx, key, body)
		if err == nil && strings.Contains(key, "/race/") {
			lost.Add(1)
			return errs.New("broken", errs.Exists, key, "found its own object")
		}
		return err
	}
	r := mustRun(t, b, Options{Quick: true, Connect: same(b)})
	if p, _ := r.Property(propCreateOnce); p.Verdict != Pass || lost.Load() != int32(quickScale.rounds+1) {
		t.Errorf("%+v, %d lost", p, lost.Load())
	}
}

func TestCanceled(t *testing.T) {
	for _, at := range []uint64{1, 40, 120} {
		st := mem.New()
		ctx, cancel := context.WithCancel(t.Context())
		r, err := Run(ctx, st, Options{Quick: true, Connect: same(st), Progress: func(p Progress) {
			if p.Requests == at {
				cancel()
			}
		}})
		cancel()
		if !errs.Is(err, errs.Canceled) || !errors.Is(err, context.Canceled) || r == nil || len(r.Properties) == len(checks) {
			t.Errorf("at %d: %v, %+v", at, err, r)
		}
		if left := leftBehind(t, st); len(left) != 0 {
			t.Errorf("at %d: left behind %v", at, left)
		}
	}
}

func TestRefusesToTry(t *testing.T) {
	b := &broken{Store: mem.New(), caps: func(c store.Capabilities) store.Capabilities { c.CreateOnce = false; return c }}
	if _, err := Run(t.Context(), b, Options{}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), propCreateOnce) {
		t.Errorf("driver without create-once: %v", err)
	}
	no := errs.New("test", errs.Unavailable, "", "nobody there")
	_, err := Run(t.Context(), mem.New(), Options{Connect: func(context.Context) (store.Store, error) { return nil, no }})
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("no second connection: %v", err)
	}
}

// TestTables: every check has its demands, and no demand is left over.
func TestTables(t *testing.T) {
	if len(demands) != len(checks) {
		t.Errorf("%d demands, %d checks", len(demands), len(checks))
	}
	for _, c := range checks {
		if _, ok := demands[c.name]; !ok {
			t.Errorf("no demands for %s", c.name)
		}
	}
	if n := len(orderKeys(0)); n != fixedKeys {
		t.Errorf("%d fixed names", n)
	}
	if n := len(keyShapes(400)); n != shapes {
		t.Errorf("%d shapes", n)
	}
	for room := 3; room < store.MaxKey; room++ {
		for _, k := range keyShapes(room) {
			if err := store.CheckKey("test", k); err != nil {
				t.Fatalf("room %d: %v", room, err)
			}
		}
	}
	m := made{7, 1001}
	if again := string(body(made{7, 1001})); again != string(body(m)) || string(body(m)) == string(body(made{8, 1001})) || len(body(made{1, 0})) != 0 {
		t.Error("bodies")
	}
}
