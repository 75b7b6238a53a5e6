package sites

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/internal/demo/ledger"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/azurite"
	"holdfast/internal/store/storetest/versitygw"
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

// world is two sites and their stores.
type world struct {
	t         *testing.T
	dir       string
	a, b      *side
	s3, azure store.URL // of A's domains, and of B's
	keys      [2]string // files with their credentials

	odds *rand.Rand // of what dies when; nil: nothing does
}

// side is a site: what runs its VMs, and its manager.
type side struct {
	*world
	name        string
	v           *libvirttest.Site
	msa         *rig.Process
	listen      string
	address     string
	fingerprint string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfs-") // short: unix socket paths have at most 107 bytes
	must(t, err)
	w := &world{t: t, dir: dir}
	t.Cleanup(w.remove)
	t.Setenv("XDG_CONFIG_HOME", w.path("config")) // of log-ins
	gw := versitygw.Start(t, versitygw.Options{Dir: t.TempDir(), KeepAlive: true})
	must(t, gw.MakeBucket(t.Context(), "sites", false))
	az := azurite.Start(t, azurite.Options{})
	must(t, az.MakeContainer(t.Context(), "sites"))
	w.s3, w.azure = gw.URL("sites", ""), az.URL("sites", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	lines := ""
	for k, v := range gw.Env() {
		lines += k + "=" + v + "\n"
	}
	for i, text := range []string{lines, "AZURE_STORAGE_KEY=" + azurite.Key + "\n"} {
		w.keys[i] = w.path(fmt.Sprintf("credential%d", i))
		must(t, os.WriteFile(w.keys[i], []byte(text), 0o600))
	}
	for _, s := range []**side{&w.a, &w.b} {
		name := "a"
		if s == &w.b {
			name = "b"
		}
		*s = &side{world: w, name: name, v: libvirttest.Start(t)}
		must(t, os.Mkdir(w.path(name), 0o711)) // the daemon's QEMU comes through
		(*s).network(map[string]string{"a": "lan", "b": "lan-b"}[name])
	}
	t.Cleanup(w.stop) // before the daemons end: a watchdog puts guests right there
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// network makes a network that reaches nothing but the VMs on it.
func (s *side) network(name string) {
	s.t.Helper()
	path := s.path(s.name + "/" + name + ".xml")
	must(s.t, os.WriteFile(path, []byte("<network><name>"+name+"</name><bridge name='br-"+name+"'/></network>"), 0o644))
	s.v.Virsh("net-define", path)
	s.v.Virsh("net-start", name)
}

// stop ends both managers and their appliances.
func (w *world) stop() {
	for _, s := range []*side{w.a, w.b} {
		if s != nil && s.msa != nil {
			s.kill()
		}
	}
	for end := time.Now().Add(time.Minute); len(rig.ProcessesIn(w.t, w.dir)) > 0 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond) // between two looks: a watchdog ends by itself
	}
}

