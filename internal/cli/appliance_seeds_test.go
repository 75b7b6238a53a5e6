package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSeedsCommands lists and deletes old disks below a directory that no agent runs.
func TestSeedsCommands(t *testing.T) {
	dir := t.TempDir()
	if out := must(t, "appliance", "seeds", "list", dir); strings.Contains(out, "erp") {
		t.Errorf("there are %s", out)
	}
	path := filepath.Join(dir, "seeds", "erp", "1.raw")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "appliance", "seeds", "list", dir); !strings.Contains(out, path) || !strings.Contains(out, "erp") {
		t.Errorf("there are %s", out)
	}
	if out := must(t, "appliance", "seeds", "delete", dir, "erp"); !strings.Contains(out, "given back") {
		t.Errorf("it says %s", out)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is there still")
	}
	if code := run(t.Context(), []string{"appliance", "seeds", "delete", dir, "erp"}, io.Discard, io.Discard); code != exitNotFound {
		t.Errorf("again: %d", code)
	}
}
