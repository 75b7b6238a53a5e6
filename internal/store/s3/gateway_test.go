package s3

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/storetest/versitygw"
)

func TestContract(t *testing.T) {
	r := newRig(t, versitygw.Options{KeepAlive: true})
	storetest.Run(t, func(t *testing.T) store.Store { return patient(r.open(t, false)) })
}

// TestContractWithVersions: the contract in a bucket that keeps versions,
// over TLS and below a prefix.
func TestContractWithVersions(t *testing.T) {
	r := newRig(t, versitygw.Options{TLS: true, KeepAlive: true})
	storetest.Run(t, func(t *testing.T) store.Store {
		u := r.url(t, true)
		u.Prefix = "Some/where"
		return patient(mustOpen(t, u, Options{Getenv: r.env()}))
	})
}

// patient repeats what fails for a passing reason, as all users of the driver
// do: the gateway now and then has an "internal error" for a read that a
// deletion overtakes.
func patient(s *Store) store.Store {
	return retry.New(s, retry.Options{First: 5 * time.Millisecond, Most: 100 * time.Millisecond})
}

func TestLocks(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	storetest.RunLocker(t, func(t *testing.T) store.Store { return r.open(t, true) })
}

// TestRacersOfTwoProcesses: of twenty writers in two Stores one wins, fifty
// times, with and without versions.
func TestRacersOfTwoProcesses(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	for _, versions := range []bool{false, true} {
		u := r.url(t, versions)
		stores := []*Store{mustOpen(t, u, Options{Getenv: r.env()}), mustOpen(t, u, Options{Getenv: r.env()})}
		for round := range 50 {
			race(t, stores, fmt.Sprintf("race/%d", round))
		}
	}
}

func race(t *testing.T, stores []*Store, key string) {
	t.Helper()
	const racers = 20
	results := make([]error, racers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		wg.Go(func() {
			<-start
			results[i] = stores[i%len(stores)].Create(t.Context(), key, bytes.Repeat([]byte{byte(i)}, 100+i))
		})
	}
	close(start)
	wg.Wait()
	winner, winners := -1, 0
	for i, err := range results {
		switch {
		case err == nil:
			winner, winners = i, winners+1
		case !errs.Is(err, errs.Exists) && !errs.Is(err, errs.Transient):
			t.Fatalf("%s: loser %d: %v", key, i, err)
		}
	}
	if winners != 1 {
		t.Fatalf("%s: %d winners", key, winners)
	}
	p := make([]byte, 200)
	if n, err := stores[0].ReadRange(t.Context(), key, p, 0); err != nil || n != 100+winner || p[0] != byte(winner) || p[n-1] != byte(winner) {
		t.Fatalf("%s: read %d bytes, %v; the winner was %d", key, n, err, winner)
	}
}

