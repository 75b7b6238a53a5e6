package recover

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/demo/ledger"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/recovery"
	"holdfast/test/rig"
)

// patience ends what hangs: emulated guests on a busy machine are slow.
const patience = 4 * time.Minute

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

type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

// site is a guest, its host component, a DRVA and a container.
type site struct {
	t         *testing.T
	dir, url  string
	domain    dr.DomainID
	vm        dr.VMConfig
	drva      *rig.Process
	host      *rig.Process
	provider  *qemu.Provider
	guest     hypervisor.VM
	console   *ledger.Console
	acks      acks
	stopLoad  context.CancelFunc
	loadEnded chan error
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }
func (s *site) key() string             { return s.path("recovery.key") }

// newSite makes a protected guest that writes. url is a container's address, or
// empty: a directory. The test's end removes it.
func newSite(t *testing.T, url string) *site {
	t.Helper()
	image, err := ledger.BuildImage(t.Context())
	must(t, err)
	st, err := os.Stat(image)
	must(t, err)
	s := newBoxes(t, url, st.Size(), func(path string) error { return ledger.CopyImage(t.Context(), path, image) })
	s.provider = newProvider(t)
	s.bootGuest()
	s.rows(2)
	return s
}

func newProvider(t *testing.T) *qemu.Provider {
	t.Helper()
	p, err := qemu.New(qemu.Options{DieWithParent: true})
	must(t, err)
	return p
}

// newBoxes makes a protected disk that nobody uses yet, which fill makes.
func newBoxes(t *testing.T, url string, size int64, fill func(path string) error) *site {
	t.Helper()
	s := newFloor(t, url)
	must(t, fill(s.path("a/guest.raw")))
	s.vm = ledger.Config("erp", dr.VMID{UUID: dr.NewUUID()}, dr.DiskID{UUID: dr.NewUUID()}, size)
	s.startBoxes()
	return s
}

// newFloor makes a site with a container, in which nothing runs yet.
func newFloor(t *testing.T, url string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfrec-") // short: unix socket paths have at most 107 bytes
	must(t, err)
	s := &site{t: t, dir: dir, url: url}
	t.Cleanup(s.remove)
	if s.url == "" {
		s.url = "file://" + s.path("store")
	}
	must(t, os.Mkdir(s.path("a"), 0o700))
	s.makeContainer()
	return s
}

func (s *site) makeContainer() {
	s.t.Helper()
	own, err := journal.NewRecoveryKey()
	must(s.t, err)
	away, err := journal.NewRecoveryKey()
	must(s.t, err)
	must(s.t, durable.WriteFile(durable.OS{}, s.path("a/drva.key"), own.FileText()))
	must(s.t, durable.WriteFile(durable.OS{}, s.key(), away.FileText()))
	var created struct {
		Domain dr.DomainID `json:"domain"`
	}
	must(s.t, rig.Command(s.t.Context(), &created, "domain", "create", s.url, "--name", "erp", "--quick",
		"--recipient", own.Recipient().String(), "--recipient", away.Recipient().String(), "-o", "json"))
	s.domain = created.Domain
	must(s.t, control.InitAuthority(s.path("a/ca"), "A"))
	must(s.t, control.Issue(s.path("a/ca"), s.path("a/drva-tls"), control.RoleDRVA, s.domain.String(), []string{"127.0.0.1"}))
}

func (s *site) writeJSON(name string, v any) {
	s.t.Helper()
	b, err := json.Marshal(v)
	must(s.t, err)
	must(s.t, os.WriteFile(s.path(name), b, 0o600))
}

// startBoxes starts the DRVA and the host component.
func (s *site) startBoxes() {
	s.t.Helper()
	addr := freePort(s.t)
	s.writeDRVA(addr)
	s.startDRVA()
	s.startHost(map[string]any{
		"name": "node1", "drva": addr,
		"vms": []iofilter.VM{{Config: s.vm, Disks: []iofilter.Disk{{
			ID: s.vm.Disks[0].ID, Name: s.vm.Disks[0].Name, Path: s.path("a/guest.raw"), Socket: s.path("a/guest.nbd"),
		}}}},
	})
}

