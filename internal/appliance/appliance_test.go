package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/copies"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/maintain"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// shortDir is a directory for sockets.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "hfap")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// boxes are processes of a test: each serves local calls.
type boxes struct {
	t     testing.TB
	calls func(args []string) map[string]control.Handler // of a process with a command line

	mu      sync.Mutex
	running map[string]*process // guarded by mu, by command line
	events  []string            // guarded by mu
	broken  error               // guarded by mu: what Launch answers
	stuck   error               // guarded by mu: what End answers
}

type process struct {
	pid  int
	stop func()
}

func newBoxes(t testing.TB, calls func(args []string) map[string]control.Handler) *boxes {
	b := &boxes{t: t, calls: calls, running: map[string]*process{}}
	t.Cleanup(func() {
		for _, p := range b.running {
			p.stop()
		}
	})
	return b
}

func (b *boxes) all() Boxes { return Boxes{Launch: b.launch, Running: b.find, End: b.end} }

// said are the events so far; they are forgotten.
func (b *boxes) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.events
	b.events = nil
	return all
}

func (b *boxes) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

func (b *boxes) launch(ctx context.Context, _, name, socket string, args ...string) (recovery.Process, error) {
	b.mu.Lock()
	if b.broken != nil {
		defer b.mu.Unlock()
		b.events = append(b.events, "tried "+name)
		return recovery.Process{}, b.broken
	}
	key := strings.Join(args, " ")
	if p := b.running[key]; p != nil {
		b.mu.Unlock()
		return recovery.Process{Name: name, PID: p.pid}, nil
	}
	config, err := os.ReadFile(args[len(args)-1])
	if err != nil {
		b.mu.Unlock()
		return recovery.Process{}, err
	}
	alive, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	p := &process{pid: len(b.events) + 1, stop: func() { stop(); <-over }}
	b.running[key] = p
	b.events = append(b.events, "start "+name)
	b.mu.Unlock()
	go func() {
		defer close(over)
		if err := control.ServeLocal(alive, socket, b.calls(append(args, string(config)))); err != nil {
			b.t.Error(err)
		}
	}()
	for !answers(ctx, socket) {
		if ctx.Err() != nil {
			return recovery.Process{}, ctx.Err()
		}
		time.Sleep(time.Millisecond) // between questions; the answer decides
	}
	return recovery.Process{Name: name, PID: p.pid}, nil
}

func (b *boxes) find(name string, args ...string) []recovery.Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.running[strings.Join(args, " ")]; p != nil {
		return []recovery.Process{{Name: name, PID: p.pid}}
	}
	return nil
}

func (b *boxes) end(_ context.Context, want recovery.Process) error {
	b.mu.Lock()
	if b.stuck != nil {
		defer b.mu.Unlock()
		return b.stuck
	}
	var p *process
	for key, v := range b.running {
		if v.pid == want.PID {
			p = v
			delete(b.running, key)
		}
	}
	b.events = append(b.events, "end "+want.Name)
	b.mu.Unlock()
	if p != nil {
		p.stop()
	}
	return nil
}

// kill ends the processes as a crash does.
func (b *boxes) kill() {
	b.mu.Lock()
	all := b.running
	b.running = map[string]*process{}
	b.mu.Unlock()
	for _, p := range all {
		p.stop()
	}
}

func status(v any) map[string]control.Handler {
	return map[string]control.Handler{"/status": func(context.Context, []byte) (any, error) { return v, nil }}
}