// TestRequests: what each call costs.
func TestRequests(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	for _, versions := range []bool{false, true} {
		c := &counter{next: http.DefaultTransport}
		s := mustOpen(t, r.url(t, versions), Options{Getenv: r.env(), Transport: c})
		cost := func(what string, want int64, call func() error) {
			t.Helper()
			before := c.all.Load()
			if err := call(); err != nil && !errs.Is(err, errs.Exists) {
				t.Fatalf("%s: %v", what, err)
			}
			if got := c.all.Load() - before; got != want {
				t.Errorf("%s (versions %v): %d requests, want %d", what, versions, got, want)
			}
		}
		for i, size := range []int{0, 1, 100_000, 6 << 20, 33 << 20} {
			body := make([]byte, size)
			cost("create", 1, func() error { return s.Create(t.Context(), fmt.Sprint(i), body) })
			heads := c.heads.Load() // a large body's refusal may be lost, which costs a look
			before := c.all.Load()
			if err := s.Create(t.Context(), fmt.Sprint(i), body); !errs.Is(err, errs.Exists) {
				t.Fatalf("create %d bytes again: %v", size, err)
			}
			if got, looks := c.all.Load()-before, c.heads.Load()-heads; got != 1+looks || looks > 1 || looks > 0 && size < 1<<20 {
				t.Errorf("create %d bytes again: %d requests, of which %d looks", size, got, looks)
			}
		}
		if puts := c.puts.Load(); puts != 10 {
			t.Errorf("%d PUTs for ten creates", puts)
		}
		cost("read", 1, func() error { _, err := s.ReadRange(t.Context(), "2", make([]byte, 100), 7); return err })
		cost("read beyond", 1, func() error { _, err := s.ReadRange(t.Context(), "2", make([]byte, 100), 1e6); return err })
		cost("stat", 1, func() error { _, err := s.Stat(t.Context(), "2"); return err })
		cost("list", 1, func() error { _, err := s.List(t.Context(), "", "", 3); return err })
		deletion := map[bool]int64{false: 1, true: 2}[versions]
		cost("delete", deletion, func() error { return s.Delete(t.Context(), "2") })
		if !versions {
			continue
		}
		lock := store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)}
		cost("create locked", 1, func() error { return s.CreateLocked(t.Context(), "l", make([]byte, 100), lock) })
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	good := r.url(t, false)
	missing := good
	missing.Bucket = "no-such-bucket"
	for what, c := range map[string]struct {
		u      store.URL
		env    func(string) string
		kind   errs.Kind
		remedy string
	}{
		"wrong secret":   {good, env(r.AccessKey, "not-the-secret"), errs.Denied, "AWS_SECRET_ACCESS_KEY"},
		"unknown key":    {good, env("nobody", r.SecretKey), errs.Denied, "AWS_ACCESS_KEY_ID"},
		"missing bucket": {missing, r.env(), errs.NotFound, "make the bucket"},
	} {
		_, err := Open(t.Context(), c.u, Options{Getenv: c.env})
		if !errs.Is(err, c.kind) || !strings.Contains(errs.RemedyOf(err), c.remedy) {
			t.Errorf("%s: %v, remedy %q", what, err, errs.RemedyOf(err))
		}
		for _, secret := range []string{r.SecretKey, "not-the-secret"} {
			if strings.Contains(fmt.Sprintf("%v %+v %q", err, err, errs.RemedyOf(err)), secret) {
				t.Errorf("%s: the error holds the secret: %v", what, err)
			}
		}
	}
}

