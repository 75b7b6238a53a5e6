package azblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/storetest"
)

func TestContractOnModel(t *testing.T) {
	for name, m := range map[string]func() *model{
		"plain":              newModel,
		"versions and locks": func() *model { m := newModel(); m.worm = true; return m },
		"no startFrom":       func() *model { m := newModel(); m.ignoreFrom = true; return m },
		"short pages":        func() *model { m := newModel(); m.short = rand.New(rand.NewPCG(1, 2)); return m },
	} {
		t.Run(name, func(t *testing.T) {
			// Deleting where versions are kept may be overtaken, and says so: it is tried again.
			storetest.Run(t, func(t *testing.T) store.Store { return retry.New(m().open(t, "some/Prefix"), retry.Options{}) })
		})
	}
}

func TestLocks(t *testing.T) {
	storetest.RunLocker(t, func(t *testing.T) store.Store {
		m := newModel()
		m.worm = true
		return m.open(t, "")
	})
}

// TestDeleteFreesSpace: where versions are kept, deleting leaves none behind;
// what is locked keeps its name as well as its content.
func TestDeleteFreesSpace(t *testing.T) {
	m := newModel()
	m.worm = true
	st := m.open(t, "")
	if err := st.Create(t.Context(), "free", []byte("x")); err != nil {
		t.Fatal(err)
	}
	lock := store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)}
	if err := st.CreateLocked(t.Context(), "locked", []byte("x"), lock); err != nil {
		t.Fatal(err)
	}
	m.requests()
	if err := st.Delete(t.Context(), "free"); err != nil || len(m.requests()) != 3 {
		t.Fatalf("delete: %v", err)
	}
	err := st.Delete(t.Context(), "locked")
	if !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" || len(m.blobs) != 1 || len(m.versions) != 0 {
		t.Fatalf("got %v; %d blobs and %d versions are left", err, len(m.blobs), len(m.versions))
	}
	// Somebody replaces it between our look and our deletion.
	m.before = func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodDelete {
			m.blobs["locked"].id = "other"
		}
		return nil, nil
	}
	m.blobs["locked"].until = time.Now().Add(-time.Minute)
	if err := st.Delete(t.Context(), "locked"); !errs.Is(err, errs.Transient) || len(m.blobs) != 1 {
		t.Fatalf("replaced meanwhile: %v", err)
	}
}

// TestRequests: what each call costs.
func TestRequests(t *testing.T) {
	m := newModel()
	st := m.open(t, "p")
	body := make([]byte, 5<<20)
	for i := range 5 {
		if err := st.Create(t.Context(), fmt.Sprintf("k/%d", i), body); err != nil {
			t.Fatal(err)
		}
	}
	m.requests()
	for what, c := range map[string]struct {
		call func() error
		want []string
	}{
		"create":        {func() error { return st.Create(t.Context(), "new", body) }, []string{"PUT p/new"}},
		"create taken":  {func() error { return st.Create(t.Context(), "k/0", body) }, []string{"PUT p/k/0"}},
		"stat":          {func() error { _, err := st.Stat(t.Context(), "k/0"); return err }, []string{"HEAD p/k/0"}},
		"delete":        {func() error { return st.Delete(t.Context(), "k/none") }, []string{"DELETE p/k/none"}},
		"read":          {func() error { _, err := st.ReadRange(t.Context(), "k/1", make([]byte, 9<<20), 0); return err }, []string{"GET p/k/1"}},
		"read nothing":  {func() error { _, err := st.ReadRange(t.Context(), "k/1", nil, 0); return err }, []string{"HEAD p/k/1"}},
		"list a page":   {func() error { _, err := st.List(t.Context(), "k/", "k/1", 2); return err }, []string{"GET /cont list"}},
		"list the rest": {func() error { _, err := st.List(t.Context(), "k/", "k/3", 9); return err }, []string{"GET /cont list"}},
		"list the end":  {func() error { _, err := st.List(t.Context(), "k/", "k/9", 9); return err }, []string{"GET /cont list"}},
		"list beyond":   {func() error { _, err := st.List(t.Context(), "k/", "x", 9); return err }, nil},
	} {
		err := c.call()
		if got := m.requests(); !slices.Equal(got, c.want) || err != nil && what != "create taken" {
			t.Errorf("%s: %q, %v; want %q", what, got, err, c.want)
		}
	}
}

type call struct {
	name string
	do   func(st *Store) error
}