// TestUnitRunsOn: a process that takes another configuration as it runs is not ended; one
// that refuses, knows no such call, or is not there, is. Whoever dies in between has it
// asked again.
func TestUnitRunsOn(t *testing.T) {
	dir := shortDir(t)
	config := filepath.Join(dir, "drva.json")
	answer := map[string]error{"refused": errs.New("x", errs.Conflict, "", "it takes a restart")}
	old, asked := false, 0
	has := "" // by the process
	b := newBoxes(t, func(args []string) map[string]control.Handler {
		has = args[len(args)-1]
		calls := status(struct{}{})
		if !old {
			calls["/reconfigure"] = func(context.Context, []byte) (any, error) {
				asked++
				text, err := os.ReadFile(config)
				if err == nil {
					err = answer[string(text)]
				}
				if err == nil {
					has = string(text)
				}
				return struct{}{}, err
			}
		}
		return calls
	})
	all, socket := b.all(), filepath.Join(dir, "s.sock")
	fresh := func() *unit { return newUnit(&all, newBox(Options{}).log, "drva", dir, "drva") }
	sockets := []string{filepath.Join(dir, "nobody.sock"), socket}
	run := func(u *unit, text string, want ...string) {
		t.Helper()
		check(t, u.configured(t.Context(), []byte(text), sockets...))
		check(t, u.up(t.Context(), socket))
		if got := b.said(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		if file, err := os.ReadFile(config); err != nil || string(file) != text || has != text {
			t.Errorf("%s: the file is %q, the process has %q, %v", text, file, has, err)
		}
	}
	u := fresh()
	run(u, "one", "start drva")
	run(u, "two")
	run(u, "refused", "end drva", "start drva")
	run(u, "three")
	run(fresh(), "three")
	if asked != 3 {
		t.Errorf("it was asked %d times", asked)
	}
	check(t, os.Remove(u.startedPath())) // an agent that dies before its note
	run(fresh(), "three")
	check(t, os.Remove(u.startedPath())) // one that had written the file alone, and is told something else now
	check(t, os.WriteFile(config, []byte("four"), 0o600))
	run(fresh(), "two")
	b.kill()
	run(u, "five", "start drva")
	old = true
	run(u, "refused", "end drva", "start drva")
	run(u, "six", "end drva", "start drva")
	b.stuck = errs.New("end", errs.Denied, "drva", "it is somebody else's")
	if err := u.configured(t.Context(), []byte("seven"), sockets...); !errs.Is(err, errs.Denied) {
		t.Errorf("it cannot be ended: %v", err)
	}
	if text, err := os.ReadFile(config); err != nil || string(text) != "six" || has != "six" {
		t.Errorf("the running process's configuration is %q, %v", text, err)
	}
	b.stuck = nil
	run(u, "seven", "end drva", "start drva")
}

// TestUnit: a process has the configuration it was started with, whoever dies when, and
// is not started again without need.
func TestUnit(t *testing.T) {
	dir := shortDir(t)
	b := newBoxes(t, func([]string) map[string]control.Handler { return status(struct{}{}) })
	all, socket := b.all(), filepath.Join(dir, "s.sock")
	fresh := func() *unit { return newUnit(&all, newBox(Options{}).log, "drva", dir, "drva") }
	run := func(u *unit, config string, want ...string) {
		t.Helper()
		check(t, u.configured(t.Context(), []byte(config)))
		check(t, u.up(t.Context(), socket))
		if got := b.said(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
	u := fresh()
	run(u, "one", "start drva")
	run(u, "one")
	run(fresh(), "one") // another agent finds it
	run(u, "two", "end drva", "start drva")
	b.kill()
	run(fresh(), "two", "start drva")

	// An agent that dies between the end of the old process and the note restarts
	// whatever runs.
	check(t, os.Remove(u.startedPath()))
	run(fresh(), "two", "end drva", "start drva")

	// One that cannot be ended goes on with what it has, and is ended later.
	b.stuck = errs.New("end", errs.Denied, "drva", "it is somebody else's")
	for range 2 {
		if err := fresh().configured(t.Context(), []byte("three")); !errs.Is(err, errs.Denied) {
			t.Errorf("configured: %v", err)
		}
		if text, err := os.ReadFile(u.config); err != nil || string(text) != "two" {
			t.Errorf("the running process's configuration is %q, %v", text, err)
		}
	}
	b.stuck = nil
	run(fresh(), "three", "end drva", "start drva")
	run(u, "two", "end drva", "start drva")

	// One that ends at once is tried ever less often.
	b.kill()
	b.fail(errs.New("launch", errs.Unavailable, "drva", "it ended at once"))
	for range 5 {
		if err := u.up(t.Context(), socket); !errs.Is(err, errs.Unavailable) {
			t.Errorf("up: %v", err)
		}
	}
	if got := b.said(); len(got) != 1 {
		t.Errorf("%d starts in a row", len(got))
	}
	u.soon()
	if err := u.up(t.Context(), socket); err == nil || len(b.said()) != 1 {
		t.Errorf("soon is not at once: %v", err)
	}
	b.fail(nil)
	u.soon()
	run(u, "two", "start drva")
}

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

// drvaRig is a DRVA's appliance with one scripted domain.
type drvaRig struct {
	b *boxes
	*DRVA
	mu   sync.Mutex
	st   drvaStatus // guarded by mu
	cuts int        // guarded by mu
}

func newDRVARig(t testing.TB) *drvaRig {
	r := &drvaRig{}
	r.st.State = "serving"
	b := newBoxes(t, func([]string) map[string]control.Handler {
		return map[string]control.Handler{
			"/status": func(context.Context, []byte) (any, error) {
				r.mu.Lock()
				defer r.mu.Unlock()
				return r.st, nil
			},
			"/checkpoint": func(context.Context, []byte) (any, error) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.cuts++
				return dr.Checkpoint{ID: 41}, nil
			}}
	})
	dir, id := shortDir(t), dr.DomainID{UUID: dr.NewUUID()}
	check(t, control.InitAuthority(filepath.Join(dir, "ca"), "a"))
	check(t, control.Issue(filepath.Join(dir, "ca"), filepath.Join(dir, "d"), control.RoleDRVA, id.String(), []string{"127.0.0.1"}))
	r.b, r.DRVA = b, NewDRVA(Options{Dir: filepath.Join(dir, "d"), Name: "box", Boxes: b.all()})
	s := setup.Setup{Role: site.DRVA, DRVA: &setup.DRVA{Listen: "127.0.0.1:1", Domains: []setup.Domain{
		{Name: "erp", ID: id, Container: "file:///nowhere", Identity: "SECRET"},
		{Name: "new", ID: dr.DomainID{UUID: dr.NewUUID()}, Container: "file:///nowhere", Identity: "SECRET"}}}}
	check(t, s.Seal())
	check(t, r.Setup(t.Context(), &s))
	return r
}

func (r *drvaRig) is(change func(*drvaStatus)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.st)
}

// TestAdmitted: a domain that the certificate does not stand for yet keeps no other from
// being served, and is told.
func TestAdmitted(t *testing.T) {
	r := newDRVARig(t)
	text, err := os.ReadFile(r.unit.config)
	check(t, err)
	var f drvaFile
	check(t, json.Unmarshal(text, &f))
	rep := r.Report()
	if len(f.Domains) != 1 || len(rep.Problems) != 1 || rep.Problems[0].Object != "domain new" || len(rep.Domains) != 2 {
		t.Errorf("%s\n%+v", text, rep)
	}
	check(t, rep.Check())
	if b, err := json.Marshal(rep); err != nil || strings.Contains(string(b), "SECRET") {
		t.Errorf("%s, %v", b, err)
	}
}

// TestOtherCredentials: a process that has read a store's credentials ends before they are
// others, and begins with these.
func TestOtherCredentials(t *testing.T) {
	r := newDRVARig(t)
	r.once(t.Context())
	r.b.said()
	s := *r.current()
	m := s.DRVA.Domains[0]
	m.Credentials = "AWS_SECRET_ACCESS_KEY=another\n"
	s.DRVA = &setup.DRVA{Listen: s.DRVA.Listen, Domains: []setup.Domain{m}}
	for _, want := range [][]string{{"end drva", "start drva"}, nil} {
		check(t, s.Seal())
		check(t, r.Setup(t.Context(), &s))
		if got := r.b.said(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		s.Serial++ // the same again, but for its number
	}
	if b, err := os.ReadFile(filepath.Join(r.domainDir(&m), "credentials")); err != nil || string(b) != m.Credentials {
		t.Errorf("%q, %v", b, err)
	}
}

// TestCopiesOfADomain: the process is told of a domain's copies, with the credentials of
// each in a file of its own, and what it tells of them is reported by store.
func TestCopiesOfADomain(t *testing.T) {
	r := newDRVARig(t)
	s := *r.current()
	m := s.DRVA.Domains[0]
	m.Copies = []setup.Copy{{Store: "azure", Container: "azblob://contoso/backup/erp", Credentials: "AZURE_STORAGE_KEY=SECRET\n"}, {Store: "disk", Container: "file:///srv/dr/erp"}}
	s.DRVA = &setup.DRVA{Listen: s.DRVA.Listen, Domains: []setup.Domain{m}}
	check(t, s.Seal())
	check(t, r.Setup(t.Context(), &s))
	text, err := os.ReadFile(r.unit.config)
	check(t, err)
	var f drvaFile
	check(t, json.Unmarshal(text, &f))
	c := f.Domains[0].Copies
	if len(c) != 2 || c[0].Container != "azblob://contoso/backup/erp" || c[1] != (copyFile{Container: "file:///srv/dr/erp"}) || strings.Contains(string(text), "SECRET") {
		t.Fatalf("%s", text)
	}
	if b, err := os.ReadFile(c[0].Credentials); err != nil || string(b) != "AZURE_STORAGE_KEY=SECRET\n" {
		t.Errorf("%q, %v", b, err)
	}
	newest := time.Now().Truncate(time.Millisecond)
	r.is(func(st *drvaStatus) {
		st.Copies = []copies.Status{{Name: "file:///srv/dr/erp", State: copies.Current, Newest: newest, Lag: 3 * time.Second}, {Name: "file:///another", State: copies.Away}}
	})
	r.once(t.Context())
	rep := r.Report()
	want := setup.CopyReport{Store: "disk", State: setup.CopyCurrent, Newest: newest.UnixMilli(), Lag: 3000}
	if got := rep.Domains[0].Copies; len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	for ours, theirs := range map[setup.CopyState]copies.State{setup.CopyMaking: copies.Copying, setup.CopyBehind: copies.Lagging, setup.CopyCurrent: copies.Current,
		setup.CopyAway: copies.Away, setup.CopyFull: copies.Full, setup.CopyFailing: copies.Failing, setup.CopyFenced: copies.Fenced} {
		if string(ours) != string(theirs) {
			t.Errorf("%q and %q are not one state", ours, theirs)
		}
	}
	// A domain that leaves takes no secret of its stores along.
	s.DRVA = &setup.DRVA{Listen: s.DRVA.Listen}
	check(t, s.Seal())
	check(t, r.Setup(t.Context(), &s))
	check(t, filepath.WalkDir(r.unit.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "SECRET") {
				t.Errorf("%s has a secret", path)
			}
		}
		return nil
	}))
}