// TestBucketGone: a bucket that is not there any more never passes for
// objects that are not.
func TestBucketGone(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	s := r.open(t, false)
	client, err := r.Client()
	if err == nil {
		err = client.RemoveBucket(t.Context(), s.bucket)
	}
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range calls(t.Context(), s) {
		if !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// calls makes one call of each sort.
func calls(ctx context.Context, s *Store) map[string]error {
	out := map[string]error{"create": s.Create(ctx, "k", []byte("x")), "delete": s.Delete(ctx, "k")}
	_, out["read"] = s.ReadRange(ctx, "k", make([]byte, 1), 0)
	_, out["read nothing"] = s.ReadRange(ctx, "k", nil, 0)
	_, out["stat"] = s.Stat(ctx, "k")
	_, out["list"] = s.List(ctx, "", "", 1)
	return out
}

func TestTrustOnlyWhatIsNamed(t *testing.T) {
	r := newRig(t, versitygw.Options{TLS: true})
	u := r.url(t, false)
	for what, ca := range map[string]string{"the system's": "", "another": newRig(t, versitygw.Options{TLS: true}).CA} {
		u.CA = ca
		_, err := Open(t.Context(), u, Options{Getenv: r.env()})
		if !errs.Is(err, errs.Denied) || !strings.Contains(errs.RemedyOf(err), "ca=") {
			t.Errorf("%s: %v, remedy %q", what, err, errs.RemedyOf(err))
		}
	}
}

func TestServerKilledAndRestarted(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	s := r.open(t, false)
	if err := s.Create(t.Context(), "before", []byte("x")); err != nil {
		t.Fatal(err)
	}
	r.Kill()
	for what, err := range calls(t.Context(), s) {
		if !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Transient) {
			t.Errorf("%s: %v", what, err)
		}
	}
	st := patient(s)
	done := make(chan error, 1)
	go func() { done <- st.Create(t.Context(), "during", []byte("y")) }()
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	page, err := st.List(t.Context(), "", "", 10)
	if err != nil || len(page) != 2 || page[0].Key != "before" || page[1].Key != "during" {
		t.Fatalf("%+v, %v", page, err)
	}
}

// TestDamageOnTheStoresDisk: one wrong bit in an object is noticed by who
// reads the whole of it, because the store tells the checksum it was given.
func TestDamageOnTheStoresDisk(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, versitygw.Options{Dir: dir})
	s := r.open(t, false)
	if err := s.Create(t.Context(), "k", bytes.Repeat([]byte("content "), 1000)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 9000)
	if n, err := s.ReadRange(t.Context(), "k", p, 0); err != nil || n != 8000 {
		t.Fatalf("%d, %v", n, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "data", s.bucket, "k"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{'c' ^ 4}, 800); err != nil {
		t.Fatal(err)
	}
	if n, err := s.ReadRange(t.Context(), "k", p, 0); !errs.Is(err, errs.Corrupt) || n != 0 {
		t.Fatalf("%d, %v", n, err)
	}
}

// versionsIn counts the versions and markers of all keys of a bucket.
func versionsIn(t *testing.T, r *rig, s *Store) (versions, markers int) {
	t.Helper()
	client, err := r.Client()
	if err != nil {
		t.Fatal(err)
	}
	for o := range client.ListObjectsIter(t.Context(), s.bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		switch {
		case o.Err != nil:
			t.Fatal(o.Err)
		case o.IsDeleteMarker:
			markers++
		default:
			versions++
		}
	}
	return versions, markers
}

// hide deletes as a client does that knows nothing of versions: with a marker.
func hide(t *testing.T, r *rig, s *Store, key string) {
	t.Helper()
	client, err := r.Client()
	if err == nil {
		err = client.RemoveObject(t.Context(), s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// overwrite puts a version on top, as no Store does.
func overwrite(t *testing.T, r *rig, s *Store, key string) {
	t.Helper()
	client, err := r.Client()
	if err == nil {
		_, err = client.PutObject(t.Context(), s.bucket, s.prefix+key, strings.NewReader("x"), 1, minio.PutObjectOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDeleteFrees: nothing is left in a bucket that keeps versions, of any of
// the pasts a key can have.
func TestDeleteFrees(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	s := r.open(t, true)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 20 {
		key := fmt.Sprintf("k/%d", round%3)
		other := key + "0" // begins with key, must stay
		if err := s.Create(t.Context(), other, nil); err != nil && !errs.Is(err, errs.Exists) {
			t.Fatal(err)
		}
		before, _ := versionsIn(t, r, s)
		for range rng.IntN(14) {
			if rng.IntN(2) == 0 {
				hide(t, r, s, key)
			} else {
				overwrite(t, r, s, key)
			}
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if after, markers := versionsIn(t, r, s); after != before || markers != 0 {
			t.Fatalf("seed %d: %d versions and %d markers left, %d versions before", seed, after, markers, before)
		}
		if _, err := s.Stat(t.Context(), key); !errs.Is(err, errs.NotFound) {
			t.Fatal(err)
		}
	}
}

// TestMarkerInFront: a stranger's deletion of a locked object hides it and
// counts as a deletion; the locked bytes stay, and come back with the
// marker's end.
func TestMarkerInFront(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	s := r.open(t, true)
	lock := store.Lock{Mode: store.LockCompliance, Until: time.Now().Add(time.Hour)}
	if err := s.CreateLocked(t.Context(), "k", []byte("first"), lock); err != nil {
		t.Fatal(err)
	}
	err := s.Delete(t.Context(), "k")
	if !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), "locked (compliance) until") {
		t.Fatalf("delete: %v", err)
	}
	hide(t, r, s, "k")
	if _, err := s.Stat(t.Context(), "k"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("hidden: %v", err)
	}
	if page, err := s.List(t.Context(), "", "", 10); err != nil || len(page) != 0 {
		t.Fatalf("hidden: %+v, %v", page, err)
	}
	// Amazon lets the name be taken again, the gateway does not.
	want := 2
	switch err := s.Create(t.Context(), "k", []byte("second")); {
	case err == nil:
		want = 3
		if err := s.Create(t.Context(), "k", []byte("third")); !errs.Is(err, errs.Exists) {
			t.Fatalf("create over the second: %v", err)
		}
	case !errs.Is(err, errs.Exists):
		t.Fatalf("create over a marker: %v", err)
	}
	// The first cannot be removed; so what is in front of it stays as well.
	err = s.Delete(t.Context(), "k")
	if !errs.Is(err, errs.Denied) || !strings.Contains(errs.RemedyOf(err), "lock's end") {
		t.Fatalf("delete: %v", err)
	}
	ids, err := s.versionsOf(t.Context(), t.Context(), "test", "k")
	if err != nil || len(ids) != want {
		t.Fatalf("%v, %v; want %d", ids, err, want)
	}
	for _, id := range ids[:want-1] {
		if err := s.core.RemoveObject(t.Context(), s.bucket, "k", minio.RemoveObjectOptions{VersionID: id}); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 9)
	if n, err := s.ReadRange(t.Context(), "k", p, 0); err != nil || string(p[:n]) != "first" {
		t.Fatalf("what was locked reads %q, %v", p[:n], err)
	}
}

// TestForeignObjects: what is not ours in the bucket is neither listed nor in
// the way.
func TestForeignObjects(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	u := r.url(t, false)
	whole := mustOpen(t, u, Options{Getenv: r.env()})
	u.Prefix = "in"
	s := mustOpen(t, u, Options{Getenv: r.env()})
	client, err := r.Client()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"in/UPPER", "in/b c", "in-other", "inx/a", "in/dir/", "a"} {
		if _, err := client.PutObject(t.Context(), s.bucket, name, strings.NewReader(""), 0, minio.PutObjectOptions{}); err != nil {
			t.Fatal(name, err)
		}
	}
	for _, key := range []string{"a", "z"} {
		if err := s.Create(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{1, 2, 3} {
		page, err := s.List(t.Context(), "", "", limit)
		if err != nil || len(page) != min(limit, 2) || page[0].Key != "a" || len(page) == 2 && page[1].Key != "z" {
			t.Errorf("limit %d: %+v, %v", limit, page, err)
		}
	}
	if _, err := whole.Stat(t.Context(), "in/z"); err != nil {
		t.Error(err)
	}
}

// TestWithoutLocks: a bucket without Object Lock says so and refuses.
func TestWithoutLocks(t *testing.T) {
	s := newRig(t, versitygw.Options{}).open(t, false)
	if _, ok := store.AsLocker(s); ok || s.Capabilities().Lock {
		t.Fatal("declares locks")
	}
	lock := store.Lock{Mode: store.LockCompliance, Until: time.Now().Add(time.Hour)}
	_, err := s.ReadLock(t.Context(), "k")
	for what, err := range map[string]error{
		"create": s.CreateLocked(t.Context(), "k", nil, lock), "extend": s.ExtendLock(t.Context(), "k", lock), "read": err,
	} {
		if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), "Object Lock") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// BenchmarkGateway is the way of 4 MiB objects to the gateway and back, eight
// at a time.
func BenchmarkGateway(b *testing.B) {
	r := newRig(b, versitygw.Options{Dir: os.Getenv("HOLDFAST_BENCH_DIR"), KeepAlive: true})
	s := r.open(b, false)
	const size, parallel = 4 << 20, 8
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i * 7 >> 3)
	}
	each := func(b *testing.B, call func(i int) error) {
		b.SetBytes(size)
		next := make(chan int)
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(func() {
				for i := range next {
					if err := call(i); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for i := range b.N {
			next <- i
		}
		close(next)
		wg.Wait()
	}
	var made int
	b.Run("put", func(b *testing.B) {
		from := made
		each(b, func(i int) error { return s.Create(b.Context(), fmt.Sprintf("o/%d", from+i), body) })
		made += b.N
	})
	b.Run("get", func(b *testing.B) {
		var pool sync.Pool
		each(b, func(i int) error {
			p, ok := pool.Get().(*[]byte)
			if !ok {
				p = new([]byte)
				*p = make([]byte, size)
			}
			defer pool.Put(p)
			n, err := s.ReadRange(b.Context(), fmt.Sprintf("o/%d", i%made), *p, 0)
			if err == nil && n != size {
				err = fmt.Errorf("%d bytes", n)
			}
			return err
		})
	})
}
