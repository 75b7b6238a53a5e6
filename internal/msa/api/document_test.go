package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "holdfast/api"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// documents is where the API's document is kept, as it is served.
const documents = "../../../docs/api"

// TestDocumentIsKept: docs/api has what is served. HOLDFAST_REWRITE=1 writes it.
func TestDocumentIsKept(t *testing.T) {
	text, err := Document("1")
	if err != nil {
		t.Fatal(err)
	}
	table, err := operationsTable()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"openapi.json": text, "operations.md": table} {
		path := filepath.Join(documents, name)
		if os.Getenv("HOLDFAST_REWRITE") != "" {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not what is served: HOLDFAST_REWRITE=1 go test ./internal/msa/api -run Document (%v)", path, err)
		}
	}
}

// operationsTable is a table of the operations for people.
func operationsTable() ([]byte, error) {
	s, err := build(Options{DB: &db.DB{}, Auth: nobody{}})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Operations of the manager's API\n\nGenerated from the API itself; [openapi.json](openapi.json) has everything about them.\n\n| operation | request | needs | what it does |\n|---|---|---|---|\n")
	for _, o := range s.ops {
		needs := "`" + string(o.Permission) + "`"
		switch {
		case o.Open:
			needs = "nothing"
		case o.Permission == "":
			needs = "to be logged in"
		case o.Scoped:
			needs += " where it is"
		}
		fmt.Fprintf(&b, "| `%s` | `%s %s` | %s | %s |\n", o.ID, o.Method, o.Path, needs, operationOf(s, o).Summary)
	}
	return b.Bytes(), nil
}

// operationOf finds an operation in the document.
func operationOf(s *server, o Operation) *huma.Operation {
	item := s.api.OpenAPI().Paths[o.Path]
	if item == nil {
		return &huma.Operation{}
	}
	return map[string]*huma.Operation{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete, "PATCH": item.Patch}[o.Method]
}

