package s3

import (
	"fmt"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/versitygw"
)

// read is what readers see of a key.
func read(t *testing.T, s *Store, key string) string {
	t.Helper()
	p := make([]byte, 100)
	n, err := s.ReadRange(t.Context(), key, p, 0)
	if errs.Is(err, errs.NotFound) {
		return "nothing"
	} else if err != nil {
		t.Fatal(err)
	}
	return string(p[:n])
}

// TestReveal: deleted and overwritten names come back as they were created,
// below the prefix alone, and what cannot is named.
func TestReveal(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	u := r.url(t, true)
	u.Prefix = "in"
	s := mustOpen(t, u, Options{Getenv: r.env()})
	lock := store.Lock{Mode: store.LockCompliance, Until: time.Now().Add(time.Hour)}
	for _, key := range []string{"a/plain", "a/deleted", "a/twice", "a/over", "a/both", "b/deleted"} {
		if err := s.CreateLocked(t.Context(), key, []byte(key), lock); err != nil {
			t.Fatal(err)
		}
	}
	hide(t, r, s, "a/deleted")
	hide(t, r, s, "b/deleted")
	hide(t, r, s, "a/twice")
	hide(t, r, s, "a/twice")
	overwrite(t, r, s, "a/over")
	hide(t, r, s, "a/both")
	overwrite(t, r, s, "a/both")
	hide(t, r, s, "a/both")
	hide(t, r, s, "a/never") // Amazon puts a marker before nothing, the gateway does not

	reveal := func(opts store.RevealOptions) (store.RevealReport, map[string]store.Hidden) {
		t.Helper()
		found := map[string]store.Hidden{}
		opts.Found = func(h store.Hidden) { found[h.Key] = h }
		report, err := s.Reveal(t.Context(), "a/", opts)
		if err != nil {
			t.Fatal(err)
		}
		return report, found
	}
	versions, markers := versionsIn(t, r, s)
	dry, _ := reveal(store.RevealOptions{DryRun: true, Overwritten: true})
	if v, m := versionsIn(t, r, s); v != versions || m != markers || dry.Hidden != 2 || dry.Covered != 2 || dry.Left != 0 {
		t.Errorf("a dry run: %+v, %d versions and %d markers of %d and %d", dry, v, m, versions, markers)
	}
	report, found := reveal(store.RevealOptions{})
	if report.Keys != 5 || report.Hidden != 2 || report.Covered != 2 || report.Left != 2 || report.Versions != 0 || report.Gone > 1 {
		t.Errorf("%+v", report)
	}
	for key, want := range map[string]string{"a/plain": "a/plain", "a/deleted": "a/deleted", "a/twice": "a/twice", "a/over": "x", "a/both": "x", "b/deleted": "nothing"} {
		if got := read(t, s, key); got != want {
			t.Errorf("%s reads %q, want %q", key, got, want)
		}
	}
	if h := found["a/over"]; h.Left == "" || h.Covers != 1 {
		t.Errorf("%+v", found)
	}
	if report, _ = reveal(store.RevealOptions{Overwritten: true}); report.Versions != 2 || report.Left != 0 {
		t.Errorf("%+v", report)
	}
	for _, key := range []string{"a/plain", "a/deleted", "a/twice", "a/over", "a/both"} {
		if got := read(t, s, key); got != key {
			t.Errorf("%s reads %q", key, got)
		}
	}
	if report, found = reveal(store.RevealOptions{Overwritten: true}); report.Hidden+report.Covered+len(found) != 0 {
		t.Errorf("again: %+v, %v", report, found)
	}
}

// TestRevealUnderALockedCover: what somebody wrote over a name and locked
// himself cannot be taken away, and is named.
func TestRevealUnderALockedCover(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	s := r.open(t, true)
	lock := store.Lock{Mode: store.LockCompliance, Until: time.Now().Add(time.Hour)}
	if err := s.CreateLocked(t.Context(), "k", []byte("first"), lock); err != nil {
		t.Fatal(err)
	}
	overwrite(t, r, s, "k")
	if err := s.ExtendLock(t.Context(), "k", lock); err != nil { // of what is in front
		t.Fatal(err)
	}
	var found []store.Hidden
	report, err := s.Reveal(t.Context(), "", store.RevealOptions{Overwritten: true, Found: func(h store.Hidden) { found = append(found, h) }})
	if err != nil || report.Left != 1 || len(found) != 1 || found[0].Left == "" {
		t.Fatalf("%+v, %v, %v", report, found, err)
	}
}

// TestRevealOverManyPages: more names than one answer of the store holds.
func TestRevealOverManyPages(t *testing.T) {
	r := newRig(t, versitygw.Options{KeepAlive: true})
	s := r.open(t, true)
	const names = 30
	s.walkPage = 7
	for i := range names {
		key := fmt.Sprintf("k/%03d", i)
		if err := s.Create(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		hide(t, r, s, key)
	}
	report, err := s.Reveal(t.Context(), "", store.RevealOptions{})
	if err != nil || report.Hidden != names || report.Markers != names {
		t.Fatalf("%+v, %v", report, err)
	}
	page, err := s.List(t.Context(), "", "", store.MaxList)
	if err != nil || len(page) != names {
		t.Fatalf("%d names, %v", len(page), err)
	}
}

func TestRevealWithoutVersions(t *testing.T) {
	s := newRig(t, versitygw.Options{}).open(t, false)
	if _, err := s.Reveal(t.Context(), "", store.RevealOptions{}); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Fatal(err)
	}
}
