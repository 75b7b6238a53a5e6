package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Run checks a driver against the contract. open returns a new, empty store
// for one subtest and arranges for its end with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"create then read", createThenRead},
		{"create once", createOnce},
		{"create race has one winner", createRace},
		{"body is not kept", bodyNotKept},
		{"empty object", emptyObject},
		{"largest object and one byte more", largestObject},
		{"ranges at the edges", ranges},
		{"missing objects", missing},
		{"list in byte order", listOrder},
		{"list in pages", listPages},
		{"list after create and delete", listFollows},
		{"list limits", listLimits},
		{"bad keys are refused", badKeys},
		{"keys that are directories of others", nestedKeys},
		{"longest keys", longestKeys},
		{"delete", deletes},
		{"delete many", deletesMany},
		{"ended context", endedContext},
		{"concurrent use", concurrent},
		{"capabilities", capabilities},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func wantKind(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errs.Is(err, kind) {
		t.Fatalf("%s: got %v, want kind %q", what, err, kind)
	}
}

func mustCreate(t *testing.T, st store.Store, key string, body []byte) {
	t.Helper()
	if err := st.Create(t.Context(), key, body); err != nil {
		t.Fatalf("create %s: %v", key, err)
	}
}

// readAll reads a whole object in one call.
func readAll(t *testing.T, st store.Store, key string) []byte {
	t.Helper()
	info, err := st.Stat(t.Context(), key)
	if err != nil {
		t.Fatalf("stat %s: %v", key, err)
	}
	p := make([]byte, info.Size+1) // one more: it must not be there
	n, err := st.ReadRange(t.Context(), key, p, 0)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return p[:n]
}

func list(t *testing.T, st store.Store, prefix, after string, limit int) []string {
	t.Helper()
	page, err := st.List(t.Context(), prefix, after, limit)
	if err != nil {
		t.Fatalf("list %q after %q: %v", prefix, after, err)
	}
	keys := []string{}
	for _, info := range page {
		keys = append(keys, info.Key)
	}
	return keys
}

func createThenRead(t *testing.T, st store.Store) {
	body := []byte("some content")
	mustCreate(t, st, "t/0a/j/0000", body)
	if got := readAll(t, st, "t/0a/j/0000"); !bytes.Equal(got, body) {
		t.Fatalf("read %q, want %q", got, body)
	}
	info, err := st.Stat(t.Context(), "t/0a/j/0000")
	if err != nil || info.Key != "t/0a/j/0000" || info.Size != int64(len(body)) || info.Modified.IsZero() {
		t.Fatalf("stat: %+v, %v", info, err)
	}
}

func createOnce(t *testing.T, st store.Store) {
	mustCreate(t, st, "a/b", []byte("first"))
	wantKind(t, "other content", st.Create(t.Context(), "a/b", []byte("second")), errs.Exists)
	wantKind(t, "same content", st.Create(t.Context(), "a/b", []byte("first")), errs.Exists)
	if got := readAll(t, st, "a/b"); string(got) != "first" {
		t.Fatalf("read %q, want the first content", got)
	}
}

