package rocva_test

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// origins are the runs below a plan's and domain's directory at b, by name, and who asked.
func (r *rig) origins() map[string]string {
	r.t.Helper()
	all, err := filepath.Glob(filepath.Join(r.at["b"].dir, "r", "p", "erp", "*", "run.json"))
	check(r.t, err)
	out := map[string]string{}
	for _, path := range all {
		q, err := recovery.ReadRequest(filepath.Dir(path))
		check(r.t, err)
		out[filepath.Base(filepath.Dir(path))] = q.Origin
	}
	return out
}

// TestPlansOfTheSameName has two sites test domains of the same name by plans of the same
// name: each finds its own test, and takes away no other.
func TestPlansOfTheSameName(t *testing.T) {
	r := newRig(t)
	r.begin()
	box := r.at["b"].box
	act := func(origin string) *operate.Act {
		return &operate.Act{Call: runs.NewCall(nil), Plan: "p", Origin: origin, From: "a", To: "b", Domain: "erp"}
	}
	in := &plan.PinInputs{Domain: "erp", Test: true}
	for _, origin := range []string{"a", "c", "a"} { // again: the same one
		if _, err := box.Pin(t.Context(), act(origin), in); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.origins(); len(got) != 2 || got["test1"] != "a" || got["test2"] != "c" {
		t.Fatalf("there are %v", got)
	}
	configure := &plan.DisksInputs{DomainInputs: plan.DomainInputs{Domain: "erp", Test: true}}
	if _, err := box.Disks(t.Context(), act("d"), configure); !errs.Is(err, errs.NotFound) {
		t.Errorf("a third site finds a test: %v", err)
	}
	discard := func(origin string) {
		t.Helper()
		res, err := box.Discard(t.Context(), act(origin), &plan.DomainInputs{Domain: "erp", Test: true})
		if err != nil || res.Again > 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	r.restart()
	box = r.at["b"].box
	discard("c")
	state := func(name string) recovery.State {
		st, err := recovery.New(recovery.Options{}).Status(t.Context(), filepath.Join(r.at["b"].dir, "r", "p", "erp", name))
		check(t, err)
		return st.State
	}
	if state("test1") == recovery.Clean || state("test2") != recovery.Clean {
		t.Fatalf("the other's test was cleaned: %s, %s", state("test1"), state("test2"))
	}
	if _, err := box.Pin(t.Context(), act("c"), in); err != nil {
		t.Fatal(err)
	}
	discard("a")
	if got := r.origins(); got["test3"] != "c" || state("test3") == recovery.Clean || state("test1") != recovery.Clean {
		t.Fatalf("there are %v: %s, %s", got, state("test1"), state("test3"))
	}
}

// TestRunsFromBefore are found that an earlier release began, which did not note who asked.
func TestRunsFromBefore(t *testing.T) {
	r := newRig(t)
	r.begin()
	act := &operate.Act{Call: runs.NewCall(nil), Plan: "p", From: "a", To: "b", Domain: "erp"}
	if _, err := r.at["b"].box.Pin(t.Context(), act, &plan.PinInputs{Domain: "erp", Test: true}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(r.at["b"].dir, "r", "p", "erp", "test1", "run.json"))
	check(t, err)
	if got := r.origins(); len(got) != 1 || got["test1"] != "" || len(b) == 0 {
		t.Fatalf("there are %v", got)
	}
	r.restart()
	act.Origin = "fingerprint"
	if _, err := r.at["b"].box.Discard(t.Context(), act, &plan.DomainInputs{Domain: "erp", Test: true}); err != nil {
		t.Fatal(err)
	}
	if st, err := recovery.New(recovery.Options{}).Status(t.Context(), filepath.Join(r.at["b"].dir, "r", "p", "erp", "test1")); err != nil || st.State != recovery.Clean {
		t.Fatalf("it was not found: %+v, %v", st, err)
	}
}
