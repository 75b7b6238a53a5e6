package rocva_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/appliance/rocva"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// later is a clock that a test puts forward.
type later struct{ by atomic.Int64 }

func (l *later) now() time.Time           { return time.Now().Add(time.Duration(l.by.Load())) }
func (l *later) forward(by time.Duration) { l.by.Add(int64(by)) }

// lived is a rig whose domain lives at b, and looks that the test has.
type lived struct {
	*rig
	clock *later
}

func newLived(t *testing.T) *lived {
	l := &lived{newRig(t), &later{}}
	l.rig.prot = &protectors{src: l.src, ends: map[string]context.CancelFunc{}}
	l.rig.now = l.clock.now
	l.begin()
	l.does(plan.Planned, plan.BeforeCommit)
	l.does(plan.CommitRun, plan.RecoveryComplete)
	l.does(plan.Reprotect, plan.Ready)
	return l
}

func (l *lived) look() {
	l.t.Helper()
	l.at["b"].box.Mind(l.t.Context())
}

// act is a call of a plan that moves the domain away from b.
func (l *lived) act() *operate.Act {
	return &operate.Act{Call: runs.NewCall(nil), Plan: "p", From: "b", To: "a", Domain: "erp"}
}

// starts counts how often a VM was started at b by the processes there have been since
// the last restart.
func (l *lived) starts(vm dr.VMID) (n int) {
	for _, s := range l.at["b"].prov.Started() {
		if s.Config.ID == vm {
			n++
		}
	}
	return n
}

// told are the problems of the appliance at b, as its manager hears them.
func (l *lived) told() (all string) {
	for _, p := range l.at["b"].box.Report().Problems {
		all += p.Object + ": " + p.Words + "\n"
	}
	return all
}

func (l *lived) running(vm dr.VMConfig) bool {
	l.t.Helper()
	up, err := l.at["b"].box.Running(l.t.Context(), &operate.Act{Domain: "erp"}, &plan.VMInputs{VM: vm.ID, Name: site.Ref(vm.Name)})
	check(l.t, err)
	return up
}

// TestVMsThatEnd has VMs of a domain that lives here end in all ways: those that nobody
// wanted to end are started again, each time later, and not for ever.
func TestVMsThatEnd(t *testing.T) {
	l := newLived(t)
	fell, off := l.src.vms[0], l.src.vms[1]
	find := l.at["b"].prov.Find
	before := [2]int{l.starts(fell.ID), l.starts(off.ID)}
	find(off.ID).PowerOff()
	l.clock.forward(time.Hour)
	l.look()
	if l.running(off) || l.starts(off.ID) != before[1] || l.told() != "" {
		t.Fatalf("a VM that its guest shut down was started again: %s", l.told())
	}
	pause := rocva.AgainAfter
	for i := range rocva.MaxAgain {
		find(fell.ID).Crash("killed")
		l.look()
		if n := l.starts(fell.ID) - before[0]; n != i || !strings.Contains(l.told(), "is started again at") {
			t.Fatalf("end %d: started %d times before its pause: %s", i+1, n, l.told())
		}
		if !l.running(fell) {
			t.Error("a VM that is about to be started again is taken for one that is off")
		}
		l.clock.forward(pause)
		l.look()
		if n := l.starts(fell.ID) - before[0]; n != i+1 || find(fell.ID) == nil || !strings.Contains(l.told(), "was started again: ") {
			t.Fatalf("end %d: started %d times after its pause: %s", i+1, n, l.told())
		}
		l.look() // again: no effect
		pause *= 2
	}
	find(fell.ID).Crash("killed")
	for range 3 {
		l.look()
		l.clock.forward(time.Hour)
	}
	if l.running(fell) || l.starts(fell.ID)-before[0] != rocva.MaxAgain || !strings.Contains(l.told(), "stays down") {
		t.Fatalf("a VM that ends and ends was started %d times: %s", l.starts(fell.ID)-before[0], l.told())
	}
	l.restart() // then all run that are to
	if n := l.rig.living("b"); n != 2 {
		t.Errorf("after a restart %d VMs run", n)
	}
}