// remove ends the test: no process that names its directory is left.
func (w *world) remove() {
	if left := rig.ProcessesIn(w.t, w.dir); len(left) > 0 {
		w.t.Errorf("processes left: %v", left)
	}
	if w.t.Failed() {
		for _, n := range []string{"a", "b"} {
			logs, _ := filepath.Glob(w.path(n + "/*.log"))
			more, _ := filepath.Glob(w.path(n + "/boxes/*/*.log"))
			for _, l := range append(logs, more...) {
				w.t.Logf("%s: %s", l, rig.Tail(l))
			}
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

// begin makes the site's manager, with its appliances, and logs in as its admin.
func (s *side) begin(args ...string) {
	t := s.t
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.listen = ln.Addr().String()
	must(t, ln.Close())
	s.start(args...)
	s.address = "https://" + s.listen
	token := s.path(s.name + "/msa/setup-token")
	s.until("the manager has started", func() bool { _, err := os.Stat(token); return err == nil })
	s.until("the manager says its fingerprint", func() bool {
		_, rest, ok := strings.Cut(rig.Tail(s.msa.Log), "fingerprint ")
		if words := strings.Fields(rest); ok && len(words) > 0 && len(words[0]) == 64 {
			s.fingerprint = words[0]
		}
		return s.fingerprint != ""
	})
	password := s.path("password")
	must(t, os.WriteFile(password, []byte("crow lamp tundra 7\n"), 0o600))
	s.do("login", s.address, "--fingerprint", s.fingerprint, "--user", "root", "--setup-token", token, "--password-file", password)
}

// start starts the manager's process, for the first time or again.
func (s *side) start(args ...string) {
	t := s.t
	t.Helper()
	_ = os.Remove(s.path(s.name + "/msa.log")) // what another manager said
	var err error
	s.msa, err = rig.Start(s.path(s.name), "msa", func(p *rig.Process) { t.Errorf("%s's manager ended: %v\n%s", s.name, p.Err, rig.Tail(p.Log)) },
		append([]string{"msa", "--site", s.name, "--data", s.path(s.name + "/msa"), "--listen", s.listen, "--name", "127.0.0.1", "--appliances", s.path(s.name + "/boxes")}, args...)...)
	must(t, err)
}

// do runs a command, which must succeed.
func (s *side) do(args ...string) {
	s.t.Helper()
	began := time.Now()
	err := s.try(nil, args...)
	s.t.Logf("%s: %s: %.1f s", s.name, strings.Join(args, " "), time.Since(began).Seconds())
	must(s.t, err)
}

// try runs a command about the site's manager; what it answers goes to out.
func (s *side) try(out any, args ...string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	defer cancel()
	if args[0] != "login" {
		args = append(args, "--manager", s.address)
	}
	if out != nil {
		args = append(args, "-o", "json")
	}
	return rig.Command(ctx, out, args...)
}

// apply has the manager take a file.
func (s *side) apply(name, text string) {
	s.t.Helper()
	path := s.path(name + ".yaml")
	must(s.t, os.WriteFile(path, []byte(text), 0o600))
	s.do("apply", "--yes", "-f", path)
}

func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(100 * time.Millisecond) { // between two looks
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// pair has both sites know each other.
func (w *world) pair() {
	t := w.t
	t.Helper()
	var invited struct {
		Token string `json:"token"`
	}
	must(t, w.a.try(&invited, "pair", "invite", "ab"))
	token := w.path("pair-token")
	must(t, os.WriteFile(token, []byte(invited.Token), 0o600))
	w.b.do("pair", "accept", "ab", "--token-from", token)
	w.a.do("pair", "confirm", "ab", "--fingerprint-of-peer", w.b.fingerprint)
	for _, s := range []*side{w.a, w.b} {
		w.until("both ways are open at "+s.name, func() bool {
			var list []struct {
				Out   int64  `json:"out_ok_at"`
				In    int64  `json:"in_at"`
				Error string `json:"out_error"`
			}
			err := s.try(&list, "pair", "list")
			return err == nil && len(list) == 1 && list[0].In > 0 && list[0].Out > 0 && list[0].Error == ""
		})
	}
}

// guest is a VM of a site whose guest keeps a ledger.
type guest struct {
	*world
	name    string
	console *ledger.Console
	cancel  context.CancelFunc
	ended   chan error

	mu   sync.Mutex
	acks []ack // guarded by mu
}

type ack struct {
	at time.Time
	n  uint64
}

// define has the site's daemon know a VM of the test guest, and starts it. Without an
// image it finds nothing to boot: it runs, and changes nothing.
func (s *side) define(name, image string) *guest {
	t := s.t
	t.Helper()
	disk, serial := s.path(s.name+"/"+name+".raw"), s.path(s.name+"/"+name+".serial")
	if image == "" {
		must(t, os.WriteFile(disk, make([]byte, 4<<20), 0o600))
		s.v.Define(libvirttest.Guest{Name: name, Disks: []libvirttest.Disk{{Path: disk}}})
		s.v.Virsh("start", name)
		return nil
	}
	must(t, ledger.CopyImage(t.Context(), disk, image))
	s.v.Define(libvirttest.Guest{Name: name, Disks: []libvirttest.Disk{{Path: disk}}, Serial: serial, Agent: true, Network: "lan"})
	s.v.Virsh("start", name, "--paused")
	nc, err := net.Dial("unix", serial)
	must(t, err)
	g := &guest{world: s.world, name: name, console: ledger.NewConsole(nc)}
	s.v.Virsh("resume", name)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = g.console.WaitReady(ctx)
	must(t, err)
	g.load()
	return g
}

// load has the guest commit rows until stop.
func (g *guest) load() {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel, g.ended = cancel, make(chan error, 1)
	g.t.Cleanup(g.stop)
	go func() {
		n, _, err := g.console.Status(ctx)
		for err == nil {
			g.mu.Lock()
			g.acks = append(g.acks, ack{time.Now(), n})
			g.mu.Unlock()
			n++
			err = g.console.Put(ctx, n, n-1, 4<<10)
		}
		g.ended <- err
	}()
}

// stop ends the load: the guest may be off already.
func (g *guest) stop() {
	if g.cancel != nil {
		g.cancel()
		<-g.ended
		g.cancel = nil
	}
}

// before is the highest row acknowledged before t.
func (g *guest) before(t time.Time) (n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.acks {
		if a.at.Before(t) {
			n = a.n
		}
	}
	return n
}

// last is the highest row acknowledged.
func (g *guest) last() uint64 { return g.before(time.Now()) }

// goesOn waits until the guest was told of rows from now on.
func (g *guest) goesOn() {
	g.t.Helper()
	from := g.last()
	g.until(g.name+" commits", func() bool { return g.last() > from+1 })
}

// talker is a recovered guest's serial port.
type talker struct {
	*world
	net.Conn
	lines *talk.Lines
}

// attach finds the serial port of a VM that was recovered at the site.
func (s *side) attach(name string) *talker {
	t := s.t
	t.Helper()
	xml := s.v.Virsh("dumpxml", name)
	_, rest, ok := strings.Cut(xml, "<serial type='unix'>")
	_, rest, found := strings.Cut(rest, "path='")
	path, _, _ := strings.Cut(rest, "'")
	if !ok || !found {
		t.Fatalf("%s has no serial port:\n%s", name, xml)
	}
	nc, err := net.Dial("unix", path)
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	return &talker{s.world, nc, talk.NewLines(nc)}
}

// ask asks until the guest answers in a word: what it is asked before it listens is lost.
func (a *talker) ask(q talk.Request, word talk.Word) talk.Reply {
	a.t.Helper()
	must(a.t, a.SetDeadline(time.Now().Add(patience)))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	defer asking.Wait()
	defer close(stop)
	asking.Go(func() {
		again := time.NewTicker(2 * time.Second)
		defer again.Stop()
		for {
			if _, err := fmt.Fprintf(a, "\n%s\n", q); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-again.C:
			}
		}
	})
	for {
		line, err := a.lines.Next()
		must(a.t, err)
		if r, ok := talk.ParseReply(line); ok && r.Word == word && (word != talk.Commit || r.N == q.N) {
			return r
		}
	}
}

// rows is the highest row of the guest's ledger.
func (a *talker) rows() uint64 {
	a.t.Helper()
	return a.ask(talk.Request{Verb: talk.Status}, talk.State).N
}

// put has it commit n rows, and returns the highest.
func (a *talker) put(n int) uint64 {
	a.t.Helper()
	at := a.rows()
	for range n {
		at++
		if _, err := fmt.Fprintf(a, "\n%s\n", talk.Request{Verb: talk.Put, N: at, Cause: at - 1, Bytes: 4 << 10}); err != nil {
			a.t.Fatal(err)
		}
		for {
			line, err := a.lines.Next()
			must(a.t, err)
			if r, ok := talk.ParseReply(line); ok && r.Word == talk.Commit && r.N == at {
				break
			} else if ok && (r.Word == talk.Err || r.Word == talk.Fatal) {
				a.t.Fatalf("the guest says %v", r)
			}
		}
	}
	return at
}

func (a *talker) close() { a.Close() }

// whole demands that a guest that was recovered at the site found its ledger whole.
func (s *side) whole(name string) {
	s.t.Helper()
	logs, err := filepath.Glob(s.path(s.name + "/boxes/rocva/r/*/*/*/evidence/" + name + "-*.serial.log"))
	must(s.t, err)
	if len(logs) == 0 {
		s.t.Errorf("no evidence of %s at %s", name, s.name)
	}
	for _, l := range logs {
		b, err := os.ReadFile(l)
		must(s.t, err)
		if words := string(b); strings.Contains(words, "VERIFY") && !strings.Contains(words, " bad=0 ") {
			s.t.Errorf("%s: the guest did not find its ledger whole:\n%s", l, words)
		}
	}
}

// nothing demands that the daemon knows no VM of a recovery and no network of one.
func (s *side) nothing() {
	s.t.Helper()
	for _, name := range strings.Fields(s.v.Virsh("list", "--name")) {
		if !strings.HasPrefix(name, "crm") {
			s.t.Errorf("left at %s: %s", s.name, name)
		}
	}
	if nets := strings.Fields(s.v.Virsh("net-list", "--name")); slices.ContainsFunc(nets, func(n string) bool { return strings.HasPrefix(n, "holdfast-") }) {
		s.t.Errorf("left at %s: networks %q", s.name, nets)
	}
}

// drva is the site's DRVA, at an address of its own: both sites are on this machine.
func (s *side) drva() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(s.t, err)
	defer ln.Close()
	return fmt.Sprintf("---\napiVersion: holdfast/v1\nkind: appliance\nname: %s-drva\nrole: drva\nsite: %s\naddress: %s\n", strings.ToLower(host(s.t)), s.name, ln.Addr())
}

// host is what libvirt calls this machine: a site's only pool.
func host(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	must(t, err)
	return name
}

// estate is sites, stores and mappings as their admins write them down.
func (w *world) estate() string {
	site := func(s *side) string {
		return fmt.Sprintf("---\napiVersion: holdfast/v1\nkind: site\nname: %s\nplatform: libvirt\nendpoints: [\"unix://%s\"]\n", s.name, s.v.Socket)
	}
	return site(w.a) + site(w.b) + fmt.Sprintf(`---
apiVersion: holdfast/v1
kind: store
name: s3
url: %q
credential: s3
---
apiVersion: holdfast/v1
kind: store
name: azure
url: %q
credential: azure
---
apiVersion: holdfast/v1
kind: mappings
name: a-to-b
from: a
to: b
networks: [{from: lan, to: lan-b}]
rules:
  - from: {prefix: 10.1.0.0/24}
    to: {prefix: 10.2.0.0/24}
default: {pool: %s}
---
apiVersion: holdfast/v1
kind: mappings
name: b-to-a
from: b
to: a
networks: [{from: lan-b, to: lan}]
rules:
  - from: {prefix: 10.2.0.0/24}
    to: {prefix: 10.1.0.0/24}
default: {pool: %s}
`, w.s3.String(), w.azure.String(), host(w.t), host(w.t))
}

// client is a client of the manager's API, as its admin.
func (s *side) client() *api.Client {
	s.t.Helper()
	b, err := os.ReadFile(s.path("config/holdfast/managers.json"))
	must(s.t, err)
	var file struct {
		Managers map[string]struct{ Token string } `json:"managers"`
	}
	must(s.t, json.Unmarshal(b, &file))
	c, err := api.Dial(api.Options{Address: s.address, Fingerprint: s.fingerprint, Token: file.Managers[s.address].Token})
	must(s.t, err)
	return c
}

// kill is the site's end: all of the product that runs there dies at once, and so do
// its guests.
func (s *side) kill() {
	s.msa.Doom()
	s.msa.Kill()
	for _, pid := range s.pids() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
}

// pids are the processes that name a file of the site.
func (s *side) pids() (all []int) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(s.t, err)
	for _, p := range found {
		var pid int
		b, err := os.ReadFile(p)
		if _, serr := fmt.Sscanf(p, "/proc/%d/cmdline", &pid); err == nil && serr == nil && pid != os.Getpid() && strings.Contains(string(b), s.path(s.name)+"/") {
			all = append(all, pid)
		}
	}
	return all
}

// recipient makes the recovery key that the admin has in a safe, and returns its public
// part.
func (w *world) recipient() string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	must(w.t, rig.Command(ctx, nil, "key", "new", w.path("recovery.key")))
	key, err := journal.ParseIdentityFile(w.path("recovery.key"))
	must(w.t, err)
	return key.Recipient()
}