var calls = []call{
	{"create", func(st *Store) error { return st.Create(context.Background(), "new", []byte("content")) }},
	{"read", func(st *Store) error {
		_, err := st.ReadRange(context.Background(), "old", make([]byte, 5), 0)
		return err
	}},
	{"stat", func(st *Store) error { _, err := st.Stat(context.Background(), "old"); return err }},
	{"list", func(st *Store) error { _, err := st.List(context.Background(), "", "", 10); return err }},
	{"delete", func(st *Store) error { return st.Delete(context.Background(), "old") }},
}

// TestAnswers: every call gives an answer its kind, asks once, and tells
// nothing secret.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   errs.Kind
		remedy string
		except map[string]errs.Kind // where a call judges otherwise
	}{
		{status: 403, code: "AuthenticationFailed", want: errs.Denied, remedy: "clock"},
		{status: 403, code: "AuthorizationPermissionMismatch", want: errs.Denied, remedy: "right"},
		{status: 403, code: "KeyBasedAuthenticationNotPermitted", want: errs.Denied, remedy: "managed identity"},
		{status: 403, code: "AuthorizationSourceIPMismatch", want: errs.Denied, remedy: "address"},
		{status: 403, code: "AccountIsDisabled", want: errs.Denied, remedy: "disabled"},
		{status: 401, want: errs.Denied, remedy: "right"},
		{status: 403, code: "UnauthorizedBlobOverwrite", want: errs.Denied, remedy: "right", except: map[string]errs.Kind{"create": errs.Exists}},
		{status: 404, code: "ContainerNotFound", want: errs.Unavailable, remedy: "make the blob container account/cont"},
		{status: 409, code: "ContainerBeingDeleted", want: errs.Unavailable, remedy: "restore"},
		{status: 404, want: errs.Unavailable, remedy: "endpoint"},
		{status: 302, want: errs.Unavailable, remedy: "endpoint"},
		{status: 409, code: "BlobImmutableDueToPolicy", want: errs.Denied, remedy: "retention", except: map[string]errs.Kind{"create": errs.Exists}},
		{status: 409, code: "BlobImmutableDueToLegalHold", want: errs.Denied, remedy: "hold", except: map[string]errs.Kind{"create": errs.Exists}},
		{status: 412, code: "LeaseIdMissing", want: errs.Denied, remedy: "lease", except: map[string]errs.Kind{"create": errs.Exists}},
		{status: 409, code: "SnapshotsPresent", want: errs.Denied, remedy: "snapshots"},
		{status: 409, code: "BlobArchived", want: errs.Unavailable, remedy: "archive"},
		{status: 409, code: "BlobAlreadyExists", want: errs.Invalid, except: map[string]errs.Kind{"create": errs.Exists}},
		{status: 412, code: "ConditionNotMet", want: errs.Invalid, except: map[string]errs.Kind{"create": errs.Exists}},
		{status: 400, code: "Crc64Mismatch", want: errs.Transient},
		{status: 400, code: "InvalidHeaderValue", want: errs.Invalid},
		{status: 408, want: errs.Transient},
		{status: 429, want: errs.Transient},
		{status: 500, code: "OperationTimedOut", want: errs.Transient},
		{status: 501, code: "APINotImplemented", want: errs.Invalid, remedy: "emulator"},
		{status: 502, want: errs.Transient},
		{status: 503, code: "ServerBusy", want: errs.Transient},
		{status: 504, want: errs.Transient},
		{status: 507, want: errs.Full, remedy: "free"},
		{status: 403, code: "AccountQuotaExceeded", want: errs.Full, remedy: "quota"},
		{status: 599, code: strings.Repeat("x", 5000) + "\n\x1b[2J", want: errs.Transient},
	} {
		for _, call := range calls {
			m := newModel()
			st, n := m.open(t, ""), 0
			m.before = func(req *http.Request) (*http.Response, error) {
				n++
				return answer(req, c.status, []byte("<p>a page of signature geheim</p>"), "x-ms-error-code", c.code, "Location", "https://elsewhere.invalid/"), nil
			}
			want, ok := c.except[call.name]
			if !ok {
				want = c.want
			}
			asks := 1
			if call.name == "create" && want == errs.Denied {
				asks = 2
			}
			err := call.do(st)
			if !errs.Is(err, want) || want == c.want && !strings.Contains(errs.RemedyOf(err), c.remedy) || n != asks {
				t.Errorf("%s, %d %.40s: got %v (%q) after %d requests, want kind %q", call.name, c.status, c.code, err, errs.RemedyOf(err), n, want)
			}
			if text := err.Error(); strings.Contains(text, "geheim") || len(text) > 200 || strings.ContainsAny(text, "\n\x1b") {
				t.Errorf("%s, %d: says %q", call.name, c.status, text)
			}
		}
	}
}

