package powerloss

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store/dir"
	"holdfast/test/power"
	"holdfast/test/rig"
)

const (
	writers = 8
	size    = 2 << 20 // of the disk

	powerMiB = 640       // the DRVA's disk
	quota    = 256 << 20 // of its log
	enough   = 2000      // acknowledged writes before the plug is pulled
	limit    = 90 * time.Second
)

// TestMain lets the test binary serve as the product's.
func TestMain(m *testing.M) {
	rig.Main()
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is one DRVA and one host with one disk.
type site struct {
	t         *testing.T
	dir       string
	domain    dr.DomainID
	disk      dr.DiskID
	identity  journal.Identity
	container *journal.Container
	hostID    dr.HostID
	socket    string // of the protected disk
}

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) writeJSON(name string, v any) string {
	s.t.Helper()
	b, err := json.Marshal(v)
	must(s.t, err)
	must(s.t, os.WriteFile(s.path(name), b, 0o600))
	return s.path(name)
}

// start starts a box; its end by itself is told, and is the test's doing only
// once it is doomed.
func (s *site) start(name string, args ...string) *rig.Process {
	s.t.Helper()
	p, err := rig.Start(s.dir, name, func(p *rig.Process) {
		s.t.Errorf("%s ended by itself: %v\n%s", p.Name, p.Err, rig.Tail(p.Log))
	}, args...)
	must(s.t, err)
	s.t.Cleanup(p.Kill)
	return p
}

func newSite(t *testing.T) *site {
	t.Helper()
	base, err := os.MkdirTemp("", "power-") // short: unix socket paths have at most 107 bytes
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	s := &site{t: t, dir: base, disk: dr.DiskID{UUID: dr.NewUUID()}, hostID: dr.HostID{UUID: dr.NewUUID()}}
	key, err := journal.NewRecoveryKey()
	must(t, err)
	s.identity = key.Identity()
	must(t, durable.WriteFile(durable.OS{}, s.path("drva.key"), key.FileText()))
	must(t, os.Mkdir(s.path("store"), 0o700))
	st, err := dir.Open(s.path("store"))
	must(t, err)
	s.container, err = journal.Create(t.Context(), st, journal.CreateOptions{Name: "power", Recipients: []journal.Recipient{key.Recipient()}})
	must(t, err)
	s.domain = s.container.Domain().ID
	must(t, control.InitAuthority(s.path("ca"), "A"))
	must(t, control.Issue(s.path("ca"), s.path("drva-tls"), control.RoleDRVA, s.domain.String(), []string{"127.0.0.1"}))
	must(t, control.Issue(s.path("ca"), s.path("host-tls"), control.RoleHost, s.hostID.String(), nil))
	return s
}

// startDRVA starts the DRVA with its log in a directory and returns where hosts
// find it.
func (s *site) startDRVA(log string) (p *rig.Process, address string) {
	s.t.Helper()
	cfg := s.writeJSON("drva.json", map[string]any{
		"container": "file://" + s.path("store"), "key": s.path("drva.key"), "log": log, "quota": quota,
		"listen": "127.0.0.1:0", "tls": s.path("drva-tls"), "interval": "1s", "status": s.path("drva.sock"),
	})
	p = s.start("drva", "drva", "--config", cfg)
	s.await("the DRVA runs", func(st *drvaStatus) bool {
		address = st.Address
		return address != ""
	})
	return p, address
}

func (s *site) await(what string, ok func(*drvaStatus) bool) {
	s.t.Helper()
	must(s.t, rig.WaitStatus(s.t.Context(), s.path("drva.sock"), what, limit, ok))
}

