package live

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
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

// site is a host component with a hypervisor beside it, a DRVA, and a container.
type site struct {
	*rig.Site
	url    string
	toDRVA *rig.Exchange
	drva   *rig.Process
	host   *rig.Process
}

func (s *site) hostSock() string { return s.Path("host.sock") }
func (s *site) drvaSock() string { return s.Path("drva.sock") }

// newSite makes container, certificates and configurations. The test's end
// removes it.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Site: rig.NewSite(t, "hflive-")}
	t.Cleanup(s.end)
	s.url = "file://" + s.Path("container")
	s.CreateDomain(s.url)
	var err error
	s.toDRVA, err = rig.NewExchange(0)
	must(t, err)
	t.Cleanup(s.toDRVA.Close)
	s.DRVAConfig("drva", s.url, s.Path("log"), 256<<20)
	return s
}

// useHost configures the host component for a hypervisor and starts it.
func (s *site) useHost(platform map[string]any) {
	s.T.Helper()
	s.WriteJSON("host.json", map[string]any{
		"domain": s.Domain, "host": s.CreateHost("host"), "name": "node1", "vms": []any{},
		"drva": s.toDRVA.Addr(), "tls": s.Path("host-tls"), "status": s.hostSock(),
		"platform": platform, "live": map[string]any{"sockets": s.Dir, "record": s.Path("live.json"), "hang": hang},
	})
	s.startHost()
}

func (s *site) start(name string, args ...string) *rig.Process {
	s.T.Helper()
	p, err := s.Start(name, args...)
	must(s.T, err)
	return p
}

func (s *site) startDRVA() {
	s.T.Helper()
	s.drva = s.start("drva", "drva", "--config", s.Path("drva.json"))
	address, err := s.WaitDRVA(s.T.Context(), "drva", patience)
	must(s.T, err)
	s.toDRVA.Route(address)
}

func (s *site) startHost() {
	s.T.Helper()
	s.host = s.start("host", "iofilter", "--config", s.Path("host.json"))
	s.awaitHost("it runs", func(st *iofilter.Status) bool { return st.Name != "" && st.Link.Up })
}

func (s *site) awaitHost(what string, ok func(*iofilter.Status) bool) {
	s.T.Helper()
	must(s.T, rig.WaitStatus(s.T.Context(), s.hostSock(), "host component: "+what, patience, ok))
}

// whole waits until so many disks are in the guest's path and their copies are
// complete.
func (s *site) whole(disks int) {
	s.T.Helper()
	began := time.Now()
	defer func() { s.T.Logf("%d disks whole after %.1f s", disks, time.Since(began).Seconds()) }()
	s.awaitHost("its disks are whole", func(st *iofilter.Status) bool {
		return len(st.Disks) == disks && !slices.ContainsFunc(st.Disks, func(d iofilter.DiskStatus) bool {
			return d.Clients == 0 || d.State != iofilter.Streaming || d.DirtyBytes > 0
		})
	})
}

func (s *site) status() (st iofilter.Status) {
	s.T.Helper()
	must(s.T, control.CallLocal(s.T.Context(), s.hostSock(), "/status", nil, &st))
	return st
}

// protect runs the command, and returns what it reports.
func (s *site) protect(vm string) (r live.Report) {
	s.T.Helper()
	must(s.T, rig.Command(s.T.Context(), &r, "protect", s.hostSock(), vm, "--wait", "-o", "json"))
	return r
}

func (s *site) unprotect(vm string, flags ...string) (r live.Report) {
	s.T.Helper()
	must(s.T, rig.Command(s.T.Context(), &r, append([]string{"unprotect", s.hostSock(), vm, "-o", "json"}, flags...)...))
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
	s.T.Helper()
	after := time.Now()
	must(s.T, rig.WaitStatus(s.T.Context(), s.drvaSock(), "a recoverable group checkpoint is published", patience, func(st *rig.DRVAStatus) bool {
		return st.Recoverable(disks) && st.Checkpoints.LastPublished.Time.After(after)
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
	s.T.Helper()
	out, err := os.MkdirTemp(s.Dir, "restored-")
	must(s.T, err)
	defer os.RemoveAll(out)
	var r restored
	must(s.T, rig.Command(s.T.Context(), &r, "restore", s.url, "--key", s.Path("recovery.key"), "--at", at, "--out", out, "-o", "json"))
	for i := range r.Disks {
		r.Disks[i].Path = filepath.Join(out, r.Disks[i].Path)
	}
	judge(&r)
}

// check takes a new checkpoint and judges what it restores to: the ledger's disk
// is the first of so many.
func (s *site) check(l *load, disks int) {
	s.T.Helper()
	s.point(disks)
	s.restore("latest", func(r *restored) {
		if len(r.Disks) != disks {
			s.T.Fatalf("%d disks were restored, not %d", len(r.Disks), disks)
		}
		system := slices.IndexFunc(r.Disks, func(d struct {
			ID   dr.DiskID `json:"id"`
			Size int64     `json:"size"`
			Path string    `json:"path"`
		}) bool {
			return d.ID == r.VMs[0].Config.Disks[0].ID
		})
		if system < 0 {
			s.T.Fatalf("the first disk is missing: %+v", r)
		}
		must(s.T, checkDisk(s.T.Context(), r.Disks[system].Path, l.before(r.Checkpoint.Time)))
	})
}

// end ends what still runs. Watchdogs end by themselves when their host
// component is gone and no guest waits for it.
func (s *site) end() {
	s.End()
	until(s.T, "the watchdogs end", func() bool {
		return !slices.ContainsFunc(rig.ProcessesIn(s.T, s.Dir), func(p string) bool { return strings.Contains(p, "iofilter-watchdog") })
	})
}
