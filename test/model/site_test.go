package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/store/dir"
	"holdfast/test/rig"
)

// Sizes of the site.
const (
	chainArea  = 64 << 10
	regionSize = 5<<18 + 1234 // a little over what a 1 MiB operation needs; ends inside a block
	regions    = 3            // per disk
	diskSize   = 6 << 20
	oddTail    = 1536 // bytes the buffered disks end inside a block

	logQuota = 512 << 20
	interval = "1s" // between checkpoints

	startLimit = 30 * time.Second
	stopLimit  = 20 * time.Second
)

// hostConfig is a host component's configuration file.
type hostConfig struct {
	iofilter.Config
	DRVA   string `json:"drva"`
	TLS    string `json:"tls"`
	Status string `json:"status"`
}

// drvaConfig is the DRVA's configuration file.
type drvaConfig struct {
	Container string `json:"container"`
	Key       string `json:"key"`
	Log       string `json:"log"`
	Quota     int64  `json:"quota"`
	Listen    string `json:"listen"`
	TLS       string `json:"tls"`
	Interval  string `json:"interval"`
	Status    string `json:"status"`
}

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

// appliance is one DRVA: a process with a log of its own.
type appliance struct {
	*rig.Process
	config, logDir, socket string
}

// host is one host with its component and VM.
type host struct {
	*rig.Process
	mu     sync.Mutex // guards kills
	kills  int
	vm     dr.VMID
	config string
	socket string
}

func (h *host) killed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kills
}

// site is a protected site and its container. Methods that start and end
// processes are called by one goroutine.
type site struct {
	t         *testing.T
	dir       string
	domain    dr.DomainID
	container string
	recovery  journal.Identity
	links     *rig.Exchange
	drva      *appliance
	made      int // appliances
	hosts     [hosts]*host
	paths     [disks]string // of the primaries
	sockets   [disks]string
	ids       [disks]dr.DiskID

	mu    sync.Mutex
	all   []*rig.Process
	wrong []string
}

