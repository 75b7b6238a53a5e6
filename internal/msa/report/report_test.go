package report

import (
	"bytes"
	"encoding/csv"
	"flag"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"holdfast/internal/errs"
)

var rewrite = flag.Bool("rewrite", false, "write golden files")

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sample is a report with everything in it.
func sample() *Report {
	return &Report{
		Run: "7d3c", Plan: "all", Version: 7, Operation: "disaster", From: "a", To: "b", Status: Warning, State: "before-commit",
		By: "ann", Agreed: "bob", Began: began, Ended: began.Add(93 * time.Second), Notes: "Pump failure in building 4.\nCalled the net team.",
		Domains: []Domain{{Name: "erp", Checkpoint: 4711, Time: began.Add(-4 * time.Second), Kind: "crash", Tag: "t", RPO: 4, RTO: 41.25, VMs: 3, Up: 2}, {Name: "mail", VMs: 2}},
		Steps: []Step{
			{Number: "1", Title: "fence the old owner of erp", Group: "fence", Status: Success, Began: began, Ended: began.Add(1200 * time.Millisecond)},
			{Number: "2.1", Title: "start db", Group: "p1", VM: "db", Status: Warning, Began: began.Add(2 * time.Second), Ended: began.Add(32 * time.Second), Warnings: []string{"the agent was not seen for 30 s"}},
			{Number: "2.2", Title: "warm up", Group: "p1", VM: "web", Status: Error, Began: began.Add(33 * time.Second), Ended: began.Add(34 * time.Second), Errors: []string{"exit status 3"}, Output: "no such host\n"},
			{Number: "2.3", Title: "look", Group: "p1", VM: "web", Status: Skipped},
			{Number: "3", Title: "pin mail", Status: AlreadyDone},
		},
		LeftOut: []string{"relay: no pool at b stands for it"},
	}
}

func TestGolden(t *testing.T) {
	for name, render := range map[string]func(*Report) ([]byte, error){"report.json": (*Report).JSON, "report.csv": (*Report).CSV, "report.html": (*Report).HTML} {
		got, err := render(sample())
		if err != nil {
			t.Fatal(err)
		}
		path := "testdata/" + name
		if *rewrite {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is another (-rewrite writes it):\n%s", name, got)
		}
	}
}

// evil is what guests, scripts and users may say.
var evil = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</style><script>`, `</pre><a href="javascript:x">`, `{{.Plan}}`, "`x`", `'><b>`,
	`=cmd|' /C calc'!A0`, "+1+1", "-2", "@SUM(A1)", "\t=1", "\r\n=1", "\x00", "\xff\xfe", "a\nb", `a,"b"`, "&lt;", strings.Repeat("=", 5000), "success\" onclick=\"x",
}

func fill(s string) *Report {
	return &Report{Run: s, Plan: s, Operation: s, From: s, To: s, Status: Status(s), State: s, By: s, Agreed: s, Began: began, Notes: s, LeftOut: []string{s},
		Domains: []Domain{{Name: s, Checkpoint: 1, Kind: s, Tag: s}},
		Steps:   []Step{{Number: s, Title: s, Group: s, VM: s, Status: Status(s), Warnings: []string{s}, Errors: []string{s}, Output: s}}}
}

var (
	tag  = regexp.MustCompile(`<[^>]*>?`)
	sane = regexp.MustCompile(`^(<(!DOCTYPE html|html lang="en"|head|meta [a-z-]+="[^"<>]*"( content="[^"<>]*")?|title|style|body|h1|h2|table|tr|th|td|thead|tbody|pre|p class="m( warning| error)?"|td class="n"|span class="[^"<>]*"|td class="s [^"<>]*"|p class="m")>|</(html|head|title|style|body|h1|h2|table|tr|th|td|thead|tbody|pre|p|span)>)$`)
)

// unsafeTags are those a page of ours does not have.
func unsafeTags(page []byte) (bad []string) {
	for _, m := range tag.FindAllString(string(page), -1) {
		if !sane.MatchString(m) {
			bad = append(bad, m)
		}
	}
	return bad
}

func TestHTMLEscapesEverything(t *testing.T) {
	for _, s := range evil {
		page, err := fill(s).HTML()
		if err != nil {
			t.Fatal(err)
		}
		if bad := unsafeTags(page); len(bad) > 0 {
			t.Errorf("%q: the page has %q", s, bad)
		}
		if !utf8.Valid(page) {
			t.Errorf("%q: the page is not UTF-8", s)
		}
	}
	// What breaks the rule is noticed.
	page, _ := fill("x").HTML()
	if len(unsafeTags(append(page, `<script>alert(1)</script>`...))) == 0 || len(unsafeTags(bytes.Replace(page, []byte("<td>x"), []byte("<td onclick=y>x"), 1))) == 0 {
		t.Error("a page with a script was let pass")
	}
	for _, remote := range []string{"http:", "https:", "src=", "href=", "url(", "@import"} {
		if bytes.Contains(page, []byte(remote)) {
			t.Errorf("the page loads something: %s", remote)
		}
	}
}