// TestVMsThatEndRarely forgets an end after which a VM ran for long.
func TestVMsThatEndRarely(t *testing.T) {
	l := newLived(t)
	vm := l.src.vms[0]
	for range rocva.MaxAgain + 2 {
		l.at["b"].prov.Find(vm.ID).Crash("killed")
		l.look()
		l.clock.forward(rocva.AgainAfter)
		l.look()
		if !l.running(vm) {
			t.Fatalf("it is down: %s", l.told())
		}
		l.clock.forward(rocva.SteadyAfter)
		l.look()
		if l.told() != "" {
			t.Fatalf("it is told still: %s", l.told())
		}
	}
}

// TestVMsOfADomainThatMovedOn are not started: not by looking after them, and not when the
// appliance comes up after its host was without power.
func TestVMsOfADomainThatMovedOn(t *testing.T) {
	l := newLived(t)
	vm := l.src.vms[0]
	moves(t, l)
	l.at["b"].prov.Find(vm.ID).Crash("killed")
	before := l.starts(vm.ID)
	for range 3 {
		l.clock.forward(time.Hour)
		l.look()
	}
	if l.starts(vm.ID) != before || !strings.Contains(l.told(), "elsewhere") {
		t.Fatalf("the VM of a domain that moved on was started: %s", l.told())
	}
	if l.running(vm) {
		t.Error("it is taken for one that is started again")
	}
	l.restart()
	if l.starts(vm.ID) != 0 || l.running(vm) {
		t.Error("the VM of a domain that moved on was started with the appliance")
	}
}

// moves has the domain go on elsewhere, without a word to where it lived.
func moves(t *testing.T, l *lived) {
	t.Helper()
	all, err := l.src.c.Timelines(t.Context())
	check(t, err)
	for _, tl := range all {
		if tl.Current {
			_, err := l.src.c.Fork(t.Context(), journal.ForkOptions{Parent: tl.ID, Checkpoint: l.src.last, Label: "elsewhere", By: "ann"})
			check(t, err)
		}
	}
}

// TestVMThatEndsInAMigration is shut down by the plan like one that runs: nothing starts it
// behind the plan's back, and a rollback starts it.
func TestVMThatEndsInAMigration(t *testing.T) {
	l := newLived(t)
	vm := l.src.vms[0]
	l.at["b"].prov.Find(vm.ID).Crash("killed")
	in := &plan.DomainInputs{Domain: "erp", VMs: []dr.VMID{vm.ID, l.src.vms[1].ID}}
	l.at["b"].prov.Find(l.src.vms[1].ID).PowerOff()
	act := l.act()
	if _, err := l.at["b"].box.SourceOff(t.Context(), act, in); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "about to be started again") {
		t.Fatalf("a VM that is about to be started again is off: %v", err)
	}
	check(t, l.at["b"].box.Shutdown(t.Context(), act, &plan.VMInputs{VM: vm.ID, Name: site.Ref(vm.Name)}))
	if _, err := l.at["b"].box.SourceOff(t.Context(), act, in); err != nil {
		t.Fatal(err)
	}
	before := l.starts(vm.ID)
	l.clock.forward(time.Hour)
	l.look()
	if l.running(vm) || l.starts(vm.ID) != before || l.told() != "" {
		t.Fatalf("a VM that a plan shut down was started: %s", l.told())
	}
	if _, err := l.at["b"].box.StartSource(t.Context(), act, &plan.VMInputs{VM: vm.ID, Name: site.Ref(vm.Name)}); err != nil || !l.running(vm) {
		t.Fatalf("the rollback does not start it: %v", err)
	}
	if l.running(l.src.vms[1]) {
		t.Error("it starts what was off before")
	}
}
