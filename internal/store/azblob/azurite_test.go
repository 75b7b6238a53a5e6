package azblob

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/storetest/azurite"
)

var containers atomic.Int64

// env gives credentials by name.
func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// bucket is the name of the blob container that st is in.
func bucket(st *Store) string { return strings.TrimPrefix(st.name, azurite.Account+"/") }

// fresh returns an empty container of the server.
func fresh(t *testing.T, s *azurite.Server, prefix string) *Store {
	t.Helper()
	name := fmt.Sprintf("c%03d", containers.Add(1))
	if err := s.MakeContainer(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), s.URL(name, prefix), Options{Getenv: env(envKey, azurite.Key)})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestContract(t *testing.T) {
	t.Parallel()
	s := azurite.Start(t, azurite.Options{})
	storetest.Run(t, func(t *testing.T) store.Store { return fresh(t, s, "") })
}

func TestContractOverTLS(t *testing.T) {
	t.Parallel()
	s := azurite.Start(t, azurite.Options{TLS: true})
	storetest.Run(t, func(t *testing.T) store.Store { return fresh(t, s, "Holdfast/x-1") })
}

// tap passes requests on, counted and perhaps changed.
type tap struct {
	inner  http.RoundTripper
	change func(*http.Request)
	n      atomic.Int64
}

func (tp *tap) RoundTrip(req *http.Request) (*http.Response, error) {
	tp.n.Add(1)
	if tp.change != nil {
		tp.change(req)
	}
	return tp.inner.RoundTrip(req)
}

func tapped(t *testing.T, u store.URL, change func(*http.Request)) (*Store, *tap) {
	t.Helper()
	transport, err := newTransport(u.CA)
	if err != nil {
		t.Fatal(err)
	}
	tp := &tap{inner: transport, change: change}
	st, err := New(u, Options{Transport: tp, Getenv: env(envKey, azurite.Key)})
	if err != nil {
		t.Fatal(err)
	}
	return st, tp
}

func TestEmulator(t *testing.T) {
	t.Parallel()
	s := azurite.Start(t, azurite.Options{TLS: true})
	for name, test := range map[string]func(*testing.T, *azurite.Server){
		"one request each":              oneRequestEach,
		"damage on the way is refused":  damagedBody,
		"wrong credentials":             wrongCredentials,
		"missing blob container":        missingContainer,
		"unknown authority":             unknownAuthority,
		"shared access signatures":      signatures,
		"leases and snapshots":          leasesAndSnapshots,
		"no locks":                      noLocks,
		"list far behind many objects":  listFar,
		"largest races have one winner": largeRace,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func oneRequestEach(t *testing.T, s *azurite.Server) {
	name := bucket(fresh(t, s, ""))
	st, tp := tapped(t, s.URL(name, "p"), nil)
	for _, body := range [][]byte{nil, make([]byte, 12<<20)} {
		tp.n.Store(0)
		if err := st.Create(t.Context(), fmt.Sprintf("k/%d", len(body)), body); err != nil || tp.n.Load() != 1 {
			t.Fatalf("create of %d bytes: %v, %d requests", len(body), err, tp.n.Load())
		}
	}
	for _, c := range calls {
		tp.n.Store(0)
		if err := c.do(st); err != nil && !errs.Is(err, errs.NotFound) || tp.n.Load() != 1 {
			t.Errorf("%s: %v, %d requests", c.name, err, tp.n.Load())
		}
	}
}

// damagedBody: the checksum is really sent, and really checked.
func damagedBody(t *testing.T, s *azurite.Server) {
	st, _ := tapped(t, s.URL(bucket(fresh(t, s, "")), ""), func(req *http.Request) {
		if req.Method == http.MethodPut {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Error(err)
			}
			body[len(body)/2] ^= 4
			req.Body = io.NopCloser(bytes.NewReader(body))
		}
	})
	err := st.Create(t.Context(), "k", []byte("some content"))
	if !errs.Is(err, errs.Transient) {
		t.Fatalf("got %v", err)
	}
	if _, err := st.Stat(t.Context(), "k"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a damaged object was kept: %v", err)
	}
}

func wrongCredentials(t *testing.T, s *azurite.Server) {
	u := s.URL(bucket(fresh(t, s, "")), "")
	for what, getenv := range map[string]func(string) string{
		"key":       env(envKey, base64.StdEncoding.EncodeToString([]byte("geheim"))),
		"signature": env(envSAS, "sv=2024-11-04&ss=b&srt=sco&sp=rwl&se=2099-01-01T00:00:00Z&sig=Z2VoZWlt"),
	} {
		_, err := Open(t.Context(), u, Options{Getenv: getenv})
		if !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: open: %v (%q)", what, err, errs.RemedyOf(err))
		}
		st, err := New(u, Options{Getenv: getenv})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			if err := c.do(st); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" || strings.Contains(err.Error(), "Z2VoZWlt") {
				t.Errorf("%s, %s: %v (%q)", what, c.name, err, errs.RemedyOf(err))
			}
		}
	}
	for what, getenv := range map[string]func(string) string{
		"key is no base64":      env(envKey, "geheim!"),
		"signature is a URL":    env(envSAS, "https://account.blob.core.windows.net/"),
		"signature is no query": env(envSAS, "%zz"),
	} {
		if _, err := New(u, Options{Getenv: getenv}); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", what, err)
		}
	}
	u.Endpoint = "http://192.0.2.1/account"
	if _, err := New(u, Options{Getenv: env(envSAS, "sig=x")}); !errs.Is(err, errs.Invalid) {
		t.Errorf("a signature without encryption: %v", err)
	}
}