// TestOperationsAreDescribed: each has an id in the house's form, words, a permission
// that there is, and the answers it gives.
func TestOperationsAreDescribed(t *testing.T) {
	s, err := build(Options{DB: &db.DB{}, Auth: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range s.ops {
		d := operationOf(s, o)
		if seen[o.ID] || strings.ToLower(o.ID) != o.ID || strings.ContainsAny(o.ID, " _") {
			t.Errorf("operation %q: it is there twice, or not of the form verb-noun", o.ID)
		}
		seen[o.ID] = true
		if d == nil || d.Summary == "" || len(d.Tags) != 1 || d.Tags[0] == "" {
			t.Errorf("%s has no summary or tag", o.ID)
		}
		if o.Permission != "" && !o.Permission.Valid() {
			t.Errorf("%s needs %q, which is no permission", o.ID, o.Permission)
		}
		if o.Change && o.Method == http.MethodGet {
			t.Errorf("%s changes something, and is a GET", o.ID)
		}
	}
}

// exercises are requests that do each operation of this area once, in an order in
// which each finds what it needs. Files of other areas add theirs in init.
var exercises = []exercise{}

// exercise does one operation, and returns the answer, which must be a good one.
type exercise struct {
	operation string
	do        func(r *rig) answer
}

func init() {
	for _, k := range []struct {
		kind, path, body string
	}{
		{"site", "sites", `{"name":"x","platform":"fake"}`},
		{"site-pair", "site-pairs", `{"name":"x","local":"a","peer":"b"}`},
		{"store", "stores", `{"name":"x","url":"file:///srv"}`},
		{"appliance", "appliances", `{"name":"x","role":"drva","site":"a"}`},
		{"domain", "domains", `{"name":"x","from":"a","stores":["s"],"vms":["v"],"retention":{"schedule":[{"for":"24h"}]}}`},
		{"mappings", "mappings", `{"name":"x","from":"a","to":"b"}`},
		{"recovery-settings", "recovery-settings", `{"name":"x","site":"b","vm":"v"}`},
		{"plan", "plans", `{"name":"x","from":"a","to":"b","domains":["d"]}`},
	} {
		exercises = append(exercises,
			exercise{"put-" + k.kind, func(r *rig) answer { return r.send("PUT", "/"+k.path+"/x", k.body) }},
			exercise{"get-" + k.kind, func(r *rig) answer { return r.send("GET", "/"+k.path+"/x", nil) }},
			exercise{"list-" + k.path, func(r *rig) answer { return r.send("GET", "/"+k.path+"?limit=1", nil) }},
			exercise{"delete-" + k.kind, func(r *rig) answer { return r.send("DELETE", "/"+k.path+"/x", nil, "If-Match", "*") }},
		)
	}
	draft := func(r *rig) string {
		return "/drafts/" + as[v1.Draft](r.send("POST", "/drafts", `{"kind":"site","name":"a"}`).want(http.StatusCreated)).ID
	}
	task := func(r *rig) (id string) {
		if err := r.db.Tx(r.t.Context(), func(tx *db.Tx) (err error) {
			id, _, err = runs.Start(r.t.Context(), tx, runs.Request{Key: fmt.Sprint(rand.Uint64()), Subject: taskSubject + "x", Operation: "x", By: "x",
				Snapshot: runs.Snapshot{Steps: []runs.Step{{Name: "x", Kind: "x", Version: 1}}}})
			return err
		}); err != nil {
			r.t.Fatal(err)
		}
		return id
	}
	exercises = append(exercises, []exercise{
		{"get-health", func(r *rig) answer { return r.send("GET", "/health", nil) }},
		{"get-version", func(r *rig) answer { return r.send("GET", "/version", nil) }},
		{"list-drafts", func(r *rig) answer { return r.send("GET", "/drafts", nil) }},
		{"create-draft", func(r *rig) answer { return r.send("POST", "/drafts", `{"kind":"site","name":"a"}`) }},
		{"get-draft", func(r *rig) answer { return r.send("GET", draft(r), nil) }},
		{"save-draft", func(r *rig) answer {
			return r.send("PUT", draft(r), `{"object":{"name":"a","platform":"fake"}}`, "If-Match", `"1"`)
		}},
		{"validate-draft", func(r *rig) answer { return r.send("POST", draft(r)+"/validate", nil) }},
		{"commit-draft", func(r *rig) answer { return r.send("POST", draft(r)+"/commit", nil) }},
		{"discard-draft", func(r *rig) answer { return r.send("DELETE", draft(r), nil) }},
		{"diff", func(r *rig) answer { return r.send("POST", "/diff", domainFile) }},
		{"apply", func(r *rig) answer { return r.send("POST", "/apply", domainFile) }},
		{"export", func(r *rig) answer { return r.send("GET", "/export?kind=site", nil) }},
		{"list-tasks", func(r *rig) answer { task(r); return r.send("GET", "/tasks", nil) }},
		{"get-task", func(r *rig) answer { return r.send("GET", "/tasks/"+task(r), nil) }},
		{"try-store", func(r *rig) answer { return r.send("POST", "/stores/s/try", `{"quick":true}`) }},
		{"cancel-task", func(r *rig) answer { return r.send("POST", "/tasks/"+task(r)+"/cancel", nil) }},
		{"watch-events", func(r *rig) answer {
			st := r.events("", "")
			if name, _ := st.next(); name != "hello" {
				r.t.Errorf("begins with %q", name)
			}
			st.end()
			return answer{Response: &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Request: &http.Request{}}, t: r.t}
		}},
	}...)
}

// furnish stores what exercises refer to.
func furnish(r *rig) {
	r.t.Helper()
	for _, n := range []string{"a", "b"} {
		r.send("PUT", "/sites/"+n, siteOf(n)).want(http.StatusCreated)
	}
	r.send("PUT", "/stores/s", v1.Store{Meta: v1.Meta{Name: "s"}, URL: "file:///srv"}).want(http.StatusCreated)
	r.send("POST", "/apply", domainFile).want(http.StatusOK)
}

// TestEveryOperation does operations of the document once: they answer with what the
// document says. Those that need a whole manager are done by tests of their own;
// TestMain sees to it that none is left out.
func TestEveryOperation(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	furnish(r)
	s, err := build(Options{DB: r.db, Auth: everybody()})
	if err != nil {
		t.Fatal(err)
	}
	ops := map[string]Operation{}
	for _, o := range s.ops {
		ops[o.ID] = o
	}
	for _, e := range exercises {
		o, known := ops[e.operation]
		if !known {
			t.Errorf("%s is no operation", e.operation)
			continue
		}
		checkAnswer(t, s, operationOf(s, o), e.do(r))
	}
	if r.log.Len() > 0 {
		t.Errorf("logged:\n%s", &r.log)
	}
}

// checkAnswer demands that an answer is one of those the document has.
func checkAnswer(t *testing.T, s *server, o *huma.Operation, a answer) {
	t.Helper()
	if a.StatusCode < 200 || a.StatusCode > 399 {
		t.Errorf("%s: %d %s", o.OperationID, a.StatusCode, a.body)
		return
	}
	documented := o.Responses[strconv.Itoa(a.StatusCode)]
	if documented == nil && a.StatusCode == http.StatusCreated {
		documented = o.Responses["200"] // of a put: the same, and new
	}
	if documented == nil {
		t.Errorf("%s answers %d, which the document has not", o.OperationID, a.StatusCode)
		return
	}
	if a.StatusCode == http.StatusNoContent || a.StatusCode >= 300 {
		return
	}
	media := strings.Split(a.Header.Get("Content-Type"), ";")[0]
	content := documented.Content[media]
	if content == nil {
		t.Errorf("%s answers with %s, which the document has not", o.OperationID, media)
		return
	}
	if media != "application/json" {
		return
	}
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Errorf("%s: %v", o.OperationID, err)
		return
	}
	res := &huma.ValidateResult{}
	huma.Validate(s.api.OpenAPI().Components.Schemas, content.Schema, huma.NewPathBuffer([]byte{}, 0), huma.ModeReadFromServer, v, res)
	for _, err := range res.Errors {
		t.Errorf("%s: the answer is not as the document says: %v", o.OperationID, err)
	}
}

