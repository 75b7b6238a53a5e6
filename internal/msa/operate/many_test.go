package operate_test

import (
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// TestManyVMs starts many VMs with a bound on how many at once: the bound is kept and
// used, and the manager itself costs little. HOLDFAST_RUNS_VMS=1000 is the real one, a
// second for each boot and 100 at once: less than 1.5 times the ideal, which is ten
// seconds.
func TestManyVMs(t *testing.T) {
	vms, boots, boot := 100, 20, 50*time.Millisecond
	real := os.Getenv("HOLDFAST_RUNS_VMS")
	if real != "" {
		vms, _ = strconv.Atoi(real)
		boots, boot = 100, time.Second
	}
	w := newWorld(vms/50, 50)
	p := w.plan("p")
	p.MaxBoots = boots
	wait := site.Span(5 * time.Minute)
	for name := range w.domains {
		p.Domains = append(p.Domains, name)
	}
	for i := range w.a.VMs {
		w.a.VMs[i].NICs = nil // no addresses to be told: what is measured is starts
		p.VMs = append(p.VMs, plan.VM{VM: w.a.VMs[i].Ref, Agent: &wait})
	}
	r := newRig(t, dbtest.SQLite(t), w)
	r.site.Boot = boot
	var up, most atomic.Int64
	r.site.Point = func(where string, k plan.Kind, a *operate.Act) {
		if k == plan.KindPowerOn && where == "after" {
			n := up.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.AfterFunc(boot, func() { up.Add(-1) })
		}
	}
	o := r.options()
	o.Kinds = operate.Kinds(r.site, boot) // as often as a manager does, to scale
	r.work(o)
	r.does("p", plan.ForcedDisaster, plan.BeforeCommit)
	list := r.report("p")
	var first, last time.Time
	for i := range list.Steps {
		if s := &list.Steps[i]; s.Group == "p3" {
			if first.IsZero() || s.Began.Before(first) {
				first = s.Began
			}
			if s.Ended.After(last) {
				last = s.Ended
			}
		}
	}
	ideal := time.Duration(vms/boots) * boot
	ratio := last.Sub(first).Seconds() / ideal.Seconds()
	t.Logf("plan_%dvm_over_ideal %.2f: %v of %v, at most %d at once", vms, ratio, last.Sub(first).Round(time.Millisecond), ideal, most.Load())
	if most.Load() > int64(boots) || most.Load() < int64(boots)/2 {
		t.Errorf("%d VMs booted at once; the bound is %d", most.Load(), boots)
	}
	if real != "" && ratio >= 1.5 {
		t.Errorf("it took %.2f times the ideal", ratio)
	}
	r.well()
}
