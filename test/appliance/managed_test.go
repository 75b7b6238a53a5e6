package appliance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/setup"
	msasite "holdfast/internal/msa/site"
	"holdfast/test/rig"
)

// managed is a manager that runs the boxes of its machine, and somebody who is logged in
// at it.
type managed struct {
	*site
	address string
	msa     *rig.Process
}

func newManaged(t *testing.T) *managed {
	m := &managed{site: &site{Site: rig.NewSite(t, "hfm-"), vm: dr.VMID{UUID: dr.NewUUID()}, agents: map[string]*rig.Process{}}, address: freePort(t)}
	t.Cleanup(m.end)
	m.machine()
	must(t, os.Mkdir(m.Path("store"), 0o700))
	m.start()
	return m
}

// start starts the manager.
func (m *managed) start() {
	m.T.Helper()
	var err error
	m.msa, err = m.Start("msa", "msa", "--site", "site-a", "--data", m.Path("data"), "--listen", m.address, "--appliances", m.Path("b"))
	must(m.T, err)
}

// end ends the manager, and what its boxes have started.
func (m *managed) end() {
	if m.msa != nil {
		_ = m.msa.Stop(limit) // gone already is as good
	}
	mine := regexp.MustCompile(`/proc/(\d+)/`)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		left := 0
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
		for _, p := range all {
			b, err := os.ReadFile(p)
			if err == nil && strings.Contains(string(b), m.Path("b")+"/") {
				left++
				var pid int
				if _, err := fmt.Sscan(mine.FindStringSubmatch(p)[1], &pid); err == nil {
					_ = syscall.Kill(pid, syscall.SIGTERM) // gone already is as good
				}
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond) // between questions; the answer decides
	}
}

// login waits until the manager answers, and logs its first administrator in.
func (m *managed) login() {
	m.T.Helper()
	var token, fingerprint string
	for deadline := time.Now().Add(limit); token == "" || fingerprint == ""; {
		if time.Now().After(deadline) {
			m.T.Fatalf("the manager does not come up: %s", rig.Tail(m.msa.Log))
		}
		b, err := os.ReadFile(m.Path("data/setup-token"))
		if err == nil {
			token = string(b)
		}
		if found := regexp.MustCompile(`fingerprint ([0-9a-f]{64})`).FindStringSubmatch(rig.Tail(m.msa.Log)); found != nil {
			fingerprint = found[1]
		}
		time.Sleep(20 * time.Millisecond) // between questions; the answer decides
	}
	must(m.T, os.WriteFile(m.Path("token"), []byte(token), 0o600))
	must(m.T, os.WriteFile(m.Path("password"), []byte("crow lamp tundra 7\n"), 0o600))
	must(m.T, rig.Command(m.T.Context(), nil, "login", "https://"+m.address, "--fingerprint", fingerprint, "--user", "root",
		"--password-file", m.Path("password"), "--setup-token", m.Path("token")))
}

// apply configures objects.
func (m *managed) apply(name, text string) {
	m.T.Helper()
	must(m.T, os.WriteFile(m.Path(name), []byte(text), 0o600))
	must(m.T, rig.Command(m.T.Context(), nil, "apply", "-f", m.Path(name)))
}

// tells waits until a box of the manager's tells something of itself.
func (m *managed) tells(role, what string, ok func(*setup.Report) bool) {
	m.T.Helper()
	err := rig.WaitStatus(m.T.Context(), m.Path("b/"+role+"/agent.sock"), what, limit, func(b *boxStatus) bool { return b.Report != nil && ok(b.Report) })
	if err != nil {
		said := fmt.Sprintf("%v\nmsa: %s", err, rig.Tail(m.msa.Log))
		for _, role := range []string{"drva", "iofilter"} {
			var out json.RawMessage
			if err := rig.Command(m.T.Context(), &out, "appliance", "status", m.Path("b/"+role), "-o", "json"); err != nil {
				said += "\n" + err.Error()
			}
			said += fmt.Sprintf("\n%s: %s\n%s", role, out, rig.Tail(m.Path("b/"+role+"/agent.log")))
		}
		m.T.Fatal(said)
	}
}

// TestManaged: a manager with one flag protects a VM: it configures and enrols the boxes
// of its machine, makes the container, and its boxes go on when it dies.
func TestManaged(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	m.login()
	endpoint := "unix://" + m.Path("a.qmp") + "?host=" + m.Path("b.qmp") + "&power=" + m.Path("c.qmp")
	m.apply("site.yaml", "apiVersion: holdfast/v1\nkind: site\nname: site-a\nplatform: qemu\nendpoints: [\""+endpoint+"\"]\n---\n"+
		"apiVersion: holdfast/v1\nkind: store\nname: west\nurl: file://"+m.Path("store")+"\n")
	m.tells("iofilter", "the host's box is enrolled", func(*setup.Report) bool { return true })
	m.apply("erp.yaml", "apiVersion: holdfast/v1\nkind: domain\nname: erp\nfrom: site-a\nvms: ["+vmName+"]\nstores: [west]\ninterval: 1s\nretention:\n  schedule: [{for: 1h}, {every: 1m, for: 24h}]\n")
	done := func(r *setup.Report) bool {
		return r.Generation != "" && len(r.Problems) == 0 && len(r.Domains) == 1 && r.Domains[0].State == setup.Protected
	}
	m.tells("iofilter", "the VM is protected", done)
	m.tells("drva", "the domain has a point", func(r *setup.Report) bool { return done(r) && r.Domains[0].Newest > 0 })
	m.tells("rocva", "the recovery appliance is what it is to be", func(r *setup.Report) bool { return r.Generation != "" && len(r.Problems) == 0 })
	host, err := os.ReadFile(m.Path("b/iofilter/host-id"))
	must(t, err)

	// The manager dies: its boxes' processes go on, and are its again.
	before := rig.ProcessesIn(t, m.Path("b/drva/drva"))
	m.msa.Kill()
	m.start()
	m.tells("drva", "the boxes are there again", done)
	m.tells("iofilter", "the boxes are there again", done)
	if after := rig.ProcessesIn(t, m.Path("b/drva/drva")); !slices.Equal(before, after) || len(after) != 1 {
		t.Errorf("processes before and after: %q %q", before, after)
	}
	var boxes []struct {
		Name  msasite.Name `json:"name"`
		State string       `json:"state"`
		BoxID string       `json:"box_id"`
	}
	must(t, rig.Command(t.Context(), &boxes, "appliance", "list", "-o", "json"))
	if i := slices.IndexFunc(boxes, func(b struct {
		Name  msasite.Name `json:"name"`
		State string       `json:"state"`
		BoxID string       `json:"box_id"`
	}) bool {
		return b.BoxID == string(host)
	}); i < 0 || len(boxes) < 2 {
		out, _ := json.Marshal(boxes)
		t.Errorf("boxes: %s", out)
	}

	// Nothing is to be protected any more.
	generations := map[string]string{}
	for _, role := range []string{"iofilter", "drva"} {
		m.tells(role, "it is something", func(r *setup.Report) bool { generations[role] = r.Generation; return true })
	}
	must(t, rig.Command(t.Context(), nil, "delete", "domain", "erp", "--yes"))
	empty := func(was string) func(*setup.Report) bool {
		return func(r *setup.Report) bool {
			return r.Generation != was && len(r.Domains) == 0 && len(r.Problems) == 0
		}
	}
	m.tells("iofilter", "the host has nothing", empty(generations["iofilter"]))
	m.tells("drva", "the DRVA has nothing", empty(generations["drva"]))
	if left := rig.ProcessesIn(t, m.Path("b/drva/drva")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
