package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/retry"
)

// script is a store that answers as written. Each request takes the next
// answer; the last one goes on for ever.
type script struct {
	mu       sync.Mutex
	answers  []answer        // guarded by mu
	requests []*http.Request // guarded by mu
	bodies   [][]byte        // guarded by mu
}

type answer func(req *http.Request) (*http.Response, error)

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	s.mu.Lock()
	s.requests, s.bodies = append(s.requests, req), append(s.bodies, body)
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	s.mu.Unlock()
	return a(req)
}

func (s *script) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// say answers with a status, a body and headers as name, value, ….
func say(status int, body string, headers ...string) answer {
	return func(req *http.Request) (*http.Response, error) {
		h := http.Header{"Last-Modified": {"Mon, 02 Jan 2030 15:04:05 GMT"}, "Etag": {`"e"`}}
		length := int64(len(body))
		for i := 0; i < len(headers); i += 2 {
			if h.Set(headers[i], headers[i+1]); headers[i] == "Content-Length" {
				if _, err := fmt.Sscan(headers[i+1], &length); err != nil {
					return nil, err
				}
			}
		}
		if h.Get("Content-Length") == "" {
			h.Set("Content-Length", fmt.Sprint(length))
		}
		if req.Method == http.MethodHead {
			body = ""
		}
		return &http.Response{
			StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: length, Request: req,
		}, nil
	}
}

// refuse answers with an error as S3 writes it.
func refuse(status int, code string) answer {
	return say(status, "<?xml version=\"1.0\"?><Error><Code>"+code+"</Code><Message>"+code+" it said.</Message></Error>")
}

func reset(*http.Request) (*http.Response, error) { return nil, errors.New("connection reset by peer") }

func scripted(t testing.TB, answers ...answer) (*Store, *script) {
	t.Helper()
	sc := &script{answers: answers}
	u := store.URL{Scheme: store.SchemeS3, Bucket: "bkt", Endpoint: "http://127.0.0.1:1", PathStyle: true}
	s, err := New(u, Options{Getenv: env("AKID", "verysecret"), Transport: sc})
	if err != nil {
		t.Fatal(err)
	}
	return s, sc
}

func TestAnswersHaveKinds(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		kind   errs.Kind
	}{
		{412, "PreconditionFailed", errs.Exists},
		{409, "ConditionalRequestConflict", errs.Transient},
		{503, "SlowDown", errs.Transient},
		{503, "ServiceUnavailable", errs.Unavailable},
		{500, "InternalError", errs.Transient},
		{502, "", errs.Unavailable},
		{429, "", errs.Transient},
		{400, "RequestTimeout", errs.Transient},
		{400, "BadDigest", errs.Transient},
		{400, "XAmzContentSHA256Mismatch", errs.Transient},
		{400, "InvalidArgument", errs.Invalid},
		{403, "AccessDenied", errs.Denied},
		{403, "SignatureDoesNotMatch", errs.Denied},
		{403, "InvalidAccessKeyId", errs.Denied},
		{403, "RequestTimeTooSkewed", errs.Denied},
		{403, "", errs.Denied},
		{404, "NoSuchBucket", errs.Unavailable},
		{301, "PermanentRedirect", errs.Invalid},
		{307, "TemporaryRedirect", errs.Invalid},
		{507, "", errs.Full},
		{403, "QuotaExceeded", errs.Full},
		{501, "NotImplemented", errs.Invalid},
	} {
		a := refuse(c.status, c.code)
		if c.code == "" {
			a = say(c.status, "<html>what a proxy says</html>")
		}
		s, sc := scripted(t, a)
		err := s.Create(t.Context(), "k", []byte("x"))
		if !errs.Is(err, c.kind) || sc.seen() != 1 {
			t.Errorf("%d %s: %v of kind %s after %d requests, want %s", c.status, c.code, err, errs.KindOf(err), sc.seen(), c.kind)
		}
		if strings.Contains(err.Error(), "verysecret") {
			t.Errorf("%d %s: %v", c.status, c.code, err)
		}
	}
}

