package sites

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/internal/demo/ledger"
)

// long asks for the whole story: make sites-long.
func long() bool { return os.Getenv("HOLDFAST_SITES_LONG") != "" }

// domain is a protected domain of one site, as its admin writes it down; more are lines of it.
func domain(name, from, to, store, more string, vms ...string) string {
	return fmt.Sprintf(`---
apiVersion: holdfast/v1
kind: domain
name: %s
from: %s
to: %s
stores: [%s]
vms: [%s]
%sinterval: 1s
rpo_target: 15s
log_size: 536870912
retention: {schedule: [{for: 24h}]}
`, name, from, to, store, strings.Join(vms, ", "), more)
}

// the plan of the story: an order, a dependency, a question, and a script in a guest.
const erpPlan = `---
apiVersion: holdfast/v1
kind: plan
name: erp
from: a
to: b
domains: [erp]
vms:
  - vm: erp1
    priority: 1
    agent: 3m
    critical: true
    post: [{name: who, run: guest, command: [/bin/sh, -c, "echo $HOLDFAST_VM says from the guest"], timeout: 60s}]
  - {vm: erp2, priority: 2, agent: 0s, stop: {timeout: 5s}}   # nothing in it hears that it shall end
  - {vm: erp3, priority: 2, agent: 0s, stop: {timeout: 5s}, after: [erp2]}
callouts:
  - {name: go, at: {before: fence}, only: [planned, failback], run: prompt, ask: "Is everybody told?"}
  - {name: note, at: {after: p5}, run: manager, command: [/bin/echo, all, is, up]}
`

const crmPlan = `---
apiVersion: holdfast/v1
kind: plan
name: crm
from: b
to: a
domains: [crm]
vms: [{vm: crm1, agent: 0s}, {vm: crm2, agent: 0s, priority: 4}]
`

// does carries an operation of a plan out by a site's manager, answers what it asks, and
// demands the state it leads to.
func (s *side) does(plan, op string, want string) (run api.PlanRun) {
	t := s.t
	t.Helper()
	began := time.Now()
	h := s.draw()
	args := []string{"plan", "do", plan, op}
	if op != "test" && op != "cleanup" {
		args = append(args, "--confirm", plan)
	}
	if strings.HasPrefix(op, "forced") || op == "disaster" {
		args = append(args, "--alone")
	}
	must(t, s.try(nil, args...))
	c := s.client()
	defer c.Close()
	var st api.PlanStatus
	var err error
	s.until(op+" of "+plan+" has ended", func() bool {
		if st, err = c.PlanStatus(t.Context(), api.Name(plan)); err != nil {
			t.Logf("%s: %v", s.name, err)
			return false
		}
		prompts, _ := c.Prompts(t.Context()) // of a manager that was killed: the next time
		for _, p := range prompts {
			if string(p.Plan) == plan {
				s.do("plan", "answer", plan, fmt.Sprint(p.Step), "continue")
			}
		}
		if r, err := c.PlanRun(t.Context(), st.Run); err == nil && h != nil && h.comes(&r) {
			h = nil
		}
		return err == nil && !st.Running
	})
	run, err = c.PlanRun(t.Context(), st.Run)
	must(t, err)
	t.Logf("%s: %s of %s: %s, %s after %.1f s", s.name, op, plan, run.Status, st.State, time.Since(began).Seconds())
	for _, step := range run.Steps {
		if st.State != want || step.Status != "success" {
			t.Logf("  %d %s %s: %s %s", step.Step, step.Title, step.Status, step.Note, step.Output)
		}
	}
	if st.State != want || run.Status == "error" {
		t.Fatalf("%s led to %s (%s), want %s", op, st.State, st.Reason, want)
	}
	return run
}

// said demands that a step of a run printed something.
func (s *side) said(run api.PlanRun, words string) {
	s.t.Helper()
	if !slices.ContainsFunc(run.Steps, func(st api.RunStep) bool { return strings.Contains(st.Output, words) }) {
		s.t.Errorf("no step of %s printed %q", run.Operation, words)
	}
}

// protected waits until a domain has a recovery point that is younger than the call.
func (s *side) protected(domain string) {
	t := s.t
	t.Helper()
	began := time.Now()
	c := s.client()
	defer c.Close()
	said := ""
	s.until(domain+" is protected by "+s.name, func() bool {
		st, err := c.DomainStatus(t.Context(), api.Name(domain))
		if now := fmt.Sprint(st.State, " ", st.Cause, " ", err); now != said {
			said = now
			t.Logf("%s: %s is %s after %.1f s: %+v", s.name, domain, now, time.Since(began).Seconds(), st.VMs)
		}
		return err == nil && st.State == "protected" && st.Newest != nil && st.Newest.After(began)
	})
}

