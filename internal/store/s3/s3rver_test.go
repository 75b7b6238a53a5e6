package s3

import (
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/s3rver"
)

// TestStoreThatIgnoresConditions: on a store that ignores the condition of the
// PUT the second Create of a name succeeds and overwrites. The driver cannot
// see that; so this store is what every probe of stores has to refuse.
func TestStoreThatIgnoresConditions(t *testing.T) {
	r := s3rver.Start(t, s3rver.Options{})
	u := store.URL{Scheme: store.SchemeS3, Bucket: r.Bucket, Endpoint: r.Endpoint, PathStyle: true}
	s := mustOpen(t, u, Options{Getenv: env(s3rver.AccessKey, s3rver.SecretKey)})
	if c := s.Capabilities(); c.Lock {
		t.Errorf("declares %+v", c)
	}
	if err := s.Create(t.Context(), "a/b", []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a/b", []byte("second")); err != nil {
		t.Fatalf("the store keeps create-once after all (%v, kind exists: %v): find another one to be refused", err, errs.Is(err, errs.Exists))
	}
	p := make([]byte, 10)
	if n, err := s.ReadRange(t.Context(), "a/b", p, 0); err != nil || string(p[:n]) != "second" {
		t.Fatalf("read %q, %v", p[:n], err)
	}
}
