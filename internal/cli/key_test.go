package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/journal"
)

func TestKeyCommands(t *testing.T) {
	b := newBox(t)
	dir := t.TempDir()
	phrase := filepath.Join(dir, "phrase")
	if err := os.WriteFile(phrase, []byte("nine unrelated words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(dir, "second.key")
	public := must(t, "key", "new", second)
	said := must(t, "key", "add", b.url, "--key", b.key, "--recipient-passphrase-file", phrase, "--hint", "in the safe")
	code, _, errs := call(t, "key", "rotate-data", b.url, "--key", b.key)
	if code != exitDenied || !strings.Contains(errs, "in the safe") {
		t.Fatalf("rotating without a passphrase: %d %s", code, errs)
	}
	said += errs + must(t, "key", "rotate-data", b.url, "--key", b.key, "--recipient-passphrase-file", phrase)
	var gens []journal.GenerationInfo
	if err := json.Unmarshal([]byte(must(t, "key", "list", b.url, "--passphrase-file", phrase, "-o", "json")), &gens); err != nil {
		t.Fatal(err)
	}
	if len(gens) != 2 || !gens[1].Current || len(gens[1].Recipients) != 2 {
		t.Fatalf("%+v", gens)
	}
	b.publish(t)
	var old string
	for _, r := range gens[1].Recipients {
		if r.Kind == journal.RecoveryKey {
			old = r.ID.String()
		}
	}
	said += must(t, "key", "replace", b.url, old, "--key", b.key, "--recipient", public)
	if code, _, errs := call(t, "key", "list", b.url, "--key", b.key); code != exitDenied {
		t.Fatalf("the key that was replaced: %d %s", code, errs)
	}
	for _, args := range [][]string{{"--key", second}, {"--passphrase-file", phrase}} {
		said += must(t, append([]string{"restore", b.url, "--out", filepath.Join(t.TempDir(), "o")}, args...)...)
	}
	if err := json.Unmarshal([]byte(must(t, "key", "list", b.url, "--key", second, "-o", "json")), &gens); err != nil {
		t.Fatal(err)
	}
	for _, r := range gens[0].Recipients {
		if r.Kind == journal.Passphrase {
			said += must(t, "key", "remove", b.url, r.ID.String(), "--key", second)
		}
	}
	said += must(t, "key", "list", b.url, "--key", second)
	for _, c := range [][]string{{}, {"--yes-erase", "ERP"}} {
		if code, _, _ := call(t, append([]string{"key", "erase", b.url}, c...)...); code != exitUsage {
			t.Fatalf("erase %v: %d", c, code)
		}
	}
	said += must(t, "key", "erase", b.url, "--yes-erase", "erp")
	if code, _, errs := call(t, "restore", b.url, "--key", second, "--out", t.TempDir()); code != exitDenied || !strings.Contains(errs, "no wrapped key is left") {
		t.Fatalf("after the erase: %d %s", code, errs)
	}
	for _, path := range []string{phrase, second, b.key} {
		secret, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(secret)), "\n")
		if strings.Contains(said, lines[len(lines)-1]) {
			t.Errorf("the output shows the secret of %s", path)
		}
	}
}

func TestKeyServiceFlag(t *testing.T) {
	b := newBox(t)
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("BAO_TOKEN", "")
	for _, c := range []struct {
		address string
		code    int
	}{
		{"vault://kms.invalid/transit/k", exitDenied}, // no token
		{"vault://user:hunter22@kms.invalid/transit/k", exitUsage},
		{"gopher://x/y", exitUsage},
	} {
		code, _, errs := call(t, "key", "list", b.url, "--kms", c.address)
		if code != c.code || strings.Contains(errs, "hunter22") {
			t.Errorf("%s: %d %s", c.address, code, errs)
		}
	}
	if code, _, _ := call(t, "key", "list", b.url, "--kms", "x", "--key", b.key); code != exitUsage {
		t.Errorf("two identities: %d", code)
	}
}
