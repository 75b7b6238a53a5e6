package recovery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// errDead is what everything answers once the process is dead.
var errDead = errs.New("test", errs.Internal, "", "the process is dead")

// life is one process: it dies after so many operations on anything.
type life struct {
	mu   sync.Mutex
	left int // negative: it lives on
	used int
	dead bool
}

func (l *life) step() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		l.dead = true
	}
	if l.dead {
		return errDead
	}
	l.left--
	l.used++
	return nil
}

func (l *life) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// world outlives processes: a container, a rack of VMs, a source site, a disk.
type world struct {
	t      testing.TB
	st     *mem.Store
	id     journal.Identity
	c      *journal.Container // the world's own look
	pub    *journal.Publisher // the source's; a zombie later
	vms    []dr.VMConfig
	parent dr.TimelineID
	disks  map[dr.CheckpointID][][]byte // content by point
	last   dr.CheckpointID
	now    map[dr.DiskID][]byte // at the source
	away   bool                 // a host is: checkpoints do not cover the domain

	fs   *durabletest.FS
	rack *rack
	site *site
}

const runDir = "/runs/r"

// newWorld makes a domain of two VMs with a disk each, and two points.
func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := journal.NewRecoveryKey()
	check(t, err)
	id, err := journal.ParseIdentity(string(key.FileText()))
	check(t, err)
	w := &world{t: t, st: mem.New(), id: id, disks: map[dr.CheckpointID][][]byte{}, now: map[dr.DiskID][]byte{},
		fs: durabletest.New(durabletest.Config{})}
	w.c, err = journal.Create(t.Context(), w.st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{key.Recipient()}})
	check(t, err)
	for i := range 2 {
		disk := dr.DiskID{UUID: dr.NewUUID()}
		w.vms = append(w.vms, dr.VMConfig{
			ID: dr.VMID{UUID: dr.NewUUID()}, Name: fmt.Sprintf("vm%d", i+1), CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios",
			Disks: []dr.VMDisk{{ID: disk, Name: "system", Size: 128 << 10, Bus: "virtio"}},
			NICs:  []dr.NIC{{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Model: "e1000", Network: "lan"}},
		})
		w.now[disk] = make([]byte, 128<<10)
	}
	w.pub, err = w.c.OpenPublisher(t.Context(), journal.PublisherOptions{})
	check(t, err)
	t.Cleanup(func() { w.pub.Close() })
	w.parent = w.pub.Timeline()
	for _, vm := range w.vms {
		check(t, w.pub.PutMeta(t.Context(), vm.ID, 1, vm))
	}
	w.rack = &rack{w: w, vms: map[dr.VMID]*rackVM{}}
	w.site = &site{w: w, running: map[dr.VMID]bool{w.vms[0].ID: true, w.vms[1].ID: true}}
	w.publish()
	w.publish()
	return w
}

// publish has the source write a little and publish a point.
func (w *world) publish() dr.CheckpointID {
	w.t.Helper()
	id, err := w.tryPublish()
	check(w.t, err)
	return id
}

func (w *world) tryPublish() (dr.CheckpointID, error) {
	w.last++
	b := w.c.NewBuilder(segment.BuilderOptions{})
	seq := dr.Seq(10 * w.last)
	b.SetSeqs(seq, seq)
	cp := dr.Checkpoint{ID: w.last, Seq: seq + 1, Time: time.Now(), Scope: dr.Group}
	if w.away {
		cp.Scope = dr.Partial
	}
	var all [][]byte
	for _, vm := range w.vms {
		d := vm.Disks[0].ID
		block := bytes.Repeat([]byte(fmt.Sprintf("%s %08d", vm.Name, w.last)), dr.BlockSize/12+1)[:dr.BlockSize]
		at := int(w.last) % dr.BlocksPerChunk
		copy(w.now[d][at*dr.BlockSize:], block)
		check(w.t, b.AddFrame(d, 0, 1<<at, seq, block))
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: d, VM: vm.ID, Size: 128 << 10, Synced: true})
		all = append(all, bytes.Clone(w.now[d]))
	}
	b.SetCheckpoint(cp)
	p, err := w.pub.Publish(context.Background(), b)
	if err == nil {
		err = p.Wait(context.Background())
	}
	if err == nil {
		w.disks[w.last] = all
	}
	return w.last, err
}

