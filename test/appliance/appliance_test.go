package appliance

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/msa/setup"
	msasite "holdfast/internal/msa/site"
	"holdfast/test/rig"
)

// limit is how long one wait may last: it only ends what hangs.
const limit = 3 * time.Minute

// TestMain lets the test binary serve as the product's.
func TestMain(m *testing.M) {
	rig.Main()
	// Log-ins of the tests are not the developer's.
	config, err := os.MkdirTemp("", "hfa-config-")
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_CONFIG_HOME", config)
	code := m.Run()
	os.RemoveAll(config)
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site has a DRVA's box, a host's box and a VM.
type site struct {
	*rig.Site
	url    string
	vm     dr.VMID
	host   dr.HostID
	agents map[string]*rig.Process
}

const vmName = "erp1"

func newSite(t *testing.T) *site {
	s := &site{Site: rig.NewSite(t, "hfa-"), vm: dr.VMID{UUID: dr.NewUUID()}, host: dr.HostID{UUID: dr.NewUUID()}, agents: map[string]*rig.Process{}}
	t.Cleanup(s.endBoxes)
	s.url = "file://" + s.Path("container")
	s.CreateDomain(s.url)
	must(t, control.Issue(s.Path("ca"), s.Path("d"), control.RoleDRVA, s.Domain.String(), []string{"127.0.0.1"}))
	must(t, control.Issue(s.Path("ca"), s.Path("h"), control.RoleHost, s.host.String(), nil))
	s.home("d", msasite.DRVA)
	s.home("h", msasite.IOFilter)
	s.machine()
	return s
}

// home says who the box is. Its manager is away for ever.
func (s *site) home(dir string, role msasite.Role) {
	s.WriteJSON(dir+"/manager.json", map[string]any{"version": 1, "manager": "https://127.0.0.1:1", "fingerprint": strings.Repeat("ab", 32), "name": "box-" + dir, "role": role})
}

// machine starts a VM without an operating system, with a monitor for each who needs one.
func (s *site) machine() {
	t := s.T
	disk := s.Path("erp1.raw")
	must(t, os.WriteFile(disk, []byte(strings.Repeat("what the disk holds ", 50000)), 0o600))
	must(t, os.Truncate(disk, 8<<20))
	args := []string{"-accel", "tcg", "-m", "32", "-M", "pc", "-nodefaults", "-display", "none", "-no-shutdown",
		"-name", "guest=" + vmName, "-uuid", s.vm.String(),
		"-blockdev", "driver=raw,node-name=n0,file.driver=file,file.filename=" + disk,
		"-device", "virtio-blk-pci,drive=n0,id=d0,werror=stop,rerror=stop"}
	for _, m := range []string{"a", "b", "c"} {
		args = append(args, "-qmp", "unix:"+s.Path(m+".qmp")+",server=on,wait=off")
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // gone already is as good
}

// setup has a box be something when its agent starts the next time.
func (s *site) setup(dir string, v setup.Setup) setup.Setup {
	s.T.Helper()
	must(s.T, v.Seal())
	s.WriteJSON(dir+"/setup.json", v)
	return v
}

func freePort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// whole is a setup of both boxes that protects the VM.
func (s *site) whole(listen string) (d, h setup.Setup) {
	key, err := os.ReadFile(s.Path("drva.key"))
	must(s.T, err)
	d = setup.Setup{Role: msasite.DRVA, Site: "a", DRVA: &setup.DRVA{Listen: listen, LogPool: 256 << 20, Domains: []setup.Domain{{
		Name: "erp", ID: s.Domain, Container: s.url, Identity: string(key), Settings: setup.Settings{Interval: msasite.Span(time.Second), Priority: "high",
			Retention: msasite.Retention{Schedule: []msasite.Slot{{For: msasite.Span(time.Hour)}, {Every: msasite.Span(time.Minute), For: msasite.Span(24 * time.Hour)}}, SizeLimit: 1 << 40, TagFor: msasite.Span(48 * time.Hour)}},
	}}}}
	h = setup.Setup{Role: msasite.IOFilter, Site: "a", Platform: msasite.QEMU,
		Endpoints: []string{"unix://" + s.Path("a.qmp") + "?host=" + s.Path("b.qmp") + "&power=" + s.Path("c.qmp")},
		Host: &setup.Host{ID: s.host, Ref: "node1", Domains: []setup.HostDomain{{
			Name: "erp", ID: s.Domain, DRVA: listen, VMs: []setup.HostVM{{ID: s.vm, Ref: vmName}}}}}}
	return d, h
}

// start starts the agent of a box.
func (s *site) start(dir string) {
	s.T.Helper()
	p, err := s.Start("agent-"+dir, "appliance", "run", s.Path(dir))
	must(s.T, err)
	s.agents[dir] = p
}

// kill ends an agent at once: what it started goes on.
func (s *site) kill(dir string) { s.agents[dir].Kill() }

type boxStatus struct {
	Report *setup.Report `json:"report"`
}

// until waits until a box tells something of itself.
func (s *site) until(dir, what string, ok func(*setup.Report) bool) {
	s.T.Helper()
	err := rig.WaitStatus(s.T.Context(), s.Path(dir+"/agent.sock"), what, limit, func(b *boxStatus) bool { return b.Report != nil && ok(b.Report) })
	if err != nil {
		s.T.Fatalf("%v\nagent: %s\ndrva: %s\nhost: %s", err, rig.Tail(s.agents[dir].Log), rig.Tail(s.Path("d/drva/drva.log")), rig.Tail(s.Path("h/host/"+s.short()+"/host.log")))
	}
}

func (s *site) short() string { return s.Domain.String()[:8] }

// protected reports whether a box tells that the domain is protected, as the setup with a
// generation wants it.
func protected(generation string) func(*setup.Report) bool {
	return func(r *setup.Report) bool {
		return r.Generation == generation && len(r.Problems) == 0 && len(r.Domains) == 1 && r.Domains[0].State == setup.Protected
	}
}

// pids are the processes with a configuration.
func (s *site) pids(config string) (out []int) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(s.T, err)
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil || !strings.HasSuffix(string(b), "\x00--config\x00"+config+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		must(s.T, err)
		out = append(out, pid)
	}
	return out
}

func (s *site) drvaConfig() string { return s.Path("d/drva/drva.json") }
func (s *site) hostConfig() string { return s.Path("h/host/" + s.short() + "/host.json") }

// endBoxes ends what agents started, which outlives them.
func (s *site) endBoxes() {
	for _, p := range s.agents {
		p.Kill()
	}
	for _, config := range []string{s.drvaConfig(), s.hostConfig()} {
		for _, pid := range s.pids(config) {
			_ = syscall.Kill(pid, syscall.SIGTERM) // gone already is as good
		}
	}
	for deadline := time.Now().Add(limit); len(rig.ProcessesIn(s.T, s.Path("d")))+len(rig.ProcessesIn(s.T, s.Path("h"))) > 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond) // between questions; the answer decides
	}
}

