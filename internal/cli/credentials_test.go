package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
)

// TestStoreCredentials: a store is opened with the credentials of its own file, which
// nobody else may read; those of the environment are not mixed in.
func TestStoreCredentials(t *testing.T) {
	dir := t.TempDir()
	key, file := filepath.Join(dir, "key"), filepath.Join(dir, "credentials")
	recipient := must(t, "key", "new", key)
	url := "file://" + filepath.Join(dir, "erp")
	must(t, "domain", "create", url, "--quick", "--name", "erp", "--recipient", recipient)
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		code int
	}{
		"good": {"AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n", 0o600, exitOK},
		"open": {"AWS_ACCESS_KEY_ID=a\n", 0o644, exitDenied}, "none": {"hunter2\n", 0o600, exitUsage},
	} {
		write(c.text, c.mode)
		var errors strings.Builder
		if got := run(t.Context(), []string{"checkpoints", url, "--key", key, "--store-credentials", file}, io.Discard, &errors); got != c.code {
			t.Errorf("%s: exit code %d, want %d: %s", name, got, c.code, errors.String())
		}
		if strings.Contains(errors.String(), "hunter2") {
			t.Errorf("%s: a secret is shown", name)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "of the process")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "of the process")
	half, err := access.Parse("AWS_ACCESS_KEY_ID=a\n")
	if err != nil {
		t.Fatal(err)
	}
	u, err := store.ParseURL("s3://bucket/x?endpoint=https://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := newDriver(u, false, half); !errs.Is(err, errs.Denied) {
		t.Errorf("half of one account's credentials, and half of the process's: %v", err)
	}
	if _, _, err := newDriver(u, false, access.Access{}); err != nil {
		t.Errorf("the process's: %v", err)
	}
}
