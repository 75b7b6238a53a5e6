package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// tricky are keys whose byte order differs from the order of their elements,
// and which share prefixes across element borders.
var tricky = []string{
	"a-b/x", "a.b", "a/b", "a/b-c", "a/b.c/d", "a/bb/c", "a/c/d/e", "a0", "a:b", "ab", "ab/c", "b", "a_",
	"t/00/j/0000000000000001", "t/00/j/0000000000000002", "t/00/j/000000000000000a", "t/00/head", "t/01/head",
}

func sortedTricky() []string {
	keys := slices.Clone(tricky)
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == "ab" || k == "a/b" }) // directories of others, or near it
	return slices.Sorted(slices.Values(keys))
}

// want is what List owes, computed from the whole.
func want(keys []string, prefix, after string, limit int) []string {
	out := []string{}
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after && len(out) < limit {
			out = append(out, k)
		}
	}
	return out
}

func listOrder(t *testing.T, st store.Store) {
	keys := sortedTricky()
	for i := range keys { // not in order
		key := keys[(i*7)%len(keys)]
		mustCreate(t, st, key, []byte(key))
	}
	prefixes := []string{"", "a", "a/", "a/b", "a/b.", "a/b.c", "a/b.c/", "a/b.c/d", "a/b.c/dd", "t/00/j/0000000000000", "t/0", "zz", "a/zz/", "b"}
	afters := append([]string{"", "a", "a/", "a/b", "a/b.c/", "a/b.c/d", "a/zz", "t", "t/00/j/", "zzz", "A", "\xff"}, keys...)
	for _, prefix := range prefixes {
		for _, after := range afters {
			for _, limit := range []int{1, 3, 1000} {
				got, w := list(t, st, prefix, after, limit), want(keys, prefix, after, limit)
				if !slices.Equal(got, w) {
					t.Fatalf("prefix %q after %q limit %d:\n got %q\nwant %q", prefix, after, limit, got, w)
				}
			}
		}
	}
	page, err := st.List(t.Context(), "t/00/head", "", 5)
	if err != nil || len(page) != 1 || page[0].Size != int64(len("t/00/head")) || page[0].Modified.IsZero() {
		t.Fatalf("got %+v, %v", page, err)
	}
}

func listPages(t *testing.T, st store.Store) {
	var keys []string
	for i := range 1203 {
		key := fmt.Sprintf("p/%d/%03d", i%3, i/3)
		keys = append(keys, key)
		mustCreate(t, st, key, nil)
	}
	mustCreate(t, st, "q/outside", nil)
	slices.Sort(keys)
	for _, limit := range []int{100, 401, store.MaxList} {
		var got []string
		for after := ""; ; {
			page := list(t, st, "p/", after, limit)
			got = append(got, page...)
			if len(page) < limit {
				break
			}
			after = page[len(page)-1]
		}
		if !slices.Equal(got, keys) {
			t.Fatalf("pages of %d: %d keys of %d", limit, len(got), len(keys))
		}
	}
	var walked []string
	err := store.Walk(t.Context(), st, "p/", func(info store.Info) error {
		walked = append(walked, info.Key)
		return nil
	})
	if err != nil || !slices.Equal(walked, keys) {
		t.Fatalf("walked %d keys of %d: %v", len(walked), len(keys), err)
	}
}

func listFollows(t *testing.T, st store.Store) {
	for i := range 20 {
		key := fmt.Sprintf("f/%02d", i)
		mustCreate(t, st, key, nil)
		if got := list(t, st, "f/", "", 100); len(got) != i+1 || got[i] != key {
			t.Fatalf("after creating %s: %q", key, got)
		}
	}
	for i := range 20 {
		if err := st.Delete(t.Context(), fmt.Sprintf("f/%02d", i)); err != nil {
			t.Fatal(err)
		}
		if got := list(t, st, "f/", "", 100); len(got) != 19-i {
			t.Fatalf("after deleting %d: %q", i, got)
		}
	}
}

func listLimits(t *testing.T, st store.Store) {
	for _, limit := range []int{-1, 0, store.MaxList + 1} {
		_, err := st.List(t.Context(), "", "", limit)
		wantKind(t, fmt.Sprint("limit ", limit), err, errs.Invalid)
	}
	for _, prefix := range []string{"/", "..", "../", "a/../", "A", "a//", ".x", "a/.x", "a\x00"} {
		_, err := st.List(t.Context(), prefix, "", 10)
		wantKind(t, fmt.Sprintf("prefix %q", prefix), err, errs.Invalid)
	}
}