// process is a service in a process that dies after n operations (negative:
// never).
func (w *world) process(n int) (*Service, *life) {
	l := &life{left: n}
	m := &mortalFS{fs: w.fs, l: l, rack: w.rack}
	s := New(Options{
		Provider: &rackProvider{w.rack, l}, FS: m,
		Open: func(ctx context.Context, url string, _ map[string]string) (*journal.Container, error) {
			return journal.Open(ctx, &mortalStore{w.st, l}, w.id)
		},
		Source: func(context.Context, map[string]string) (Source, error) {
			if err := l.step(); err != nil {
				return nil, err
			}
			return &mortalSite{w.site, l}, nil
		},
	})
	w.t.Cleanup(m.release)
	return s, l
}

// end is the end of a process: what the kernel keeps stays; after a loss of power
// only what was durable does, and no VM.
func (w *world) end(s *Service, l *life, loss durabletest.Loss, seed uint64) {
	l.die()
	s.fs.(*mortalFS).release()
	w.fs = w.fs.Image(seed, loss)
	if loss == durabletest.PowerLoss {
		w.rack.powerOff()
	}
}

// mortalFS is a file system as a process that may die sees it.
type mortalFS struct {
	rack  *rack
	fs    *durabletest.FS
	l     *life
	mu    sync.Mutex
	locks []io.Closer
}

func (m *mortalFS) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.locks {
		c.Close()
	}
	m.locks = nil
}

func (m *mortalFS) OpenFile(p string, mode durable.Mode) (durable.File, error) {
	if err := m.l.step(); err != nil {
		return nil, err
	}
	f, err := m.fs.OpenFile(p, mode)
	if err != nil {
		return nil, err
	}
	return &mortalFile{f, m.l}, nil
}
func (m *mortalFS) Link(a, b string) error   { return m.do(func() error { return m.fs.Link(a, b) }) }
func (m *mortalFS) Rename(a, b string) error { return m.do(func() error { return m.fs.Rename(a, b) }) }
func (m *mortalFS) Remove(p string) error {
	for _, vm := range m.rack.alive() {
		for _, src := range vm.spec.Sources {
			if src.Path == p {
				m.rack.complain("the disk of %s was removed while it runs", vm.spec.Config.Name)
			}
		}
	}
	return m.do(func() error { return m.fs.Remove(p) })
}
func (m *mortalFS) Mkdir(p string) error   { return m.do(func() error { return m.fs.Mkdir(p) }) }
func (m *mortalFS) SyncDir(p string) error { return m.do(func() error { return m.fs.SyncDir(p) }) }
func (m *mortalFS) do(f func() error) error {
	if err := m.l.step(); err != nil {
		return err
	}
	return f()
}
func (m *mortalFS) ReadDir(p string) ([]durable.Entry, error) {
	if err := m.l.step(); err != nil {
		return nil, err
	}
	return m.fs.ReadDir(p)
}
func (m *mortalFS) Stat(p string) (durable.Entry, error) {
	if err := m.l.step(); err != nil {
		return durable.Entry{}, err
	}
	return m.fs.Stat(p)
}
func (m *mortalFS) Lock(p string) (io.Closer, error) {
	if err := m.l.step(); err != nil {
		return nil, err
	}
	c, err := m.fs.Lock(p)
	if err == nil {
		m.mu.Lock()
		m.locks = append(m.locks, c)
		m.mu.Unlock()
	}
	return c, err
}

type mortalFile struct {
	durable.File
	l *life
}

func (f *mortalFile) WriteAtv(b [][]byte, off int64) error {
	if err := f.l.step(); err != nil {
		return err
	}
	return f.File.WriteAtv(b, off)
}
func (f *mortalFile) Sync() error {
	if err := f.l.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

// mortalStore is a store as a process that may die sees it.
type mortalStore struct {
	store.Store
	l *life
}

func (m *mortalStore) Create(ctx context.Context, key string, body []byte) error {
	if err := m.l.step(); err != nil {
		return err
	}
	return m.Store.Create(ctx, key, body)
}
func (m *mortalStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	if err := m.l.step(); err != nil {
		return nil, err
	}
	return m.Store.List(ctx, prefix, after, limit)
}

// rack holds the VMs of every process.
type rack struct {
	w   *world
	mu  sync.Mutex
	vms map[dr.VMID]*rackVM
	// broken are rules that were seen to be broken.
	broken []string
	starts []string // names, in order
}

type rackVM struct {
	rack *rack
	spec hypervisor.Spec
	life *hypervisor.Lifecycle
	dir  string
}

func (k *rack) complain(format string, a ...any) {
	k.broken = append(k.broken, fmt.Sprintf(format, a...))
}

func (k *rack) powerOff() {
	for _, vm := range k.alive() {
		vm.life.Move(hypervisor.Crashed, "power lost")
	}
}

func (k *rack) alive() (out []*rackVM) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, vm := range k.vms {
		if !vm.life.Status().State.Final() {
			out = append(out, vm)
		}
	}
	return out
}

