package live

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/journal"
	"holdfast/test/rig"
)

// hang is after how long a host component that does not answer is killed.
const hang = "2s"

// TestMain lets the test binary serve as the product's.
func TestMain(m *testing.M) {
	rig.Main()
	code := m.Run()
	libvirttest.Clean()
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

// site is a host component with a hypervisor beside it, a DRVA, and a container.
type site struct {
	t         *testing.T
	dir, url  string
	domain    dr.DomainID
	toDRVA    *rig.Exchange
	drva      *rig.Process
	host      *rig.Process
	processes []*rig.Process
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }
func (s *site) hostSock() string        { return s.path("host.sock") }
func (s *site) drvaSock() string        { return s.path("drva.sock") }

// newSite makes container, certificates and configurations. The test's end
// removes it.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "hflive-") // short: unix socket paths have at most 107 bytes
	must(t, err)
	s := &site{t: t, dir: dir}
	t.Cleanup(s.remove)
	s.toDRVA, err = rig.NewExchange(0)
	must(t, err)
	s.makeContainer()
	must(t, control.InitAuthority(s.path("ca"), "A"))
	must(t, control.Issue(s.path("ca"), s.path("drva-tls"), control.RoleDRVA, s.domain.String(), []string{"127.0.0.1"}))
	s.writeJSON("drva.json", map[string]any{
		"container": s.url, "key": s.path("drva.key"), "log": s.path("log"), "quota": 256 << 20,
		"listen": "127.0.0.1:0", "tls": s.path("drva-tls"), "interval": "1s", "status": s.drvaSock(),
	})
	return s
}

func (s *site) makeContainer() {
	s.t.Helper()
	own, err := journal.NewRecoveryKey()
	must(s.t, err)
	away, err := journal.NewRecoveryKey()
	must(s.t, err)
	must(s.t, durable.WriteFile(durable.OS{}, s.path("drva.key"), own.FileText()))
	must(s.t, durable.WriteFile(durable.OS{}, s.path("recovery.key"), away.FileText()))
	s.url = "file://" + s.path("container")
	var created struct {
		Domain dr.DomainID `json:"domain"`
	}
	must(s.t, rig.Command(s.t.Context(), &created, "domain", "create", s.url, "--name", "live",
		"--recipient", own.Recipient().String(), "--recipient", away.Recipient().String(), "-o", "json"))
	s.domain = created.Domain
}

// useHost configures the host component for a hypervisor and starts it.
func (s *site) useHost(platform map[string]any) {
	s.t.Helper()
	id := dr.HostID{UUID: dr.NewUUID()}
	must(s.t, control.Issue(s.path("ca"), s.path("host-tls"), control.RoleHost, id.String(), nil))
	s.writeJSON("host.json", map[string]any{
		"domain": s.domain, "host": id, "name": "node1", "vms": []any{},
		"drva": s.toDRVA.Addr(), "tls": s.path("host-tls"), "status": s.hostSock(),
		"platform": platform, "live": map[string]any{"sockets": s.dir, "record": s.path("live.json"), "hang": hang},
	})
	s.startHost()
}

func (s *site) writeJSON(name string, v any) {
	s.t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	must(s.t, err)
	must(s.t, os.WriteFile(s.path(name), append(b, '\n'), 0o600))
}

func (s *site) start(name string, args ...string) *rig.Process {
	s.t.Helper()
	p, err := rig.Start(s.dir, name, func(p *rig.Process) { s.t.Errorf("%s ended by itself: %v\n%s", p.Name, p.Err, rig.Tail(p.Log)) }, args...)
	must(s.t, err)
	s.processes = append(s.processes, p)
	return p
}

func (s *site) startDRVA() {
	s.t.Helper()
	s.drva = s.start("drva", "drva", "--config", s.path("drva.json"))
	must(s.t, rig.WaitStatus(s.t.Context(), s.drvaSock(), "the DRVA runs", patience, func(st *drvaStatus) bool {
		s.toDRVA.Route(st.Address)
		return st.Address != ""
	}))
}

func (s *site) startHost() {
	s.t.Helper()
	s.host = s.start("host", "iofilter", "--config", s.path("host.json"))
	s.awaitHost("it runs", func(st *iofilter.Status) bool { return st.Name != "" && st.Link.Up })
}

func (s *site) awaitHost(what string, ok func(*iofilter.Status) bool) {
	s.t.Helper()
	must(s.t, rig.WaitStatus(s.t.Context(), s.hostSock(), "host component: "+what, patience, ok))
}

// whole waits until so many disks are in the guest's path and their copies are
// complete.
func (s *site) whole(disks int) {
	s.t.Helper()
	began := time.Now()
	defer func() { s.t.Logf("%d disks whole after %.1f s", disks, time.Since(began).Seconds()) }()
	s.awaitHost("its disks are whole", func(st *iofilter.Status) bool {
		return len(st.Disks) == disks && !slices.ContainsFunc(st.Disks, func(d iofilter.DiskStatus) bool {
			return d.Clients == 0 || d.State != iofilter.Streaming || d.DirtyBytes > 0
		})
	})
}

