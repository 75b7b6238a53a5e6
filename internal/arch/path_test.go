package arch

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A path document tells its steps as table rows "| N | what | `file` |…"; the
// named file must hold a comment line "// <Title>, step N:".
var stepRow = regexp.MustCompile("(?m)^\\| *([0-9]+) *\\|.*?`([a-z0-9_/.]+\\.go)`")

func pathSteps(t *testing.T, doc string) [][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, doc))
	if err != nil {
		t.Fatal(err)
	}
	return stepRow.FindAllStringSubmatch(string(b), -1)
}

func checkPath(t *testing.T, doc, title string, want int) {
	t.Helper()
	steps := pathSteps(t, doc)
	if len(steps) != want {
		t.Fatalf("%s has %d steps, want %d", doc, len(steps), want)
	}
	listed := map[string]bool{}
	for _, s := range steps {
		n, file := s[1], s[2]
		src, err := os.ReadFile(filepath.Join(root, "internal", file))
		if err != nil {
			t.Errorf("%s step %s: %v", doc, n, err)
			continue
		}
		mark := title + ", step " + n + ":"
		if !strings.Contains(string(src), "// "+mark) {
			t.Errorf("%s says step %s is in %s, which has no comment %q", doc, n, file, mark)
		}
		listed[mark+" "+file] = true
	}
	anyMark := regexp.MustCompile("// (" + title + ", step [0-9]+:)")
	for _, f := range parseTree(t, root) {
		src, err := os.ReadFile(filepath.Join(root, f.path))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(f.path, "internal/arch/") {
			continue
		}
		for _, m := range anyMark.FindAllStringSubmatch(string(src), -1) {
			if !listed[m[1]+" "+strings.TrimPrefix(f.path, "internal/")] {
				t.Errorf("%s claims %q, which %s does not list there", f.path, m[1], doc)
			}
		}
	}
}

func TestWritePath(t *testing.T)    { checkPath(t, "docs/write-path.md", "Write path", 9) }
func TestRecoveryPath(t *testing.T) { checkPath(t, "docs/recovery-path.md", "Recovery path", 13) }

// TestPromises: every file and test that the promises table of ARCHITECTURE.md
// names exists.
func TestPromises(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, f := range parseTree(t, root) {
		if !f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[fn.Name.Name] = true
			}
		}
	}
	named := 0
	for _, m := range regexp.MustCompile("`(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(b), -1) {
		named++
		if !tests[m[1]] {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`(internal/[a-z0-9_/.]+\\.go)`").FindAllStringSubmatch(string(b), -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("ARCHITECTURE.md names %s: %v", m[1], err)
		}
	}
	if named < 20 {
		t.Errorf("found only %d tests in ARCHITECTURE.md", named)
	}
}
