package appliance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// hostRig is a host's appliance over a scripted hypervisor and scripted processes.
type hostRig struct {
	*Host
	t     testing.TB
	b     *boxes
	fake  *fake.Host
	vm    *fake.LiveVM
	id    dr.VMID
	setup setup.Setup

	mu     sync.Mutex
	has    map[dr.VMID]bool // guarded by mu: what the host component protects
	broken error            // guarded by mu: what /protect and /unprotect answer
	asked  []string         // guarded by mu
}

func newHostRig(t testing.TB) *hostRig {
	r := &hostRig{t: t, fake: &fake.Host{}, id: dr.VMID{UUID: dr.NewUUID()}, has: map[dr.VMID]bool{}}
	r.vm = r.fake.Add(hypervisor.VMInfo{Config: dr.VMConfig{ID: r.id, Name: "erp1"}, Running: true}, -1)
	r.b = newBoxes(t, func([]string) map[string]control.Handler { return r.calls() })
	r.setup = setup.Setup{Role: site.IOFilter, Platform: site.Libvirt, Host: &setup.Host{ID: dr.HostID{UUID: dr.NewUUID()}, Ref: "node1",
		Domains: []setup.HostDomain{{Name: "erp", ID: dr.DomainID{UUID: dr.NewUUID()}, DRVA: "127.0.0.1:1", VMs: []setup.HostVM{{ID: r.id, Ref: "erp1"}}}}}}
	check(t, r.setup.Seal())
	r.fresh(shortDir(t))
	return r
}

// fresh begins another life of the agent.
func (r *hostRig) fresh(dir string) {
	r.Host = NewHost(Options{Dir: dir, Name: "box", Boxes: r.b.all(),
		Platform: func(context.Context, site.Platform, []string) (hypervisor.Platform, error) {
			return fake.NewPlatform(r.fake), nil
		},
		Config: func(site.Platform, []string) (any, error) { return map[string]string{"libvirt": "/nowhere"}, nil }})
}

// calls are those of a host component, with the record that it keeps.
func (r *hostRig) calls() map[string]control.Handler {
	change := func(on bool) control.Handler {
		return func(_ context.Context, body []byte) (any, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.asked = append(r.asked, string(body))
			if r.broken != nil {
				return nil, r.broken
			}
			r.has[r.id] = on
			m, err := r.domain("erp")
			if err != nil {
				m = r.all()[0]
			}
			var entries []live.Entry
			if on {
				entries = append(entries, live.Entry{Config: dr.VMConfig{ID: r.id, Name: "erp1"}, Disks: []live.EntryDisk{{ID: dr.DiskID{UUID: dr.NewUUID()}, Name: "disk0", Path: "/d", Socket: "/s"}}})
			}
			return live.Report{VM: r.id, Disks: []live.DiskReport{{Name: "cdrom", Skipped: "read-only"}}}, live.WriteRecord(durable.OS{}, m.record(), entries)
		}
	}
	return map[string]control.Handler{"/protect": change(true), "/unprotect": change(false),
		"/status": func(context.Context, []byte) (any, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			st := iofilter.Status{Name: "node1"}
			if r.has[r.id] {
				st.Disks = append(st.Disks, iofilter.DiskStatus{VM: r.id, Name: "disk0", State: iofilter.Streaming, DirtyBytes: 7})
			}
			return st, nil
		}}
}

// look looks at all members once.
func (r *hostRig) look() {
	for _, m := range r.all() {
		m.turn.Lock()
		m.look(r.t.Context())
		m.turn.Unlock()
	}
}

