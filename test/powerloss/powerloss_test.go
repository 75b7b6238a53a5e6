package powerloss

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/dr"
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
	limit    = 4 * time.Minute
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
	*rig.Site
	disk      dr.DiskID
	container *journal.Container
	hostID    dr.HostID
	socket    string // of the protected disk
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Site: rig.NewSite(t, "power-"), disk: dr.DiskID{UUID: dr.NewUUID()}}
	must(t, os.Mkdir(s.Path("store"), 0o700))
	s.CreateDomain("file://" + s.Path("store"))
	st, err := dir.Open(s.Path("store"))
	must(t, err)
	s.container, err = journal.Open(t.Context(), st, s.Identity)
	must(t, err)
	s.hostID = s.CreateHost("host")
	return s
}

// startDRVA starts the DRVA with its log in a directory and returns where hosts
// find it.
func (s *site) startDRVA(log string) (p *rig.Process, address string) {
	s.T.Helper()
	s.DRVAConfig("drva", "file://"+s.Path("store"), log, quota)
	p, err := s.Start("drva", "drva", "--config", s.Path("drva.json"))
	must(s.T, err)
	address, err = s.WaitDRVA(s.T.Context(), "drva", limit)
	must(s.T, err)
	return p, address
}

func (s *site) await(what string, ok func(*rig.DRVAStatus) bool) {
	s.T.Helper()
	must(s.T, rig.WaitStatus(s.T.Context(), s.Path("drva.sock"), what, limit, ok))
}

// startHost starts the host component over a zeroed primary.
func (s *site) startHost(drvaAddress, ack string) *rig.Process {
	s.T.Helper()
	must(s.T, os.WriteFile(s.Path("disk.raw"), make([]byte, size), 0o600))
	s.socket = s.Path("disk.nbd")
	vm := dr.VMID{UUID: dr.NewUUID()}
	s.WriteJSON("host.json", rig.HostConfig{
		Config: iofilter.Config{Domain: s.Domain, Host: s.hostID, Name: "host", Ack: ack, VMs: []iofilter.VM{{
			Config: dr.VMConfig{ID: vm, Name: "vm", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios", NICs: []dr.NIC{},
				Disks: []dr.VMDisk{{ID: s.disk, Name: "disk0", Bus: "virtio"}}},
			Disks: []iofilter.Disk{{ID: s.disk, Name: "disk0", Path: s.Path("disk.raw"), Socket: s.socket}},
		}}},
		DRVA: drvaAddress, TLS: s.Path("host-tls"), Status: s.Path("host.sock"),
	})
	p, err := s.Start("host", "iofilter", "--config", s.Path("host.json"))
	must(s.T, err)
	return p
}

// restore rebuilds the disk at the newest recoverable checkpoint, of whatever
// scope, from the container alone.
func (s *site) restore() []byte {
	s.T.Helper()
	ctx := s.T.Context()
	h, err := s.container.History(ctx, journal.HistoryOptions{})
	must(s.T, err)
	points := h.Checkpoints()
	for i := len(points) - 1; i >= 0; i-- {
		if !points[i].Recoverable {
			continue
		}
		img, err := h.Resolve(ctx, points[i])
		must(s.T, err)
		out := filepath.Join(s.T.TempDir(), "disk.raw")
		_, err = rocva.Full(ctx, s.container, img, []rocva.Target{{Disk: s.disk, Path: out}}, rocva.Options{})
		must(s.T, err)
		b, err := os.ReadFile(out)
		must(s.T, err)
		s.T.Logf("checkpoint %d (%v) of %v", points[i].ID, points[i].Scope, points[i].Time)
		return b
	}
	s.T.Fatal("no checkpoint can be recovered")
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
	s.await("the disk is protected", func(st *rig.DRVAStatus) bool { return st.Recoverable(1) })
	l := rig.NewCounters(t, size/dr.BlockSize)
	wait := l.Write(t, s.socket, "disk0", writers, 0)
	s.await("enough is acknowledged", func(*rig.DRVAStatus) bool { return l.Count() >= enough })
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
	s.await("what the log held is published", func(st *rig.DRVAStatus) bool {
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