// TestRequestOfCreate: what makes create-once, and what the store checks.
func TestRequestOfCreate(t *testing.T) {
	s, sc := scripted(t, say(200, ""))
	s.locks.Store(true)
	body := bytes.Repeat([]byte("abc"), 100_000)
	until := time.Date(2040, 1, 2, 3, 4, 5, 6, time.UTC)
	if err := s.Create(t.Context(), "a/b:c", body); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateLocked(t.Context(), "a/b:c", body, store.Lock{Mode: store.LockCompliance, Until: until}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	for i, req := range sc.requests {
		for name, want := range map[string]string{
			"If-None-Match": "*", "X-Amz-Content-Sha256": hex.EncodeToString(sum[:]), crcHeader: crcOf(body),
		} {
			if got := req.Header.Get(name); got != want {
				t.Errorf("request %d: %s is %q, want %q", i, name, got, want)
			}
			if signed := strings.ToLower(req.Header.Get("Authorization")); !strings.Contains(signed, strings.ToLower(name)) {
				t.Errorf("request %d: %s is not signed: %s", i, name, signed)
			}
		}
		if req.Method != http.MethodPut || req.URL.RawQuery != "" || !bytes.Equal(sc.bodies[i], body) || req.ContentLength != int64(len(body)) {
			t.Errorf("request %d: %s %s, %d bytes", i, req.Method, req.URL, req.ContentLength)
		}
	}
	h := sc.requests[1].Header
	if h.Get("X-Amz-Object-Lock-Mode") != "COMPLIANCE" || h.Get("X-Amz-Object-Lock-Retain-Until-Date") != "2040-01-02T03:04:06Z" || h.Get("Content-Md5") != md5Of(body) {
		t.Errorf("locked with %v", h)
	}
	if len(sc.requests) != 2 {
		t.Errorf("%d requests for two creates", len(sc.requests))
	}
}

// TestLostAnswers: no answer to a PUT leaves a doubt, which one look settles
// as far as it can be.
func TestLostAnswers(t *testing.T) {
	s, sc := scripted(t, reset, say(200, "", "Content-Length", "1"))
	if err := s.Create(t.Context(), "k", []byte("x")); !errs.Is(err, errs.Exists) || sc.seen() != 2 {
		t.Errorf("it landed: %v after %d requests", err, sc.seen())
	}
	s, sc = scripted(t, reset, say(404, ""), say(200, ""))
	if err := s.Create(t.Context(), "k", []byte("x")); !errs.Is(err, errs.Transient) || sc.seen() != 3 {
		t.Errorf("it did not: %v after %d requests", err, sc.seen())
	}
	s, _ = scripted(t, reset)
	if err := s.Create(t.Context(), "k", []byte("x")); !errs.Is(err, errs.Transient) {
		t.Errorf("nothing answers: %v", err)
	}
	s, sc = scripted(t, refuse(503, "SlowDown"), refuse(409, "ConditionalRequestConflict"), say(200, ""))
	st := retry.New(s, retry.Options{First: time.Millisecond})
	if err := st.Create(t.Context(), "k", []byte("x")); err != nil || sc.seen() != 3 {
		t.Errorf("busy twice: %v after %d requests", err, sc.seen())
	}
	for i, body := range sc.bodies {
		if string(body) != "x" {
			t.Errorf("try %d sent %q", i, body)
		}
	}
}

// TestNestedKeys: the store's word that one key is a directory of another is
// believed when there is such a key.
func TestNestedKeys(t *testing.T) {
	refused := refuse(409, "ObjectParentIsFile")
	s, _ := scripted(t, refused, listing(false), say(200, "", "Content-Length", "1"))
	if err := s.Create(t.Context(), "a/b", nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("with a key above: %v", err)
	}
	s, _ = scripted(t, refused, listing(false, "a/b/c"))
	if err := s.Create(t.Context(), "a/b", nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("with a key below: %v", err)
	}
	s, _ = scripted(t, refused, listing(false), say(404, ""), say(200, ""))
	if err := s.Create(t.Context(), "a/b", nil); !errs.Is(err, errs.Transient) {
		t.Errorf("with neither: %v", err)
	}
}

func TestReadsAreHeldToTheQuestion(t *testing.T) {
	content := "0123456789"
	flipped := "0123456889"
	sum := crcOf([]byte(content))
	ok := errs.Kind(255)
	for name, c := range map[string]struct {
		off, n int
		answer answer
		kind   errs.Kind
		want   string
	}{
		"whole":                 {0, 10, say(206, content, "Content-Range", "bytes 0-9/10", crcHeader, sum), ok, content},
		"whole, asked for more": {0, 99, say(206, content, "Content-Range", "bytes 0-9/10", crcHeader, sum), ok, content},
		"part":                  {3, 4, say(206, "3456", "Content-Range", "bytes 3-6/10", crcHeader, sum), ok, "3456"},
		"end":                   {8, 4, say(206, "89", "Content-Range", "bytes 8-9/10"), ok, "89"},
		"beyond":                {10, 4, refuse(416, "InvalidRange"), ok, ""},
		"whole without range":   {0, 10, say(200, content), ok, content},
		"part without range":    {3, 4, say(200, content), errs.Corrupt, ""},
		"start without range":   {0, 4, say(200, content), errs.Corrupt, ""},
		"bit flip":              {0, 10, say(206, flipped, "Content-Range", "bytes 0-9/10", crcHeader, sum), errs.Corrupt, ""},
		"bit flip, no range":    {0, 10, say(200, flipped, crcHeader, sum), errs.Corrupt, ""},
		"sum of parts":          {0, 10, say(206, content, "Content-Range", "bytes 0-9/10", crcHeader, "AAAAAA==-2"), ok, content},
		"truncated":             {0, 10, say(206, content[:7], "Content-Range", "bytes 0-9/10", "Content-Length", "10"), errs.Transient, ""},
		"truncated, no length":  {0, 10, say(206, content[:7], "Content-Range", "bytes 0-9/10", "Content-Length", "-1"), errs.Transient, ""},
		"too long":              {0, 5, say(206, content, "Content-Range", "bytes 0-4/10", "Content-Length", "5"), errs.Transient, ""},
		"other start":           {3, 4, say(206, "2345", "Content-Range", "bytes 2-5/10"), errs.Corrupt, ""},
		"shorter range":         {3, 4, say(206, "34", "Content-Range", "bytes 3-4/10"), errs.Corrupt, ""},
		"longer range":          {3, 4, say(206, "34567", "Content-Range", "bytes 3-7/10"), errs.Corrupt, ""},
		"no number":             {3, 4, say(206, "3456", "Content-Range", "bytes x-y/z"), errs.Corrupt, ""},
		"huge numbers":          {3, 4, say(206, "3456", "Content-Range", "bytes 3-99999999999999999999/10"), errs.Corrupt, ""},
		"backwards":             {3, 4, say(206, "3456", "Content-Range", "bytes 6-3/10"), errs.Corrupt, ""},
		"no such":               {0, 4, refuse(404, "NoSuchKey"), errs.NotFound, ""},
		"no bucket":             {0, 4, refuse(404, "NoSuchBucket"), errs.Unavailable, ""},
		"reset":                 {0, 4, reset, errs.Transient, ""},
	} {
		s, sc := scripted(t, c.answer)
		p := bytes.Repeat([]byte{0xee}, c.n)
		n, err := s.ReadRange(t.Context(), "k", p, int64(c.off))
		switch {
		case sc.seen() != 1:
			t.Errorf("%s: %d requests", name, sc.seen())
		case c.kind == ok && (err != nil || string(p[:n]) != c.want):
			t.Errorf("%s: %q, %v", name, p[:n], err)
		case c.kind != ok && (!errs.Is(err, c.kind) || n != 0):
			t.Errorf("%s: %d, %v of kind %s, want %s", name, n, err, errs.KindOf(err), c.kind)
		}
	}
}

// TestBucketGoneBehindHead: the answer to HEAD says 404 and no more.
func TestBucketGoneBehindHead(t *testing.T) {
	s, _ := scripted(t, say(404, ""), say(200, ""))
	if _, err := s.Stat(t.Context(), "k"); !errs.Is(err, errs.NotFound) {
		t.Errorf("no object: %v", err)
	}
	s, _ = scripted(t, say(404, ""))
	if _, err := s.Stat(t.Context(), "k"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("no bucket: %v", err)
	}
	s, _ = scripted(t, say(404, ""), say(403, ""))
	if _, err := s.Stat(t.Context(), "k"); !errs.Is(err, errs.NotFound) {
		t.Errorf("no right to look: %v", err)
	}
}

func listing(truncated bool, keys ...string) answer {
	var b strings.Builder
	fmt.Fprintf(&b, "<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>t</NextContinuationToken>", truncated)
	for _, k := range keys {
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>3</Size><LastModified>2030-01-02T03:04:05.000Z</LastModified></Contents>", k)
	}
	return say(200, b.String()+"</ListBucketResult>")
}

func TestListsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer
		kind    errs.Kind
	}{
		"backwards":       {[]answer{listing(false, "p/b", "p/a")}, errs.Invalid},
		"twice":           {[]answer{listing(false, "p/b", "p/b")}, errs.Invalid},
		"not behind":      {[]answer{listing(false, "p/a")}, errs.Invalid},
		"other prefix":    {[]answer{listing(false, "q/a")}, errs.Invalid},
		"for ever":        {[]answer{listing(true, "p/b")}, errs.Invalid},
		"not XML":         {[]answer{say(200, "<html>")}, errs.Transient},
		"without end":     {[]answer{say(200, "<ListBucketResult>"+strings.Repeat("<Contents><Key>p/b</Key></Contents>", maxAnswer/30))}, errs.Transient},
		"denied":          {[]answer{refuse(403, "AccessDenied")}, errs.Denied},
		"broken half way": {[]answer{listing(true, "p/b"), reset}, errs.Transient},
	} {
		s, _ := scripted(t, c.answers...)
		if page, err := s.List(t.Context(), "p/", "p/a", 1000); !errs.Is(err, c.kind) || page != nil {
			t.Errorf("%s: %d, %v of kind %s", name, len(page), err, errs.KindOf(err))
		}
	}
	s, sc := scripted(t, listing(true, "p/b", "p/b+"), listing(true, "p/c", "p/d", "p/e"))
	page, err := s.List(t.Context(), "p/", "p/a", 3)
	if err != nil || len(page) != 3 || page[2].Key != "p/d" || sc.seen() != 2 {
		t.Errorf("a foreign key between: %+v, %v", page, err)
	}
}

