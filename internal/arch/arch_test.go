package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// root is the module's root as seen from this package.
const root = "../.."

// floors: a package imports only lower floors or its own subtree. ADR 0002.
var floors = map[string]int{
	"dr": 0, "errs": 0, "extent": 0, "fair": 0,
	"durable": 1, "record": 1, "wire": 1, "segment": 1, "index": 1, "boottrace": 1,
	"store": 2, "hypervisor": 2, "nbd": 2, "control": 2, "kms": 2,
	"replog": 3, "journal": 3,
	"iofilter": 4, "drva": 4, "rocva": 4, "maintain": 4, "copies": 4,
	"demo": 5, "recovery": 5, "msa": 5,
	"appliance": 6,
	"cli":       7,
	"arch":      8,
}

// sameFloor lists imports inside one floor that are allowed, with the reason.
var sameFloor = map[string]string{
	"wire→record":    "a frame is made of records",
	"wire→boottrace": "a frame carries a boot trace",
	"extent→dr":      "units of capture",
	"fair→errs":      "kinds of errors",
	"hypervisor→nbd": "", // not allowed; here to show the form
}

// drivers may be imported only by the door, the demo and tests.
var drivers = []string{"store/dir", "store/mem", "store/azblob", "store/s3", "kms/vault", "kms/azurekv", "hypervisor/qemu", "hypervisor/libvirt", "hypervisor/fake"}