// startHost starts the host component over a zeroed primary.
func (s *site) startHost(drvaAddress, ack string) *rig.Process {
	s.t.Helper()
	must(s.t, os.WriteFile(s.path("disk.raw"), make([]byte, size), 0o600))
	s.socket = s.path("disk.nbd")
	vm := dr.VMID{UUID: dr.NewUUID()}
	cfg := struct {
		iofilter.Config
		DRVA   string `json:"drva"`
		TLS    string `json:"tls"`
		Status string `json:"status"`
	}{
		iofilter.Config{Domain: s.domain, Host: s.hostID, Name: "host", Ack: ack, VMs: []iofilter.VM{{
			Config: dr.VMConfig{ID: vm, Name: "vm", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios", NICs: []dr.NIC{},
				Disks: []dr.VMDisk{{ID: s.disk, Name: "disk0", Bus: "virtio"}}},
			Disks: []iofilter.Disk{{ID: s.disk, Name: "disk0", Path: s.path("disk.raw"), Socket: s.socket}},
		}}},
		drvaAddress, s.path("host-tls"), s.path("host.sock"),
	}
	return s.start("host", "iofilter", "--config", s.writeJSON("host.json", cfg))
}

// restore rebuilds the disk at the newest recoverable checkpoint, of whatever
// scope, from the container alone.
func (s *site) restore() []byte {
	s.t.Helper()
	ctx := s.t.Context()
	h, err := s.container.History(ctx, journal.HistoryOptions{})
	must(s.t, err)
	points := h.Checkpoints()
	for i := len(points) - 1; i >= 0; i-- {
		if !points[i].Recoverable {
			continue
		}
		img, err := h.Resolve(ctx, points[i])
		must(s.t, err)
		out := filepath.Join(s.t.TempDir(), "disk.raw")
		_, err = rocva.Full(ctx, s.container, img, []rocva.Target{{Disk: s.disk, Path: out}}, rocva.Options{})
		must(s.t, err)
		b, err := os.ReadFile(out)
		must(s.t, err)
		s.t.Logf("checkpoint %d (%v) of %v", points[i].ID, points[i].Scope, points[i].Time)
		return b
	}
	s.t.Fatal("no checkpoint can be recovered")
	return nil
}

// lose runs a site with an ack rule until enough is acknowledged, pulls the
// plug of all of it, and returns what was acknowledged beside what the
// restarted DRVA, alone, brought to the container.
func lose(t *testing.T, ack string) (*rig.Counters, []byte) {
	s := newSite(t)
	d := power.Up(t, powerMiB)
	box, address := s.startDRVA(filepath.Join(d.Path(), "log"))
	host := s.startHost(address, ack)
	s.await("the disk is protected", func(st *drvaStatus) bool {
		p := st.Checkpoints.LastPublished
		if p == nil || len(p.Disks) != 1 {
			return false
		}
		ok, _ := p.Recoverable()
		return ok
	})
	l := rig.NewCounters(t, size/dr.BlockSize)
	wait := l.Write(t, s.socket, "disk0", writers, 0)
	s.await("enough is acknowledged", func(*drvaStatus) bool { return l.Count() >= enough })
	box.Doom()
	host.Doom()
	d.Cut() // while all of it runs
	host.Kill()
	box.Kill()
	wait()
	began := time.Now()
	s.startDRVA(filepath.Join(d.Restore(), "log"))
	// The first checkpoint after the start holds what the log held; those behind
	// it, of a disk whose host is away, are published in order and help nobody.
	s.await("what the log held is published", func(st *drvaStatus) bool {
		p := st.Checkpoints.LastPublished
		return p != nil && p.Time.After(began)
	})
	t.Logf("%d writes were acknowledged", l.Count())
	return l, s.restore()
}

func TestEverySyncAcknowledgementSurvives(t *testing.T) {
	l, disk := lose(t, dr.Sync.String())
	must(t, l.Missing(disk))
}

// The same with the rule that does not promise it must be seen to lose some:
// else the test above cannot fail.
func TestLossOfAsyncAcknowledgementsIsSeen(t *testing.T) {
	l, disk := lose(t, dr.Async.String())
	err := l.Missing(disk)
	if err == nil {
		t.Fatal("nothing acknowledged under async was lost: this test proves nothing")
	}
	t.Logf("as it must be: %v", err)
}