func (s *site) status() (st iofilter.Status) {
	s.t.Helper()
	must(s.t, control.CallLocal(s.t.Context(), s.hostSock(), "/status", nil, &st))
	return st
}

// protect runs the command, and returns what it reports.
func (s *site) protect(vm string) (r live.Report) {
	s.t.Helper()
	must(s.t, rig.Command(s.t.Context(), &r, "protect", s.hostSock(), vm, "--wait", "-o", "json"))
	return r
}

func (s *site) unprotect(vm string, flags ...string) (r live.Report) {
	s.t.Helper()
	must(s.t, rig.Command(s.t.Context(), &r, append([]string{"unprotect", s.hostSock(), vm, "-o", "json"}, flags...)...))
	return r
}

// pause is the longest pause of a report whose disks were all switched over.
func pause(t *testing.T, r live.Report) (longest time.Duration) {
	t.Helper()
	if len(r.Disks) == 0 {
		t.Fatalf("no disk was switched over: %+v", r)
	}
	for _, d := range r.Disks {
		if d.Route == "" || d.Skipped != "" || d.Off {
			t.Fatalf("disk %s was not switched over: %+v", d.Name, d)
		}
		longest = max(longest, d.Pause)
	}
	return longest
}

// point waits for a recoverable group checkpoint of so many disks, cut after
// this call.
func (s *site) point(disks int) {
	s.t.Helper()
	after := time.Now()
	must(s.t, rig.WaitStatus(s.t.Context(), s.drvaSock(), "a recoverable group checkpoint is published", patience, func(st *drvaStatus) bool {
		p := st.Checkpoints.LastPublished
		if p == nil || p.Scope != dr.Group || len(p.Disks) != disks || !p.Time.After(after) {
			return false
		}
		ok, _ := p.Recoverable()
		return ok
	}))
}

// restored is what "holdfast restore -o json" prints.
type restored struct {
	Checkpoint journal.CheckpointInfo `json:"checkpoint"`
	VMs        []struct {
		Config dr.VMConfig `json:"config"`
	} `json:"vms"`
	Disks []struct {
		ID   dr.DiskID `json:"id"`
		Size int64     `json:"size"`
		Path string    `json:"path"`
	} `json:"disks"`
}

// restore restores a checkpoint from the container alone and hands it to judge.
func (s *site) restore(at string, judge func(*restored)) {
	s.t.Helper()
	out, err := os.MkdirTemp(s.dir, "restored-")
	must(s.t, err)
	defer os.RemoveAll(out)
	var r restored
	must(s.t, rig.Command(s.t.Context(), &r, "restore", s.url, "--key", s.path("recovery.key"), "--at", at, "--out", out, "-o", "json"))
	for i := range r.Disks {
		r.Disks[i].Path = filepath.Join(out, r.Disks[i].Path)
	}
	judge(&r)
}

// check takes a new checkpoint and judges what it restores to: the ledger's disk
// is the first of so many.
func (s *site) check(l *load, disks int) {
	s.t.Helper()
	s.point(disks)
	s.restore("latest", func(r *restored) {
		if len(r.Disks) != disks {
			s.t.Fatalf("%d disks were restored, not %d", len(r.Disks), disks)
		}
		system := slices.IndexFunc(r.Disks, func(d struct {
			ID   dr.DiskID `json:"id"`
			Size int64     `json:"size"`
			Path string    `json:"path"`
		}) bool {
			return d.ID == r.VMs[0].Config.Disks[0].ID
		})
		if system < 0 {
			s.t.Fatalf("the first disk is missing: %+v", r)
		}
		must(s.t, checkDisk(s.t.Context(), r.Disks[system].Path, l.before(r.Checkpoint.Time)))
	})
}

// remove ends what still runs, by process id, and removes every file.
func (s *site) remove() {
	for _, p := range slices.Backward(s.processes) {
		p.Kill()
	}
	// Watchdogs end by themselves when their host component is gone and no
	// guest waits for it.
	until(s.t, "the watchdogs end", func() bool {
		return !slices.ContainsFunc(rig.ProcessesIn(s.t, s.dir), func(p string) bool { return strings.Contains(p, "iofilter-watchdog") })
	})
	if left := rig.ProcessesIn(s.t, s.dir); len(left) > 0 {
		s.t.Errorf("processes left: %q", left)
	}
	s.toDRVA.Close()
	if s.t.Failed() {
		logs, _ := filepath.Glob(s.path("*.log"))
		for _, l := range logs {
			s.t.Logf("%s:\n%s", filepath.Base(l), rig.Tail(l))
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}
