package problem

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/internal/errs"
)

func TestListTellsAll(t *testing.T) {
	var l List
	if l.Err("x") != nil || l.Blocked() {
		t.Fatal("an empty list blocks")
	}
	c := For(&l, "plan erp")
	c.Index("vms", 2).At("delay").Warn(Range, "long", "shorten it")
	if l.Err("x") != nil {
		t.Fatal("a warning blocks")
	}
	c.At("name").Block(Form, "bad", "correct it")
	c.At("").Block(Missing, "empty", "fill it")
	err := l.Err("x.Y")
	if !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) != "correct it" {
		t.Fatalf("%v", err)
	}
	for _, w := range []string{"plan erp name: bad (correct it)", "empty (fill it)"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not tell %q", err, w)
		}
	}
	if l.All[0].Field != "vms[2].delay" {
		t.Errorf("field %q", l.All[0].Field)
	}
	l.Sort()
	if l.All[0].Severity != Blocker || l.All[2].Severity != Warning {
		t.Errorf("%v", l.All)
	}
	b, err := json.Marshal(l)
	var back List
	if err != nil || json.Unmarshal(b, &back) != nil || len(back.All) != 3 || back.All[2] != l.All[2] {
		t.Errorf("%s, %v", b, err)
	}
	var s Severity
	if s.UnmarshalText([]byte("other")) == nil || Severity(9).String() != "unknown" {
		t.Error("a severity that is none")
	}
}

func TestListIsBounded(t *testing.T) {
	var l List
	for range Max + 5 {
		For(&l, "x").Warn(Form, "w", "r")
	}
	if len(l.All) != Max || l.More != 5 || !l.Blocked() {
		t.Errorf("%d, %d more", len(l.All), l.More)
	}
	var m List
	m.Merge(l)
	if m.More != 5 || !strings.Contains(m.Err("x").Error(), "5 more") {
		t.Errorf("%d more", m.More)
	}
}

func TestChecks(t *testing.T) {
	var l List
	c := For(&l, "x")
	c.Text("ok", "héllo", 10)
	c.Lines("ok", "a\n\tb", 10)
	OneOf(c, "ok", "a", "a", "b")
	Within(c, "ok", 5, 1, 5)
	Unique(c, "ok", []string{"a", "", "", "b"}, func(s string) string { return s })
	c.Count("ok", 3, 3)
	if len(l.All) != 0 {
		t.Fatalf("%v", l.All)
	}
	c.Text("long", "hello", 4)
	c.Text("control", "a\nb", 10)
	c.Lines("control", "a\x00b", 10)
	c.Text("utf8", "\xff", 10)
	c.NeedText("empty", "", 1)
	OneOf(c, "word", "c", "", "a", "b")
	Within(c, "range", 0, 1, 5)
	Unique(c, "twice", []string{"a", "a"}, func(s string) string { return s })
	c.Count("many", 4, 3)
	if len(l.All) != 9 {
		t.Errorf("%v", l.All)
	}
}