// TestBoxes runs a DRVA and a host by their setups, kills processes and agents, and takes
// everything away again.
func TestBoxes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d, h := s.whole(freePort(t))
	d, h = s.setup("d", d), s.setup("h", h)
	s.start("d")
	s.start("h")
	s.until("h", "the VM is protected", protected(h.Generation))
	s.until("d", "the domain is protected", func(r *setup.Report) bool {
		return protected(d.Generation)(r) && r.Domains[0].Newest > 0 && slices.ContainsFunc(r.Figures, func(f setup.Figure) bool { return f.Metric == "rpo_ms" && f.Object == "domain erp" })
	})
	drvas, hosts := s.pids(s.drvaConfig()), s.pids(s.hostConfig())
	if len(drvas) != 1 || len(hosts) != 1 {
		t.Fatalf("processes %v and %v", drvas, hosts)
	}

	// Agents that die hurt nobody, and find what they left.
	s.kill("d")
	s.kill("h")
	s.start("d")
	s.start("h")
	s.until("d", "the domain is protected again", protected(d.Generation))
	s.until("h", "the VM is protected again", protected(h.Generation))
	if !slices.Equal(drvas, s.pids(s.drvaConfig())) || !slices.Equal(hosts, s.pids(s.hostConfig())) {
		t.Errorf("the agents started processes anew: %v %v", s.pids(s.drvaConfig()), s.pids(s.hostConfig()))
	}

	// Processes that die are started again.
	must(t, syscall.Kill(drvas[0], syscall.SIGKILL))
	must(t, syscall.Kill(hosts[0], syscall.SIGKILL))
	anew := func(config string, was []int) func(*setup.Report) bool {
		return func(r *setup.Report) bool {
			now := s.pids(config)
			return len(now) == 1 && !slices.Equal(now, was) && len(r.Problems) == 0 && len(r.Domains) == 1 && r.Domains[0].State == setup.Protected
		}
	}
	s.until("d", "another DRVA serves", anew(s.drvaConfig(), drvas))
	s.until("h", "another host component protects", anew(s.hostConfig(), hosts))

	s.pausedAndResumed(d)
	s.takenAway(d, h)
}