// TestStates: what a DRVA answers, or its last words, in a manager's words.
func TestStates(t *testing.T) {
	live := func(state string) *drvaStatus {
		st := &drvaStatus{}
		st.State = "serving"
		st.Disks, st.Hosts = append(st.Disks, drvaDisk(state, "node1")), append(st.Hosts, drvaHost(dr.HostID{}, "node1", "live"))
		return st
	}
	with := func(st *drvaStatus, change func(*drvaStatus)) *drvaStatus { change(st); return st }
	old := func(st *drvaStatus) { st.Checkpoints.LastGroup = time.Now() }
	for want, all := range map[setup.State][]served{
		setup.Starting:     {{}, {status: &drvaStatus{}}, {status: with(live("synced"), func(s *drvaStatus) { s.State = "replaying" })}},
		setup.InitialSync:  {{status: live("syncing")}, {status: live("synced")}},
		setup.DeltaSync:    {{status: with(live("syncing"), old)}},
		setup.Protected:    {{status: with(live("synced"), old)}},
		setup.Paused:       {{status: with(live("synced"), func(s *drvaStatus) { s.Paused = &drva.Pause{} })}},
		setup.BackPressure: {{status: with(live("synced"), func(s *drvaStatus) { s.State = "full" })}},
		setup.Disconnected: {{status: with(live("synced"), func(s *drvaStatus) { old(s); s.Disks[0].Host = "" })}},
		setup.Failing:      {{err: errors.New("it ended")}, {status: with(live("synced"), func(s *drvaStatus) { s.State = "waiting for the store" })}},
		setup.Fenced: {{err: errors.New("it ended at once: holdfast: drva.Run: the domain was recovered: timeline x is the current one")},
			{status: with(live("synced"), func(s *drvaStatus) { s.Publisher.Stopped = "fenced" })}},
	} {
		for i, s := range all {
			if got := s.report(&setup.Domain{Name: "erp"}); got.State != want {
				t.Errorf("%s %d: %+v", want, i, got)
			}
		}
	}
	for _, s := range worse {
		for _, o := range worse {
			if worst(s, o) != worst(o, s) || worst(s, setup.Fenced) != setup.Fenced {
				t.Errorf("%s and %s", s, o)
			}
		}
	}
}

