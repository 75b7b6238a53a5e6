package rocva_test

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/internal/appliance/rocva"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// agentOf is a guest's agent as QEMU's is asked, with one card. It keeps what it was told.
type agentOf struct {
	mac string

	mu     sync.Mutex
	runs   [][]string // command lines
	envs   [][]string
	has    []string // addresses
	status int      // of scripts
	boot   string
}

// boots has the guest start again with what it has of its own.
func (g *agentOf) boots(boot, address string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boot, g.has = boot, []string{address}
}

// is reports whether the guest has just this address.
func (g *agentOf) is(address string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Equal(g.has, []string{address})
}

func (g *agentOf) answer(command string, args any) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch command {
	case "guest-ping":
		return struct{}{}, nil
	case "guest-network-get-interfaces":
		var all []any
		for _, a := range g.has {
			p := netip.MustParsePrefix(a)
			all = append(all, map[string]any{"ip-address": p.Addr().String(), "prefix": p.Bits()})
		}
		return []any{map[string]any{"name": "eth0", "hardware-address": strings.ToUpper(g.mac), "ip-addresses": all}}, nil
	case "guest-exec":
		a := args.(map[string]any)
		line := append([]string{a["path"].(string)}, a["arg"].([]string)...)
		g.runs, g.envs = append(g.runs, line), append(g.envs, a["env"].([]string))
		if i := slices.Index(line, "address"); i >= 0 {
			g.has = []string{line[i+1]}
		}
		return map[string]any{"pid": len(g.runs)}, nil
	case "guest-exec-status":
		return map[string]any{"exited": true, "exitcode": g.status, "out-data": base64.StdEncoding.EncodeToString([]byte("said\n"))}, nil
	case "guest-file-open":
		if strings.HasSuffix(args.(map[string]any)["path"].(string), "boot_id") {
			return 2, nil
		}
		return 1, nil
	case "guest-file-read":
		if args.(map[string]any)["handle"].(int64) == 2 {
			return map[string]any{"eof": true, "buf-b64": base64.StdEncoding.EncodeToString([]byte(g.boot + "\n"))}, nil
		}
		return map[string]any{"eof": true, "buf-b64": base64.StdEncoding.EncodeToString([]byte(
			"  sl  local_address rem_address   st\n   0: 00000000:1538 00000000:0000 0A 0\n"))}, nil
	case "guest-file-close":
		return struct{}{}, nil
	}
	return nil, fmt.Errorf("no such command: %s", command)
}

// TestGuests has a plan wait for agents and a port, tell guests their addresses and run a
// script in one; a script that fails fails its step.
func TestGuests(t *testing.T) {
	r := newRig(t)
	agents := map[string]*agentOf{}
	for _, vm := range r.src.vms {
		g := &agentOf{mac: vm.NICs[0].MAC, has: []string{"10.1.0.9/24", "fe80::1/64"}}
		agents[vm.Name] = g
		r.at["b"].prov.Behave(vm.ID, fake.Behaviour{Agent: g.answer})
	}
	for i := range r.world.p.VMs {
		v := &r.world.p.VMs[i]
		v.Agent, v.Port = nil, &plan.WaitPort{Port: 5432, Timeout: site.Span(30e9)}
		v.Post = []plan.Callout{{Name: "hello", Run: plan.InGuest, Script: plan.Script{Command: []string{"/bin/hello", "$x"}, Env: map[string]string{"A": "b"}}}}
	}
	r.world.p.Callouts = append(r.world.p.Callouts, plan.Callout{Name: "late", Run: plan.InGuest, At: plan.Place{After: plan.PhaseP2}, Script: plan.Script{Command: []string{"/bin/late"}, VM: site.Ref(r.src.vms[1].Name)}})
	r.world.v[0].Mappings.Rules = []mapping.Rule{{From: mapping.Subnet{Prefix: netip.MustParsePrefix("10.1.0.0/24")}, To: mapping.Subnet{Prefix: netip.MustParsePrefix("10.2.0.0/24")}}}
	r.begin()
	r.does(plan.Planned, plan.BeforeCommit)
	for name, g := range agents {
		want := 2
		if name == r.src.vms[1].Name {
			want = 3 // the one of the phase
		}
		if len(g.runs) != want {
			t.Fatalf("%s ran %q", name, g.runs)
		}
		if want := []string{"10.2.0." + name[2:] + "/24"}; !slices.Equal(g.has, want) {
			t.Errorf("%s has %v, want %v", name, g.has, want)
		}
		if !slices.Equal(g.runs[1], []string{"/bin/hello", "$x"}) || !slices.Contains(g.envs[1], "A=b") || !slices.Contains(g.envs[1], "HOLDFAST_VM="+name) {
			t.Errorf("%s ran %q with %q", name, g.runs[1], g.envs[1])
		}
	}
	if said := r.report(); !slices.Equal(said, []string{"said\n", "said\n", "said\n"}) {
		t.Errorf("the report has %q", said)
	}
}

