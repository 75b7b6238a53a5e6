package takeover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	"holdfast/test/rig"
)

const (
	diskSize = 64 << 20
	// patience ends what hangs; waits end with their conditions.
	patience = 90 * time.Second
)

// site is one host with one disk, its DRVA and a container in a directory.
type site struct {
	t        *testing.T
	dir      string
	url      string
	identity journal.Identity
	disk     dr.DiskID

	mu    sync.Mutex
	all   []*rig.Process
	hosts int
	wrong []string
}

type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func newSite(t *testing.T) *site {
	t.Helper()
	base, err := os.MkdirTemp("", "tk-") // short: sockets
	must(t, err)
	s := &site{t: t, dir: base, disk: dr.DiskID{UUID: dr.NewUUID()}}
	t.Cleanup(s.remove)
	must(t, os.Mkdir(s.path("store"), 0o700))
	s.url = "file://" + s.path("store")
	own, err := journal.NewRecoveryKey()
	must(t, err)
	s.identity = own.Identity()
	must(t, durable.WriteFile(durable.OS{}, s.path("drva.key"), own.FileText()))
	away, err := journal.NewRecoveryKey()
	must(t, err)
	var created struct {
		Domain dr.DomainID `json:"domain"`
	}
	must(t, rig.Command(t.Context(), &created, "domain", "create", s.url, "--name", "takeover",
		"--recipient", own.Recipient().String(), "--recipient", away.Recipient().String(), "-o", "json"))
	must(t, control.InitAuthority(s.path("ca"), "A"))
	must(t, control.Issue(s.path("ca"), s.path("drva-tls"), control.RoleDRVA, created.Domain.String(), []string{"127.0.0.1"}))
	s.json("drva.json", map[string]any{"container": s.url, "key": s.path("drva.key"), "log": s.path("log"), "quota": 512 << 20,
		"listen": "127.0.0.1:0", "tls": s.path("drva-tls"), "interval": "1s", "status": s.path("drva.sock")})
	s.start("drva", "drva", "--config", s.path("drva.json"))
	address := ""
	must(t, rig.WaitStatus(t.Context(), s.path("drva.sock"), "the DRVA runs", patience, func(st *drvaStatus) bool {
		address = st.Address
		return address != ""
	}))
	host := dr.HostID{UUID: dr.NewUUID()}
	must(t, control.Issue(s.path("ca"), s.path("host-tls"), control.RoleHost, host.String(), nil))
	must(t, os.WriteFile(s.path("disk.raw"), nil, 0o600))
	must(t, os.Truncate(s.path("disk.raw"), diskSize))
	vm := dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "erp1", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios",
		Disks: []dr.VMDisk{{ID: s.disk, Name: "disk0", Size: diskSize, Bus: "virtio"}}}
	s.json("host.json", struct {
		iofilter.Config
		DRVA   string `json:"drva"`
		TLS    string `json:"tls"`
		Status string `json:"status"`
	}{iofilter.Config{Domain: created.Domain, Host: host, Name: "node1", VMs: []iofilter.VM{{Config: vm, Disks: []iofilter.Disk{{
		ID: s.disk, Name: "disk0", Path: s.path("disk.raw"), Socket: s.path("disk.nbd")}}}}},
		address, s.path("host-tls"), s.path("host.sock")})
	return s
}

func (s *site) json(name string, v any) {
	b, err := json.MarshalIndent(v, "", " ")
	must(s.t, err)
	must(s.t, os.WriteFile(s.path(name), b, 0o600))
}

// start starts a box; its end is expected from the moment it is doomed.
func (s *site) start(name string, args ...string) *rig.Process {
	s.t.Helper()
	p, err := rig.Start(s.dir, name, func(p *rig.Process) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wrong = append(s.wrong, fmt.Sprintf("%s ended by itself: %v\n%s", p.Name, p.Err, rig.Tail(p.Log)))
	}, args...)
	must(s.t, err)
	s.all = append(s.all, p)
	return p
}

// host starts a host component.
func (s *site) host(more ...string) *rig.Process {
	s.t.Helper()
	s.hosts++
	return s.start(fmt.Sprintf("host%d", s.hosts), append([]string{"iofilter", "--config", s.path("host.json")}, more...)...)
}

func (s *site) await(what string, ok func(*iofilter.Status) bool) {
	s.t.Helper()
	must(s.t, rig.WaitStatus(s.t.Context(), s.path("host.sock"), what, patience, ok))
}

// awaitEnd waits for the end of a process and returns how it ended.
func (s *site) awaitEnd(p *rig.Process) error {
	s.t.Helper()
	select {
	case <-p.Done:
		return p.Err
	case <-time.After(patience):
		s.t.Fatalf("%s does not end:\n%s", p.Name, rig.Tail(p.Log))
		return nil
	}
}

// sameAsDisk waits until what is recovered from the newest checkpoint in the
// store is what the disk, which nobody writes any more, holds.
func (s *site) sameAsDisk() {
	s.t.Helper()
	want, err := os.ReadFile(s.path("disk.raw"))
	must(s.t, err)
	var tried dr.CheckpointID
	var differs string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("checkpoint %d against the disk: %s", tried, differs)
		}
	}()
	must(s.t, rig.WaitStatus(s.t.Context(), s.path("drva.sock"), "the newest checkpoint is what the disk holds", patience, func(st *drvaStatus) bool {
		p := st.Checkpoints.LastPublished
		if p == nil || p.Scope != dr.Group || p.ID == tried {
			return false
		}
		if ok, _ := p.Recoverable(); !ok {
			return false
		}
		tried = p.ID
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
	s.t.Helper()
	ctx := s.t.Context()
	st, err := dir.Open(s.path("store"))
	must(s.t, err)
	c, err := journal.Open(ctx, st, s.identity)
	must(s.t, err)
	h, err := c.History(ctx, journal.HistoryOptions{})
	must(s.t, err)
	points := h.Checkpoints()
	i := len(points) - 1
	for i >= 0 && !(points[i].Recoverable && points[i].Scope == dr.Group) {
		i--
	}
	if i < 0 {
		s.t.Fatal("there is no recoverable checkpoint")
	}
	img, err := h.Resolve(ctx, points[i])
	must(s.t, err)
	out := s.path("recovered.raw")
	_, err = rocva.Full(ctx, c, img, []rocva.Target{{Disk: s.disk, Path: out}}, rocva.Options{})
	must(s.t, err)
	got, err := os.ReadFile(out)
	must(s.t, err)
	must(s.t, os.Remove(out))
	return got
}

func (s *site) remove() {
	s.mu.Lock()
	wrong := s.wrong
	s.mu.Unlock()
	for _, w := range wrong {
		s.t.Error(w)
	}
	for _, p := range s.all {
		p.Kill()
	}
	if s.t.Failed() {
		logs, _ := filepath.Glob(s.path("*.log"))
		for _, l := range logs {
			s.t.Logf("%s:\n%s", filepath.Base(l), rig.Tail(l))
		}
	}
	if left := rig.ProcessesIn(s.t, s.dir); len(left) > 0 {
		s.t.Errorf("processes left: %s", strings.Join(left, "; "))
	}
	must(s.t, os.RemoveAll(s.dir))
}