type rackProvider struct {
	*rack
	l *life
}

func (p *rackProvider) Name() string                          { return "rack" }
func (p *rackProvider) Capabilities() hypervisor.Capabilities { return hypervisor.Capabilities{} }
func (p *rackProvider) Close() error                          { return nil }

func (p *rackProvider) Start(_ context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	if err := p.l.step(); err != nil {
		return nil, err
	}
	if err := spec.Check(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if vm := p.vms[spec.Config.ID]; vm != nil && !vm.life.Status().State.Final() {
		return nil, errs.New("rack.Start", errs.Exists, spec.Config.Name, "it runs")
	}
	p.judgeStart(&spec)
	p.starts = append(p.starts, spec.Config.Name)
	vm := &rackVM{p.rack, spec, hypervisor.NewLifecycle(time.Now), spec.WorkDir}
	vm.life.Move(hypervisor.Running, "")
	p.vms[spec.Config.ID] = vm
	return &mortalVM{vm, p.l}, nil
}

// judgeStart looks whether the world allows a VM to start.
func (k *rack) judgeStart(spec *hypervisor.Spec) {
	for _, d := range spec.Config.Disks {
		if _, err := k.w.fs.Stat(spec.Sources[d.ID].Path); err != nil {
			k.complain("%s was started without its disk", spec.Config.Name)
		}
	}
	if strings.HasPrefix(spec.WorkDir, runDir+"-final") || !k.w.site.mustBeFenced {
		return
	}
	if k.w.site.anyRuns() && k.w.site.planned {
		k.complain("%s was started while the source's guests run", spec.Config.Name)
	}
	if epochs, err := k.w.st.List(context.Background(), "t/"+k.w.parent.String()+"/epoch/", "", 100); err != nil || len(epochs) < 2 {
		k.complain("%s was started before the source was fenced (%d epochs, %v)", spec.Config.Name, len(epochs), err)
	}
}

func (p *rackProvider) Adopt(_ context.Context, dir string) (out []hypervisor.VM, err error) {
	if err := p.l.step(); err != nil {
		return nil, err
	}
	for _, vm := range p.alive() {
		if vm.dir == dir {
			out = append(out, &mortalVM{vm, p.l})
		}
	}
	return out, nil
}

type mortalVM struct {
	*rackVM
	l *life
}

func (v *mortalVM) ID() dr.VMID                                              { return v.spec.Config.ID }
func (v *mortalVM) Name() string                                             { return v.spec.Config.Name }
func (v *mortalVM) Status() hypervisor.Status                                { return v.life.Status() }
func (v *mortalVM) Serial() string                                           { return "/nowhere/serial" }
func (v *mortalVM) Monitor() string                                          { return "/nowhere/monitor" }
func (v *mortalVM) Events() <-chan hypervisor.Event                          { return v.life.Events() }
func (v *mortalVM) Pause(context.Context) error                              { return nil }
func (v *mortalVM) Resume(context.Context) error                             { return nil }
func (v *mortalVM) Stop(ctx context.Context, _ hypervisor.StopOptions) error { return v.Kill(ctx) }
func (v *mortalVM) SwitchDisk(context.Context, dr.DiskID) (hypervisor.Switch, error) {
	return hypervisor.Switch{}, v.l.step()
}
func (v *mortalVM) Screenshot(context.Context) ([]byte, error) { return []byte("PNG"), v.l.step() }
func (v *mortalVM) Kill(context.Context) error {
	if err := v.l.step(); err != nil {
		return err
	}
	v.life.Move(hypervisor.Stopped, "killed")
	return nil
}
func (v *mortalVM) Wait(ctx context.Context) (hypervisor.Status, error) { return v.life.Wait(ctx) }

// site is the source.
type site struct {
	w            *world
	mu           sync.Mutex
	running      map[dr.VMID]bool
	deaf         bool // guests do not shut down
	planned      bool
	mustBeFenced bool
	shut         []string
}

func (s *site) anyRuns() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, on := range s.running {
		if on {
			return true
		}
	}
	return false
}