// TestSync: a checkpoint is cut when every disk is level, and done when it is published.
func TestSync(t *testing.T) {
	r := newDRVARig(t)
	in := &plan.DomainInputs{Domain: "erp"}
	a := act(nil)
	step := func(final bool) runs.Result {
		t.Helper()
		res, err := r.Sync(t.Context(), a, in, final)
		check(t, err)
		a.Memory = res.Memory
		return res
	}
	host, disk := dr.HostID{UUID: dr.NewUUID()}, drvaDisk("syncing", "node1")
	for _, c := range []struct {
		name   string
		change func(*drvaStatus)
	}{
		{"no disk", func(*drvaStatus) {}},
		{"a copy under way", func(s *drvaStatus) {
			s.Disks, s.Hosts = append(s.Disks, disk), append(s.Hosts, drvaHost(host, "node1", "live"))
		}},
		{"its host away", func(s *drvaStatus) { s.Disks[0].State, s.Hosts[0].State = "synced", "away" }},
		{"no host", func(s *drvaStatus) { s.Hosts[0].State, s.Disks[0].Host = "live", "" }},
		{"replaying", func(s *drvaStatus) { s.Disks[0].Host, s.State = "node1", "replaying" }},
	} {
		r.is(c.change)
		if res := step(false); res.Again == 0 || res.Note == "" || r.cuts != 0 {
			t.Errorf("%s: %+v, %d checkpoints", c.name, res, r.cuts)
		}
	}
	r.is(func(s *drvaStatus) { s.State = "serving" })
	if _, err := r.Sync(t.Context(), act(errors.New("fenced")), in, false); err == nil || r.cuts != 0 {
		t.Errorf("a checkpoint by who may not: %v", err)
	}
	if res := step(true); res.Again == 0 || r.cuts != 1 {
		t.Errorf("%+v, %d checkpoints", res, r.cuts)
	}
	if res := step(true); res.Again == 0 || r.cuts != 1 {
		t.Errorf("not published yet: %+v, %d checkpoints", res, r.cuts)
	}
	r.is(func(s *drvaStatus) { s.Checkpoints.LastPublished = &dr.Checkpoint{ID: 41, Scope: dr.Partial} })
	if _, err := r.Sync(t.Context(), a, in, true); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a last checkpoint without all: %v", err)
	}
	r.is(func(s *drvaStatus) { s.Checkpoints.LastPublished.Scope = dr.Group })
	if res := step(true); res.Again != 0 || r.cuts != 1 {
		t.Errorf("published: %+v", res)
	}
	if _, err := r.Sync(t.Context(), act(nil), &plan.DomainInputs{Domain: "crm"}, false); !errs.Is(err, errs.NotFound) {
		t.Errorf("another's domain: %v", err)
	}
}

