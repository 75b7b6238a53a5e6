package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/auth/oidctest"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/fleet"
)

// TestMain demands, when all tests have run, that each operation was done by one of
// them at least, and answered well.
func TestMain(m *testing.M) {
	code := dbtest.Main(m)
	whole := true
	for _, f := range []string{"test.run", "test.skip", "test.fuzz", "test.list"} {
		whole = whole && flag.Lookup(f).Value.String() == ""
	}
	if ops, err := Operations(); whole && code == 0 {
		if err != nil {
			fmt.Println(err)
			code = 1
		}
		for _, o := range ops {
			if !done.has(o.ID) {
				fmt.Printf("no test has done %s\n", o.ID)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// done is which operations were answered well.
var done = &recorder{well: map[string]bool{}}

type recorder struct {
	mu   sync.Mutex
	well map[string]bool
}

func (r *recorder) has(op string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.well[op]
}

// recording is a handler of logs that notes what was answered, and hands on what
// another one takes.
type recording struct{ slog.Handler }

func (h recording) Enabled(context.Context, slog.Level) bool { return true }

func (h recording) Handle(ctx context.Context, r slog.Record) error {
	var op string
	var status int64
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "operation":
			op = a.Value.String()
		case "status":
			status = a.Value.Int64()
		}
		return true
	})
	if status == 0 || status >= 200 && status < 400 { // 0: a stream, which says its status itself
		done.mu.Lock()
		done.well[op] = true
		done.mu.Unlock()
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// people are known by their tokens.
type people map[string]*auth.Principal

func (p people) Authenticate(_ context.Context, r *http.Request) (*auth.Principal, error) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if who := p[token]; who != nil {
		return who, nil
	}
	return nil, errs.New("test", errs.Denied, "token", "nobody has this token")
}

// everybody is whom the tests know: the token is the name.
func everybody() people {
	p := people{
		"erp": auth.OfUser("erp", auth.Grant{Role: auth.ProtectionAdmin, Folder: "erp"}, auth.Grant{Role: auth.PlanAuthor, Folder: "erp"}),
	}
	for _, r := range auth.Roles() {
		p[string(r)] = auth.OfUser(string(r), auth.Grant{Role: r})
	}
	return p
}

// mixed knows people by their names, and whoever has real tokens and sessions.
type mixed struct {
	people
	real *auth.Auth
}

func (m *mixed) Authenticate(ctx context.Context, r *http.Request) (*auth.Principal, error) {
	if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer hf") {
		return m.real.Authenticate(ctx, r)
	}
	return m.people.Authenticate(ctx, r)
}

// rig is the API on a server, with TLS, and its audit log.
type rig struct {
	boxes *fleet.Fleet
	t     *testing.T
	db    *db.DB
	srv   *httptest.Server
	who   string // the token that is sent; empty: none

	access Access
	people people
	idp    *oidctest.Provider

	mu    sync.Mutex
	audit []audit.Entry
	log   bytes.Buffer
}

func (r *rig) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func newRig(t *testing.T, url string, tune ...func(*Options)) *rig {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	r := &rig{t: t, db: d, who: "admin"}
	r.idp = oidctest.New(t)
	r.idp.Claims = map[string]any{"preferred_username": "carol", "groups": []string{"ops"}}
	r.access = accessOf(t, d, "berlin", r.idp.Client())
	r.people = everybody()
	o := Options{DB: d, Auth: &mixed{r.people, r.access.Accounts}, Access: r.access, Catalog: &catalog.Catalog{}, Desk: r.desk(), Fleet: r.fleet(), Release: "test", Logger: testLogger(r),
		Audit: func(ctx context.Context, tx *db.Tx, e audit.Entry) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.audit = append(r.audit, e)
			return audit.Append(ctx, tx, e)
		}}
	for _, f := range tune {
		f(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.srv = httptest.NewTLSServer(h)
	t.Cleanup(r.srv.Close)
	r.srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return r
}

// testLogger logs what tests look at: warnings and worse.
func testLogger(w io.Writer) *slog.Logger {
	return slog.New(recording{slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn})})
}

// answer is what came back.
type answer struct {
	*http.Response
	t    *testing.T
	body []byte
}

// as decodes the body.
func as[T any](a answer) T {
	a.t.Helper()
	var v T
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		a.t.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
	}
	return v
}

// want demands a status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.StatusCode != status {
		a.t.Fatalf("%s %s: %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	return a
}

// problem demands an error with a kind and a remedy.
func (a answer) problem(status int, kind errs.Kind) v1.Problem {
	a.t.Helper()
	a.want(status)
	if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" {
		a.t.Errorf("an error comes as %q", ct)
	}
	p := as[v1.Problem](a)
	if p.Kind != kind.String() || p.Status != status || p.Remedy == "" {
		a.t.Errorf("problem %+v, want kind %s with a remedy", p, kind)
	}
	return p
}

// send sends a request; body may be nil, text or what becomes JSON. headers are
// name, value, name, value, …
func (r *rig) send(method, path string, body any, headers ...string) answer {
	r.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			r.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.srv.URL+prefix+path, reader)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.who != "" {
		req.Header.Set("Authorization", "Bearer "+r.who)
	}
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.srv.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp, r.t, b}
}