func createRace(t *testing.T, st store.Store) {
	const rounds, racers = 5, 20
	for round := range rounds {
		key := fmt.Sprintf("race/%d/n", round)
		var wg sync.WaitGroup
		start := make(chan struct{})
		results := make([]error, racers)
		for i := range racers {
			wg.Go(func() {
				<-start
				results[i] = st.Create(t.Context(), key, racerBody(i))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range results {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: %d and %d both won", round, winner, i)
			case err == nil:
				winner = i
			default:
				wantKind(t, "loser", err, errs.Exists)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		if got := readAll(t, st, key); !bytes.Equal(got, racerBody(winner)) {
			t.Fatalf("round %d: content is not the winner's", round)
		}
	}
}

// racerBody differs in length and content, so that a mixture shows.
func racerBody(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 3000+i) }

func bodyNotKept(t *testing.T, st store.Store) {
	body := []byte("before")
	mustCreate(t, st, "k", body)
	copy(body, "after!")
	got := readAll(t, st, "k")
	if string(got) != "before" {
		t.Fatalf("read %q: the store kept the caller's slice", got)
	}
	copy(got, "mine!!")
	if again := readAll(t, st, "k"); string(again) != "before" {
		t.Fatalf("read %q: the reader's slice is the store's", again)
	}
}

func emptyObject(t *testing.T, st store.Store) {
	mustCreate(t, st, "empty", nil)
	if got := readAll(t, st, "empty"); len(got) != 0 {
		t.Fatalf("read %d bytes", len(got))
	}
	wantKind(t, "again", st.Create(t.Context(), "empty", nil), errs.Exists)
	if got := list(t, st, "", "", 10); !slices.Equal(got, []string{"empty"}) {
		t.Fatalf("listed %q", got)
	}
}

func largestObject(t *testing.T, st store.Store) {
	body := make([]byte, store.MaxObject+1)
	for i := 0; i < len(body); i += 4099 {
		body[i] = byte(i)
	}
	wantKind(t, "too large", st.Create(t.Context(), "large", body), errs.Invalid)
	body = body[:store.MaxObject]
	mustCreate(t, st, "large", body)
	p := make([]byte, 1<<20)
	for off := 0; off < len(body); off += 21 << 20 {
		n, err := st.ReadRange(t.Context(), "large", p, int64(off))
		if want := body[off:min(off+len(p), len(body))]; err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("at %d: %d bytes, %v", off, n, err)
		}
	}
	if err := st.Delete(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
}

func ranges(t *testing.T, st store.Store) {
	body := make([]byte, 10_000)
	for i := range body {
		body[i] = byte(i * 7)
	}
	mustCreate(t, st, "r", body)
	for _, c := range []struct{ off, n int64 }{
		{0, 0}, {0, 1}, {0, 10_000}, {0, 20_000}, {1, 9_999}, {9_999, 1}, {9_999, 2},
		{10_000, 0}, {10_000, 5}, {10_001, 5}, {1 << 40, 5}, {1<<63 - 1, 5}, {4096, 4096}, {5000, 0},
	} {
		p := bytes.Repeat([]byte{0xee}, int(c.n))
		n, err := st.ReadRange(t.Context(), "r", p, c.off)
		want := body[min(c.off, 10_000):]
		want = want[:min(c.n, int64(len(want)))]
		if err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("%d bytes at %d: got %d, %v; want %d", c.n, c.off, n, err, len(want))
		}
	}
	_, err := st.ReadRange(t.Context(), "r", make([]byte, 1), -1)
	wantKind(t, "negative offset", err, errs.Invalid)
}

func missing(t *testing.T, st store.Store) {
	mustCreate(t, st, "dir/there", []byte("x"))
	for _, key := range []string{"nothing", "dir", "dir/other", "dir/there/below", "no/such/dir"} {
		_, err := st.ReadRange(t.Context(), key, make([]byte, 1), 0)
		wantKind(t, "read "+key, err, errs.NotFound)
		_, err = st.ReadRange(t.Context(), key, nil, 0)
		wantKind(t, "read nothing of "+key, err, errs.NotFound)
		_, err = st.Stat(t.Context(), key)
		wantKind(t, "stat "+key, err, errs.NotFound)
	}
	if got := list(t, st, "nothing", "", 10); len(got) != 0 {
		t.Fatalf("listed %q", got)
	}
}

// deletesMany: a batch deletes what it names and nothing else, a key that is
// missing is no failure and one that is none fails alone.
func deletesMany(t *testing.T, st store.Store) {
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("m/%03d", i))
		mustCreate(t, st, keys[i], []byte("x"))
	}
	doomed := append(slices.Clone(keys[:30]), "m/missing", "Bad Key")
	out := store.DeleteAll(t.Context(), st, doomed)
	if len(out) != len(doomed) {
		t.Fatalf("%d answers for %d keys", len(out), len(doomed))
	}
	for i, err := range out[:31] {
		if err != nil {
			t.Errorf("%s: %v", doomed[i], err)
		}
	}
	wantKind(t, "a bad key", out[31], errs.Invalid)
	if got := list(t, st, "m/", "", 100); !slices.Equal(got, keys[30:]) {
		t.Fatalf("left %q", got)
	}
	for _, err := range store.DeleteAll(t.Context(), st, append(slices.Clone(keys), "n/1")) { // a second time
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, st, "m/", "", 100); len(got) != 0 {
		t.Fatalf("left %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range store.DeleteAll(ctx, st, keys[:2]) {
		wantKind(t, "ended context", err, errs.Canceled)
	}
}

func deletes(t *testing.T, st store.Store) {
	for _, key := range []string{"d/one", "d/two"} {
		mustCreate(t, st, key, []byte(key))
	}
	if err := st.Delete(t.Context(), "d/one"); err != nil {
		t.Fatal(err)
	}
	_, err := st.Stat(t.Context(), "d/one")
	wantKind(t, "deleted", err, errs.NotFound)
	for _, key := range []string{"d/one", "never/there", "d", "d/two/below"} {
		if err := st.Delete(t.Context(), key); err != nil {
			t.Fatalf("delete of missing %s: %v", key, err)
		}
	}
	if got := list(t, st, "d/", "", 10); !slices.Equal(got, []string{"d/two"}) {
		t.Fatalf("left %q", got)
	}
	if err := st.Delete(t.Context(), "d/two"); err != nil {
		t.Fatal(err)
	}
	if err := st.Delete(t.Context(), "d"); err != nil { // an empty directory is no object
		t.Fatal(err)
	}
	mustCreate(t, st, "d/one", []byte("again"))
	if got := readAll(t, st, "d/one"); string(got) != "again" {
		t.Fatalf("read %q", got)
	}
}

func endedContext(t *testing.T, st store.Store) {
	mustCreate(t, st, "there", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, "create", st.Create(ctx, "new", []byte("x")), errs.Canceled)
	_, err := st.ReadRange(ctx, "there", make([]byte, 1), 0)
	wantKind(t, "read", err, errs.Canceled)
	_, err = st.Stat(ctx, "there")
	wantKind(t, "stat", err, errs.Canceled)
	_, err = st.List(ctx, "", "", 10)
	wantKind(t, "list", err, errs.Canceled)
	wantKind(t, "delete", st.Delete(ctx, "there"), errs.Canceled)
	if got := list(t, st, "", "", 10); !slices.Equal(got, []string{"there"}) {
		t.Fatalf("left %q", got)
	}
}

// concurrent mixes all calls on a few keys: whatever is read is whole.
func concurrent(t *testing.T, st store.Store) {
	const workers, steps = 8, 60
	var created atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range steps {
				if err := oneStep(t.Context(), st, r, &created); err != nil {
					failed <- fmt.Errorf("worker %d: %w", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if created.Load() == 0 {
		t.Fatal("nothing was ever created")
	}
}

func oneStep(ctx context.Context, st store.Store, r *rand.Rand, created *atomic.Int64) error {
	key := fmt.Sprintf("c/%d/%d", r.IntN(3), r.IntN(4))
	switch r.IntN(5) {
	case 0:
		if err := st.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	case 1:
		if _, err := st.List(ctx, "c/", "", 100); err != nil {
			return fmt.Errorf("list: %w", err)
		}
	case 2:
		if _, err := st.Stat(ctx, key); err != nil && !errs.Is(err, errs.NotFound) {
			return fmt.Errorf("stat: %w", err)
		}
	case 3:
		p := make([]byte, 5000)
		n, err := st.ReadRange(ctx, key, p, 0)
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 || !bytes.Equal(p[:n], racerBody(int(p[0]))) {
			return fmt.Errorf("read %d bytes that nobody wrote", n)
		}
	case 4:
		err := st.Create(ctx, key, racerBody(r.IntN(200)))
		if err == nil {
			created.Add(1)
		} else if !errs.Is(err, errs.Exists) {
			return fmt.Errorf("create: %w", err)
		}
	}
	return nil
}

func capabilities(t *testing.T, st store.Store) {
	c := st.Capabilities()
	if c.Name == "" || !c.CreateOnce {
		t.Fatalf("capabilities %+v", c)
	}
	if _, ok := store.AsLocker(st); ok != c.Lock {
		t.Fatalf("declares Lock %v, but AsLocker gives %v: a wrapper passes the methods of store.Locker on", c.Lock, ok)
	}
}

func badKeys(t *testing.T, st store.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "../a", ".hidden", "a/.hidden", "a/.tmp-x",
		"A", "a b", "a\\b", "a\x00b", "ä", "a\n", "a+b", "~a", "*", "a?b",
		strings.Repeat("a/", store.MaxKey/2) + "ab", strings.Repeat("x", store.MaxElement+1),
	} {
		what := fmt.Sprintf("key %q", key)
		wantKind(t, what, st.Create(t.Context(), key, nil), errs.Invalid)
		_, err := st.ReadRange(t.Context(), key, nil, 0)
		wantKind(t, what, err, errs.Invalid)
		_, err = st.Stat(t.Context(), key)
		wantKind(t, what, err, errs.Invalid)
		wantKind(t, what, st.Delete(t.Context(), key), errs.Invalid)
	}
}

func nestedKeys(t *testing.T, st store.Store) {
	mustCreate(t, st, "n/a/b", []byte("deep"))
	mustCreate(t, st, "n/c", []byte("flat"))
	for _, key := range []string{"n", "n/a", "n/c/d", "n/c/d/e"} {
		if err := st.Create(t.Context(), key, nil); err != nil {
			wantKind(t, key, err, errs.Invalid)
		}
	}
	if got := readAll(t, st, "n/a/b"); string(got) != "deep" {
		t.Fatalf("read %q", got)
	}
	if got := readAll(t, st, "n/c"); string(got) != "flat" {
		t.Fatalf("read %q", got)
	}
}

func longestKeys(t *testing.T, st store.Store) {
	element := strings.Repeat("e", store.MaxElement)
	key := element + "/" + element + "/"
	key += strings.Repeat("f", store.MaxKey-len(key))
	mustCreate(t, st, key, []byte("x"))
	if got := list(t, st, element+"/", "", 10); !slices.Equal(got, []string{key}) {
		t.Fatalf("listed %q", got)
	}
	if err := st.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}
