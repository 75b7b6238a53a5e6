package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/store/storetest/versitygw"
	"holdfast/test/rig"
)

const (
	guests   = 2 // the ledger's dependence is between two
	interval = "1s"
	logQuota = 512 << 20
	bucket   = "chaos"

	// Waits end with their conditions; these only end what hangs.
	startLimit   = time.Minute
	protectLimit = 3 * time.Minute
)

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

// site is a protected site and its store. Its methods are called by one
// goroutine, except where processes' ends are noted.
type site struct {
	t        *testing.T
	dir      string
	domain   dr.DomainID
	url      string // of the container, past the network
	identity journal.Identity
	store    *versitygw.Server
	toStore  *rig.Exchange // between site and store
	toDRVA   *rig.Exchange // between hosts and DRVA

	drva     *rig.Process
	drvaSock string
	hosts    [guests]*rig.Process
	socks    [guests]string
	disks    [guests]string // of the primaries
	vms      [guests]dr.VMConfig

	mu    sync.Mutex
	all   []*rig.Process
	wrong []string
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// newSite makes store, container, certificates, disks and configurations, and
// starts the boxes. The test's end removes it.
func newSite(t *testing.T, image string) *site {
	t.Helper()
	base, err := os.MkdirTemp("", "chaos-") // short: unix socket paths have at most 107 bytes
	must(t, err)
	s := &site{t: t, dir: base}
	t.Cleanup(s.remove)
	s.toDRVA, err = rig.NewExchange(0)
	must(t, err)
	s.toStore, err = rig.NewExchange(0)
	must(t, err)
	recipient := s.makeContainer()
	must(t, control.InitAuthority(s.path("ca"), "A"))
	must(t, control.Issue(s.path("ca"), s.path("drva-tls"), control.RoleDRVA, s.domain.String(), []string{"127.0.0.1"}))
	must(t, durable.WriteFile(durable.OS{}, s.path("drva.key"), recipient.FileText()))
	s.drvaSock = s.path("drva.sock")
	s.writeJSON("drva.json", map[string]any{
		"container": s.url, "key": s.path("drva.key"), "log": s.path("log"), "quota": logQuota,
		"listen": "127.0.0.1:0", "tls": s.path("drva-tls"), "interval": interval, "status": s.drvaSock,
	})
	must(t, s.startDRVA(t.Context()))
	for i := range guests {
		s.makeHost(i, image)
		must(t, s.startHost(t.Context(), i))
	}
	return s
}

// makeContainer runs the store and returns the DRVA's key.
func (s *site) makeContainer() journal.RecoveryKeyPair {
	s.t.Helper()
	s.store = versitygw.Start(s.t, versitygw.Options{Dir: s.path("s3")})
	must(s.t, s.store.MakeBucket(s.t.Context(), bucket, false))
	_, address, _ := strings.Cut(s.store.Endpoint, "://")
	s.toStore.Route(address)
	s.t.Setenv("AWS_ACCESS_KEY_ID", s.store.AccessKey)
	s.t.Setenv("AWS_SECRET_ACCESS_KEY", s.store.SecretKey)
	s.t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	at := func(endpoint string) string {
		return "s3://" + bucket + "?endpoint=" + endpoint + "&region=" + versitygw.Region + "&path-style=true"
	}
	s.url = at("http://" + s.toStore.Addr())
	own, err := journal.NewRecoveryKey()
	must(s.t, err)
	away, err := journal.NewRecoveryKey()
	must(s.t, err)
	s.identity = away.Identity()
	must(s.t, durable.WriteFile(durable.OS{}, s.path("recovery.key"), away.FileText()))
	var created struct {
		Domain dr.DomainID `json:"domain"`
	}
	must(s.t, rig.Command(s.t.Context(), &created, "domain", "create", s.url, "--name", "chaos",
		"--recipient", own.Recipient().String(), "--recipient", away.Recipient().String(), "-o", "json"))
	s.domain = created.Domain
	return own
}

// makeHost makes one host with its guest's disk and its configuration.
func (s *site) makeHost(i int, image string) {
	s.t.Helper()
	name := fmt.Sprintf("host%d", i+1)
	id := dr.HostID{UUID: dr.NewUUID()}
	must(s.t, control.Issue(s.path("ca"), s.path(name+"-tls"), control.RoleHost, id.String(), nil))
	s.disks[i] = s.path(fmt.Sprintf("guest%d.raw", i+1))
	must(s.t, ledger.CopyImage(s.t.Context(), s.disks[i], image))
	st, err := os.Stat(s.disks[i])
	must(s.t, err)
	vm := ledger.Config(fmt.Sprintf("guest%d", i+1), dr.VMID{UUID: dr.NewUUID()}, dr.DiskID{UUID: dr.NewUUID()}, st.Size())
	s.vms[i], s.socks[i] = vm, s.path(name+".sock")
	cfg := struct {
		iofilter.Config
		DRVA   string `json:"drva"`
		TLS    string `json:"tls"`
		Status string `json:"status"`
	}{
		iofilter.Config{Domain: s.domain, Host: id, Name: name, VMs: []iofilter.VM{{Config: vm, Disks: []iofilter.Disk{{
			ID: vm.Disks[0].ID, Name: vm.Disks[0].Name, Path: s.disks[i], Socket: s.nbd(i),
		}}}}},
		s.toDRVA.Addr(), s.path(name + "-tls"), s.socks[i],
	}
	s.writeJSON(name+".json", cfg)
}

// nbd is the socket of a guest's disk.
func (s *site) nbd(i int) string { return s.path(fmt.Sprintf("guest%d.nbd", i+1)) }

func (s *site) writeJSON(name string, v any) {
	s.t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	must(s.t, err)
	must(s.t, os.WriteFile(s.path(name), append(b, '\n'), 0o600))
}

// start starts a box and remembers it.
func (s *site) start(name string, args ...string) (*rig.Process, error) {
	p, err := rig.Start(s.dir, name, func(p *rig.Process) {
		s.note("%s ended by itself: %v\n%s", p.Name, p.Err, rig.Tail(p.Log))
	}, args...)
	if err == nil {
		s.mu.Lock()
		s.all = append(s.all, p)
		s.mu.Unlock()
	}
	return p, err
}

// note remembers what went wrong beside the main line.
func (s *site) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, a...))
}