// TestSchedule: what retention becomes is what processes take, whatever was asked for.
func TestSchedule(t *testing.T) {
	h := func(n int) site.Span { return site.Span(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		slots    []site.Slot
		interval time.Duration
		want     string
		coarse   bool
	}{
		{[]site.Slot{{For: h(1)}, {Every: site.Span(time.Minute), For: h(24)}}, 0, "5s for 1h, 1m for 24h", false},
		{[]site.Slot{{For: h(24)}}, 0, "5s for 24h", false},
		{[]site.Slot{{For: h(24)}}, time.Second, "4s for 24h", true},
		{[]site.Slot{{For: h(24)}, {Every: site.Span(2 * time.Second), For: h(48)}}, time.Second, "", true},
		{[]site.Slot{{Every: site.Span(time.Second), For: h(1)}, {Every: site.Span(3 * time.Second), For: h(2)}}, time.Minute, "1m for 1h, 61s for 2h", false},
		{[]site.Slot{{For: h(24 * 3000)}, {Every: h(1), For: h(24 * 3650)}}, time.Second, "", true},
	} {
		got, coarse := schedule(c.slots, c.interval)
		if s, err := maintain.ParseSchedule(got); err != nil || s.Span() < c.slots[len(c.slots)-1].For.D() {
			t.Errorf("%q: %v, %v", got, s, err)
		}
		if c.want != "" && got != c.want || coarse != c.coarse {
			t.Errorf("%v: %q, %v; want %q", c.slots, got, coarse, c.want)
		}
	}
	if got, _ := schedule(nil, 0); got != "" {
		t.Errorf("nothing: %q", got)
	}
}
