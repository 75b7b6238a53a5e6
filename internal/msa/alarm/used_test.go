package alarm_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/msa/alarm"
)

// TestEachIsRaised: every code that is declared is named by code that raises it, and by a
// test of another package than that which declares it: nobody waits for an alarm that
// never comes. What of them cannot be forgotten is declared here, with why.
func TestEachIsRaised(t *testing.T) {
	names := constants(t)
	raised, tested := map[alarm.Code]bool{alarm.OutletFails: true, alarm.OutletTest: true}, map[alarm.Code]bool{alarm.OutletFails: true, alarm.OutletTest: true} // by this package itself
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || filepath.Base(filepath.Dir(path)) == "alarm" {
			return err
		}
		b, err := os.ReadFile(path)
		text := string(b)
		for name, code := range names {
			test := strings.HasSuffix(path, "_test.go")
			switch {
			case !test && word(text, "alarm."+name):
				raised[code] = true
			case test && (word(text, "alarm."+name) || strings.Contains(text, `"`+string(code)+` `) || strings.Contains(text, `"`+string(code)+`"`)):
				tested[code] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range alarm.Table() {
		if !raised[d.Code] {
			t.Errorf("%s is declared, and nobody raises it", d.Code)
		}
		if !tested[d.Code] {
			t.Errorf("%s is declared, and no test has it raised", d.Code)
		}
	}
	if len(names) != len(alarm.Table()) {
		t.Errorf("%d codes are in the table, %d are declared", len(alarm.Table()), len(names))
	}
}

// word reports whether a text has a name, and not one that goes on.
func word(text, name string) bool {
	for {
		_, rest, found := strings.Cut(text, name)
		if !found {
			return false
		}
		if rest == "" || !ast.IsExported(strings.ToUpper(rest[:1])) {
			return true
		}
		text = rest
	}
}

// constants are the names of the codes in Go.
func constants(t *testing.T) map[string]alarm.Code {
	f, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]alarm.Code{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if id, is := (func() (*ast.Ident, bool) {
			if !ok {
				return nil, false
			}
			id, is := v.Type.(*ast.Ident)
			return id, is
		})(); is && id.Name == "Code" && len(v.Values) == 1 {
			names[v.Names[0].Name] = alarm.Code(strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
		}
		return true
	})
	return names
}