// TestTwoSites: two sites are paired, a domain is protected, tested, moved, protected
// there, and comes home; the other site's domain is protected the other way. Then the
// first site is lost, and a manager that knows nothing recovers from the store. All of
// it by the managers' commands.
func TestTwoSites(t *testing.T) {
	image, err := ledger.BuildImage(t.Context())
	must(t, err)
	w := newWorld(t)
	g := w.a.define("erp1", image)
	g.addressed(w.a.v, "10.1.0.9/24")
	w.a.define("erp2", "")
	w.a.define("erp3", "")
	w.b.define("crm1", "")
	w.b.define("crm2", "")
	w.a.begin()
	w.b.begin()
	for i, c := range []string{"s3", "azure"} {
		for _, s := range []*side{w.a, w.b} {
			s.do("secret", "put", c, "--file", w.keys[i])
		}
	}
	w.pair()
	erp := domain("erp", "a", "b", "s3", "recipients: ["+w.recipient()+"]\n", "erp1", "erp2", "erp3")
	crm := domain("crm", "b", "a", "azure", "", "crm1", "crm2")
	for _, s := range []*side{w.a, w.b} { // both know all: what a manager knows of its domains is in their containers
		s.apply(s.name, w.estate()+s.drva()+erp+crm+erpPlan+crmPlan)
	}
	w.a.protected("erp")
	w.b.protected("crm")
	w.b.knows("a", "erp1", "10.1.0.9/24")
	g.goesOn()
	if long() {
		w.harm()
	}

	run := w.b.does("erp", "test", "test-complete")
	w.b.said(run, "from the guest")
	g.goesOn() // production
	w.b.does("erp", "cleanup", "ready")
	w.b.nothing()
	if long() {
		w.a.does("crm", "test", "test-complete")
		w.a.does("crm", "cleanup", "ready")
	}

	run = w.b.does("erp", "planned", "before-commit")
	w.b.said(run, "all is up")
	told := g.last()
	g.stop()
	at := w.b.attach("erp1")
	if n := at.rows(); n < told {
		t.Errorf("%d rows were acknowledged at a, b has %d", told, n)
	}
	w.b.whole("erp1")
	w.b.has("erp1", "10.2.0.9/24")
	w.b.does("erp", "commit", "recovery-complete")
	if !long() {
		return
	}
	told = at.put(5)
	w.b.does("erp", "reprotect", "ready")
	at.close()
	w.b.does("erp", "failback", "before-commit")
	at = w.a.attach("erp1")
	if n := at.rows(); n < told {
		t.Errorf("%d rows were acknowledged at b, %d came home", told, n)
	}
	w.a.has("erp1", "10.1.0.9/24")
	w.b.does("erp", "commit", "recovery-complete")
	w.b.does("erp", "reprotect", "ready")
	told = at.put(5)
	w.a.protected("erp")
	at.close()
	w.lost(told)
}

// lost is the end of site A, and of the manager of site B with all that it knew and ran.
// A new one finds the domain in its store.
func (w *world) lost(told uint64) {
	t := w.t
	t.Helper()
	w.a.kill()
	w.b.kill()
	for _, gone := range []string{"a", "b/msa", "b/boxes"} {
		must(t, os.RemoveAll(w.path(gone)))
	}
	w.a, w.odds = nil, nil
	fresh := &side{world: w, name: "b", v: w.b.v}
	w.b = fresh
	fresh.begin("--container-key", w.path("recovery.key"))
	fresh.do("secret", "put", "s3", "--file", w.keys[0])
	fresh.do("scan", w.s3.Child("erp").String(), "--key", w.path("recovery.key"), "--store-credentials", w.keys[0], "--import")
	fresh.does("erp", "disaster", "before-commit")
	at := fresh.attach("erp1")
	if n := at.rows(); n < told {
		t.Errorf("%d rows were acknowledged before the disaster's checkpoint, %d were recovered", told, n)
	}
	fresh.whole("erp1")
	fresh.has("erp1", "10.2.0.9/24")
	at.close()
	fresh.does("erp", "commit", "disaster-recovery-complete")
	fresh.protected("erp")
}