// newSite makes container, certificates, disks and configurations, and starts
// everything; links lag at most so much. The test's end removes it.
func newSite(t *testing.T, ack string, lag time.Duration) *site {
	t.Helper()
	// Short, because unix socket paths may have only 107 bytes.
	base, err := os.MkdirTemp("", "model-")
	must(t, err)
	s := &site{t: t, dir: base, container: filepath.Join(base, "store")}
	t.Cleanup(s.remove)
	key := s.createContainer()
	must(t, control.InitAuthority(s.path("ca"), "A"))
	must(t, control.Issue(s.path("ca"), s.path("drva-tls"), control.RoleDRVA, s.domain.String(), []string{"127.0.0.1"}))
	s.links, err = rig.NewExchange(lag)
	must(t, err)
	must(t, durable.WriteFile(durable.OS{}, s.path("drva.key"), key.FileText()))
	must(t, s.startDRVA(t.Context(), s.newAppliance()))
	for i := range hosts {
		s.makeHost(i, ack)
		must(t, s.startHost(t.Context(), i))
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// createContainer returns the appliance's key.
func (s *site) createContainer() journal.RecoveryKeyPair {
	s.t.Helper()
	own, err := journal.NewRecoveryKey()
	must(s.t, err)
	away, err := journal.NewRecoveryKey()
	must(s.t, err)
	s.recovery = away.Identity()
	must(s.t, os.Mkdir(s.container, 0o700))
	st, err := dir.Open(s.container)
	must(s.t, err)
	c, err := journal.Create(s.t.Context(), st, journal.CreateOptions{Name: "model", Recipients: []journal.Recipient{own.Recipient(), away.Recipient()}})
	must(s.t, err)
	s.domain = c.Domain().ID
	return own
}

// newAppliance configures a DRVA with a log and a socket of its own.
func (s *site) newAppliance() *appliance {
	s.t.Helper()
	s.made++
	name := fmt.Sprintf("drva%d", s.made)
	a := &appliance{config: s.path(name + ".json"), logDir: s.path(name + "-log"), socket: s.path(name + ".sock")}
	s.writeJSON(a.config, drvaConfig{
		Container: "file://" + s.container, Key: s.path("drva.key"), Log: a.logDir, Quota: logQuota,
		Listen: "127.0.0.1:0", TLS: s.path("drva-tls"), Interval: interval, Status: a.socket,
	})
	return a
}

func (s *site) makeHost(i int, ack string) {
	s.t.Helper()
	name := fmt.Sprintf("host%d", i+1)
	id := dr.HostID{UUID: dr.NewUUID()}
	must(s.t, control.Issue(s.path("ca"), s.path(name+"-tls"), control.RoleHost, id.String(), nil))
	h := &host{vm: dr.VMID{UUID: dr.NewUUID()}, config: s.path(name + ".json"), socket: s.path(name + ".sock")}
	vm := iofilter.VM{Config: dr.VMConfig{ID: h.vm, Name: "vm" + name, CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios", NICs: []dr.NIC{}}}
	for j := range disksPerHost {
		d := i*disksPerHost + j
		s.ids[d] = dr.DiskID{UUID: dr.NewUUID()}
		s.paths[d], s.sockets[d] = s.path(fmt.Sprintf("disk%d.raw", d)), s.path(fmt.Sprintf("disk%d.nbd", d))
		s.makeDisk(d)
		vm.Config.Disks = append(vm.Config.Disks, dr.VMDisk{ID: s.ids[d], Name: diskName(d), Bus: "virtio"})
		vm.Disks = append(vm.Disks, iofilter.Disk{ID: s.ids[d], Name: diskName(d), Path: s.paths[d], Socket: s.sockets[d], Direct: isDirect(d)})
	}
	s.writeJSON(h.config, hostConfig{
		Config: iofilter.Config{Domain: s.domain, Host: id, Name: name, Ack: ack, VMs: []iofilter.VM{vm}},
		DRVA:   s.links.Addr(), TLS: s.path(name + "-tls"), Status: h.socket,
	})
	s.hosts[i] = h
}

func diskName(d int) string { return fmt.Sprintf("disk%d", d%disksPerHost) }

// isDirect reports whether a disk bypasses the page cache.
func isDirect(d int) bool { return d%disksPerHost == 1 }

// sizeOf returns a disk's size; direct I/O needs whole blocks.
func sizeOf(d int) int64 {
	if isDirect(d) {
		return diskSize
	}
	return diskSize + oddTail
}

// makeDisk makes a primary with holes.
func (s *site) makeDisk(d int) {
	s.t.Helper()
	f, err := os.Create(s.paths[d])
	must(s.t, err)
	defer f.Close()
	must(s.t, f.Truncate(sizeOf(d)))
	buf := make([]byte, dr.ChunkSize)
	for off := int64(0); off < sizeOf(d); off += dr.ChunkSize {
		if !isHole(off / dr.ChunkSize) {
			p := buf[:min(dr.ChunkSize, sizeOf(d)-off)]
			prefill(p, d, off)
			_, err := f.WriteAt(p, off)
			must(s.t, err)
		}
	}
}

func (s *site) writeJSON(path string, v any) {
	s.t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	must(s.t, err)
	must(s.t, os.WriteFile(path, append(b, '\n'), 0o600))
}

// start starts a process and remembers it.
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

// note remembers what went wrong beside the main line of a test.
func (s *site) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, a...))
}

// startDRVA starts a, which hosts find from then on under the DRVA's address.
func (s *site) startDRVA(ctx context.Context, a *appliance) error {
	p, err := s.start(strings.TrimSuffix(filepath.Base(a.config), ".json"), "drva", "--config", a.config)
	if err != nil {
		return err
	}
	a.Process, s.drva = p, a
	return rig.WaitStatus(ctx, a.socket, a.Name+" runs", startLimit, func(st *drvaStatus) bool {
		s.links.Route(st.Address)
		return st.Address != "" && st.State != "starting" && st.State != "stopped"
	})
}

// startHost starts a host's component and waits until it serves its disks.
func (s *site) startHost(ctx context.Context, i int) error {
	h := s.hosts[i]
	p, err := s.start(fmt.Sprintf("host%d", i+1), "iofilter", "--config", h.config)
	if err != nil {
		return err
	}
	h.Process = p
	return rig.WaitStatus(ctx, h.socket, p.Name+" runs", startLimit, func(st *iofilter.Status) bool { return st.Name != "" })
}

// killHost kills a host's component. What its guests see from the moment kills
// counts is the test's doing.
func (s *site) killHost(i int) {
	h := s.hosts[i]
	h.mu.Lock()
	h.kills++
	h.mu.Unlock()
	h.Kill()
}

// killTogether kills processes at one moment, in any order.
func (s *site) killTogether(rng *rand.Rand, all ...*rig.Process) {
	for _, h := range s.hosts {
		h.mu.Lock()
		h.kills++
		h.mu.Unlock()
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		p.Doom()
		_ = p.Signal(syscall.SIGKILL) // gone already is as good
	}
	for _, p := range all {
		<-p.Done
	}
}

// waitRecoverable waits for a published group checkpoint, taken after t, at
// which all disks can be recovered.
func (s *site) waitRecoverable(ctx context.Context, after time.Time, limit time.Duration) error {
	what := "a recoverable group checkpoint is published"
	return rig.WaitStatus(ctx, s.drva.socket, what, limit, func(st *drvaStatus) bool { return recoverableSince(st, after) })
}

func recoverableSince(st *drvaStatus, after time.Time) bool {
	p := st.Checkpoints.LastPublished
	if p == nil || p.Scope != dr.Group || len(p.Disks) != disks || !st.Checkpoints.LastGroup.After(after) {
		return false
	}
	ok, _ := p.Recoverable()
	return ok
}

// checkpoint cuts checkpoints until one is a group's and recoverable, and
// waits until it is published.
func (s *site) checkpoint(ctx context.Context, tag string, limit time.Duration) (dr.Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		var cp dr.Checkpoint
		err := control.CallLocal(ctx, s.drva.socket, "/checkpoint", map[string]string{"tag": tag}, &cp)
		ok, why := cp.Recoverable()
		switch {
		case ctx.Err() != nil:
			return cp, fmt.Errorf("no group checkpoint within %v: %w", limit, last)
		case err != nil:
			last = err
		case cp.Scope != dr.Group || !ok:
			last = fmt.Errorf("checkpoint %d is %v, missing %v, %s", cp.ID, cp.Scope, cp.Missing, why)
		default:
			return cp, rig.WaitStatus(ctx, s.drva.socket, "it is published", limit, func(st *drvaStatus) bool {
				p := st.Checkpoints.LastPublished
				return p != nil && p.ID >= cp.ID
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// shutDown ends all processes in order, as an operator would.
func (s *site) shutDown() error {
	var all error
	for _, h := range s.hosts {
		all = errors.Join(all, h.Stop(stopLimit))
	}
	return errors.Join(all, s.drva.Stop(stopLimit))
}

// problems returns what was noted so far.
func (s *site) problems() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.wrong, "\n")
}

// remove ends what still runs, by process id, and removes every file.
func (s *site) remove() {
	s.mu.Lock()
	all := append([]*rig.Process(nil), s.all...)
	s.mu.Unlock()
	for _, p := range all {
		p.Kill()
	}
	if left := rig.ProcessesIn(s.t, s.dir); len(left) > 0 {
		s.t.Errorf("processes left: %q", left)
	}
	if s.links != nil {
		s.links.Close()
	}
	if s.t.Failed() {
		logs, _ := filepath.Glob(s.path("*.log"))
		for _, l := range logs {
			s.t.Logf("%s:\n%s", filepath.Base(l), rig.Tail(l))
		}
	}
	if keep := os.Getenv("HOLDFAST_MODEL_KEEP"); keep != "" && s.t.Failed() {
		s.t.Logf("kept: %s", s.dir)
		return
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}
