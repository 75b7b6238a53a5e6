package s3

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"holdfast/internal/store"
	"holdfast/internal/store/storetest/versitygw"
)

// rig is a running gateway and the way to it.
type rig struct {
	*versitygw.Server
	buckets atomic.Int64
}

func newRig(t testing.TB, opts versitygw.Options) *rig {
	t.Helper()
	return &rig{Server: versitygw.Start(t, opts)}
}

// env is an environment with these credentials and nothing else.
func env(id, secret string) func(string) string {
	return func(name string) string {
		switch name {
		case "AWS_ACCESS_KEY_ID":
			return id
		case "AWS_SECRET_ACCESS_KEY":
			return secret
		case "AWS_EC2_METADATA_DISABLED":
			return "true"
		case "AWS_SHARED_CREDENTIALS_FILE":
			return "/nonexistent"
		}
		return ""
	}
}

func (r *rig) env() func(string) string { return env(r.AccessKey, r.SecretKey) }

// url is the address of a new bucket.
func (r *rig) url(t testing.TB, lock bool) store.URL {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", r.buckets.Add(1))
	if err := r.MakeBucket(t.Context(), name, lock); err != nil {
		t.Fatal(err)
	}
	return store.URL{Scheme: store.SchemeS3, Bucket: name, Endpoint: r.Endpoint, PathStyle: true, CA: r.CA, Region: versitygw.Region}
}

// open opens a new bucket.
func (r *rig) open(t testing.TB, lock bool) *Store {
	t.Helper()
	return mustOpen(t, r.url(t, lock), Options{Getenv: r.env()})
}

func mustOpen(t testing.TB, u store.URL, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), u, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// counter counts requests by method.
type counter struct {
	next                   http.RoundTripper
	puts, gets, heads, all atomic.Int64
}

func (c *counter) RoundTrip(req *http.Request) (*http.Response, error) {
	c.all.Add(1)
	switch req.Method {
	case http.MethodPut:
		c.puts.Add(1)
	case http.MethodGet:
		c.gets.Add(1)
	case http.MethodHead:
		c.heads.Add(1)
	}
	return c.next.RoundTrip(req)
}