// freePort is an address nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func (s *site) writeDRVA(listen string) {
	s.t.Helper()
	s.writeJSON("a/drva.json", map[string]any{
		"container": s.url, "key": s.path("a/drva.key"), "log": s.path("a/log"), "quota": 512 << 20,
		"listen": listen, "tls": s.path("a/drva-tls"), "interval": "1s", "status": s.path("a/drva.sock"),
	})
}

// startHost starts the host component, with what cfg says and what all have.
func (s *site) startHost(cfg map[string]any) {
	s.t.Helper()
	host := dr.HostID{UUID: dr.NewUUID()}
	must(s.t, control.Issue(s.path("a/ca"), s.path("a/host-tls"), control.RoleHost, host.String(), nil))
	cfg["domain"], cfg["host"], cfg["tls"], cfg["status"] = s.domain, host, s.path("a/host-tls"), s.path("a/host.sock")
	s.writeJSON("a/host.json", cfg)
	s.runHost()
}

// runHost starts the host component as it was configured.
func (s *site) runHost() {
	s.t.Helper()
	p, err := rig.Start(s.path("a"), "host", s.unexpected, "iofilter", "--config", s.path("a/host.json"))
	must(s.t, err)
	s.host = p
	must(s.t, rig.WaitStatus(s.t.Context(), s.path("a/host.sock"), "the host component runs", patience, func(st *iofilter.Status) bool { return st.Link.Up }))
}

func (s *site) startDRVA() {
	s.t.Helper()
	p, err := rig.Start(s.path("a"), "drva", s.unexpected, "drva", "--config", s.path("a/drva.json"))
	must(s.t, err)
	s.drva = p
	must(s.t, rig.WaitStatus(s.t.Context(), s.path("a/drva.sock"), "the DRVA runs", patience, func(st *drvaStatus) bool { return st.Address != "" }))
}

func (s *site) unexpected(p *rig.Process) {
	s.t.Errorf("%s ended by itself: %v\n%s", p.Name, p.Err, rig.Tail(p.Log))
}

// bootGuest starts the guest from its protected disk and has it write.
func (s *site) bootGuest() {
	s.t.Helper()
	spec := hypervisor.Spec{Config: s.vm, Sources: map[dr.DiskID]hypervisor.Source{
		s.vm.Disks[0].ID: {Socket: s.path("a/guest.nbd"), Export: s.vm.Disks[0].Name},
	}}
	spec.WorkDir, spec.Accelerator, spec.Serial, spec.Paused, spec.ExitOnReset = s.path("a"), hypervisor.TCG, true, true, true
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	vm, err := s.provider.Start(ctx, spec)
	must(s.t, err)
	s.guest = vm
	s.console, err = ledger.Attach(ctx, vm)
	must(s.t, err)
	_, err = s.console.WaitReady(ctx)
	must(s.t, err)
	s.load()
}

// load has the guest commit rows until stop.
func (s *site) load() {
	ctx, stop := context.WithCancel(context.Background())
	s.stopLoad, s.loadEnded = stop, make(chan error, 1)
	c := s.console
	go func() { s.loadEnded <- commit(ctx, c, &s.acks) }()
}

func commit(ctx context.Context, c *ledger.Console, a *acks) error {
	n, _, err := c.Status(ctx)
	for err == nil {
		a.add(n)
		n++
		err = c.Put(ctx, n, n-1, 4<<10)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *site) endLoad() {
	if s.stopLoad != nil {
		s.stopLoad()
		<-s.loadEnded
		s.stopLoad = nil
	}
}

// acks remembers when each commit was seen to be acknowledged.
type acks struct {
	mu      sync.Mutex
	samples []ack
}

type ack struct {
	at time.Time
	n  uint64
}

func (a *acks) add(n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.samples = append(a.samples, ack{time.Now(), n})
}

func (a *acks) last() uint64 { return a.before(time.Now()) }

// before is the highest row acknowledged before t.
func (a *acks) before(t time.Time) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := sort.Search(len(a.samples), func(i int) bool { return !a.samples[i].at.Before(t) })
	if i == 0 {
		return 0
	}
	return a.samples[i-1].n
}