// TestRetentionOfAmazon: the gateway's answer about a lock is not as Amazon
// documents it; this one is.
func TestRetentionOfAmazon(t *testing.T) {
	s, sc := scripted(t, say(200, `<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Mode>GOVERNANCE</Mode><RetainUntilDate>2040-01-02T03:04:05.000Z</RetainUntilDate></Retention>`))
	s.locks.Store(true)
	want := store.Lock{Mode: store.LockGovernance, Until: time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)}
	if got, err := s.ReadLock(t.Context(), "k"); err != nil || !got.Equal(want) || sc.seen() != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	s, _ = scripted(t, refuse(404, "NoSuchObjectLockConfiguration"))
	s.locks.Store(true)
	if got, err := s.ReadLock(t.Context(), "k"); err != nil || !got.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	s, _ = scripted(t, say(200, `<Retention><Mode>FOREVER</Mode><RetainUntilDate>2040-01-02T03:04:05Z</RetainUntilDate></Retention>`))
	s.locks.Store(true)
	if _, err := s.ReadLock(t.Context(), "k"); !errs.Is(err, errs.Corrupt) {
		t.Errorf("an unknown mode: %v", err)
	}
}

// TestStuckStore: a store that does not answer is given up in bounded time,
// which is a passing failure; one's own end comes first.
func TestStuckStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}
		s, _ := scripted(t, stuck)
		began := time.Now()
		for what, err := range calls(t.Context(), s) {
			if !errs.Is(err, errs.Transient) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if took := time.Since(began); took < 6*requestBase || took > 9*requestBase {
			t.Errorf("gave up on seven requests after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Create(ctx, "k", []byte("x")); !errs.Is(err, errs.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("own end: %v", err)
		}
	})
}

