package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestManuals: each command has a page, with its options, and no line that is taken
// for a request by accident.
func TestManuals(t *testing.T) {
	dir := t.TempDir()
	if err := writeManuals(newRoot(), dir); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 50 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if strings.HasPrefix(line, ".") && !strings.Contains(" .TH .SH .B .BR .TP .nf .fi ", " "+word+" ") || strings.HasPrefix(line, "'") {
				t.Errorf("%s: line %q", filepath.Base(p), line)
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "holdfast-apply.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".SH NAME\nholdfast\\-apply \\- Make", `.B \-f, \-\-file`, ".SH EXAMPLES", ".BR holdfast (1)"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("holdfast-apply.1 lacks %q:\n%s", want, b)
		}
	}
}