// fuzzTarget is the API without a network, and its operations.
type fuzzTarget struct {
	h   http.Handler
	s   *server
	log *bytes.Buffer
}

func newFuzzTarget(t testing.TB) *fuzzTarget {
	t.Helper()
	d, err := db.Open(t.Context(), dbtest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	log := &bytes.Buffer{}
	// As somebody who logged in, whom nothing is kept from.
	who := auth.OfUser("admin", auth.Grant{Role: auth.Admin})
	who.Session = true
	acc := accessOf(t, d, "berlin", nil)
	s, err := build(Options{DB: d, Auth: &asker{who}, Logger: testLogger(log), Access: acc, Fleet: fleetOf(t, d, acc.Box)})
	if err != nil {
		t.Fatal(err)
	}
	f := &fuzzTarget{s.outer(s.mux), s, log}
	for _, o := range []struct{ path, body string }{
		{"/sites/a", `{"name":"a","platform":"fake"}`}, {"/sites/b", `{"name":"b","platform":"fake"}`}, {"/stores/s", `{"name":"s","url":"file:///srv"}`},
	} {
		if w := f.ask("PUT", o.path, "", "", []byte(o.body)); w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	return f
}

// ask sends a request past the bound of one address.
func (f *fuzzTarget) ask(method, path, header, value string, body []byte) *httptest.ResponseRecorder {
	f.s.gates = newGates()
	r := httptest.NewRequest(method, "https://msa", bytes.NewReader(body))
	r.URL.Path, r.URL.RawQuery, _ = strings.Cut(prefix+path, "?")
	r.Header.Set("Authorization", "Bearer admin")
	r.Header.Set("Content-Type", "application/json")
	if header != "" {
		r.Header.Set(header, value)
	}
	w := httptest.NewRecorder()
	f.h.ServeHTTP(w, r)
	return w
}

// check demands that an answer is no failure of ours, and a problem if it is one.
func (f *fuzzTarget) check(t *testing.T, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code >= 500 && w.Code != http.StatusInsufficientStorage || f.log.Len() > 0 {
		t.Fatalf("%s: %d %s\nlogged: %s", what, w.Code, w.Body, f.log)
	}
	if w.Code >= 400 {
		var p v1.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Detail == "" || p.Remedy == "" || p.Request == "" {
			t.Fatalf("%s: %d is no problem with a remedy: %s (%v)", what, w.Code, w.Body, err)
		}
	}
}

// fuzzed are the operations that answer at once: no stream, and none that computes a
// password's hash, which is slow on purpose.
func (f *fuzzTarget) fuzzed() (ops []Operation) {
	for _, o := range f.s.ops {
		if !slices.Contains([]string{"watch-events", "log-in", "set-up", "set-own-password", "put-user"}, o.ID) {
			ops = append(ops, o)
		}
	}
	return ops
}

// TestRandomRequests: requests that are nearly right, of every operation, never make
// the manager fail.
func TestRandomRequests(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	f := newFuzzTarget(t)
	ops := f.fuzzed()
	worked := map[int]int{}
	for range 2000 {
		o := ops[rnd.IntN(len(ops))]
		path := strings.TrimPrefix(o.Path, prefix)
		for strings.Contains(path, "{") {
			a, b := strings.Index(path, "{"), strings.Index(path, "}")
			path = path[:a] + pick(rnd, "a", "b", "s", "x", "\x00", "ü", "%", "a b", strings.Repeat("n", 300), "6f9c2f2a-0000-4000-8000-000000000000") + path[b+1:]
		}
		if rnd.IntN(3) == 0 {
			path += "?" + pick(rnd, "limit=1", "limit=0", "limit=x", "cursor=!", "cursor=YQ", "folder=%00", "prune=1", "kind=site", "kind=x&name=y", "wait=-1", "x=y", "%zz", ";", "expect=1")
		}
		body := f.body(rnd, o)
		header := pick(rnd, "", "If-Match", "If-None-Match", "Idempotency-Key", "Content-Type", "Accept")
		value := pick(rnd, `"1"`, `"1.6f9c2f2a"`, "*", "x", `W/"1"`, `"99999999999999999999"`, "\xff\xfe", "application/xml", "k", strings.Repeat("k", 300), "")
		w := f.ask(o.Method, path, header, value, body)
		f.check(t, fmt.Sprintf("%s %s %s: %s, body %q", o.Method, path, header, value, body), w)
		worked[w.Code/100]++
	}
	t.Logf("answers by class: %v", worked)
	if worked[2] < 100 || worked[4] < 100 {
		t.Errorf("answers by class %v: the requests are not nearly right", worked)
	}
}

func pick(rnd *rand.Rand, words ...string) string { return words[rnd.IntN(len(words))] }

// body makes a body of an operation's schema, with mistakes.
func (f *fuzzTarget) body(rnd *rand.Rand, o Operation) []byte {
	d := operationOf(f.s, o)
	if d.RequestBody == nil || rnd.IntN(20) == 0 {
		return []byte(pick(rnd, "", "{", "null", "[]", `"x"`, "\x00", `{"a":`+strings.Repeat("[", 200)))
	}
	if m := d.RequestBody.Content["application/json"]; m != nil {
		b, err := json.Marshal(f.value(rnd, m.Schema, 0))
		if err != nil {
			return []byte("{")
		}
		return b
	}
	return []byte(pick(rnd, domainFile, "apiVersion: holdfast/v1\nkind: site\nname: a\nplatform: qemu\n", "a: [", "apiVersion: holdfast/v1\nkind: plan\nname: \xff", "{}", strings.Repeat("- ", 300)))
}

// value makes a value of a schema, or of another one.
func (f *fuzzTarget) value(rnd *rand.Rand, s *huma.Schema, depth int) any {
	if s.Ref != "" {
		s = f.s.api.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref)
	}
	if depth > 6 || rnd.IntN(25) == 0 {
		return []any{nil, "", -1, 1e300, true, []any{}, map[string]any{}}[rnd.IntN(7)]
	}
	switch s.Type {
	case "object":
		m := map[string]any{}
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for n := range s.Properties {
				if !yield(n) {
					return
				}
			}
		}) {
			if slices.Contains(s.Required, name) || rnd.IntN(3) == 0 {
				m[name] = f.value(rnd, s.Properties[name], depth+1)
			}
		}
		if rnd.IntN(30) == 0 {
			m["unknown"] = 1
		}
		return m
	case "array":
		list := []any{}
		for range rnd.IntN(3) {
			list = append(list, f.value(rnd, s.Items, depth+1))
		}
		return list
	case "integer", "number":
		return []any{0, 1, 2, 7, -5, 1 << 40}[rnd.IntN(6)]
	case "boolean":
		return rnd.IntN(2) == 0
	case "string":
		return pick(rnd, "a", "b", "s", "x", "fake", "drva", "24h", "1h30m", "file:///srv", "10.0.0.1/24", "10.0.0.1", "2026-01-01T00:00:00Z", "", "\x00", "ü\u2028", "failover", "domain", "site", strings.Repeat("z", 70))
	}
	return json.RawMessage(pick(rnd, `{"name":"a","platform":"fake"}`, `{"name":"x"}`, `[]`, `1`, `null`))
}