func missingContainer(t *testing.T, s *azurite.Server) {
	u := s.URL("never-made", "")
	opts := Options{Getenv: env(envKey, azurite.Key)}
	_, err := Open(t.Context(), u, opts)
	if !errs.Is(err, errs.NotFound) || !strings.Contains(errs.RemedyOf(err), "never-made") {
		t.Fatalf("open: %v (%q)", err, errs.RemedyOf(err))
	}
	st, err := New(u, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls { // NotFound would say that the object is missing
		if err := c.do(st); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.RemedyOf(err), "never-made") {
			t.Errorf("%s: %v (%q)", c.name, err, errs.RemedyOf(err))
		}
	}
}

func unknownAuthority(t *testing.T, s *azurite.Server) {
	u := s.URL("x01", "")
	u.CA = ""
	_, err := Open(t.Context(), u, Options{Getenv: env(envKey, azurite.Key)})
	if !errs.Is(err, errs.Denied) || !strings.Contains(errs.RemedyOf(err), "ca=") {
		t.Fatalf("got %v (%q)", err, errs.RemedyOf(err))
	}
	for _, ca := range []string{"/nonexistent/ca.pem", "/dev/null"} {
		u.CA = ca
		if _, err := New(u, Options{Getenv: env(envKey, azurite.Key)}); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
			t.Errorf("ca %s: %v", ca, err)
		}
	}
}

// signatures: a writer whose signature may create, read and list but not
// overwrite or delete can do just that.
func signatures(t *testing.T, s *azurite.Server) {
	full := fresh(t, s, "p")
	name := bucket(full)
	cred, err := container.NewSharedKeyCredential(azurite.Account, azurite.Key)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(p sas.ContainerPermissions) string {
		q, err := sas.BlobSignatureValues{ContainerName: name, Permissions: p.String(), ExpiryTime: time.Now().Add(time.Hour)}.SignWithSharedKey(cred)
		if err != nil {
			t.Fatal(err)
		}
		return q.Encode()
	}
	st, err := Open(t.Context(), s.URL(name, "p"), Options{Getenv: env(envSAS, sign(sas.ContainerPermissions{Create: true, Read: true, List: true}))})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Create(t.Context(), "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := st.Create(t.Context(), "k", []byte("y")); !errs.Is(err, errs.Exists) {
		t.Fatalf("taken: %v", err)
	}
	if err := st.Delete(t.Context(), "k"); !errs.Is(err, errs.Denied) {
		t.Fatalf("delete: %v", err)
	}
	p := make([]byte, 4)
	if n, err := st.ReadRange(t.Context(), "k", p, 0); err != nil || string(p[:n]) != "x" {
		t.Fatalf("read %q, %v", p[:n], err)
	}
	if got, err := full.List(t.Context(), "", "", 10); err != nil || len(got) != 1 {
		t.Fatalf("list: %v, %v", got, err)
	}
}