// TestBodyIsTheCallersAgain: after the call nothing reads the slice, though
// the transport still tries.
func TestBodyIsTheCallersAgain(t *testing.T) {
	var kept io.Reader
	s, err := New(store.URL{Scheme: store.SchemeS3, Bucket: "bkt", Endpoint: "http://127.0.0.1:1", PathStyle: true},
		Options{Getenv: env("a", "b"), Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			kept = req.Body
			return refuse(412, "PreconditionFailed")(req)
		})})
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("mine")
	if err := s.Create(t.Context(), "k", body); !errs.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	if n, err := kept.Read(make([]byte, 4)); n != 0 || !errors.Is(err, errReleased) {
		t.Fatalf("read %d bytes of the caller's, %v", n, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestAddresses(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := env("a", "b")
	base := store.URL{Scheme: store.SchemeS3, Bucket: "bkt"}
	for _, c := range []struct {
		change func(*store.URL)
		env    func(string) string
		kind   errs.Kind // 255: none
	}{
		{func(*store.URL) {}, keys, 255},
		{func(u *store.URL) { u.Endpoint = "http://127.0.0.1:9" }, keys, 255},
		{func(u *store.URL) { u.Endpoint = "http://localhost:9" }, keys, 255},
		{func(u *store.URL) { u.Endpoint = "http://[::1]:9" }, keys, 255},
		{func(u *store.URL) { u.Endpoint = "http://192.0.2.1:9" }, keys, errs.Invalid},
		{func(u *store.URL) { u.Endpoint = "http://localhost.example:9" }, keys, errs.Invalid},
		{func(u *store.URL) { u.Endpoint, u.Insecure = "http://192.0.2.1:9", true }, keys, 255},
		{func(u *store.URL) { u.Endpoint = "https://192.0.2.1:9" }, keys, 255},
		{func(u *store.URL) { u.Endpoint = "https://192.0.2.1:9/path" }, keys, errs.Invalid},
		{func(u *store.URL) { u.CA = "/nonexistent" }, keys, errs.Invalid},
		{func(u *store.URL) { u.CA = notPEM }, keys, errs.Invalid},
		{func(u *store.URL) { u.Bucket = "" }, keys, errs.Invalid},
		{func(u *store.URL) { u.Bucket = "fast--use1-az4--x-s3" }, keys, errs.Invalid},
		{func(u *store.URL) { u.Scheme = store.SchemeFile }, keys, errs.Invalid},
		{func(*store.URL) {}, env("", ""), errs.Denied},
		{func(*store.URL) {}, env("a", ""), errs.Denied},
		{func(*store.URL) {}, env("", "b"), errs.Denied},
	} {
		u := base
		c.change(&u)
		_, err := New(u, Options{Getenv: c.env})
		if c.kind == 255 && err != nil || c.kind != 255 && !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestSharedCredentialsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = DEF\naws_secret_access_key = s1\n[other]\naws_access_key_id = OTH\naws_secret_access_key = s2\naws_session_token = tok\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for profile, want := range map[string]string{"": "DEF", "other": "OTH"} {
		getenv := func(name string) string {
			return map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_PROFILE": profile, "AWS_EC2_METADATA_DISABLED": "true"}[name]
		}
		sc := &script{answers: []answer{say(200, "")}}
		s, err := New(store.URL{Scheme: store.SchemeS3, Bucket: "bkt"}, Options{Getenv: getenv, Transport: sc})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Create(t.Context(), "k", nil); err != nil {
			t.Fatal(err)
		}
		h := sc.requests[0].Header
		if !strings.Contains(h.Get("Authorization"), "Credential="+want+"/") || (h.Get("X-Amz-Security-Token") == "tok") != (want == "OTH") {
			t.Errorf("profile %q: signed %v", profile, h)
		}
	}
}

// FuzzStartAfter: among keys, what is sent means the same as what was asked.
func FuzzStartAfter(f *testing.F) {
	for _, s := range []string{"", "a", "a/", "\xff", "A", "a/zz", "a\x00b", "a{", strings.Repeat("a", 600)} {
		f.Add("a/", s, "a/b")
		f.Add("", s, "a")
	}
	f.Fuzz(func(t *testing.T, prefix, after, key string) {
		if store.CheckKey("t", key) != nil || !strings.HasPrefix(key, prefix) {
			return
		}
		start, none := startAfter(prefix, after)
		if len(start) > store.MaxKey+1 {
			t.Fatalf("%d bytes", len(start))
		}
		if got := !none && key > start; got != (key > after) {
			t.Fatalf("prefix %q after %q key %q: sent %q, none %v", prefix, after, key, start, none)
		}
	})
}

// FuzzAnswered: whatever a store says, what is read fits the buffer.
func FuzzAnswered(f *testing.F) {
	f.Add("bytes 0-9/10", int64(0), int64(10), int64(10))
	f.Add("", int64(0), int64(10), int64(3))
	f.Add("bytes 5-99/100", int64(5), int64(95), int64(-1))
	f.Fuzz(func(t *testing.T, said string, off, want, size int64) {
		if off < 0 || off >= maxOffset || want < 1 || want > 1<<40 {
			return
		}
		n, _, err := answered(http.Header{"Content-Range": {said}}, off, want, size)
		if err == nil && (n < 0 || n > want) {
			t.Fatalf("%d bytes for a buffer of %d", n, want)
		}
	})
}

// TestBatchAnswers: each key of a batch gets the answer that is its own; a key
// the store says nothing of is not taken for deleted, and a store that knows no
// batches gets single requests.
func TestBatchAnswers(t *testing.T) {
	const head = `<?xml version="1.0"?><DeleteResult>`
	s, sc := scripted(t, say(200, head+`<Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>`))
	out := s.DeleteBatch(t.Context(), []string{"a", "b", "c", "Bad Key"})
	if out[0] != nil || !errs.Is(out[1], errs.Denied) || !errs.Is(out[2], errs.Transient) || !errs.Is(out[3], errs.Invalid) || sc.seen() != 1 {
		t.Errorf("%v after %d requests", out, sc.seen())
	}
	s, _ = scripted(t, say(200, head+`<Deleted><Key>elsewhere</Key></Deleted></DeleteResult>`))
	for _, err := range s.DeleteBatch(t.Context(), []string{"a", "b"}) {
		if err == nil {
			t.Error("an answer for another key counts")
		}
	}
	s, _ = scripted(t, refuse(503, "SlowDown"))
	for _, err := range s.DeleteBatch(t.Context(), []string{"a", "b"}) {
		if !errs.Is(err, errs.Transient) {
			t.Errorf("slow down: %v", err)
		}
	}
	s, sc = scripted(t, refuse(501, "NotImplemented"), say(204, ""))
	for _, err := range s.DeleteBatch(t.Context(), []string{"a", "b"}) {
		if err != nil {
			t.Errorf("one by one: %v", err)
		}
	}
	if sc.seen() != 3 {
		t.Errorf("%d requests for two keys one by one", sc.seen())
	}
}
