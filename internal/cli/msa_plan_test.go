package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"holdfast/api"
	"holdfast/internal/dr"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/site"
)

const planFiles = `apiVersion: holdfast/v1
kind: site
name: site-a
platform: fake
---
apiVersion: holdfast/v1
kind: site
name: site-b
platform: fake
---
apiVersion: holdfast/v1
kind: store
name: west
url: file:///srv/west
---
apiVersion: holdfast/v1
kind: domain
name: erp
from: site-a
to: site-b
vms: [db]
stores: [west]
retention:
  schedule: [{for: 24h}]
---
apiVersion: holdfast/v1
kind: mappings
name: m
from: site-a
to: site-b
---
apiVersion: holdfast/v1
kind: plan
name: p
from: site-a
to: site-b
domains: [erp]
vms:
  - {vm: db, agent: 0s}
callouts:
  - {name: go, at: {before: disks}, run: prompt, ask: "Go on?", only: [planned]}
`

// TestPlanCommands: a plan is carried out from the command line alone.
func TestPlanCommands(t *testing.T) {
	m := newManagerRigWith(t, replica.Options{Effects: &fakesite.Site{Store: &fakesite.Memory{}}}, func(r *replica.Replica) {
		r.Catalog.Views = func(context.Context, *db.Tx) (map[site.Name]*site.View, error) {
			vm := site.VM{ID: dr.VMID{UUID: dr.UUID{1}}, Ref: "db", CPUs: 1, MemoryMiB: 64}
			return map[site.Name]*site.View{
				"site-a": site.NewView(&site.Inventory{Site: "site-a", VMs: []site.VM{vm}}),
				"site-b": site.NewView(&site.Inventory{Site: "site-b", VMs: []site.VM{vm}}),
			}, nil
		}
	})
	m.want(exitOK, "apply", "-f", m.file("all.yaml", planFiles))
	if out, _ := m.want(exitOK, "plan", "status", "p"); !strings.Contains(out, "ready: nothing is under way") {
		t.Errorf("%s", out)
	}
	m.want(exitOK, "plan", "ready", "p")
	if out, _ := m.want(exitOK, "plan", "preview", "p", "planned"); !strings.Contains(out, "shut down db") {
		t.Errorf("%s", out)
	}
	m.want(exitConflict, "plan", "do", "p", "cleanup")
	m.want(exitOK, "plan", "do", "p", "test", "--wait", "--notes", "weekly")
	m.want(exitOK, "plan", "do", "p", "cleanup", "--wait")
	m.want(exitDenied, "plan", "do", "p", "planned")
	m.want(exitUsage, "plan", "do", "p", "planned", "--at", "yesterday")
	m.want(exitConflict, "plan", "do", "p", "planned", "--confirm", "p", "--wait") // it asks
	out, _ := m.want(exitOK, "plan", "prompts", "-o", "json")
	var prompts []api.OpenPrompt
	if err := json.Unmarshal([]byte(out), &prompts); err != nil || len(prompts) != 1 {
		t.Fatalf("%s: %v", out, err)
	}
	m.want(exitUsage, "plan", "answer", "p", "x", "yes")
	m.want(exitOK, "plan", "answer", "p", jsonNumber(prompts[0].Step), "yes")
	m.want(exitOK, "run", "wait", prompts[0].Run)
	m.want(exitOK, "plan", "do", "p", "commit", "--confirm", "p", "--wait")
	m.want(exitConflict, "plan", "cancel", "p")
	m.want(exitOK, "run", "notes", prompts[0].Run, "--text", "went well")
	for _, format := range []string{"html", "json", "csv"} {
		if out, _ := m.want(exitOK, "run", "report", prompts[0].Run, "--format", format); len(out) == 0 {
			t.Errorf("no report as %s", format)
		}
	}
	if out, _ := m.want(exitOK, "plan", "history", "p"); strings.Count(out, "\n") != 5 {
		t.Errorf("%s", out)
	}
	m.want(exitNotFound, "run", "show", "nothing")
}

func jsonNumber(n int) string { b, _ := json.Marshal(n); return string(b) }
