package setup_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

func example() *setup.Setup {
	return &setup.Setup{Role: site.DRVA, Site: "a", Platform: site.Libvirt, DRVA: &setup.DRVA{Listen: "10.0.0.1:7480", Domains: []setup.Domain{{
		Name: "erp", ID: dr.DomainID{UUID: dr.NewUUID()}, Container: "s3://b/erp", Credentials: "AWS_SECRET_ACCESS_KEY=word\n", Identity: "AGE-SECRET-KEY-1X",
		Settings: setup.Settings{Interval: site.Span(time.Second), Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(time.Hour)}}}},
	}}}}
}

// TestGeneration: it is of all the rest, secrets included, and survives the wire.
func TestGeneration(t *testing.T) {
	s := example()
	seal := func(s *setup.Setup) string {
		t.Helper()
		if err := s.Seal(); err != nil {
			t.Fatal(err)
		}
		return s.Generation
	}
	g := seal(s)
	if g == "" || seal(s) != g {
		t.Errorf("the generation is %q, and then another one", g)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var there setup.Setup
	if err := json.Unmarshal(b, &there); err != nil || seal(&there) != g {
		t.Errorf("over the wire it is another one: %v", err)
	}
	for name, change := range map[string]func(*setup.Setup){
		"secret": func(s *setup.Setup) { s.DRVA.Domains[0].Credentials = "" }, "serial": func(s *setup.Setup) { s.Serial++ },
		"setting": func(s *setup.Setup) { s.DRVA.Domains[0].Settings.Interval++ }, "domain": func(s *setup.Setup) { s.DRVA.Domains = nil },
	} {
		if err := json.Unmarshal(b, &there); err != nil {
			t.Fatal(err)
		}
		if change(&there); seal(&there) == g {
			t.Errorf("with another %s it is the same", name)
		}
	}
	if shown := fmt.Sprint(s) + s.LogValue().String(); strings.Contains(shown, "word") || strings.Contains(shown, "AGE-SECRET") {
		t.Errorf("a secret is shown: %s", shown)
	}
}

// FuzzReport: whatever a box sends is refused, or within the bounds.
func FuzzReport(f *testing.F) {
	b, err := json.Marshal(&setup.Report{Generation: "x", Domains: []setup.DomainReport{{Name: "erp", VMs: make([]setup.VMReport, 2)}}, Figures: make([]setup.Figure, 1), Lives: []site.Name{"x"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r setup.Report
		if json.Unmarshal(b, &r) != nil {
			return
		}
		if err := r.Check(); err != nil && !errs.Is(err, errs.Invalid) {
			t.Error(err)
		}
	})
}

// TestBounds: each list has one.
func TestBounds(t *testing.T) {
	for name, r := range map[string]*setup.Report{
		"figures": {Figures: make([]setup.Figure, setup.MaxFigures+1)}, "domains": {Domains: make([]setup.DomainReport, setup.MaxDomains+1)},
		"VMs":      {Domains: []setup.DomainReport{{VMs: make([]setup.VMReport, setup.MaxVMs/2)}, {VMs: make([]setup.VMReport, setup.MaxVMs/2+1)}}},
		"problems": {Problems: make([]setup.Problem, setup.MaxProblems+1)}, "lives": {Lives: make([]site.Name, setup.MaxDomains+1)},
		"generation": {Generation: strings.Repeat("x", 65)},
	} {
		if err := r.Check(); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (&setup.Report{}).Check(); err != nil {
		t.Error(err)
	}
}