// addressed gives the guest's first card an address, as whoever installed it did.
func (g *guest) addressed(v *libvirttest.Site, address string) {
	g.t.Helper()
	g.until("the guest's agent answers", func() bool {
		_, err := v.TryVirsh("qemu-agent-command", g.name, `{"execute":"guest-ping"}`)
		return err == nil
	})
	b, err := json.Marshal(map[string]any{"execute": "guest-exec", "arguments": map[string]any{"path": "/bin/sh", "arg": []string{"-c",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin; for d in /sys/class/net/*; do d=${d##*/}; [ $d = lo ] && continue; ip link set $d up; ip addr add " + address + " dev $d; done"}}})
	must(g.t, err)
	v.Virsh("qemu-agent-command", g.name, string(b))
	g.until("the guest has "+address, func() bool { return strings.Contains(v.Virsh("domifaddr", g.name, "--source", "agent"), address) })
}

// has demands that a recovered guest's card has an address.
func (s *side) has(name, address string) {
	s.t.Helper()
	if out := s.v.Virsh("domifaddr", name, "--source", "agent"); !strings.Contains(out, address) {
		s.t.Errorf("%s at %s has not %s:\n%s", name, s.name, address, out)
	}
}

// knows waits until the site's manager knows an address of a site's VM.
func (s *side) knows(of, vm, address string) {
	s.t.Helper()
	c := s.client()
	defer c.Close()
	s.until(s.name+" knows the address of "+vm, func() bool {
		v, err := c.VM(s.t.Context(), api.Name(of), api.Ref(vm))
		return err == nil && len(v.NICs) > 0 && slices.Contains(v.NICs[0].Addresses, netip.MustParsePrefix(address))
	})
}