// protected waits until the container holds a group point that is younger than
// the call.
func (s *site) protected() {
	s.t.Helper()
	since := time.Now()
	must(s.t, rig.WaitStatus(s.t.Context(), s.path("a/drva.sock"), "a point is published", patience, func(st *drvaStatus) bool {
		p := st.Checkpoints.LastPublished
		if p == nil || p.Scope != dr.Group || p.Time.Before(since) {
			return false
		}
		ok, _ := p.Recoverable()
		return ok
	}))
}

// rows waits until the guest has committed so many more rows.
func (s *site) rows(n uint64) {
	s.t.Helper()
	from := s.acks.last()
	deadline := time.Now().Add(patience)
	for s.acks.last() < from+n {
		if time.Now().After(deadline) {
			s.t.Fatalf("the guest commits nothing: %d rows", s.acks.last())
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// kill is the disaster: every process of the site dies.
func (s *site) kill() {
	if s.drva != nil {
		s.drva.Kill()
	}
	s.killAllButDRVA()
}

func (s *site) killAllButDRVA() {
	if s.guest != nil {
		_ = s.guest.Kill(context.Background())
	}
	if s.host != nil {
		s.host.Kill()
	}
	s.endLoad()
	if s.console != nil {
		s.console.Close()
	}
}

// erase also removes what the site had.
func (s *site) erase() {
	s.t.Helper()
	s.kill()
	must(s.t, os.RemoveAll(s.path("a")))
}

// remove ends the test: no process that names the site's directory may be left.
func (s *site) remove() {
	s.kill()
	if s.provider != nil {
		s.provider.Close()
	}
	for _, d := range []string{"b", "c", "d", "t"} { // recoveries the test did not clean up, because it failed
		if b, err := os.ReadFile(s.path(d + "/run.json")); err == nil && s.t.Failed() {
			s.t.Logf("%s: %s", d, b)
			s.t.Logf("drva there: %s", rig.Tail(s.path(d+"/protect/drva.log")))
			s.t.Logf("host there: %s", rig.Tail(s.path(d+"/protect/host.log")))
		}
		s.end(d)
	}
	left := rig.ProcessesIn(s.t, s.dir)
	for end := time.Now().Add(30 * time.Second); len(left) > 0 && time.Now().Before(end); left = rig.ProcessesIn(s.t, s.dir) {
		time.Sleep(50 * time.Millisecond) // a watchdog ends by itself
	}
	if len(left) > 0 {
		s.t.Errorf("processes left: %v", left)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

// end removes a recovery whatever its state, for the test's end alone: its VMs are
// killed by their provider, its boxes by their numbers.
func (s *site) end(dir string) {
	rec, err := readRun(s.path(dir))
	if err != nil {
		return
	}
	for _, p := range rec.Launched {
		killProcess(p)
	}
	p, err := qemu.New(qemu.Options{})
	if err != nil {
		return
	}
	defer p.Close()
	vms, _ := p.Adopt(context.Background(), filepath.Join(s.path(dir), "vms"))
	for _, vm := range vms {
		_ = vm.Kill(context.Background())
	}
}

func readRun(dir string) (*recovery.Record, error) {
	b, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return nil, err
	}
	rec := new(recovery.Record)
	return rec, json.Unmarshal(b, rec)
}

// recover runs "holdfast recover ARGS -o json".
func (s *site) recover(args ...string) (*recovery.Status, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	defer cancel()
	out := new(recovery.Status)
	begin := time.Now()
	err := rig.Command(ctx, out, append(append([]string{"recover"}, args...), "-o", "json")...)
	s.t.Logf("recover %s: %.1f s, %s %v", args[0], time.Since(begin).Seconds(), out.State, err)
	return out, err
}

// begin is recover of a new run in dir, with what every test says.
func (s *site) begin(op, dir string, more ...string) *recovery.Status {
	s.t.Helper()
	st, err := s.recover(append([]string{op, s.url, s.path(dir), "--key", s.key(), "--accel", "tcg", "--exit-on-reset"}, more...)...)
	must(s.t, err)
	return st
}

// ask asks a recovered guest for its highest row until it answers.
func (s *site) ask(st *recovery.Status) uint64 {
	s.t.Helper()
	console := s.attach(st)
	defer console.Close()
	return console.row
}

// talker is a guest's serial port, after the guest has told its state.
type talker struct {
	net.Conn
	lines *talk.Lines
	row   uint64
}

func (s *site) attach(st *recovery.Status) *talker {
	s.t.Helper()
	rec, err := readRun(st.Dir)
	must(s.t, err)
	nc, err := net.Dial("unix", rec.VMs[0].Serial)
	must(s.t, err)
	must(s.t, nc.SetDeadline(time.Now().Add(patience)))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		again := time.NewTicker(500 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-stop:
				return
			case <-again.C:
				if _, err := nc.Write([]byte(talk.Request{Verb: talk.Status}.String() + "\n")); err != nil {
					return
				}
			}
		}
	}()
	t := &talker{Conn: nc, lines: talk.NewLines(nc)}
	for {
		line, err := t.lines.Next()
		if err != nil {
			s.t.Fatalf("the recovered guest does not answer: %v\n%s", err, s.serial(st))
		}
		if r, ok := talk.ParseReply(line); ok && r.Word == talk.State {
			t.row = r.N
			return t
		}
	}
}

// put has a recovered guest commit n rows behind those it has.
func (t *talker) put(n int) error {
	for range n {
		req := talk.Request{Verb: talk.Put, N: t.row + 1, Cause: t.row, Bytes: 4 << 10}
		if _, err := t.Write([]byte(req.String() + "\n")); err != nil {
			return err
		}
		for {
			line, err := t.lines.Next()
			if err != nil {
				return err
			}
			r, ok := talk.ParseReply(line)
			if ok && (r.Word == talk.Err || r.Word == talk.Fatal) {
				return fmt.Errorf("%v", r)
			}
			if ok && r.Word == talk.Commit && r.N == t.row+1 {
				break
			}
		}
		t.row++
	}
	return nil
}

// serial is what the recovered guest said.
func (s *site) serial(st *recovery.Status) string {
	all, _ := filepath.Glob(filepath.Join(st.Dir, "evidence", "*.serial.log"))
	var out strings.Builder
	for _, p := range all {
		b, _ := os.ReadFile(p)
		out.Write(b)
	}
	return out.String()
}

// judge demands that the recovered guest found its ledger whole, with every row
// acknowledged before the checkpoint, and returns the highest.
func (s *site) judge(st *recovery.Status) uint64 {
	s.t.Helper()
	n := s.ask(st)
	if st.Checkpoint == nil {
		s.t.Fatalf("no checkpoint: %+v", st)
	}
	if promised := s.acks.before(st.Checkpoint.Time); n < promised || n == 0 {
		s.t.Errorf("%d rows were acknowledged before checkpoint %d, the recovered guest has %d", promised, st.Checkpoint.ID, n)
	}
	if words := s.serial(st); !strings.Contains(words, "bad=0 ") {
		s.t.Errorf("the recovered guest did not find its ledger whole:\n%s", words)
	}
	return n
}

// container opens the container as a recovery does.
func (s *site) timelines() []journal.TimelineInfo {
	s.t.Helper()
	var out []journal.TimelineInfo
	must(s.t, rig.Command(s.t.Context(), &out, "timeline", "list", s.url, "--key", s.key(), "-o", "json"))
	return out
}

// cleaned demands that a recovery left nothing but record, report and evidence.
func (s *site) cleaned(dir string) {
	s.t.Helper()
	if left := rig.ProcessesIn(s.t, s.path(dir)); len(left) > 0 {
		s.t.Errorf("processes left: %v", left)
	}
	err := filepath.WalkDir(s.path(dir), func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(s.path(dir), p)
		switch {
		case d.IsDir() && (rel == "." || rel == "evidence"), strings.HasPrefix(rel, "evidence/"):
		case rel == "run.json", rel == "report.json", rel == "LOCK":
		default:
			s.t.Errorf("left behind: %s", rel)
		}
		return nil
	})
	must(s.t, err)
	var pins []journal.PinInfo
	must(s.t, rig.Command(s.t.Context(), &pins, "pin", "list", s.url, "--key", s.key(), "-o", "json"))
	// A fork that was broken off may still come to be: its point is held for an hour.
	pins = slices.DeleteFunc(pins, func(p journal.PinInfo) bool {
		return p.Label == "a branch is being made" && time.Until(p.Expires) <= time.Hour
	})
	if len(pins) > 0 {
		s.t.Errorf("pins left: %+v", pins)
	}
}
