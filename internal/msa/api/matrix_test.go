package api

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

var update = flag.Bool("update", false, "write testdata/matrix.txt anew")

// cast is everybody who may ask, in the order of the file's columns: each role
// everywhere, as a person who logged in; boxes, peers; nobody.
func cast() (names []string, by map[string]*auth.Principal) {
	by = map[string]*auth.Principal{"appliance": auth.OfBox("b", "proof"), "peer": auth.OfPeer("p"), "nobody": nil}
	for _, r := range auth.Roles() {
		names = append(names, string(r))
		p := auth.OfUser(string(r), auth.Grant{Role: r})
		p.Session = true
		by[string(r)] = p
	}
	return append(names, "appliance", "peer", "nobody"), by
}

// asker is an Authenticator that says what it is told.
type asker struct{ who *auth.Principal }

func (a *asker) Authenticate(context.Context, *http.Request) (*auth.Principal, error) {
	if a.who == nil {
		return nil, errs.New("test", errs.Denied, "", "nobody")
	}
	return a.who, nil
}

// TestMatrix asks for every operation of the API as everybody and compares who was let
// in with testdata/matrix.txt, which people have read: a new operation, or another
// permission, is a change of that file.
func TestMatrix(t *testing.T) {
	d, err := db.Open(t.Context(), dbtest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	a := &asker{}
	h, err := New(Options{DB: d, Auth: a})
	if err != nil {
		t.Fatal(err)
	}
	ops, err := Operations()
	if err != nil {
		t.Fatal(err)
	}
	names, by := cast()
	var got strings.Builder
	for n, o := range ops {
		fmt.Fprintf(&got, "%s:", o.ID)
		for i, name := range names {
			a.who = by[name]
			if let(t, h, o, fmt.Sprintf("198.51.%d.%d:1", n, i)) {
				fmt.Fprintf(&got, " %s", name)
			}
		}
		got.WriteString("\n")
	}
	const file = "testdata/matrix.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	had := map[string]bool{}
	for line := range strings.Lines(string(want)) {
		had[line] = true
	}
	for line := range strings.Lines(got.String()) {
		if !had[line] {
			t.Errorf("not as in %s: %s", file, line)
		}
		delete(had, line)
	}
	for line := range had {
		t.Errorf("in %s alone: %s", file, line)
	}
}

// let asks for an operation and reports whether who asks was let in: what the
// operation then says of an empty request is another matter.
func let(t *testing.T, h http.Handler, o Operation, remote string) bool {
	t.Helper()
	path := strings.NewReplacer("{", "", "}", "").Replace(o.Path)
	body := ""
	if o.Method == http.MethodPost || o.Method == http.MethodPut || o.Method == http.MethodPatch {
		body = "{}"
	}
	r := httptest.NewRequestWithContext(t.Context(), o.Method, path, strings.NewReader(body))
	r.RemoteAddr = remote
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Last-Event-ID", "x") // a stream ends before it begins
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	switch {
	case w.Code == http.StatusTooManyRequests:
		t.Fatalf("%s: the test asks too much", o.ID)
	case w.Code == http.StatusUnauthorized:
		return false
	case w.Code != http.StatusForbidden:
		return true
	}
	var p v1.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%s: %v", o.ID, err)
	}
	return p.Object != string(o.Permission) // another reason than the permission
}

// TestMatrixCatches: an operation that forgot its permission is told.
func TestMatrixCatches(t *testing.T) {
	ops, err := Operations()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("testdata/matrix.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ops {
		line, found := "", false
		for l := range strings.Lines(string(file)) {
			if rest, ok := strings.CutPrefix(l, o.ID+":"); ok {
				line, found = rest, true
			}
		}
		if !found {
			t.Errorf("%s is in no row", o.ID)
		}
		// What changes something is open to nobody, but for the ways in.
		open := map[string]bool{"set-up": true, "log-in": true, "present-site": true, "join-box": true}
		if o.Change && strings.Contains(line, "nobody") && !open[o.ID] {
			t.Errorf("%s changes something for anybody", o.ID)
		}
		// Drafts and files are of objects of all kinds: each object's own permission is
		// asked for, and a change that asked for none fails.
		inside := o.Scoped || o.ID == "log-out"
		if o.Change && !open[o.ID] && !inside && o.Permission == "" {
			t.Errorf("%s changes something without a permission", o.ID)
		}
		if o.Permission != "" && !o.Permission.Valid() {
			t.Errorf("%s needs %q, which there is not", o.ID, o.Permission)
		}
	}
}