// pausedAndResumed: the manager suspends the domain, and lets it go on.
func (s *site) pausedAndResumed(d setup.Setup) {
	s.T.Helper()
	before := s.pids(s.drvaConfig())
	suspended := d
	part := *d.DRVA
	part.Domains = slices.Clone(part.Domains)
	part.Domains[0].Suspended = true
	suspended.DRVA = &part
	suspended = s.setup("d", suspended)
	s.kill("d")
	s.start("d")
	s.until("d", "the domain is paused", func(r *setup.Report) bool {
		return r.Generation == suspended.Generation && len(r.Domains) == 1 && r.Domains[0].State == setup.Paused
	})
	s.kill("d")
	s.setup("d", d)
	s.start("d")
	s.until("d", "the domain goes on", protected(d.Generation))
	if !slices.Equal(before, s.pids(s.drvaConfig())) {
		s.T.Error("a pause restarted the process")
	}
}

// takenAway: the boxes have nothing to do any more, and the guest goes on.
func (s *site) takenAway(d, h setup.Setup) {
	t := s.T
	t.Helper()
	h.Host = &setup.Host{ID: s.host, Ref: "node1"}
	h = s.setup("h", h)
	s.kill("h")
	s.start("h")
	s.until("h", "the host has nothing", func(r *setup.Report) bool { return r.Generation == h.Generation && len(r.Domains) == 0 })
	if left := s.pids(s.hostConfig()); len(left) > 0 {
		t.Errorf("the host component runs: %v", left)
	}
	if _, err := os.Stat(s.Path("h/host/" + s.short())); !os.IsNotExist(err) {
		t.Errorf("the domain's files are there: %v", err)
	}
	var st struct{ drva.Status }
	must(t, control.CallLocal(t.Context(), s.Path("d/drva/"+s.short()+"/s.sock"), "/status", nil, &st))
	d.DRVA = &setup.DRVA{Listen: d.DRVA.Listen}
	d = s.setup("d", d)
	s.kill("d")
	s.start("d")
	s.until("d", "the DRVA has nothing", func(r *setup.Report) bool { return r.Generation == d.Generation && len(r.Domains) == 0 })
	if left := s.pids(s.drvaConfig()); len(left) > 0 {
		t.Errorf("the DRVA runs: %v", left)
	}
	for path, want := range map[string]bool{"d/drva/" + s.short(): false, "d/drva/gone/" + s.short() + "/log": true, "d/drva/gone/" + s.short() + "/key": false} {
		if _, err := os.Stat(s.Path(path)); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	s.until("h", "nothing is protected", func(*setup.Report) bool { return true })
}

// status asks a process.
func status[T any](t testing.TB, socket string) (v T) {
	t.Helper()
	must(t, control.CallLocal(t.Context(), socket, "/status", nil, &v))
	return v
}

// TestFiles: what the agent writes for its processes nobody else can read, and the
// report of a box has no secrets.
func TestFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d, _ := s.whole(freePort(t))
	s.setup("d", d)
	s.start("d")
	s.until("d", "the DRVA runs", func(r *setup.Report) bool { return len(s.pids(s.drvaConfig())) == 1 && len(r.Domains) == 1 })
	must(t, filepath.WalkDir(s.Path("d/drva"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return nil
	}))
	b, err := json.Marshal(status[json.RawMessage](t, s.Path("d/agent.sock")))
	must(t, err)
	if strings.Contains(string(b), "SECRET") {
		t.Errorf("the report has a secret: %s", b)
	}
}
