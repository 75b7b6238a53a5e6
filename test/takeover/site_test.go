package takeover

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store/dir"
	"holdfast/test/rig"
)

const (
	diskSize = 64 << 20
	// patience ends what hangs; waits end with their conditions.
	patience = 90 * time.Second
)

// site is one host with one disk, its DRVA and a container in a directory.
type site struct {
	*rig.Site
	disk  dr.DiskID
	hosts int // host components started
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Site: rig.NewSite(t, "tk-"), disk: dr.DiskID{UUID: dr.NewUUID()}}
	must(t, os.Mkdir(s.Path("store"), 0o700))
	url := "file://" + s.Path("store")
	s.CreateDomain(url)
	s.DRVAConfig("drva", url, s.Path("log"), 512<<20)
	_, err := s.Start("drva", "drva", "--config", s.Path("drva.json"))
	must(t, err)
	address, err := s.WaitDRVA(t.Context(), "drva", patience)
	must(t, err)
	must(t, os.WriteFile(s.Path("disk.raw"), nil, 0o600))
	must(t, os.Truncate(s.Path("disk.raw"), diskSize))
	vm := dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "erp1", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios",
		Disks: []dr.VMDisk{{ID: s.disk, Name: "disk0", Size: diskSize, Bus: "virtio"}}}
	s.WriteJSON("host.json", rig.HostConfig{
		Config: iofilter.Config{Domain: s.Domain, Host: s.CreateHost("host"), Name: "node1", VMs: []iofilter.VM{{
			Config: vm, Disks: []iofilter.Disk{{ID: s.disk, Name: "disk0", Path: s.Path("disk.raw"), Socket: s.Path("disk.nbd")}},
		}}},
		DRVA: address, TLS: s.Path("host-tls"), Status: s.Path("host.sock"),
	})
	return s
}

// host starts a host component.
func (s *site) host(more ...string) *rig.Process {
	s.T.Helper()
	s.hosts++
	p, err := s.Start(fmt.Sprintf("host%d", s.hosts), append([]string{"iofilter", "--config", s.Path("host.json")}, more...)...)
	must(s.T, err)
	return p
}

func (s *site) await(what string, ok func(*iofilter.Status) bool) {
	s.T.Helper()
	must(s.T, rig.WaitStatus(s.T.Context(), s.Path("host.sock"), what, patience, ok))
}

// awaitEnd waits for the end of a process and returns how it ended.
func (s *site) awaitEnd(p *rig.Process) error {
	s.T.Helper()
	select {
	case <-p.Done:
		return p.Err
	case <-time.After(patience):
		s.T.Fatalf("%s does not end:\n%s", p.Name, rig.Tail(p.Log))
		return nil
	}
}

// sameAsDisk waits until what is recovered from the newest checkpoint in the
// store is what the disk, which nobody writes any more, holds.
func (s *site) sameAsDisk() {
	s.T.Helper()
	want, err := os.ReadFile(s.Path("disk.raw"))
	must(s.T, err)
	var tried dr.CheckpointID
	var differs string
	defer func() {
		if s.T.Failed() {
			s.T.Logf("checkpoint %d against the disk: %s", tried, differs)
		}
	}()
	must(s.T, rig.WaitStatus(s.T.Context(), s.Path("drva.sock"), "the newest checkpoint is what the disk holds", patience, func(st *rig.DRVAStatus) bool {
		if !st.Recoverable(1) || st.Checkpoints.LastPublished.ID == tried {
			return false
		}
		tried = st.Checkpoints.LastPublished.ID
		got := s.recovered()
		differs = difference(got, want)
		return bytes.Equal(got, want)
	}))
}

// difference says which blocks of two disks differ, and what is in the first of
// them.
func difference(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes instead of %d", len(got), len(want))
	}
	var at []int
	for i := 0; i < len(want); i += blockSize {
		if end := min(i+blockSize, len(want)); !bytes.Equal(got[i:end], want[i:end]) {
			at = append(at, i/blockSize)
		}
	}
	if len(at) == 0 {
		return "no block differs"
	}
	i := at[0] * blockSize
	return fmt.Sprintf("%d blocks of %d bytes differ: %v; the first has %x instead of %x",
		len(at), blockSize, at[:min(len(at), 20)], got[i:i+16], want[i:i+16])
}

// recovered is the disk as of the newest recoverable checkpoint in the store.
func (s *site) recovered() []byte {
	s.T.Helper()
	ctx := s.T.Context()
	st, err := dir.Open(s.Path("store"))
	must(s.T, err)
	c, err := journal.Open(ctx, st, s.Identity)
	must(s.T, err)
	h, err := c.History(ctx, journal.HistoryOptions{})
	must(s.T, err)
	points := h.Checkpoints()
	i := len(points) - 1
	for i >= 0 && !(points[i].Recoverable && points[i].Scope == dr.Group) {
		i--
	}
	if i < 0 {
		s.T.Fatal("there is no recoverable checkpoint")
	}
	img, err := h.Resolve(ctx, points[i])
	must(s.T, err)
	out := s.Path("recovered.raw")
	_, err = rocva.Full(ctx, c, img, []rocva.Target{{Disk: s.disk, Path: out}}, rocva.Options{})
	must(s.T, err)
	got, err := os.ReadFile(out)
	must(s.T, err)
	must(s.T, os.Remove(out))
	return got
}