type failing struct{ error }

func (f failing) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, f.error
}

// TestNoAnswer: failures on the way have their kinds, and the signature that
// is part of every request's address is in none of their messages.
func TestNoAnswer(t *testing.T) {
	for what, c := range map[string]struct {
		err  error
		want errs.Kind
	}{
		"refused":     {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, errs.Unavailable},
		"unreachable": {&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, errs.Unavailable},
		"no name":     {&net.DNSError{Name: "x", IsNotFound: true}, errs.Unavailable},
		"reset":       {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, errs.Transient},
		"cut":         {io.ErrUnexpectedEOF, errs.Transient},
		"timeout":     {&net.OpError{Op: "read", Err: context.DeadlineExceeded}, errs.Transient},
		"not TLS":     {http.ErrSchemeMismatch, errs.Denied},
	} {
		for _, call := range calls {
			m := newModel()
			u := store.URL{Scheme: store.SchemeAzure, Account: "account", Bucket: "cont", Endpoint: "https://model.invalid"}
			st, err := New(u, Options{Transport: m, Getenv: env(envSAS, "?sv=2030&sig=geheim%2F")})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			m.before = func(req *http.Request) (*http.Response, error) {
				if n++; !strings.HasSuffix(req.URL.RawQuery, "sv=2030&sig=geheim%2F") {
					t.Errorf("%s: not signed: %s", call.name, req.URL)
				}
				return nil, c.err
			}
			err = call.do(st)
			asks := 1
			if call.name == "create" && c.want == errs.Denied {
				asks = 2
			}
			if !errs.Is(err, c.want) || n != asks || strings.Contains(err.Error()+errs.RemedyOf(err), "geheim") {
				t.Errorf("%s, %s: %v after %d requests, want kind %q", call.name, what, err, n, c.want)
			}
		}
	}
	u := store.URL{Scheme: store.SchemeAzure, Account: "account", Bucket: "cont"}
	for what, c := range map[string]struct {
		err  error
		want errs.Kind
	}{
		"refused identity": {errors.New("many\nlines\n  of advice"), errs.Denied},
		"no service":       {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, errs.Unavailable},
	} {
		st, err := New(u, Options{Transport: newModel(), Credential: failing{c.err}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Stat(t.Context(), "k")
		if !errs.Is(err, c.want) || strings.Contains(err.Error(), "\n") || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

type static struct{}

func (static) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token-for-" + strings.Join(o.Scopes, ","), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// TestToken: an identity's token goes with every request, for storage alone,
// and never unencrypted to another machine.
func TestToken(t *testing.T) {
	m := newModel()
	u := store.URL{Scheme: store.SchemeAzure, Account: "account", Bucket: "cont"}
	n := 0
	m.before = func(req *http.Request) (*http.Response, error) {
		n++
		if got := req.Header.Get("Authorization"); got != "Bearer token-for-https://storage.azure.com/.default" || req.URL.Host != "account.blob.core.windows.net" {
			t.Errorf("%s sent to %s", got, req.URL.Host)
		}
		return nil, nil
	}
	st, err := Open(t.Context(), u, Options{Transport: m, Credential: static{}, Getenv: env(envKey, "not used")})
	if err != nil || n != 1 {
		t.Fatalf("%v after %d requests", err, n)
	}
	for _, c := range calls {
		if err := c.do(st); err != nil && !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for endpoint, good := range map[string]bool{
		"http://192.0.2.1/account": false, "http://blob.example": false, "http://127.0.0.1:10000/account": true, "http://localhost/account": true, "https://blob.example": true,
	} {
		u.Endpoint = endpoint
		_, err := New(u, Options{Transport: m, Credential: static{}})
		if good != (err == nil) || !good && (!errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

// TestAnswerLost: a Create that succeeded and whose answer was lost is
// Transient, and Exists when repeated.
func TestAnswerLost(t *testing.T) {
	m := newModel()
	st := m.open(t, "")
	m.after = func(*http.Request, *http.Response) (*http.Response, error) {
		m.after = nil
		return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	}
	if err := st.Create(t.Context(), "k", []byte("x")); !errs.Is(err, errs.Transient) {
		t.Fatalf("lost answer: %v", err)
	}
	m.after = func(*http.Request, *http.Response) (*http.Response, error) {
		m.after = nil
		return nil, io.EOF
	}
	if err := retry.New(st, retry.Options{First: time.Millisecond, Elapsed: time.Second}).Create(t.Context(), "k2", nil); !errs.Is(err, errs.Exists) {
		t.Fatalf("repeated: %v", err)
	}
}

// TestBadRanges: answers that are not what was asked for fail the read.
func TestBadRanges(t *testing.T) {
	whole := []byte("0123456789")
	for what, c := range map[string]struct {
		status int
		header string // Content-Range
		body   []byte
	}{
		"cut body":          {206, "bytes 2-6/10", whole[2:5]},
		"empty body":        {206, "bytes 2-6/10", nil},
		"other start":       {206, "bytes 3-7/10", whole[3:8]},
		"other end":         {206, "bytes 2-5/10", whole[2:6]},
		"more than asked":   {206, "bytes 2-9/10", whole[2:]},
		"the whole":         {200, "", whole},
		"ends behind size":  {206, "bytes 2-6/4", whole[2:7]},
		"no numbers":        {206, "bytes x-y/z", whole[2:7]},
		"unknown size":      {206, "bytes 2-6/*", whole[2:7]},
		"negative":          {206, "bytes -3--1/10", whole[2:7]},
		"too large numbers": {206, "bytes 2-6/99999999999999999999", whole[2:7]},
		"empty elsewhere":   {206, "bytes 3-2/3", nil},
	} {
		m := newModel()
		st := m.open(t, "")
		m.before = func(req *http.Request) (*http.Response, error) {
			resp := answer(req, c.status, c.body, "Content-Range", c.header)
			if c.header == "" {
				resp.Header.Del("Content-Range")
			}
			resp.Header.Del("Content-Length")
			return resp, nil
		}
		p := make([]byte, 5)
		if n, err := st.ReadRange(t.Context(), "k", p, 2); n != 0 || !errs.Is(err, errs.Transient) {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-4/5", int64(0), 5)
	f.Add("bytes 5-4/5", int64(5), 3)
	f.Add("bytes 9223372036854775807-1/2", int64(1)<<50, 1)
	f.Fuzz(func(t *testing.T, header string, off int64, want int) {
		if off < 0 || want < 1 || off > maxOffset {
			return
		}
		if n, err := rangeLength(&header, nil, off, want); err == nil && (n < 0 || n > want) {
			t.Fatalf("%q for %d bytes at %d: %d", header, want, off, n)
		}
	})
}

// TestEndlessAnswer: an answer without end is given up, wherever it is read.
func TestEndlessAnswer(t *testing.T) {
	for _, call := range calls {
		for _, status := range []int{200, 400} {
			m := newModel()
			st := m.open(t, "")
			read := 0
			m.before = func(req *http.Request) (*http.Response, error) {
				resp := answer(req, status, nil)
				resp.Header.Del("Content-Length")
				resp.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) { read += len(p); return len(p), nil }))
				return resp, nil
			}
			if err := call.do(st); err == nil || read > maxAnswer+1 {
				t.Errorf("%s, %d: %v after %d bytes", call.name, status, err, read)
			}
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// FuzzList: whatever the pages the service cuts its answer into, a List is
// what the contract owes, and going on from its last key finds everything.
func FuzzList(f *testing.F) {
	f.Add(uint64(1), uint8(40), uint8(3), uint8(5), false, true, "a", "a/b")
	f.Add(uint64(2), uint8(90), uint8(0), uint8(1), true, false, "", "")
	f.Add(uint64(3), uint8(9), uint8(1), uint8(200), true, true, "b/", "b/\xff")
	f.Fuzz(func(t *testing.T, seed uint64, keys, page, limit uint8, ignoreFrom, short bool, prefix, after string) {
		r := rand.New(rand.NewPCG(seed, 0))
		m := newModel()
		m.ignoreFrom, m.page = ignoreFrom, int(page)
		if short {
			m.short = r
		}
		st := m.open(t, "p")
		var all []string
		for range keys {
			key := randomKey(r)
			if err := st.Create(t.Context(), key, nil); err == nil {
				all = append(all, key)
			} else if !errs.Is(err, errs.Exists) {
				t.Fatal(err)
			}
		}
		m.blobs["p/Foreign name"], m.blobs["other"], m.blobs["p"] = &version{}, &version{}, &version{}
		slices.Sort(all)
		most := max(int(limit), 1)
		var got, want []string
		for _, k := range all {
			if strings.HasPrefix(k, prefix) && k > after {
				want = append(want, k)
			}
		}
		for from := after; ; from = got[len(got)-1] {
			found, err := st.List(t.Context(), prefix, from, most)
			if errs.Is(err, errs.Invalid) && store.CheckList("", prefix, most) != nil {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range found {
				got = append(got, info.Key)
			}
			if len(found) < most {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("prefix %q after %q by %d:\n got %q\nwant %q", prefix, after, most, got, want)
		}
	})
}

func randomKey(r *rand.Rand) string {
	const letters = "ab/.:-_09"
	for {
		key := make([]byte, 1+r.IntN(6))
		for i := range key {
			key[i] = letters[r.IntN(len(letters))]
		}
		if store.CheckKey("", string(key)) == nil {
			return string(key)
		}
	}
}

// TestBadListings: a service that lists out of order, without end or without
// sizes is not believed.
func TestBadListings(t *testing.T) {
	const page = "<EnumerationResults><Blobs>%s</Blobs><NextMarker>%s</NextMarker></EnumerationResults>"
	blob := func(name, size string) string {
		return "<Blob><Name>" + name + "</Name><Properties>" + size + "</Properties></Blob>"
	}
	const size = "<Content-Length>1</Content-Length>"
	for what, c := range map[string]struct {
		blobs, marker string
		want          errs.Kind
		requests      int
	}{
		"order":       {blob("b", size) + blob("a", size), "", errs.Invalid, 1},
		"twice":       {blob("a", size) + blob("a", size), "", errs.Invalid, 1},
		"same page":   {blob("a", size), "m", errs.Invalid, 2},
		"same marker": {"", "m", errs.Transient, 2},
		"no size":     {blob("a", ""), "", errs.Transient, 1},
		"not XML":     {"<<", "", errs.Transient, 1},
	} {
		m := newModel()
		st, n := m.open(t, ""), 0
		m.before = func(req *http.Request) (*http.Response, error) {
			n++
			return answer(req, 200, fmt.Appendf(nil, page, c.blobs, c.marker), "Content-Type", "application/xml"), nil
		}
		if _, err := st.List(t.Context(), "", "", 10); !errs.Is(err, c.want) || n != c.requests {
			t.Errorf("%s: %v after %d requests", what, err, n)
		}
	}
	m := newModel()
	st, n := m.open(t, ""), 0
	m.before = func(req *http.Request) (*http.Response, error) {
		n++
		return answer(req, 200, fmt.Appendf(nil, page, "", fmt.Sprint(n)), "Content-Type", "application/xml"), nil
	}
	if _, err := st.List(t.Context(), "", "", 10); !errs.Is(err, errs.Transient) || n != maxPages {
		t.Errorf("no end: %v after %d requests", err, n)
	}
}

// TestBodyIsReleased: net/http may read a request's body after the answer; by
// then it must not see the caller's slice.
func TestBodyIsReleased(t *testing.T) {
	m := newModel()
	st := m.open(t, "")
	var late io.Reader
	m.before = func(req *http.Request) (*http.Response, error) {
		late = req.Body
		return refuse(req, 409, "BlobAlreadyExists"), nil
	}
	if err := st.Create(t.Context(), "k", []byte("mine")); !errs.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	if n, err := late.Read(make([]byte, 4)); n != 0 || err == nil || err == io.EOF {
		t.Fatalf("read %d bytes behind the end of the call, %v", n, err)
	}
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := stallConn{near}
		began := time.Now()
		go func() { // a peer that takes bytes for five minutes and then stops
			for range 5 {
				time.Sleep(stallTimeout - time.Second)
				_, _ = far.Read(make([]byte, 1))
			}
		}()
		go func() {
			for range 5 {
				if _, err := c.Write([]byte{1}); err != nil {
					t.Error(err)
				}
			}
		}()
		_, err := c.Read(make([]byte, 1))
		var timeout net.Error
		if took, want := time.Since(began), 4*(stallTimeout-time.Second)+stallTimeout; !errors.As(err, &timeout) || !timeout.Timeout() || took != want {
			t.Errorf("reading ended with %v after %v, want %v", err, took, want)
		}
		synctest.Wait()
		began = time.Now()
		_, err = c.Write(bytes.Repeat([]byte{1}, 100))
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) != stallTimeout {
			t.Errorf("writing ended with %v after %v", err, time.Since(began))
		}
		near.Close()
	})
}
