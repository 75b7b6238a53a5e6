package model

import (
	"context"
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
	"holdfast/internal/iofilter"
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

	startLimit = 2 * time.Minute
	stopLimit  = 2 * time.Minute
)

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
	*rig.Site
	container string
	links     *rig.Exchange
	drva      *appliance
	made      int // appliances
	hosts     [hosts]*host
	paths     [disks]string // of the primaries
	sockets   [disks]string
	ids       [disks]dr.DiskID
}

// newSite makes container, certificates, disks and configurations, and starts
// everything; links lag at most so much. The test's end removes it.
func newSite(t *testing.T, ack string, lag time.Duration) *site {
	t.Helper()
	s := &site{Site: rig.NewSite(t, "model-")}
	s.container = s.Path("store")
	must(t, os.Mkdir(s.container, 0o700))
	s.CreateDomain("file://" + s.container)
	var err error
	s.links, err = rig.NewExchange(lag)
	must(t, err)
	t.Cleanup(s.links.Close)
	t.Cleanup(s.End)
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

// newAppliance configures a DRVA with a log and a socket of its own.
func (s *site) newAppliance() *appliance {
	s.T.Helper()
	s.made++
	name := fmt.Sprintf("drva%d", s.made)
	a := &appliance{config: s.Path(name + ".json"), logDir: s.Path(name + "-log"), socket: s.Path(name + ".sock")}
	s.DRVAConfig(name, "file://"+s.container, a.logDir, logQuota)
	return a
}

func (s *site) makeHost(i int, ack string) {
	s.T.Helper()
	name := fmt.Sprintf("host%d", i+1)
	id := s.CreateHost(name)
	h := &host{vm: dr.VMID{UUID: dr.NewUUID()}, config: s.Path(name + ".json"), socket: s.Path(name + ".sock")}
	vm := iofilter.VM{Config: dr.VMConfig{ID: h.vm, Name: "vm" + name, CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios", NICs: []dr.NIC{}}}
	for j := range disksPerHost {
		d := i*disksPerHost + j
		s.ids[d] = dr.DiskID{UUID: dr.NewUUID()}
		s.paths[d], s.sockets[d] = s.Path(fmt.Sprintf("disk%d.raw", d)), s.Path(fmt.Sprintf("disk%d.nbd", d))
		s.makeDisk(d)
		vm.Config.Disks = append(vm.Config.Disks, dr.VMDisk{ID: s.ids[d], Name: diskName(d), Bus: "virtio"})
		vm.Disks = append(vm.Disks, iofilter.Disk{ID: s.ids[d], Name: diskName(d), Path: s.paths[d], Socket: s.sockets[d], Direct: isDirect(d)})
	}
	s.WriteJSON(name+".json", rig.HostConfig{
		Config: iofilter.Config{Domain: s.Domain, Host: id, Name: name, Ack: ack, VMs: []iofilter.VM{vm}},
		DRVA:   s.links.Addr(), TLS: s.Path(name + "-tls"), Status: h.socket,
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
	s.T.Helper()
	f, err := os.Create(s.paths[d])
	must(s.T, err)
	defer f.Close()
	must(s.T, f.Truncate(sizeOf(d)))
	buf := make([]byte, dr.ChunkSize)
	for off := int64(0); off < sizeOf(d); off += dr.ChunkSize {
		if !isHole(off / dr.ChunkSize) {
			p := buf[:min(dr.ChunkSize, sizeOf(d)-off)]
			prefill(p, d, off)
			_, err := f.WriteAt(p, off)
			must(s.T, err)
		}
	}
}

// startDRVA starts a, which hosts find from then on under the DRVA's address.
func (s *site) startDRVA(ctx context.Context, a *appliance) error {
	p, err := s.Start(strings.TrimSuffix(filepath.Base(a.config), ".json"), "drva", "--config", a.config)
	if err != nil {
		return err
	}
	a.Process, s.drva = p, a
	return rig.WaitStatus(ctx, a.socket, a.Name+" runs", startLimit, func(st *rig.DRVAStatus) bool {
		s.links.Route(st.Address)
		return st.Address != "" && st.State != "starting" && st.State != "stopped"
	})
}

// startHost starts a host's component and waits until it serves its disks.
func (s *site) startHost(ctx context.Context, i int) error {
	h := s.hosts[i]
	p, err := s.Start(fmt.Sprintf("host%d", i+1), "iofilter", "--config", h.config)
	if err != nil {
		return err
	}
	h.Process = p
	return s.WaitHost(ctx, p.Name, startLimit)
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
	return rig.WaitStatus(ctx, s.drva.socket, what, limit, func(st *rig.DRVAStatus) bool { return recoverableSince(st, after) })
}

func recoverableSince(st *rig.DRVAStatus, after time.Time) bool {
	return st.Recoverable(disks) && st.Checkpoints.LastGroup.After(after)
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
			return cp, rig.WaitStatus(ctx, s.drva.socket, "it is published", limit, func(st *rig.DRVAStatus) bool {
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
