package setup

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

// TestFile: a box finds the newest setup it was given, which nobody else can read; none
// is none, and what is damaged or too large is told.
func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "box")
	if s, err := Load(dir); s != nil || err != nil {
		t.Fatalf("of nothing: %v, %v", s, err)
	}
	for _, name := range []site.Name{"a", "b"} {
		want := &Setup{Generation: "g", Serial: 3, Role: site.RocVA, Site: name, Endpoints: []string{"unix:///run/x"}}
		if err := Save(dir, want); err != nil {
			t.Fatal(err)
		}
		if got, err := Load(dir); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	path := filepath.Join(dir, fileName)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if err := Save(dir, &Setup{Endpoints: []string{strings.Repeat("x", maxFile)}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("one that is too large: %v", err)
	}
	if got, err := Load(dir); err != nil || got.Site != "b" {
		t.Errorf("after it: %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(dir); s != nil || !errs.Is(err, errs.Corrupt) {
		t.Errorf("of a damaged one: %v, %v", s, err)
	}
}