// TestHost: what a Setup says is protected, what it says no more is let go of before the
// box tells that it is it.
func TestHost(t *testing.T) {
	r := newHostRig(t)
	check(t, r.Setup(t.Context(), &r.setup))
	r.look()
	r.look()
	rep := r.Report()
	if rep.Generation != r.setup.Generation || len(rep.Problems) > 0 || len(rep.Domains) != 1 || rep.Domains[0].State != setup.Protected ||
		!slices.Equal(rep.Domains[0].VMs[0].Bare, []string{"cdrom"}) || rep.Figures[0].Object != "vm erp/erp1" || rep.Figures[0].Value != 7 {
		t.Errorf("%+v", rep)
	}
	check(t, rep.Check())

	// Another life, without its manager, starts nothing anew.
	r.b.said()
	r.fresh(r.Dir)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	for r.Report().Generation == "" {
		time.Sleep(time.Millisecond) // between questions; the answer decides
	}
	stop()
	check(t, <-ran)
	if got := r.b.said(); len(got) > 0 {
		t.Errorf("another life did %q", got)
	}

	// A VM that cannot be let go of: the box is not what it is to be.
	nothing := setup.Setup{Role: site.IOFilter, Platform: site.Libvirt, Serial: 1, Host: &setup.Host{ID: r.setup.Host.ID}}
	check(t, nothing.Seal())
	r.mu.Lock()
	r.broken = errs.New("unprotect", errs.Unavailable, "erp1", "the hypervisor does not answer")
	r.mu.Unlock()
	if err := r.Setup(t.Context(), &nothing); err == nil || r.Report().Generation == nothing.Generation || len(r.b.said()) > 0 {
		t.Errorf("it is said to be let go of: %v", err)
	}
	r.mu.Lock()
	r.broken, r.asked = nil, nil
	r.mu.Unlock()
	check(t, r.Setup(t.Context(), &nothing))
	if got := r.b.said(); !slices.Equal(got, []string{"end host"}) || r.Report().Generation != nothing.Generation {
		t.Errorf("letting go did %q", got)
	}
	if len(r.asked) != 1 || !strings.Contains(r.asked[0], `"release":true`) {
		t.Errorf("the host component was asked %q", r.asked)
	}
	if left, err := os.ReadDir(r.hostDir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestHostTells: what cannot be protected is a problem, not a state of the box.
func TestHostTells(t *testing.T) {
	r := newHostRig(t)
	r.broken = errs.New("protect", errs.Invalid, "erp1", "several VMs may write to the disk").WithRemedy("give each its own")
	check(t, r.Setup(t.Context(), &r.setup))
	r.look()
	r.look()
	rep := r.Report()
	if len(r.asked) != 1 {
		t.Errorf("tried %d times in a row", len(r.asked))
	}
	if rep.Generation != r.setup.Generation || len(rep.Problems) != 1 || rep.Problems[0].Remedy == "" || rep.Domains[0].State != setup.Failing || rep.Domains[0].VMs[0].Cause == "" {
		t.Errorf("%+v", rep)
	}
	// A domain without a DRVA waits.
	r = newHostRig(t)
	r.setup.Host.Domains[0].DRVA = ""
	check(t, r.setup.Seal())
	check(t, r.Setup(t.Context(), &r.setup))
	r.look()
	if rep := r.Report(); len(rep.Problems) != 1 || len(r.b.said()) > 0 {
		t.Errorf("%+v", rep)
	}
}

func act(hold error) *operate.Act {
	return &operate.Act{Call: runs.NewCall(func(context.Context) error { return hold }), Plan: "p", From: "a", To: "b", Domain: "erp"}
}

// TestPower: a source's VMs are asked, shut down, cut, started and retired; nothing is
// done by who may not act any more.
func TestPower(t *testing.T) {
	r := newHostRig(t)
	vm, fenced := &plan.VMInputs{VM: r.id, Name: "erp1"}, errs.New("hold", errs.Fenced, "p", "a newer owner acts")
	if _, err := r.Running(t.Context(), act(nil), vm); !errs.Is(err, errs.Unavailable) {
		t.Errorf("before a setup: %v", err)
	}
	check(t, r.Setup(t.Context(), &r.setup))
	up := func(want bool) {
		t.Helper()
		if got, err := r.Running(t.Context(), act(nil), vm); err != nil || got != want {
			t.Errorf("running: %v, %v; want %v", got, err, want)
		}
	}
	up(true)
	in := &plan.DomainInputs{Domain: "erp", VMs: []dr.VMID{r.id}}
	if _, err := r.SourceOff(t.Context(), act(nil), in); !errs.Is(err, errs.Conflict) {
		t.Errorf("source off: %v", err)
	}
	for name, err := range map[string]error{"shutdown": r.Shutdown(t.Context(), act(fenced), vm), "cut": r.Cut(t.Context(), act(fenced), vm)} {
		if !errs.Is(err, errs.Fenced) {
			t.Errorf("%s by who may not: %v", name, err)
		}
	}
	up(true)
	if _, err := r.Retire(t.Context(), act(nil), vm); !errs.Is(err, errs.Conflict) {
		t.Errorf("retired while it runs: %v", err)
	}
	r.vm.Deaf(true)
	check(t, r.Shutdown(t.Context(), act(nil), vm))
	up(true)
	check(t, r.Cut(t.Context(), act(nil), vm))
	up(false)
	_, err := r.SourceOff(t.Context(), act(nil), in)
	check(t, err)
	if _, err := r.StartSource(t.Context(), act(fenced), vm); !errs.Is(err, errs.Fenced) {
		t.Errorf("started by who may not: %v", err)
	}
	for i, want := range []bool{false, true} {
		res, err := r.StartSource(t.Context(), act(nil), vm)
		if err != nil || res.AlreadyDone != want {
			t.Errorf("start %d: %+v, %v", i, res, err)
		}
	}
	up(true)
	check(t, r.Cut(t.Context(), act(nil), vm))
	for range 2 {
		_, err = r.Retire(t.Context(), act(nil), vm)
		check(t, err)
	}
	p := fake.NewPlatform(r.fake)
	if _, err := p.VM(t.Context(), hypervisor.RetiredName("erp1", r.id)); err != nil {
		t.Error(err)
	}
	gone := &plan.VMInputs{VM: dr.VMID{UUID: dr.NewUUID()}}
	if up, err := r.Running(t.Context(), act(nil), gone); up || err != nil {
		t.Errorf("a VM that is elsewhere: %v, %v", up, err)
	}
	if err := r.Cut(t.Context(), act(nil), gone); !errs.Is(err, errs.NotFound) {
		t.Errorf("cut one that is elsewhere: %v", err)
	}
}

// TestScript: a box runs what is its own to run, and nothing for who may not act.
func TestScript(t *testing.T) {
	h := NewHost(Options{Dir: shortDir(t)})
	file := filepath.Join(h.Dir, "ran")
	in := &plan.ScriptInputs{Name: "mark", Run: plan.OnAppliance, Command: []string{"/bin/sh", "-c", "echo $HOLDFAST_PLAN > " + file}}
	if _, err := h.Script(t.Context(), act(errors.New("fenced")), in); err == nil {
		t.Error("it ran for who may not act")
	}
	guest := *in
	guest.Run = plan.InGuest
	if _, err := h.Script(t.Context(), act(nil), &guest); !errs.Is(err, errs.Invalid) {
		t.Errorf("a guest's script: %v", err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it ran")
	}
	_, err := h.Script(t.Context(), act(nil), in)
	check(t, err)
	if b, err := os.ReadFile(file); err != nil || string(b) != "p\n" {
		t.Errorf("%q, %v", b, err)
	}
}
