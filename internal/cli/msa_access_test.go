package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/control"
)

// as runs a command with the flags of who does.
func (m *managerRig) as(who []string, code int, args ...string) string {
	m.t.Helper()
	out, _ := m.want(code, append(args, who...)...)
	return out
}

func contains(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in:\n%s", w, out)
		}
	}
}

// TestUserCommands: users, tokens, secrets and the audit log, by commands alone.
func TestUserCommands(t *testing.T) {
	m := newManagerRig(t)
	var root []string // who has logged in, with a password
	alice := m.file("alice", "weasel kite marble 9\n")
	m.as(root, exitOK, "user", "create", "alice", "--role", "recovery-admin:erp", "--role", "viewer", "--password-file", alice)
	m.as(root, exitUsage, "user", "create", "bob", "--role", "god", "--password-file", alice)
	m.as(root, exitUsage, "user", "create", "bob", "--role", "viewer", "--password-file", m.file("weak", "password1234\n"))
	contains(t, m.as(root, exitOK, "user", "list"), "alice", "recovery-admin:erp viewer", "root", "admin")
	m.as(root, exitOK, "user", "set", "alice", "--role", "viewer", "--disable")
	contains(t, m.as(root, exitOK, "user", "list", "-o", "json"), `"disabled": true`)
	m.as(root, exitConflict, "user", "set", "root", "--no-roles")
	m.as(root, exitOK, "user", "set", "alice", "--enable")
	m.as(root, exitOK, "user", "password", "alice", "--password-file", m.file("alice2", "otter quartz piano 3\n"))
	m.as(root, exitOK, "user", "delete", "alice")
	m.as(root, exitNotFound, "user", "delete", "alice")
	contains(t, m.as(root, exitOK, "user", "roles"), "plan.approve")
	contains(t, m.as(root, exitOK, "user", "me"), "user", "root", "user.admin")

	secret := strings.TrimSpace(m.as(root, exitOK, "token", "create", "nightly", "--role", "test-operator:erp", "--expire", "30d"))
	program := []string{"--token-file", m.file("program", secret+"\n")}
	contains(t, m.as(program, exitOK, "user", "me"), "by token", "test-operator:erp", "plan.test")
	m.as(program, exitDenied, "user", "list")
	all := []string{"--token-file", m.file("all", m.as(root, exitOK, "token", "create", "all", "--role", "admin"))}
	m.as(all, exitOK, "user", "list")
	m.as(all, exitDenied, "user", "create", "eve", "--role", "admin", "--password-file", alice)
	m.as(all, exitDenied, "token", "create", "more", "--role", "admin")
	var tokens []struct{ ID, Title string }
	if err := json.Unmarshal([]byte(m.as(root, exitOK, "token", "list", "-o", "json")), &tokens); err != nil {
		t.Fatal(err)
	}
	for _, tok := range tokens {
		if tok.Title == "nightly" {
			m.as(root, exitOK, "token", "revoke", tok.ID)
		}
	}
	m.as(program, exitDenied, "user", "me")

	m.as(root, exitOK, "secret", "put", "lab", "--file", m.file("lab", "AKIA-not-shown\n"))
	if out := m.as(root, exitOK, "secret", "list", "-o", "yaml"); !strings.Contains(out, "lab") || strings.Contains(out, "AKIA") {
		t.Errorf("%s", out)
	}
	m.as(root, exitOK, "secret", "rotate")
	m.as(root, exitOK, "secret", "delete", "lab")
	contains(t, m.as(root, exitOK, "approval", "list"), "SUBJECT")
	m.as(root, exitNotFound, "approval", "approve", "x")
	m.auditCommands(root)
}

func (m *managerRig) auditCommands(root []string) {
	m.t.Helper()
	contains(m.t, m.as(root, exitOK, "audit", "list", "--operation", "create-user"), "create-user", "user alice", "refused", "done", "root by token")
	head := strings.TrimSpace(m.as(root, exitOK, "audit", "verify"))
	m.as(root, exitOK, "audit", "verify", "--head", head)
	m.as(root, exitCorrupt, "audit", "verify", "--head", "1:"+strings.Repeat("0", 64))
	m.as(root, exitUsage, "audit", "verify", "--head", "x")
	file := m.path("audit.ndjson")
	m.as(root, exitOK, "audit", "export", file)
	m.as(root, exitConflict, "audit", "export", file)
	m.want(exitOK, "audit", "check", file, "--head", head)
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	m.want(exitCorrupt, "audit", "check", m.file("forged", strings.Replace(string(text), "user alice", "user malice", 1)))
}

// TestTrustCommands: a box enrols, and two sites pair, by commands alone.
func TestTrustCommands(t *testing.T) {
	a := newManagerRig(t)
	var rootA []string
	token := a.file("enrol", a.as(rootA, exitOK, "appliance", "invite", "drva-1", "--role", "drva", "--addr", "127.0.0.1"))
	dir := filepath.Join(a.dir, "tls")
	out, _ := a.want(exitOK, "enrol", "join", dir, "--token-from", token)
	contains(t, out, "drva-1")
	if _, err := control.LoadCredentials(dir); err != nil {
		t.Error(err)
	}
	a.want(exitDenied, "enrol", "join", dir+"2", "--token-from", token)
	contains(t, a.as(rootA, exitOK, "appliance", "list"), "drva-1", "enrolled", "unseen")
	a.as(rootA, exitOK, "appliance", "revoke", "drva-1")
	a.as(rootA, exitOK, "appliance", "remove", "drva-1")
	a.want(exitNotFound, "enrol", "run", a.dir)

	pairToken := a.file("pair", a.as(rootA, exitOK, "pair", "invite", "site-b"))
	id := a.as(rootA, exitOK, "pair", "identity", "-o", "json")
	contains(t, id, `"words"`, `"site": "site-a"`)
	a.as(rootA, exitConflict, "pair", "accept", "self", "--token-from", pairToken)
	contains(t, a.as(rootA, exitOK, "pair", "list"), "site-b", "invited")
	a.as(rootA, exitUsage, "pair", "confirm", "site-b")
	a.as(rootA, exitConflict, "pair", "confirm", "site-b", "--fingerprint-of-peer", strings.Repeat("0", 64))
	a.as(rootA, exitOK, "pair", "remove", "site-b")
	a.as(rootA, exitNotFound, "pair", "remove", "site-b")
}
