package rocva_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/copies"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/recovery"
	"holdfast/internal/store/mem"
)

// warned is what the steps of the newest run of an operation said in warning.
func (r *rig) warned(op plan.Operation) (said string) {
	r.t.Helper()
	check(r.t, r.d.View(r.t.Context(), func(tx *db.Tx) error {
		list, err := operate.History(r.t.Context(), tx, "p", 0, 100)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.Operation != op {
				continue
			}
			rep, err := operate.Report(r.t.Context(), tx, e.Run)
			for _, s := range rep.Steps {
				said += strings.Join(s.Warnings, " ")
			}
			return err
		}
		return nil
	}))
	return said
}

// TestFromACopy: where the first store cannot be read, tests and recoveries from a
// disaster take the first copy that can be, and say so; nothing of the first store is
// changed then, and what keeps the copy finds that it is somebody else's.
func TestFromACopy(t *testing.T) {
	r := newRig(t)
	st := mem.New()
	r.copies = map[string]*mem.Store{"mem://a-lost": mem.New(), "mem://second": st}
	keeper, err := copies.New(r.src.c, st, copies.Options{Name: "second"})
	check(t, err)
	check(t, keeper.CatchUp(t.Context()))
	r.begin()
	r.does(plan.Test, plan.TestComplete)
	if said := r.warned(plan.Test); strings.Contains(said, "copy") {
		t.Errorf("with the first store there: %q", said)
	}
	r.does(plan.Cleanup, plan.Ready)
	r.lost.Store(true)
	r.does(plan.Test, plan.TestComplete)
	r.disks("test2")
	if said := r.warned(plan.Test); !strings.Contains(said, "THE FIRST STORE CANNOT BE READ") || !strings.Contains(said, "the copy in store second") || !strings.Contains(said, "newest recovery point") {
		t.Errorf("the test said %q", said)
	}
	r.does(plan.Cleanup, plan.Ready)
	copied := map[dr.DiskID][]byte{}
	for id, b := range r.src.disks {
		copied[id] = bytes.Clone(b)
	}
	r.does(plan.Disaster, plan.BeforeCommit)
	r.src.disks = copied // what its site published at last is in the first store alone
	r.disks("1")
	if said := r.warned(plan.Disaster); !strings.Contains(said, "the copy in store second") {
		t.Errorf("the recovery said %q", said)
	}
	of := func(st *mem.Store) int {
		c, err := journal.Open(t.Context(), st, r.src.id)
		check(t, err)
		all, err := c.Timelines(t.Context())
		check(t, err)
		return len(all)
	}
	if of(r.src.st) != 1 || of(st) != 2 {
		t.Errorf("%d timelines in the first store, %d in the copy", of(r.src.st), of(st))
	}
	list, err := recovery.New(recovery.Options{Provider: r.at["b"].prov}).List(t.Context(), filepath.Join(r.at["b"].dir, "r", "p", "erp"))
	check(t, err)
	for _, run := range list {
		want := 2 // of the first store: where it was read, its copies are kept on
		if run.Record.Request.URL == "mem://second" {
			want = 0
		}
		if got := run.Record.Request.Protect.Copies; len(got) != want {
			t.Errorf("the run that reads %s keeps copies %+v", run.Record.Request.URL, got)
		}
	}
	r.does(plan.CommitRun, plan.RecoveryComplete)
	if _, err := r.src.Checkpoint(t.Context(), ""); err != nil {
		t.Errorf("the first store, whose site was not seen: %v", err)
	}
	again, err := copies.New(r.src.c, st, copies.Options{Name: "second"})
	check(t, err)
	if err := again.CatchUp(t.Context()); !errs.Is(err, errs.Fenced) {
		t.Errorf("the old site's copy: %v", err)
	}
}
