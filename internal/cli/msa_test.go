package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/api"
	msaapi "holdfast/internal/msa/api"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/runs"
)

// managerRig is a manager in this process and somebody who is logged in at it.
type managerRig struct {
	t   *testing.T
	dir string
	r   *replica.Replica
}

func newManagerRig(t *testing.T, tune ...func(*replica.Options)) *managerRig {
	t.Helper()
	var o replica.Options
	for _, f := range tune {
		f(&o)
	}
	return newManagerRigWith(t, o, func(*replica.Replica) {})
}

// newManagerRigWith is newManagerRig with some options; prepare is called before it runs.
func newManagerRigWith(t *testing.T, o replica.Options, prepare func(*replica.Replica)) *managerRig {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	o.Data, o.Listen, o.Site, o.Release = filepath.Join(dir, "msa"), "127.0.0.1:0", "site-a", Version
	if o.Kinds == nil {
		o.Kinds = runs.Kinds{{Name: msaapi.TryStore, Version: 1}: &storeTrials{}}
	}
	r, err := replica.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	prepare(r)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	m := &managerRig{t, dir, r}
	m.want(exitDenied, "get", "sites")
	m.login("--setup-token", m.file("setup", r.SetupToken()+"\n"))
	return m
}

// login logs in as root.
func (m *managerRig) login(more ...string) {
	m.t.Helper()
	args := []string{"login", m.r.Address(), "--fingerprint", m.r.Fingerprint(), "--user", "root", "--password-file", m.file("password", "crow lamp tundra 7\n")}
	m.want(exitOK, append(args, more...)...)
}

func (m *managerRig) path(name string) string { return filepath.Join(m.dir, name) }

func (m *managerRig) file(name, text string) string {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return m.path(name)
}