type mortalSite struct {
	*site
	l *life
}

func (s *mortalSite) Sync(context.Context) error { return s.l.step() }
func (s *mortalSite) Close() error               { return nil }
func (s *mortalSite) Running(context.Context) (out []dr.VMID, _ error) {
	if err := s.l.step(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, on := range s.running {
		if on {
			out = append(out, id)
		}
	}
	return out, nil
}
func (s *mortalSite) Shutdown(_ context.Context, id dr.VMID) error {
	if err := s.l.step(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf && len(s.shut) > 0 {
		return errs.New("site", errs.Transient, id.String(), "the guest did not shut down")
	}
	s.running[id] = false
	i := slices.IndexFunc(s.w.vms, func(v dr.VMConfig) bool { return v.ID == id })
	s.shut = append(s.shut, s.w.vms[i].Name)
	return nil
}
func (s *mortalSite) Start(_ context.Context, id dr.VMID) error {
	if err := s.l.step(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[id] = true
	return nil
}
func (s *mortalSite) Checkpoint(context.Context, string) (dr.CheckpointID, error) {
	if err := s.l.step(); err != nil {
		return 0, err
	}
	return s.w.tryPublish()
}

// compare demands that the run's disks are those of a point.
func (w *world) compare(rec *Record, point dr.CheckpointID) error {
	for i, vm := range w.vms {
		for _, d := range rec.Disks {
			if d.Source != vm.Disks[0].ID {
				continue
			}
			path := d.Path
			if !d.old() {
				path = filepath.Join(runDir, d.Path)
			}
			got, err := durable.ReadFile(w.fs, path, 1<<20)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, w.disks[point][i]) {
				return fmt.Errorf("the disk of %s is not that of checkpoint %d", vm.Name, point)
			}
		}
	}
	return nil
}

// forks are timelines that are neither dropped nor the source's.
func (w *world) forks() (out []journal.TimelineInfo) {
	w.t.Helper()
	all, err := w.c.Timelines(context.Background())
	check(w.t, err)
	for _, t := range all {
		if t.ID != w.parent && t.Dropped == nil {
			out = append(out, t)
		}
	}
	return out
}

// pins are those that are in force, but for one that a fork made for itself and
// that expires by itself.
func (w *world) pins() (n int) {
	w.t.Helper()
	all, err := w.c.Pins(context.Background())
	check(w.t, err)
	for _, p := range all {
		if p.Active(time.Now()) && strings.HasPrefix(p.Label, "recovery ") {
			n++
		}
	}
	return n
}

// left lists what lies in the run's directory but record, report and evidence.
func (w *world) left() (out []string) {
	w.t.Helper()
	var walk func(dir string)
	walk = func(dir string) {
		es, err := w.fs.ReadDir(dir)
		check(w.t, err)
		for _, e := range es {
			p := filepath.Join(dir, e.Name)
			switch {
			case p == filepath.Join(runDir, recordName), p == filepath.Join(runDir, reportName), p == filepath.Join(runDir, durable.LockName),
				p == filepath.Join(runDir, "evidence"):
			case e.Dir:
				out = append(out, p)
				walk(p)
			default:
				out = append(out, p)
			}
		}
	}
	walk(runDir)
	return out
}

// gone reports what a run that was cleaned up or rolled back left behind.
func (w *world) gone() error {
	switch {
	case len(w.rack.alive()) > 0:
		return fmt.Errorf("%d VMs run", len(w.rack.alive()))
	case len(w.left()) > 0:
		return fmt.Errorf("files are left: %v", w.left())
	case w.pins() > 0:
		return fmt.Errorf("%d pins are in force", w.pins())
	case len(w.forks()) > 0:
		return fmt.Errorf("%d forks are left", len(w.forks()))
	}
	return nil
}

func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