// FuzzRequest sends what nobody would.
func FuzzRequest(f *testing.F) {
	for _, s := range []struct {
		op    uint8
		arg   string
		query string
		body  string
	}{{0, "a", "", ""}, {3, "a", "limit=1", `{"name":"a","platform":"fake"}`}, {20, "x", "", domainFile}, {40, "../x", "%", "\x00"}} {
		f.Add(s.op, s.arg, s.query, "If-Match", `"1"`, []byte(s.body))
	}
	target := newFuzzTarget(f)
	ops := target.fuzzed()
	f.Fuzz(func(t *testing.T, op uint8, arg, query, header, value string, body []byte) {
		o := ops[int(op)%len(ops)]
		path := strings.TrimPrefix(o.Path, prefix)
		for strings.Contains(path, "{") {
			a, b := strings.Index(path, "{"), strings.Index(path, "}")
			path = path[:a] + strings.NewReplacer("{", "", "}", "", "?", "").Replace(arg) + path[b+1:]
		}
		if !slices.Contains([]string{"If-Match", "If-None-Match", "Idempotency-Key", "Content-Type", "Accept"}, header) {
			header = "If-Match"
		}
		if strings.Contains(query, "wait=") {
			return
		}
		target.check(t, fmt.Sprintf("%s %q?%q %s: %q, %q", o.Method, path, query, header, value, body), target.ask(o.Method, path+"?"+query, header, value, body))
	})
}

// TestSchemasHaveNames: no two types share one, and objects have their own.
func TestSchemasHaveNames(t *testing.T) {
	for _, x := range []struct {
		t    reflect.Type
		want string
	}{
		{reflect.TypeFor[v1.Site](), "Site"}, {reflect.TypeFor[site.VM](), "SiteVM"}, {reflect.TypeFor[v1.Plan](), "Plan"},
		{reflect.TypeFor[v1.Fault](), "Fault"}, {reflect.TypeFor[v1.Page[*v1.Site]](), "PageSite"},
	} {
		if got := schemaName(x.t, ""); got != x.want {
			t.Errorf("%s is called %s, want %s", x.t, got, x.want)
		}
	}
}