func leasesAndSnapshots(t *testing.T, s *azurite.Server) {
	st := fresh(t, s, "")
	c, err := s.Container(bucket(st))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"leased", "kept"} {
		if err := st.Create(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	l, err := lease.NewBlobClient(c.NewBlobClient("leased"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.AcquireLease(t.Context(), -1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewBlobClient("kept").CreateSnapshot(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"leased", "kept"} {
		if err := st.Delete(t.Context(), key); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
			t.Errorf("delete %s: %v (%q)", key, err, errs.RemedyOf(err))
		}
		if err := st.Create(t.Context(), key, nil); !errs.Is(err, errs.Exists) {
			t.Errorf("create %s: %v", key, err)
		}
	}
}

func noLocks(t *testing.T, s *azurite.Server) {
	st := fresh(t, s, "")
	if _, ok := store.AsLocker(st); ok {
		t.Fatal("the emulator has no immutability, but it is declared")
	}
	if err := st.Create(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	err := st.ExtendLock(t.Context(), "k", store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)})
	if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), "immutability") {
		t.Fatalf("got %v (%q)", err, errs.RemedyOf(err))
	}
}

// listFar: a page costs one request however much lies before it.
func listFar(t *testing.T, s *azurite.Server) {
	st, tp := tapped(t, s.URL(bucket(fresh(t, s, "")), "p"), nil)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < 300; i += 4 {
				if err := st.Create(t.Context(), fmt.Sprintf("j/%04d", i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	tp.n.Store(0)
	got, err := st.List(t.Context(), "j/", "j/0250", 10)
	if err != nil || len(got) != 10 || got[0].Key != "j/0251" || tp.n.Load() != 1 || st.scans.Load() {
		t.Fatalf("%v, %v after %d requests", got, err, tp.n.Load())
	}
}

func largeRace(t *testing.T, s *azurite.Server) {
	st := fresh(t, s, "")
	const racers = 20
	results := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { results[i] = st.Create(t.Context(), "race", bytes.Repeat([]byte{byte(i)}, 1<<20)) })
	}
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("%d and %d both won", winner, i)
		case err == nil:
			winner = i
		case !errs.Is(err, errs.Exists):
			t.Fatal(err)
		}
	}
	p := make([]byte, 2<<20)
	n, err := st.ReadRange(t.Context(), "race", p, 0)
	if err != nil || winner < 0 || !bytes.Equal(p[:n], bytes.Repeat([]byte{byte(winner)}, 1<<20)) {
		t.Fatalf("winner %d, read %d bytes, %v", winner, n, err)
	}
}

// TestServerLost: calls fail in a way that is worth repeating while the server
// is gone, and succeed on what was stored before once it is back.
func TestServerLost(t *testing.T) {
	t.Parallel()
	s := azurite.Start(t, azurite.Options{Dir: t.TempDir()})
	st := fresh(t, s, "")
	if err := st.Create(t.Context(), "old", []byte("content")); err != nil {
		t.Fatal(err)
	}
	s.Quit()
	for _, c := range calls {
		if err := c.do(st); !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Transient) {
			t.Errorf("%s while the server is gone: %v", c.name, err)
		}
	}
	if _, err := Open(t.Context(), s.URL(bucket(st), ""), Options{Getenv: env(envKey, azurite.Key)}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("open while the server is gone: %v", err)
	}
	repeated := retry.New(st, retry.Options{First: 10 * time.Millisecond, Most: 100 * time.Millisecond, Elapsed: 3 * time.Minute})
	created := make(chan error, 1)
	go func() { created <- repeated.Create(t.Context(), "new", []byte("while gone")) }()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil {
		t.Errorf("create over the restart: %v", err)
	}
	for key, want := range map[string]string{"old": "content", "new": "while gone"} {
		p := make([]byte, 20)
		if n, err := repeated.ReadRange(t.Context(), key, p, 0); err != nil || string(p[:n]) != want {
			t.Errorf("%s reads %q, %v", key, p[:n], err)
		}
	}
	s.Kill() // connections are open: this time they break
	for _, c := range calls {
		if err := c.do(st); !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Transient) {
			t.Errorf("%s after a crash: %v", c.name, err)
		}
	}
}