// problems returns what was noted.
func (s *site) problems() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(s.wrong, "\n"))
}

// startDRVA starts the DRVA and waits until hosts can reach it, which is before
// it has reached its store.
func (s *site) startDRVA(ctx context.Context) (err error) {
	if s.drva, err = s.start("drva", "drva", "--config", s.path("drva.json")); err != nil {
		return err
	}
	return rig.WaitStatus(ctx, s.drvaSock, "the DRVA runs", startLimit, func(st *drvaStatus) bool {
		s.toDRVA.Route(st.Address)
		return st.Address != ""
	})
}

// startHost starts a host's component and waits until it serves its disk.
func (s *site) startHost(ctx context.Context, i int) (err error) {
	name := fmt.Sprintf("host%d", i+1)
	if s.hosts[i], err = s.start(name, "iofilter", "--config", s.path(name+".json")); err != nil {
		return err
	}
	return rig.WaitStatus(ctx, s.socks[i], name+" runs", startLimit, func(st *iofilter.Status) bool { return st.Name != "" })
}

// waitProtected waits for a published group checkpoint, taken after t, at which
// both disks can be recovered.
func (s *site) waitProtected(ctx context.Context, after time.Time) error {
	const what = "a recoverable group checkpoint is published"
	return rig.WaitStatus(ctx, s.drvaSock, what, protectLimit, func(st *drvaStatus) bool {
		p := st.Checkpoints.LastPublished
		if p == nil || p.Scope != dr.Group || len(p.Disks) != guests || !st.Checkpoints.LastGroup.After(after) {
			return false
		}
		ok, _ := p.Recoverable()
		return ok
	})
}

// remove ends what still runs, by process id, and removes every file.
func (s *site) remove() {
	s.mu.Lock()
	all := append([]*rig.Process(nil), s.all...)
	s.mu.Unlock()
	for _, p := range all {
		p.Kill()
	}
	if s.store != nil {
		s.store.Stop()
	}
	if left := rig.ProcessesIn(s.t, s.dir); len(left) > 0 {
		s.t.Errorf("processes left: %q", left)
	}
	for _, x := range []*rig.Exchange{s.toDRVA, s.toStore} {
		if x != nil {
			x.Close()
		}
	}
	if s.t.Failed() {
		logs, _ := filepath.Glob(s.path("*.log"))
		for _, l := range logs {
			s.t.Logf("%s:\n%s", filepath.Base(l), rig.Tail(l))
		}
		if os.Getenv("HOLDFAST_CHAOS_KEEP") != "" {
			s.t.Logf("kept: %s", s.dir)
			return
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}