// thirdParty lists what each floor may import from outside; nil means nothing.
var thirdParty = map[string][]string{
	"extent": nil, "dr": nil, "errs": nil,
	"boottrace":  nil,
	"durable":    {"golang.org/x/sys"},
	"segment":    {"github.com/klauspost/compress", "github.com/zeebo/blake3", "golang.org/x/crypto"},
	"index":      {"github.com/klauspost/compress"},
	"store":      {"github.com/Azure/azure-sdk-for-go", "github.com/minio/minio-go", "golang.org/x/sync", "golang.org/x/sys"},
	"kms":        {"github.com/Azure/azure-sdk-for-go"},
	"maintain":   {"golang.org/x/sync", "golang.org/x/sys"},
	"copies":     {"golang.org/x/sync"},
	"nbd":        {"golang.org/x/sys"},
	"hypervisor": {"github.com/digitalocean/go-libvirt", "golang.org/x/sys", "libvirt.org/go/libvirtxml"},
	"replog":     {"golang.org/x/sys"},
	"journal":    {"golang.org/x/crypto", "filippo.io/age", "golang.org/x/sync", "golang.org/x/sys"},
	"iofilter":   {"golang.org/x/sync", "golang.org/x/sys"},
	"drva":       {"golang.org/x/sync", "golang.org/x/sys"},
	"rocva":      {"golang.org/x/sync", "golang.org/x/sys"},
	"recovery":   {"golang.org/x/sync"},
	"msa": {"github.com/coreos/go-oidc", "github.com/danielgtaylor/huma", "github.com/jackc/pgx", "go.yaml.in/yaml", "github.com/prometheus/client_golang", "github.com/prometheus/common",
		"golang.org/x/crypto", "golang.org/x/oauth2", "golang.org/x/sync", "modernc.org/sqlite"},
	"appliance": {"golang.org/x/sync", "golang.org/x/sys"},
	"demo":      {"golang.org/x/sync", "golang.org/x/sys", "modernc.org/sqlite"},
	"cli":       {"github.com/spf13", "github.com/vbauerster/mpb", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/term"},
}

const (
	maxFileLines = 600
	maxFuncLines = 80
)

// sourceFile is one parsed Go file of the product.
type sourceFile struct {
	path string // from the module root, slashes
	pkg  string // directory under internal/, or "" outside
	ast  *ast.File
	fset *token.FileSet
	test bool
}

// parseTree reads every Go file below dir of the module.
func parseTree(t *testing.T, base string) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == "build" || name == "bin" || name == "testdata" || name == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		pkg, ok := strings.CutPrefix(filepath.ToSlash(filepath.Dir(rel)), "internal/")
		if !ok {
			pkg = ""
		}
		files = append(files, sourceFile{rel, pkg, f, fset, strings.HasSuffix(rel, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// top is the first element of a package directory under internal/.
func top(pkg string) string { name, _, _ := strings.Cut(pkg, "/"); return name }

// checkImports returns the violations of the floors in files.
func checkImports(files []sourceFile) (bad []string) {
	for _, f := range files {
		if f.pkg == "" || f.test {
			continue
		}
		from := top(f.pkg)
		floor, known := floors[from]
		if !known {
			bad = append(bad, f.path+": package "+from+" has no floor; give it one in arch_test.go and ARCHITECTURE.md")
			continue
		}
		for _, imp := range f.ast.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				continue
			}
			bad = append(bad, checkImport(f, from, floor, path)...)
		}
	}
	return bad
}

func checkImport(f sourceFile, from string, floor int, path string) (bad []string) {
	in, ours := strings.CutPrefix(path, "holdfast/internal/")
	if !ours {
		if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") && !allowedThirdParty(from, path) {
			bad = append(bad, f.path+": "+from+" may not import "+path)
		}
		return bad
	}
	to := top(in)
	if to == from {
		return nil
	}
	toFloor, known := floors[to]
	switch {
	case !known:
		bad = append(bad, f.path+": imports "+path+", which has no floor")
	case toFloor == floor && sameFloor[from+"→"+to] == "":
		bad = append(bad, f.path+": sideways import of "+to)
	case toFloor > floor:
		bad = append(bad, f.path+": upward import of "+to)
	}
	for _, d := range drivers {
		if in == d && floor < floors["demo"] {
			bad = append(bad, f.path+": driver "+d+" may be imported only by the door")
		}
	}
	return bad
}

func allowedThirdParty(from, path string) bool {
	for _, p := range thirdParty[from] {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

func TestFloors(t *testing.T) {
	for _, b := range checkImports(parseTree(t, root)) {
		t.Error(b)
	}
}

// TestFloorsCatch feeds the checker files that break each rule.
func TestFloorsCatch(t *testing.T) {
	for name, c := range map[string]struct{ pkg, imp, want string }{
		"upward":      {"dr", "holdfast/internal/store", "upward import"},
		"sideways":    {"iofilter", "holdfast/internal/drva", "sideways import"},
		"driver":      {"journal", "holdfast/internal/store/dir", "only by the door"},
		"third party": {"dr", "github.com/spf13/cobra", "may not import"},
		"no floor":    {"helpers", "fmt", "has no floor"},
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x.go", "package x\nimport _ \""+c.imp+"\"\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		bad := checkImports([]sourceFile{{path: "internal/" + c.pkg + "/x.go", pkg: c.pkg, ast: f, fset: fset}})
		if len(bad) == 0 || !strings.Contains(bad[0], c.want) {
			t.Errorf("%s: got %q, want one containing %q", name, bad, c.want)
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	const enough = 60 // characters: a sentence that says what the package is for
	docs := map[string]string{}
	for _, f := range parseTree(t, root) {
		if f.test {
			continue
		}
		dir := filepath.ToSlash(filepath.Dir(f.path))
		docs[dir] += f.ast.Doc.Text()
	}
	for dir, doc := range docs {
		if len(doc) < enough {
			t.Errorf("%s: package comment of %d characters does not say what the package is for", dir, len(doc))
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, f := range parseTree(t, root) {
		if f.test || f.ast.Name.Name == "main" {
			continue
		}
		for _, d := range f.ast.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: %s has no comment", f.path, name)
			}
		}
	}
}

// undocumented returns the exported names of d that have no comment, neither
// their own nor their group's.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if s, ok := typ.(*ast.StarExpr); ok {
		typ = s.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported() && !wellKnown[d.Name.Name]
}

// wellKnown methods are documented by the interface they satisfy.
var wellKnown = map[string]bool{
	"Error": true, "String": true, "Unwrap": true, "MarshalText": true, "UnmarshalText": true,
	"MarshalJSON": true, "UnmarshalJSON": true, "Read": true, "Write": true, "Close": true,
	"ReadAt": true, "WriteAt": true, "Len": true, "Less": true, "Swap": true, "Format": true, "GoString": true,
}

func TestSizes(t *testing.T) {
	for _, f := range parseTree(t, root) {
		if f.test {
			continue
		}
		if n := f.fset.Position(f.ast.End()).Line; n > maxFileLines {
			t.Errorf("%s has %d lines; %d is the most", f.path, n, maxFileLines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			from, to := f.fset.Position(fn.Pos()).Line, f.fset.Position(fn.End()).Line
			if to-from+1 > maxFuncLines {
				t.Errorf("%s:%d: %s has %d lines; %d is the most", f.path, from, fn.Name.Name, to-from+1, maxFuncLines)
			}
		}
	}
}

// forbidden are calls that floors must not make, with the reason.
var forbidden = []struct {
	call  string
	where func(pkg string) bool
	why   string
}{
	{"os.Rename", outside("durable"), "only durable renames: a rename without its syncs loses files"},
	{"os.WriteFile", outside("durable"), "only durable writes files"},
	{"time.Now", onFloors(0, 1), "floors 0 and 1 have no clock"},
	{"fmt.Println", outside("cli", "demo"), "only the door prints"},
	{"fmt.Printf", outside("cli", "demo"), "only the door prints"},
	{"log.Printf", outside(), "slog is passed in"},
}

func outside(pkgs ...string) func(string) bool {
	return func(pkg string) bool {
		for _, p := range pkgs {
			if top(pkg) == p {
				return false
			}
		}
		return true
	}
}

func onFloors(fl ...int) func(string) bool {
	return func(pkg string) bool {
		n, ok := floors[top(pkg)]
		for _, f := range fl {
			if ok && n == f {
				return true
			}
		}
		return false
	}
}

func TestForbiddenCalls(t *testing.T) {
	for _, f := range parseTree(t, root) {
		// Test support (…test packages) plays the outside world.
		if f.test || f.pkg == "" || strings.HasSuffix(f.pkg, "test") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			id, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			for _, b := range forbidden {
				if id.Name+"."+sel.Sel.Name == b.call && b.where(f.pkg) {
					t.Errorf("%s: %s: %s", f.fset.Position(call.Pos()), b.call, b.why)
				}
			}
			return true
		})
	}
}

func TestLowFloorsStartNoGoroutine(t *testing.T) {
	low := onFloors(0, 1)
	for _, f := range parseTree(t, root) {
		if f.test || !low(f.pkg) || strings.HasSuffix(f.pkg, "test") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: floors 0 and 1 start no goroutine", f.fset.Position(g.Pos()))
			}
			return true
		})
	}
}

func TestMarkdownLinks(t *testing.T) {
	var docs []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		m, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, m...)
	}
	sort.Strings(docs)
	if len(docs) < 8 {
		t.Fatalf("found only %d documents", len(docs))
	}
	for _, doc := range docs {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range links(string(b)) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), target)); err != nil {
				t.Errorf("%s: link to %s leads nowhere", doc, target)
			}
		}
	}
}

// links returns the relative targets of Markdown links in text.
func links(text string) (targets []string) {
	for {
		i := strings.Index(text, "](")
		if i < 0 {
			return targets
		}
		text = text[i+2:]
		j := strings.IndexByte(text, ')')
		if j < 0 {
			return targets
		}
		target, _, _ := strings.Cut(text[:j], "#")
		if target != "" && !strings.Contains(target, "://") {
			targets = append(targets, target)
		}
		text = text[j:]
	}
}
