package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/meter"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/storetest/fault"
)

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]string{
		"file:///var/lib/c":      "/var/lib/c",
		"file:///var/lib/../c//": "/var/c",
		"file:///":               "/",
		"FILE:///x":              "/x",
		"file:///a%20b%23c%3Fd":  "/a b#c?d",
		"file:///ä":              "/ä",
	} {
		u, err := store.ParseURL(raw)
		if err != nil || u.Scheme != "file" || u.Path != want {
			t.Errorf("%s: got %+v, %v; want %q", raw, u, err, want)
			continue
		}
		if again, err := store.ParseURL(u.String()); err != nil || again != u {
			t.Errorf("%s: written as %s, read as %+v, %v", raw, u, again, err)
		}
	}
	for raw, remedy := range map[string]string{
		"":                  "file:///absolute/path",
		"/backup/c":         "file:///backup/c",
		"backup/c":          "file:///absolute/path",
		"file://backup/c":   "three slashes",
		"file://":           "three slashes",
		"file:backup":       "three slashes",
		"file:///a?b=c":     "%3F",
		"file:///a?":        "%3F",
		"file:///a#b":       "%23",
		"file:///a%00b":     "file:///absolute/path",
		"file://u:p@/a":     "file:///absolute/path",
		"ftp://host/prefix": "stores that exist: file, azblob, s3",
		"://":               "file:///absolute/path",
		"file:///%zz":       "file:///absolute/path",
		"C:\\backup":        "file:///absolute/path",
		"file:///a\x7fb":    "file:///absolute/path",
	} {
		u, err := store.ParseURL(raw)
		if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), remedy) {
			t.Errorf("%q: got %+v, %v (remedy %q), want a remedy with %q", raw, u, err, errs.RemedyOf(err), remedy)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"file:///a/b", "s3://x", "s3://bkt/p?endpoint=http://h&region=r&path-style=true&ca=/f", "azblob://acct1/cont/p?endpoint=http://h/a", "/a", "file://%", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := store.ParseURL(raw)
		if err != nil {
			return
		}
		if u.Scheme == store.SchemeFile && !strings.HasPrefix(u.Path, "/") {
			t.Fatalf("path %q is not absolute", u.Path)
		}
		if again, err := store.ParseURL(u.String()); err != nil || again != u {
			t.Fatalf("%+v is written as %s and read as %+v, %v", u, u, again, err)
		}
	})
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"a/b", "..", "t/0a/j/00", "a//b", "", "/", ".x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if store.CheckKey("test", key) != nil {
			return
		}
		for _, e := range strings.Split(key, "/") {
			if e == "" || e[0] == '.' {
				t.Fatalf("key %q passed", key)
			}
		}
		if store.CheckList("test", key, 1) != nil {
			t.Fatalf("key %q is no prefix", key)
		}
	})
}

func TestAsLocker(t *testing.T) {
	locking, plain := mem.New(), looping{mem.New()}
	if _, ok := store.AsLocker(plain); ok {
		t.Error("a store without locks is taken for one with")
	}
	if _, ok := store.AsLocker(retry.New(meter.New(plain), retry.Options{})); ok {
		t.Error("wrappers lend a store locks it does not have")
	}
	if _, ok := store.AsLocker(retry.New(hiding{locking}, retry.Options{})); ok {
		t.Error("locks go around a wrapper that does not know them")
	}
	if _, ok := store.AsLocker(unlocked{locking}); ok {
		t.Error("a store that declares no locks is taken for one with")
	}
	outer := retry.New(meter.New(locking), retry.Options{})
	if l, ok := store.AsLocker(outer); !ok || l != store.Locker(outer) {
		t.Errorf("got %T, %v, want the outermost wrapper", l, ok)
	}
	_, err := store.LockerOf("test", "k", plain)
	if !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// hiding is a wrapper that does not know of locks.
type hiding struct{ store.Store }

func (h hiding) Unwrap() store.Store { return h.Store }

// unlocked is a driver whose container has no locks.
type unlocked struct{ *mem.Store }

func (unlocked) Capabilities() store.Capabilities { return store.Capabilities{} }

func TestLockExtended(t *testing.T) {
	early, late := time.Unix(1000, 0), time.Unix(2000, 0)
	for _, c := range []struct{ is, by, want store.Lock }{
		{store.Lock{}, store.Lock{}, store.Lock{}},
		{store.Lock{}, store.Lock{Mode: "compliance", Until: late}, store.Lock{Mode: "compliance", Until: late}},
		{store.Lock{Mode: "governance", Until: late}, store.Lock{Mode: "governance", Until: early}, store.Lock{Mode: "governance", Until: late}},
		{store.Lock{Mode: "governance", Until: early}, store.Lock{Mode: "compliance", Until: late}, store.Lock{Mode: "governance", Until: late}},
		{store.Lock{Mode: "compliance", Until: early}, store.Lock{Mode: "governance", Until: late}, store.Lock{Mode: "compliance", Until: late}},
	} {
		if got := c.is.Extended(c.by); got != c.want {
			t.Errorf("%v by %v: got %v", c.is, c.by, got)
		}
	}
}

func TestWalk(t *testing.T) {
	st := mem.New()
	var keys []string
	for i := range 2 * store.MaxList { // ends exactly at a page's end
		keys = append(keys, fmt.Sprintf("w/%05d", i))
		if err := st.Create(t.Context(), keys[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	collect := func(i store.Info) error { got = append(got, i.Key); return nil }
	if err := store.Walk(t.Context(), st, "w/", collect); err != nil || !slices.Equal(got, keys) {
		t.Fatalf("%d keys, %v", len(got), err)
	}

	stop := errors.New("enough")
	n := 0
	err := store.Walk(t.Context(), st, "w/", func(store.Info) error {
		if n++; n == 1500 {
			return stop
		}
		return nil
	})
	if err != stop || n != 1500 {
		t.Fatalf("stopped with %v after %d", err, n)
	}

	f := fault.New(st)
	f.Add(fault.Rule{Op: fault.List, Skip: 1, Do: fault.Fail(errs.Denied)})
	if err := store.Walk(t.Context(), f, "w/", collect); !errs.Is(err, errs.Denied) {
		t.Fatalf("got %v", err)
	}
	if err := store.Walk(t.Context(), looping{st}, "w/", collect); !errs.Is(err, errs.Internal) {
		t.Fatalf("a store that repeats its first page: %v", err)
	}
}

// looping ignores after, as a broken store would.
type looping struct{ store.Store }

func (l looping) List(ctx context.Context, prefix, _ string, limit int) ([]store.Info, error) {
	return l.Store.List(ctx, prefix, "", limit)
}
