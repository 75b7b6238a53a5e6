package operate

import (
	"encoding/json"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// head is what is kept of a runbook beside the steps of its run.
type head struct {
	Version site.Version   `json:"plan_version"`
	From    site.Name      `json:"from"`
	To      site.Name      `json:"to"`
	Domains []site.Name    `json:"domains"`
	Groups  []string       `json:"groups"`
	VMs     []headVM       `json:"vms,omitempty"`
	Commit  plan.Commit    `json:"commit,omitzero"`
	Fence   bool           `json:"fence,omitempty"` // a failure before it is unwound
	LeftOut []plan.LeftOut `json:"left_out,omitempty"`
	Scope   scope          `json:"scope,omitzero"`
	// Began is where each domain stood when the run had begun.
	Began map[site.Name]plan.Failover `json:"began,omitempty"`

	byID map[dr.VMID]*headVM
}

// headVM is a VM a run is about.
type headVM struct {
	ID     dr.VMID   `json:"id"`
	Name   site.Ref  `json:"name,omitempty"`
	Domain site.Name `json:"domain"`
}

func headOf(b *plan.Runbook, sc scope, names func(dr.VMID) site.Ref) *head {
	h := &head{Version: b.Version, From: b.From, To: b.To, Domains: b.Domains, Commit: b.Commit, Fence: b.Fence != "", LeftOut: b.LeftOut,
		Scope: sc, Began: map[site.Name]plan.Failover{}}
	seen := map[dr.VMID]bool{}
	for i := range b.Groups {
		g := &b.Groups[i]
		h.Groups = append(h.Groups, g.Name)
		for j := range g.Steps {
			st := &g.Steps[j]
			if in, ok := st.Inputs.(plan.DomainInputs); ok {
				for _, id := range in.VMs {
					h.add(seen, id, names(id), st.Domain)
				}
			}
			h.add(seen, st.VM, names(st.VM), st.Domain)
		}
	}
	return h
}

func (h *head) add(seen map[dr.VMID]bool, id dr.VMID, name site.Ref, d site.Name) {
	if id.IsZero() || d == "" || seen[id] {
		return
	}
	seen[id] = true
	h.VMs = append(h.VMs, headVM{ID: id, Name: name, Domain: d})
}

// vm finds a VM of the run; nil: it is not about that one.
func (h *head) vm(id dr.VMID) *headVM {
	if h.byID == nil {
		h.byID = make(map[dr.VMID]*headVM, len(h.VMs))
		for i := range h.VMs {
			h.byID[h.VMs[i].ID] = &h.VMs[i]
		}
	}
	return h.byID[id]
}

// about returns the VM and the domain a step is about; zero: none. A prompt or timer
// of a VM's chain has them in its name alone.
func (h *head) about(st *runs.Step) (id dr.VMID, d site.Name) {
	var env struct {
		VM     dr.VMID   `json:"vm"`
		Domain site.Name `json:"domain"`
	}
	if st.Kind != runs.KindPrompt && st.Kind != runs.KindWait {
		if err := json.Unmarshal(st.Input, &env); err != nil {
			return id, "" // another release's
		}
		id, d = env.VM, env.Domain
	} else if rest, ok := strings.CutPrefix(st.Name, "vm/"); ok {
		text, _, _ := strings.Cut(rest, "/")
		if u, err := dr.ParseUUID(text); err == nil {
			id = dr.VMID{UUID: u}
		}
	}
	if vm := h.vm(id); vm != nil && d == "" {
		d = vm.Domain
	}
	return id, d
}

// group names the group of a step.
func (h *head) group(n int) string {
	if n < 0 || n >= len(h.Groups) {
		return ""
	}
	return h.Groups[n]
}
