package main

import (
	"strings"
	"testing"
)

// TestReportsShowWhatWasMissed: a missed goal and a run that tracked are in
// both forms of the table.
func TestReportsShowWhatWasMissed(t *testing.T) {
	b := &bench{machine: machine{Load: []float64{0.5, 0, 0}}, figures: []figure{
		{Name: "good", Value: 2, Unit: "ratio", Against: "x", want: bound{">=", 1}, min: 1.5, max: 2.5},
		{Name: "bad", Value: 0.5, Unit: "ratio", Against: "x", want: bound{">=", 1}, min: 0.5, max: 0.5, note: "tracking entered"},
	}, notes: []string{"a note"}}
	var text strings.Builder
	if err := b.table(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"good    2.000  ratio  1.5-2.5  >= 1  yes  x", "bad     0.500  ratio  -        >= 1  no   x; TRACKING ENTERED", "note: a note", "0.50"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("table without %q:\n%s", want, text.String())
		}
	}
	for _, want := range []string{"| good | 2.000 | ratio | 1.5-2.5 | >= 1 | yes | x |", "| no | x; TRACKING ENTERED |", "- a note"} {
		if md := string(b.markdown()); !strings.Contains(md, want) {
			t.Errorf("Markdown without %q:\n%s", want, md)
		}
	}
}