// TestGuestBootsAgain: a guest has the addresses of its own configuration when it has booted
// again: it is told those of the plan again, also when its configuration comes late. What
// it changes in the same boot is left alone.
func TestGuestBootsAgain(t *testing.T) {
	r := newRig(t)
	clock := &later{}
	r.now = clock.now
	const own, told = "10.1.0.9/24", "10.2.0.1/24"
	vm := r.src.vms[0]
	g := &agentOf{mac: vm.NICs[0].MAC, has: []string{own}, boot: "1"}
	r.at["b"].prov.Behave(vm.ID, fake.Behaviour{Agent: g.answer})
	r.world.p.VMs[0].Agent = nil // it is waited for
	r.world.v[0].Mappings.Rules = []mapping.Rule{{From: mapping.Subnet{Prefix: netip.MustParsePrefix("10.1.0.0/24")}, To: mapping.Subnet{Prefix: netip.MustParsePrefix("10.2.0.0/24")}}}
	r.begin()
	r.does(plan.Test, plan.TestComplete)
	look := func() {
		t.Helper()
		r.at["b"].box.Mind(t.Context())
		r.await(r.at["b"].box.Regreeted, func() string { return "the guests are looked at still" })
	}
	if look(); !g.is(told) {
		t.Fatalf("the guest has %v", g.has)
	}
	g.boots("1", own) // its own configuration came after its agent
	if look(); !g.is(told) {
		t.Fatalf("a guest whose configuration came late has %v", g.has)
	}
	clock.forward(rocva.SettleFor)
	g.boots("1", own) // somebody in the guest
	if look(); !g.is(own) {
		t.Fatalf("what a guest changed was changed back: %v", g.has)
	}
	for _, boot := range []string{"2", "3"} {
		g.boots(boot, own)
		if look(); !g.is(told) {
			t.Fatalf("after boot %s the guest has %v", boot, g.has)
		}
		clock.forward(rocva.SettleFor)
	}
}

// TestTurns has VMs start one after the other where the site wants so, whatever the plan
// says, also when the appliance's process is replaced between.
func TestTurns(t *testing.T) {
	r := newRig(t)
	r.most = 1
	var up atomic.Bool
	for _, vm := range r.src.vms {
		r.at["b"].prov.Behave(vm.ID, fake.Behaviour{Agent: func(string, any) (any, error) {
			if !up.Load() {
				return nil, errs.New("guest", errs.Unavailable, vm.Name, "it boots still")
			}
			return struct{}{}, nil
		}})
	}
	r.begin()
	id := r.asks(plan.Planned)
	for i := range 2 {
		r.awaitAttempt(id, "/power-on", 2*i+2)
		if n := r.up("1"); n != 1 {
			t.Fatalf("%d VMs were started", n)
		}
		r.restart()
	}
	up.Store(true)
	if s := r.awaitEnd(plan.Planned); s.State != plan.BeforeCommit || r.up("1") != 2 {
		t.Fatalf("it led to %s with %d VMs\n%s", s.State, r.up("1"), r.dump(id))
	}
}