// formulas are the cells a spreadsheet would run.
func formulas(table []byte) (bad []string, err error) {
	rows, err := csv.NewReader(bytes.NewReader(table)).ReadAll()
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r|%") {
				bad = append(bad, cell)
			}
		}
	}
	return bad, err
}

func TestCSVRunsNothing(t *testing.T) {
	for _, s := range evil {
		table, err := fill(s).CSV()
		if err != nil {
			t.Fatal(err)
		}
		if bad, err := formulas(table); len(bad) > 0 || err != nil {
			t.Errorf("%q: %q, %v", s, bad, err)
		}
	}
	if bad, _ := formulas([]byte("a,=1+1\n")); len(bad) == 0 {
		t.Error("a formula was let pass")
	}
}

func TestJSONRoundTrip(t *testing.T) {
	for _, r := range []*Report{sample(), fill("a\xffb"), fill(strings.Repeat("ä", 5000)), {Run: "x", Began: began}} {
		b, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(b)
		if err != nil || !reflect.DeepEqual(back, r.Bounded()) {
			t.Errorf("%+v became %+v, %v", r, back, err)
		}
	}
	for _, bad := range []string{"", "[]", `{"other":1}`, `{"began":"x"}`} {
		if _, err := Decode([]byte(bad)); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := (&Report{Began: time.Date(99999, 1, 1, 0, 0, 0, 0, time.UTC)}).JSON(); !errs.Is(err, errs.Invalid) {
		t.Errorf("%v", err)
	}
}

func TestEverythingIsBounded(t *testing.T) {
	long := strings.Repeat("&", 100000)
	r := fill(long)
	step := r.Steps[0]
	for range 30 {
		step.Warnings = append(step.Warnings, long)
	}
	for range 2100 {
		r.Steps = append(r.Steps, step)
		r.LeftOut = append(r.LeftOut, long)
		r.Domains = append(r.Domains, r.Domains[0])
	}
	page, err := r.HTML()
	if err != nil || len(page) > MaxHTML {
		t.Errorf("%d bytes, %v", len(page), err)
	}
	b := r.Bounded()
	if b.Cut == 0 || len(b.Domains) != MaxDomains || len(b.Domains[0].Name) > MaxName || len(b.LeftOut) != MaxLeftOut || len(b.Steps) == len(r.Steps) || len(b.Steps[1].Warnings) != MaxMessages || len(b.Steps[1].Output) > MaxOutput {
		t.Errorf("%d steps, %d left out, %d domains, %d cut", len(b.Steps), len(b.LeftOut), len(b.Domains), b.Cut)
	}
	if again := b.Bounded(); !reflect.DeepEqual(again, b) {
		t.Error("what is bounded is cut again")
	}
	raw, err := r.JSON()
	if err != nil || len(raw) > MaxJSON {
		t.Errorf("%d bytes of JSON, %v", len(raw), err)
	}
	if !bytes.Contains(page, []byte("did not fit")) {
		t.Error("the page does not tell that something is left out")
	}
	if got := (&Report{Steps: []Step{{Output: "begin" + strings.Repeat("ä", MaxOutput) + "end"}}}).Bounded().Steps[0].Output; !strings.HasSuffix(got, "end") || strings.Contains(got, "begin") || !utf8.ValidString(got) {
		t.Error("of a long output, the end is kept")
	}
}

func FuzzRender(f *testing.F) {
	for _, s := range evil {
		f.Add(s, s, 1.5)
	}
	f.Fuzz(func(t *testing.T, a, b string, rpo float64) {
		r := fill(a)
		r.Steps[0].Output, r.Plan, r.Domains[0].RPO = b, b, rpo
		page, err := r.HTML()
		if err != nil {
			t.Fatal(err)
		}
		if bad := unsafeTags(page); len(bad) > 0 {
			t.Fatalf("%q", bad)
		}
		table, err := r.CSV()
		if err != nil {
			t.Fatal(err)
		}
		if bad, err := formulas(table); len(bad) > 0 || err != nil {
			t.Fatalf("%q, %v", bad, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	b, _ := sample().JSON()
	f.Add(b)
	f.Add([]byte(`{"steps":[{"status":"x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		out, err := r.JSON()
		if err != nil {
			return // a time that JSON has no form for
		}
		again, err := Decode(out)
		if err != nil {
			t.Fatal(err)
		}
		if out2, _ := again.JSON(); !bytes.Equal(out, out2) {
			t.Fatalf("%s became %s", out, out2)
		}
	})
}