// want runs a command, demands an exit code and returns stdout and stderr.
func (m *managerRig) want(code int, args ...string) (out, errors string) {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(m.t.Context(), args, &stdout, &stderr); got != code {
		m.t.Fatalf("holdfast %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, &stdout, &stderr)
	}
	return stdout.String(), stderr.String()
}

const siteFiles = `apiVersion: holdfast/v1
kind: site
name: site-a
platform: fake
---
apiVersion: holdfast/v1
kind: store
name: west
url: file:///srv/west
`

const erpFile = `apiVersion: holdfast/v1
kind: domain
name: erp
folder: erp
from: site-a
vms: [db, web]
stores: [west]
retention:
  schedule: [{for: 24h}]
`

func TestManagerCommands(t *testing.T) {
	m := newManagerRig(t)
	sites, erp := m.file("sites.yaml", siteFiles), m.file("erp.yaml", erpFile)
	m.want(exitFailed, "diff", "-f", sites, "-f", erp, "--exit-code")
	out, _ := m.want(exitOK, "apply", "-f", sites, "-f", erp)
	if !strings.Contains(out, "+ domain erp") || !strings.Contains(out, "3 to create") {
		t.Errorf("apply says %s", out)
	}
	m.want(exitOK, "diff", "-f", sites, "-f", erp, "--exit-code")
	for args, want := range map[string]string{
		"get domains":                          "erp   erp     site-a  -   2    west    1",
		"get domain erp -o json":               `"stores": [`,
		"get domain erp -o yaml":               "stores: [west]",
		"describe store west":                  "version: 1",
		"export domain erp":                    "kind: domain",
		"logins":                               "https://",
		"get plans -o json":                    "[]",
		"task list":                            "TASK",
		"get sites --folder none -o table":     "",
		"export --folder erp":                  "vms: [db, web]",
		"describe domain erp -o json":          `"id": "`,
		"draft list":                           "DRAFT",
		"diff --prune -f " + erp + " -o table": "- site site-a",
	} {
		if out, _ := m.want(exitOK, strings.Fields(args)...); !strings.Contains(out, want) {
			t.Errorf("holdfast %s: %q lacks %q", args, out, want)
		}
	}
	// What is wrong is told with the file's line, all of it, and what to do.
	_, told := m.want(exitUsage, "apply", "-f", m.file("bad.yaml", strings.Replace(erpFile, "from:", "form:", 1)))
	if !strings.Contains(told, "bad.yaml:5") || !strings.Contains(told, "did you mean from?") {
		t.Errorf("a wrong field: %s", told)
	}
	_, told = m.want(exitUsage, "apply", "-f", m.file("bad.yaml", strings.Replace(erpFile, "[west]", "[east, north]", 1)))
	if !strings.Contains(told, `no store "east"`) || !strings.Contains(told, `no store "north"`) {
		t.Errorf("names that lead nowhere: %s", told)
	}
	m.want(exitConflict, "delete", "store", "west", "--yes")
	m.want(exitCanceled, "delete", "domain", "erp") // nobody to ask
	m.want(exitNotFound, "get", "domain", "none")
	m.want(exitUsage, "get", "things")
	m.want(exitNotFound, "task", "show", "none")

	id, _ := m.want(exitOK, "draft", "new", "domain", "crm", "--from", "erp")
	id = strings.TrimSpace(id)
	if out, _ := m.want(exitUsage, "draft", "validate", id); !strings.Contains(out, "is in domain") {
		t.Errorf("a copy of a domain: %s", out)
	}
	m.want(exitUsage, "draft", "commit", id)
	m.want(exitOK, "draft", "save", id, "-f", m.file("crm.yaml", strings.NewReplacer("name: erp", "name: crm", "[db, web]", "[mail]").Replace(erpFile)))
	m.want(exitOK, "draft", "validate", id)
	m.want(exitOK, "draft", "show", id)
	m.want(exitOK, "draft", "commit", id)
	m.want(exitNotFound, "draft", "discard", id)

	out, _ = m.want(exitOK, "get", "domains", "-o", "json")
	var list []api.Domain
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 {
		t.Errorf("%d domains, %v", len(list), err)
	}
	m.want(exitOK, "export", "-f", m.path("all.yaml"))
	m.want(exitOK, "apply", "--prune", "-f", m.path("all.yaml"))
	m.want(exitCanceled, "apply", "--prune", "-f", sites, "-f", erp)
	m.want(exitOK, "apply", "--prune", "--yes", "-f", sites, "-f", erp)
	m.want(exitOK, "delete", "domain", "erp", "--yes")
	m.want(exitOK, "delete", "domain", "erp", "--yes")
	m.want(exitOK, "logout")
	m.want(exitDenied, "get", "sites")
}

// TestStoreIsTried: a task, which says what is wrong and by its exit code that
// something is.
func TestStoreIsTried(t *testing.T) {
	m := newManagerRig(t)
	dir := m.path("dr")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.want(exitOK, "apply", "-f", m.file("stores.yaml", "apiVersion: holdfast/v1\nkind: store\nname: good\nurl: file://"+dir+
		"\n---\napiVersion: holdfast/v1\nkind: store\nname: bad\nurl: file://"+dir+"/none\n"))
	out, _ := m.want(exitOK, "store", "try", "good", "--quick", "--wait", "-o", "json")
	var task api.Task
	if err := json.Unmarshal([]byte(out), &task); err != nil || !task.State.Ended() || !strings.Contains(string(task.Result), `"publisher"`) {
		t.Errorf("%s: %v", out, err)
	}
	if _, told := m.want(exitFailed, "store", "try", "bad", "--quick", "--wait"); !strings.Contains(told, "try store bad") {
		t.Errorf("a store that is not there: %s", told)
	}
	m.want(exitNotFound, "store", "try", "none")
	if out, _ := m.want(exitOK, "task", "list"); strings.Count(out, "store ") != 2 {
		t.Errorf("tasks: %s", out)
	}
}

// TestLoginRefuses: a manager that nobody has confirmed gets no token, and a file
// that others may read is not used.
func TestLoginRefuses(t *testing.T) {
	m := newManagerRig(t)
	l, err := readLogins()
	if err != nil {
		t.Fatal(err)
	}
	token := m.file("token", l.Managers[l.Current].Token+"\n")
	_, told := m.want(exitDenied, "login", l.Current, "--token-file", token, "--fingerprint", strings.Repeat("ab", 32))
	if !strings.Contains(told, "fingerprint") {
		t.Error(told)
	}
	if after, err := readLogins(); err != nil || after.Managers[l.Current] != l.Managers[l.Current] {
		t.Errorf("a log-in that failed has changed the file: %v", err)
	}
	m.want(exitDenied, "login", l.Current, "--fingerprint", m.r.Fingerprint(), "--user", "root", "--password-file", m.file("wrong", "not the password\n"))
	m.want(exitDenied, "login", l.Current, "--fingerprint", m.r.Fingerprint(), "--user", "eve", "--password-file", m.path("password"), "--setup-token", m.path("setup"))
	// Whoever has a session's token can use it from elsewhere, until it is ended.
	m.want(exitOK, "get", "sites", "--token-file", token)
	m.want(exitOK, "logout")
	m.want(exitDenied, "get", "sites", "--manager", l.Current, "--fingerprint", m.r.Fingerprint(), "--token-file", token)
	m.login()
	path, err := loginsFile()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	m.want(exitDenied, "get", "sites")
}
