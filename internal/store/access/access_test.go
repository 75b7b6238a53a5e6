package access_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store/access"
)

const text = "# of the recovery site\n\nAWS_ACCESS_KEY_ID = AKIA1\nAWS_SECRET_ACCESS_KEY=s3cr=et/+\n"

func TestParse(t *testing.T) {
	t.Setenv("AWS_SESSION_TOKEN", "of the process")
	a, err := access.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if a.Getenv("AWS_ACCESS_KEY_ID") != "AKIA1" || a.Getenv("AWS_SECRET_ACCESS_KEY") != "s3cr=et/+" {
		t.Error("values differ")
	}
	if a.Getenv("AWS_SESSION_TOKEN") != "" {
		t.Error("the environment is mixed in")
	}
	if again, err := access.Parse(a.Text()); err != nil || again.Text() != a.Text() {
		t.Errorf("its own text is not read back: %v", err)
	}
	for _, shown := range []string{fmt.Sprint(a), fmt.Sprintf("%+v %#v %s %q", a, a, a, a), a.LogValue().String()} {
		if strings.Contains(shown, "s3cr") || strings.Contains(shown, "AKIA1") {
			t.Errorf("a secret is printed: %s", shown)
		}
	}
	if none, err := access.Parse("\n# nothing\n"); err != nil || !none.IsZero() || none.Getenv("AWS_SESSION_TOKEN") != "of the process" {
		t.Errorf("without credentials the process's do not count: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for name, bad := range map[string]string{
		"another name": "AWS_SHARED_CREDENTIALS_FILE=/etc/shadow",
		"no value":     "AZURE_STORAGE_KEY=",
		"no name":      "hunter2",
		"twice":        "AZURE_STORAGE_KEY=hunter2\nAZURE_STORAGE_KEY=hunter2",
		"control":      "AZURE_STORAGE_KEY=hunter2\x00",
		"long":         "AZURE_STORAGE_KEY=" + strings.Repeat("hunter2", 3000),
		"lines":        strings.Repeat("\n", 70),
	} {
		_, err := access.Parse(bad)
		if !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(errs.RemedyOf(err), "hunter2") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := access.ReadFile(path); err != nil || a.IsZero() {
		t.Errorf("%v, %v", a, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := access.ReadFile(path); !errs.Is(err, errs.Denied) {
		t.Errorf("a file that others may read is read: %v", err)
	}
	if _, err := access.ReadFile(filepath.Join(dir, "none")); !errs.Is(err, errs.NotFound) {
		t.Errorf("a file that is not there: %v", err)
	}
	if a, err := access.ReadFile(""); err != nil || !a.IsZero() {
		t.Errorf("no file: %v", err)
	}
	if _, err := access.ReadFile(dir); !errs.Is(err, errs.Invalid) {
		t.Errorf("a directory: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(text)
	f.Add("AWS_REGION=x\r\n#\n")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := access.Parse(s)
		if err != nil {
			return
		}
		if b, err := access.Parse(a.Text()); err != nil || b.Text() != a.Text() {
			t.Errorf("%q: not read back: %v", s, err)
		}
	})
}
